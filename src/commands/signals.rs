//! What asks a command to end: Ctrl-C, SIGTERM, or the end of its terminal.

use anyhow::Context;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::progress::note;
use crate::files::{FileError, write_error};

/// The exit code of a program that Ctrl-C has ended.
pub(super) const STOPPED: i32 = 130;

/// Calls `heard` at each signal, on a thread of its own.
pub(super) fn on_signal(heard: impl FnMut() + Send + 'static) -> anyhow::Result<()> {
    listen(heard).context("cannot listen for Ctrl-C")
}

/// The first signal asks the work to end, and `says` so; the second ends the program at once.
pub(super) fn stop_on_signal(stop: Arc<AtomicBool>, says: &'static str) -> anyhow::Result<()> {
    on_signal(move || {
        if stop.swap(true, Ordering::Relaxed) {
            std::process::exit(STOPPED);
        }
        note(format_args!("{says}; once more to stop at once"));
    })
}

/// An error once a signal has come: what is being written at a place is not finished then, and
/// nothing of it stays.
pub(super) fn unless_stopped(stop: &AtomicBool, path: &Path) -> Result<(), FileError> {
    match stop.load(Ordering::Relaxed) {
        true => Err(write_error(path)(ErrorKind::Interrupted.into())),
        false => Ok(()),
    }
}

/// Ends the program where a signal has kept work from its end.
pub(super) fn finished<T, E>(stop: &AtomicBool, work: Result<T, E>) -> Result<T, E> {
    if work.is_err() && stop.load(Ordering::Relaxed) {
        note(format_args!("stopped; nothing is kept"));
        std::process::exit(STOPPED);
    }
    work
}

#[cfg(unix)]
fn listen(mut heard: impl FnMut() + Send + 'static) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    if !is_ignored(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    std::thread::spawn(move || signals.forever().for_each(|_| heard()));
    Ok(())
}

/// Whether whoever started the program has it ignore a signal, as `nohup` does. Only Linux tells;
/// elsewhere it is taken not to be.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(not(unix))]
fn listen(heard: impl FnMut() + Send + 'static) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(heard)
}
