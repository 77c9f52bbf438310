//! What is told on standard error beside the results: how far a command is, and notes.

use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Arguments;
use std::io::Write;
use std::sync::OnceLock;

/// Whether nothing but results and errors is told, as the command line says.
static QUIET: OnceLock<bool> = OnceLock::new();

/// Settled once, before anything is told.
pub(super) fn settle(quiet: bool) {
    let _ = QUIET.set(quiet);
}

pub(super) fn is_quiet() -> bool {
    QUIET.get().copied().unwrap_or_default()
}

/// A line beside the results. That nobody reads it stops nothing.
pub(super) fn note(line: Arguments) {
    if !is_quiet() {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// Bytes that are read or downloaded, of so many where that is known; on standard error, where that
/// is a terminal.
pub(super) fn bytes(total: Option<u64>, message: &str) -> ProgressBar {
    match total {
        Some(total) => bar(
            ProgressBar::new(total),
            "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
            message,
        ),
        None => bar(ProgressBar::no_length(), "{msg} {bytes} {bytes_per_sec}", message),
    }
}

/// The same for anything that is counted.
pub(super) fn items(total: usize, message: &str) -> ProgressBar {
    let bare = ProgressBar::new(total as u64);
    bar(bare, "{wide_bar} {pos}/{len} {per_sec} {eta} {msg}", message)
}

fn bar(bare: ProgressBar, template: &str, message: &str) -> ProgressBar {
    if is_quiet() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).expect("the templates above are right");
    bare.with_style(style.progress_chars("=> ")).with_message(message.to_owned())
}
