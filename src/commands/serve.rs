use anyhow::{Context, bail};
use std::env::VarError;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::plan::bytes;
use super::progress::note;
use super::signals::{STOPPED, on_signal};
use crate::artifact::Run;
use crate::backend;
use crate::cli::ServeArgs;
use crate::serve::{Key, Options, Server};

/// Where the key may be instead of among the arguments, which everybody on the machine can see.
const KEY: &str = "EMBERLM_API_KEY";

pub(super) fn run(args: ServeArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.common.target.backend.as_deref())?;
    let open = |name: &String| Run::open(&args.common.artifacts, name);
    let runs = args.runs.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let api_key = match args.api_key {
        Some(key) => Some(key),
        None => key_of_environment()?,
    };
    let max_body = bytes(&args.max_body).context("--max-body")?;
    let options = Options {
        address: SocketAddr::new(args.host, args.port),
        target: backend.on(args.common.target.device),
        int8: args.weights.quantize.is_some(),
        api_key,
        cors_origins: args.cors_origin,
        max_batch: args.max_batch as usize,
        queue: args.queue as usize,
        max_tokens: args.max_tokens as usize,
        max_body: usize::try_from(max_body).context("--max-body")?,
        timeout: Duration::from_secs(args.timeout.into()),
        grace: Duration::from_secs(args.grace.into()),
    };
    if options.api_key.is_none() && !args.host.is_loopback() {
        note(format_args!(
            "whoever reaches {} can use the models; {KEY} asks for a key",
            args.host
        ));
    }
    let names: Vec<&str> = runs.iter().map(Run::name).collect();
    let names = names.join(", ");
    let server = Server::start(runs, &options)?;
    let (stopper, stopping) = (server.stopper(), AtomicBool::new(false));
    on_signal(move || {
        if stopping.swap(true, Ordering::SeqCst) {
            std::process::exit(STOPPED);
        }
        stopper.stop();
    })?;
    let mut out = std::io::stdout();
    writeln!(out, "serving {names} at http://{}", server.address())?;
    out.flush()?;
    if !server.wait() {
        bail!("a part of the server has failed");
    }
    Ok(())
}

/// None where the variable is empty. One that cannot be read is not as good as none: whoever has set
/// it does not mean to let everybody in.
fn key_of_environment() -> anyhow::Result<Option<Key>> {
    match std::env::var(KEY) {
        Ok(key) => Ok(key.parse().ok()),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => bail!("{KEY} is not UTF-8; give a key that is"),
    }
}
