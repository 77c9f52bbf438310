use clap::CommandFactory;
use std::io::Write;

use crate::cli::{Cli, CompletionsArgs};

pub(super) fn run(args: CompletionsArgs) -> anyhow::Result<()> {
    // To memory first: what is generated does not tell of a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "emberlm", &mut script);
    Ok(std::io::stdout().lock().write_all(&script)?)
}
