use anyhow::{Context, bail};
use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::progress;
use super::signals::{finished, stop_on_signal, unless_stopped};
use crate::artifact::{ArtifactError, Run};
use crate::cli::MergeArgs;
use crate::model;

pub(super) fn run(args: MergeArgs) -> anyhow::Result<()> {
    let run = Run::open(&args.runs.artifacts, &args.run)?;
    if run.config().model.lora.is_none() {
        bail!("the run {} has no adapters; there is nothing to merge", run.name());
    }
    let mut config = run.config().clone();
    config.name = args.name;
    config.model = config.model.without_adapters();
    // What they said was said of a model with adapters.
    config.train.freeze.clear();
    config.train.unfreeze.clear();
    config.validate()?;

    let vocab_size = config.model.vocab_size.unwrap_or_default();
    let shapes = model::parameter_shapes(&config.model, vocab_size);
    let mut tensors = run.model_tensors()?;
    let tokenizer = run.saved_tokenizer().clone();
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(stop.clone(), "stopping")?;
    let place = args.runs.artifacts.join(&config.name);
    let bar = progress::items(shapes.len(), "tensors");
    let merged =
        Run::create_with_model(&args.runs.artifacts, &config, tokenizer, &shapes, |index| {
            unless_stopped(&stop, &place)?;
            bar.inc(1);
            Ok::<_, ArtifactError>(Cow::Owned(tensors.read(&shapes[index].0)?))
        });
    let merged = finished(&stop, merged)
        .with_context(|| format!("the run {} cannot be merged", run.name()))?;
    bar.finish_and_clear();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}: {} with its adapters in its weights", merged.name(), run.name())?;
    writeln!(out, "run: {}", merged.path().display())?;
    Ok(())
}
