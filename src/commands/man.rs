use anyhow::Context;
use clap::CommandFactory;
use std::io::Write;

use super::progress::note;
use crate::cli::{Cli, ManArgs};

pub(super) fn run(args: ManArgs) -> anyhow::Result<()> {
    let command = Cli::command();
    let Some(folder) = args.folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        return Ok(std::io::stdout().lock().write_all(&page)?);
    };
    std::fs::create_dir_all(&folder)
        .and_then(|()| clap_mangen::generate_to(command, &folder))
        .with_context(|| format!("cannot write to {}", folder.display()))?;
    note(format_args!("written: emberlm.1 and a page a command, in {}", folder.display()));
    Ok(())
}
