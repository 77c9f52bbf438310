use anyhow::Context;
use std::io::Write;

use crate::artifact::Run;
use crate::cli::ExportArgs;
use crate::interop::Export;

pub(super) fn run(args: ExportArgs) -> anyhow::Result<()> {
    let run = Run::open(&args.artifacts, &args.run)?;
    let what = || format!("the run {} cannot be exported", run.name());
    let export = Export::new(&run.config().model).with_context(what)?;
    let mut weights = run.model_tensors()?;
    let saved = run.tokenizer()?.saved();
    let left_out = export.write(&args.folder, &mut weights, &saved).with_context(what)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}: exported as {}", run.name(), export.class())?;
    if let Some(reason) = left_out {
        writeln!(out, "tokenizer.json was left out: {reason}")?;
    } else if let Some(note) = export.tokenizer_note(&saved) {
        writeln!(out, "note: {note}")?;
    }
    writeln!(out, "folder: {}", args.folder.display())?;
    Ok(())
}
