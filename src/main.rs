//! Parses the command line, runs the command, and turns errors into one line and an exit code.

use clap::Parser;
use mimalloc::MiMalloc;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use emberlm::backend::Allocator;
use emberlm::cli::Cli;
use emberlm::commands;

/// Tensors come and go at every step, and the system's allocator hands their memory back to the
/// kernel each time: models train faster with allocators that keep it.
#[global_allocator]
static ALLOCATOR: Allocator<MiMalloc> = Allocator::new(MiMalloc);

/// Anything that the user can put right.
const FAILURE: u8 = 2;

fn main() -> ExitCode {
    commands::end_on_panic();
    match commands::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(FAILURE)
        }
    }
}

/// `emberlm generate RUN | head` has read all it wants.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = match error.downcast_ref::<std::io::Error>() {
        Some(error) => Some(error.kind()),
        None => error.downcast_ref::<serde_json::Error>().and_then(|error| error.io_error_kind()),
    };
    kind == Some(ErrorKind::BrokenPipe)
}
