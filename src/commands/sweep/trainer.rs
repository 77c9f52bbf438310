use anyhow::{Context, bail};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::artifact::{ArtifactError, Run};
use crate::cli::SweepArgs;
use crate::commands::panic::PANIC;
use crate::sweep::{Ended, Measured};

/// How long a program may take that was asked to end, and writes its last checkpoint.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// A trial that is being trained, by this program in a process of its own: it has its memory to
/// itself, and what goes wrong with it is its own affair.
pub(super) struct Trainer {
    run: String,
    child: Child,
    /// While it is open, the trial goes on; the system closes it, however this program ends.
    stdin: Option<ChildStdin>,
    log: File,
    /// Where in the log this training begins.
    begin: u64,
}

/// What training comes to.
pub(super) enum Exit {
    /// It says how.
    Ended(Ended),
    /// It was asked to end, and can go on.
    Stopped,
    /// Something from outside has ended it, or a bug: another time it may go well.
    Broken(String),
}

/// What is to be trained.
pub(super) struct Order<'a> {
    pub(super) run: &'a str,
    /// Whether it has begun, as [`is_there`] says.
    pub(super) goes_on: bool,
    /// The configuration that all trials begin with.
    pub(super) base: &'a Path,
    pub(super) assignments: &'a [String],
    /// Steps at which it ends, where the configuration does not say.
    pub(super) steps: Option<u64>,
    pub(super) log: &'a Path,
    /// Threads that it may compute on; none for all.
    pub(super) threads: Option<usize>,
}

impl Trainer {
    /// Begins a run, or goes on with it.
    ///
    /// # Errors
    /// A process that cannot be started.
    pub(super) fn start(order: &Order, args: &SweepArgs) -> anyhow::Result<Self> {
        let artifacts = &args.common.artifacts;
        let mut command = Command::new(std::env::current_exe().context("this program")?);
        command.args(["train", "--plain", "--stop-at-eof", "--artifacts"]).arg(artifacts);
        if let Some(backend) = &args.common.target.backend {
            command.args(["--backend", backend]);
        }
        if let Some(device) = args.common.target.device {
            command.args(["--device", &device.to_string()]);
        }
        match order.goes_on {
            true => {
                command.args(["--resume", order.run]);
            }
            false => {
                command.arg("--config").arg(order.base).args(["--run", order.run]);
                for assignment in order.assignments {
                    command.args(["--set", assignment]);
                }
            }
        }
        if let Some(steps) = order.steps {
            command.args(["--set", &format!("train.steps={steps}")]);
        }
        if let (Some(threads), None) = (order.threads, std::env::var_os(THREADS)) {
            command.env(THREADS, threads.to_string());
        }
        let unwritable = || format!("cannot write {}", order.log.display());
        let log = File::options().create(true).append(true).read(true).open(order.log);
        let log = log.with_context(unwritable)?;
        let begin = log.metadata().with_context(unwritable)?.len();
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        // Ctrl-C at the terminal is for this program, which passes it on in its own way.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().context("a trial cannot be started")?;
        let stdin = child.stdin.take();
        Ok(Self { run: order.run.into(), child, stdin, log, begin })
    }

    /// Asks it to end with a checkpoint.
    pub(super) fn stop(&mut self) {
        self.stdin = None;
    }

    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// What has come of it, if it has ended.
    ///
    /// # Errors
    /// A process that cannot be asked, or a run that cannot be read.
    pub(super) fn poll(&mut self, artifacts: &Path) -> anyhow::Result<Option<Exit>> {
        let Some(status) = self.child.try_wait()? else { return Ok(None) };
        self.exit(status, artifacts).map(Some)
    }

    fn exit(&mut self, status: ExitStatus, artifacts: &Path) -> anyhow::Result<Exit> {
        match status.code() {
            Some(0) => Ok(match outcome(artifacts, &self.run)? {
                Some((_, ended)) => Exit::Ended(ended),
                None if self.stdin.is_none() => Exit::Stopped,
                None => Exit::Broken("it was stopped from outside".into()),
            }),
            // What the program can explain would be the same another time.
            Some(2) => Ok(match self.last("error: ")? {
                Some(reason) => Exit::Ended(Ended::Failed(reason)),
                None => Exit::Broken("it failed without a word".into()),
            }),
            Some(PANIC) => Ok(Exit::Broken(match self.last("emberlm stops: ")? {
                Some(reason) => format!("{status}: {reason}"),
                None => status.to_string(),
            })),
            // It had no time to say anything; what speaks of an error is from others.
            _ => Ok(Exit::Broken(status.to_string())),
        }
    }

    /// What follows a mark on the last line of the log that begins with it.
    fn last(&mut self, mark: &str) -> anyhow::Result<Option<String>> {
        self.log.seek(SeekFrom::Start(self.begin))?;
        let mut text = Vec::new();
        self.log.read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().rev().find_map(|line| line.strip_prefix(mark)).map(String::from))
    }
}

/// The environment variable by which the pool of threads is made.
const THREADS: &str = "RAYON_NUM_THREADS";

/// The steps of a run that has come to its end, and what it was found to be worth.
///
/// # Errors
/// A run that cannot be read.
pub(super) fn outcome(artifacts: &Path, run: &str) -> anyhow::Result<Option<(usize, Ended)>> {
    let run = Run::open(artifacts, run)?;
    // There is none of a run that was killed.
    let Some(summary) = run.history().summary_so_far()? else { return Ok(None) };
    let steps = summary.steps;
    let ended = summary.final_val_loss.map(|loss| match loss.is_finite() {
        true => Ended::Finished(Measured {
            steps,
            loss,
            bits_per_byte: summary.bits_per_byte,
            params: summary.params,
            seconds: summary.seconds,
        }),
        false => Ended::Failed("its loss over the validation split is not a number".into()),
    });
    Ok(ended.map(|ended| (steps, ended)))
}

/// Whether a run is there. One that another program is at work on is waited for: what was started by
/// a sweep that was killed is writing its last checkpoint.
///
/// # Errors
/// A run that cannot be read, or that another program goes on training.
pub(super) fn is_there(artifacts: &Path, name: &str) -> anyhow::Result<bool> {
    if !artifacts.join(name).exists() {
        return Ok(false);
    }
    let run = Run::open(artifacts, name)?;
    let started = Instant::now();
    loop {
        match run.lock() {
            Ok(_free) => return Ok(true),
            Err(ArtifactError::Busy { .. }) if started.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(error) => bail!(error),
        }
    }
}
