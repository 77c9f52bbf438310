use axum::http::HeaderValue;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

use super::chat::Template;
use super::connections;
use super::engine::Engine;
use super::gate::Key;
use super::metrics::Metrics;
use super::routes;
use super::site::{Served, Site};
use crate::artifact::{ArtifactError, Run};
use crate::backend::{BackendError, Target};
use crate::data::Task;
use crate::tokenizer::Tokenizer;

/// Longer than anybody waits, and short enough that every clock can tell when it ends.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(u32::MAX as u64);

/// How runs are served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where; port 0 takes any that is free.
    pub address: SocketAddr,
    pub target: Target,
    /// Whether weights of projections are stored in a byte each.
    pub int8: bool,
    /// What clients must have as a bearer token.
    pub api_key: Option<Key>,
    /// Origins whose pages may ask, as `https://example.org`; `*` for any.
    pub cors_origins: Vec<String>,
    /// Texts of a run that are written together, at least 1.
    pub max_batch: usize,
    /// Texts of a run that wait, from 1 to [`Semaphore::MAX_PERMITS`].
    pub queue: usize,
    /// Tokens of a text.
    pub max_tokens: usize,
    /// Bytes of a body.
    pub max_body: usize,
    /// In which a request is answered whole, waiting included; more than zero, and at most
    /// `u32::MAX` seconds.
    pub timeout: Duration,
    /// In which what has begun is finished when the server stops.
    pub grace: Duration,
}

/// Why runs cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("nothing can listen at {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the server cannot be started")]
    Thread { source: std::io::Error },
    #[error("`{origin}` is no origin; give one as https://example.org, or * for any")]
    Origin { origin: String },
    #[error("`{option}` = {found} is out of range; give {accepted}")]
    OutOfRange { option: &'static str, found: String, accepted: String },
    #[error("two of the runs are called `{run}`; serve one of them")]
    Twice { run: String },
    #[error("the run {run} fills gaps and continues nothing; use emberlm fill-mask")]
    FillsGaps { run: String },
    #[error("the model of the run {run} could not be loaded")]
    Stopped { run: String },
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Runs that are being served. Dropped with all its stoppers it stops as by [`Stopper::stop`],
/// without being waited for.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stopper: Stopper,
    /// Those that write texts, and last the one that everything else is done on.
    threads: Vec<JoinHandle<()>>,
}

/// Lets a server stop, from wherever. While there is one, a server that was dropped goes on.
#[derive(Debug, Clone)]
pub struct Stopper(watch::Sender<bool>);

impl Stopper {
    /// Nobody else is let in, and who is there has the grace to finish.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Server {
    /// Loads the runs, and then listens.
    ///
    /// # Errors
    /// An address that is taken, options that make no sense, or a run that cannot be served.
    pub fn start(runs: Vec<Run>, options: &Options) -> Result<Self, ServeError> {
        let with_own = |run: Run| run.tokenizer().map(|own| (run, Arc::from(own)));
        Self::start_with(runs.into_iter().map(with_own).collect::<Result<_, _>>()?, options)
    }

    /// [`Server::start`] of runs that have tokenizers of the caller's instead of their own, as a
    /// program has that trained them with one that no file holds.
    ///
    /// # Errors
    /// As for [`Server::start`].
    pub fn start_with(
        runs: Vec<(Run, Arc<dyn Tokenizer>)>,
        options: &Options,
    ) -> Result<Self, ServeError> {
        check(options)?;
        let origins = origins(&options.cors_origins)?;
        // First, since it is quick and the models are not.
        let refused = |source| ServeError::Listen { address: options.address, source };
        let listener = TcpListener::bind(options.address).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let metrics = Metrics::new();
        let (mut served, mut threads): (Vec<Arc<Served>>, _) = (Vec::new(), Vec::new());
        for (run, tokenizer) in runs {
            if served.iter().any(|other| other.run.name() == run.name()) {
                return Err(ServeError::Twice { run: run.name().into() });
            }
            let (run, thread) = start(run, tokenizer, options, &metrics)?;
            served.push(Arc::new(run));
            threads.push(thread);
        }
        let site = Arc::new(Site {
            served,
            metrics,
            key: options.api_key,
            timeout: options.timeout,
            max_body: options.max_body,
            stopping: AtomicBool::new(false),
        });
        let runtime = runtime().map_err(|source| ServeError::Thread { source })?;
        let (stop, stopped) = watch::channel(false);
        let grace = options.grace;
        let listening = move || {
            runtime.block_on(async {
                // It fails outside a runtime only.
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
                let router = routes::router(site.clone(), origins);
                connections::serve(listener, router, site, stopped, grace).await;
            });
        };
        let thread = thread::Builder::new().name("server".into()).spawn(listening);
        threads.push(thread.map_err(|source| ServeError::Thread { source })?);
        Ok(Self { address, stopper: Stopper(stop), threads })
    }

    /// Where it listens, with the port that it has.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Until it has been stopped and all threads have ended; whether none has failed.
    pub fn wait(self) -> bool {
        let mut all_well = true;
        for thread in self.threads.into_iter().rev() {
            all_well &= thread.join().is_ok();
        }
        all_well
    }
}

fn runtime() -> std::io::Result<Runtime> {
    // What is computed, the engines compute.
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// # Errors
/// Numbers with which nothing would ever be written or answered, or that nothing can count to.
fn check(options: &Options) -> Result<(), ServeError> {
    let Options { max_batch, queue, timeout, .. } = *options;
    let most_waiting = Semaphore::MAX_PERMITS;
    let has_time = !timeout.is_zero() && timeout <= LONGEST_TIMEOUT;
    for (option, found, is_accepted, accepted) in [
        ("max_batch", max_batch.to_string(), max_batch > 0, "at least 1".into()),
        (
            "queue",
            queue.to_string(),
            (1..=most_waiting).contains(&queue),
            format!("1 to {most_waiting}"),
        ),
        (
            "timeout",
            format!("{timeout:?}"),
            has_time,
            format!("more than 0s and at most {LONGEST_TIMEOUT:?}"),
        ),
    ] {
        if !is_accepted {
            return Err(ServeError::OutOfRange { option, found, accepted });
        }
    }
    Ok(())
}

fn origins(names: &[String]) -> Result<Vec<HeaderValue>, ServeError> {
    let origin = |name: &String| {
        let is_origin = name == "*"
            || name.split_once("://").is_some_and(|(scheme, host)| {
                !scheme.is_empty() && !host.is_empty() && !host.contains('/')
            });
        let value = HeaderValue::from_str(name).ok().filter(|_| is_origin);
        value.ok_or_else(|| ServeError::Origin { origin: name.clone() })
    };
    names.iter().map(origin).collect()
}

/// Loads a run.
fn start(
    run: Run,
    tokenizer: Arc<dyn Tokenizer>,
    options: &Options,
    metrics: &Metrics,
) -> Result<(Served, JoinHandle<()>), ServeError> {
    let config = run.config();
    let task = run.task(tokenizer.as_ref());
    if let Task::MaskedTokens { .. } = task {
        return Err(ServeError::FillsGaps { run: run.name().into() });
    }
    let metrics = metrics.of_model(run.name());
    let (engine, params, thread) =
        Engine::start(&run, tokenizer.clone(), task, options, metrics.clone())?;
    let served = Served {
        template: Template::of(tokenizer.as_ref()),
        vocab_size: config.model.vocab_size.unwrap_or_default(),
        context_length: config.model.context_length,
        most_tokens: options.max_tokens,
        most_texts: options.queue,
        backend: options.target.kind,
        int8: options.int8,
        run,
        tokenizer,
        task,
        engine,
        metrics,
        params,
    };
    Ok((served, thread))
}
