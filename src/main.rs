//! Parses the command line, runs the command, and turns errors into one line and an exit code.

use clap::Parser;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use emberlm::cli::Cli;

/// Tensors come and go at every step, and the system's allocator hands large blocks back to the
/// kernel each time: small models train faster with one that keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Anything that the user can put right.
const FAILURE: u8 = 2;
/// As after a signal.
const KILLED: i32 = 130;
/// A mistake of ours, on whatever thread.
const PANIC: i32 = 101;

fn main() -> ExitCode {
    end_on_panic();
    match emberlm::commands::run(Cli::parse().command) {
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
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// burn catches panics of device tasks and only logs them; a run would go on with garbage. So a
/// panic on any thread ends the process.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        // This is how burn's dashboard ends a program on its user's word.
        if panic.payload_as_str().is_some_and(|text| text.contains("from user input")) {
            let _ = writeln!(std::io::stderr(), "killed from the dashboard");
            std::process::exit(KILLED);
        }
        let _ = writeln!(std::io::stderr(), "emberlm stops: {panic}");
        std::process::exit(PANIC);
    }));
}
