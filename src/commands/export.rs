use anyhow::{Context, bail};
use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::progress;
use super::signals::{finished, stop_on_signal, unless_stopped};
use crate::artifact::Run;
use crate::cli::ExportArgs;
use crate::interop::Export;
use crate::interop::gguf::{self, DataType};

pub(super) fn run(args: ExportArgs) -> anyhow::Result<()> {
    let run = Run::open(&args.runs.artifacts, &args.run)?;
    let what = || format!("the run {} cannot be exported", run.name());
    match (args.to.as_str(), &args.data_type) {
        ("gguf", data_type) => {
            let data_type = match data_type {
                Some(name) => DataType::ALL
                    .into_iter()
                    .find(|known| known.name() == name)
                    .with_context(|| format!("there is no type {name}"))?,
                None => DataType::F32,
            };
            to_gguf(&run, &args, data_type).with_context(what)
        }
        (_, Some(_)) => bail!("--type is for --to gguf; Hugging Face's files keep f32"),
        (_, None) => to_huggingface(&run, &args).with_context(what),
    }
}

fn to_huggingface(run: &Run, args: &ExportArgs) -> anyhow::Result<()> {
    let export = Export::new(&run.config().model.without_adapters())?;
    let mut weights = run.model_tensors()?;
    let saved = run.saved_tokenizer();
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(stop.clone(), "stopping")?;
    let bar = progress::items(0, "tensors");
    let left_out = export.write(&args.path, &mut weights, saved, &mut |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        unless_stopped(&stop, &args.path)
    });
    let left_out = finished(&stop, left_out)?;
    bar.finish_and_clear();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}: exported as {}", run.name(), export.class())?;
    if let Some(reason) = left_out {
        writeln!(out, "tokenizer.json was left out: {reason}")?;
    } else if let Some(note) = export.tokenizer_note(saved) {
        writeln!(out, "note: {note}")?;
    }
    writeln!(out, "folder: {}", args.path.display())?;
    Ok(())
}

fn to_gguf(run: &Run, args: &ExportArgs, data_type: DataType) -> anyhow::Result<()> {
    let mut weights = run.model_tensors()?;
    let config = &run.config().model.without_adapters();
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(stop.clone(), "stopping")?;
    let bar = progress::items(weights.names().count(), "tensors");
    let read = |name: &str| -> Result<_, Box<dyn Error + Send + Sync>> {
        unless_stopped(&stop, &args.path)?;
        bar.inc(1);
        Ok(weights.read(name)?)
    };
    let saved = run.saved_tokenizer();
    let written = gguf::write(&args.path, run.name(), config, read, saved, data_type);
    let written = finished(&stop, written)?;
    bar.finish_and_clear();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}: exported for llama.cpp's {}", run.name(), written.architecture)?;
    for note in &written.notes {
        writeln!(out, "note: {note}")?;
    }
    writeln!(out, "file: {}", args.path.display())?;
    Ok(())
}
