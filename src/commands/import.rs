use anyhow::Context;
use serde_json::json;
use std::borrow::Cow;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::signals::{finished, stop_on_signal, unless_stopped};
use super::{advice, progress};
use crate::artifact::{ArtifactError, Run};
use crate::cli::ImportArgs;
use crate::config::{self, RunConfig};
use crate::interop::{self, ForeignModel, InteropError};
use crate::model;
use crate::tokenizer::SavedTokenizer;

/// Tokens in a batch of an evaluation, at most, where the context is not longer.
const BATCH_TOKENS: usize = 4096;
const BATCH_SIZE: usize = 12;

pub(super) fn run(args: ImportArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let name = run_name(&args);
    let path = args.runs.artifacts.join(&name);
    if path.exists() {
        return Err(ArtifactError::Exists { path }.into());
    }
    let folder = folder(&args.model)?;
    let mut model = ForeignModel::open(&folder)
        .with_context(|| format!("{} cannot be imported", folder.display()))?;
    let config = run_config(&name, &model)?;
    let shapes = model.shapes().to_vec();
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(stop.clone(), "stopping")?;
    let bar = progress::items(shapes.len(), "tensors");
    let run = Run::create_with_model(
        &args.runs.artifacts,
        &config,
        model.tokenizer.clone(),
        &shapes,
        |index| -> Result<_, InteropError> {
            unless_stopped(&stop, &path)?;
            bar.inc(1);
            model.read(index).map(Cow::Owned)
        },
    );
    let run =
        finished(&stop, run).with_context(|| format!("{} cannot be imported", folder.display()))?;
    bar.finish_and_clear();

    let architecture = &config.model;
    let vocab_size = architecture.vocab_size.unwrap_or_default();
    writeln!(
        out,
        "{name}: {}, {} parameters, {} layers, {} heads, width {}, context {}, vocabulary {vocab_size}",
        model.class,
        model::parameter_count(architecture, vocab_size),
        architecture.n_layers,
        architecture.n_heads,
        architecture.d_model,
        architecture.context_length,
    )?;
    writeln!(out, "run: {}", run.path().display())?;
    let root = advice::root(&args.runs.artifacts);
    if matches!(model.tokenizer, SavedTokenizer::Ids { .. }) {
        writeln!(out, "there is no tokenizer.json beside it: text is token ids, as in <1><2>")?;
        writeln!(out, "\ntry: emberlm logits {name} --tokens 1,2{root}")?;
    } else {
        writeln!(out, "\ntry: emberlm generate {name} --prompt TEXT{root}")?;
    }
    Ok(())
}

/// What the user says, or the last part of the model's name where no run has it yet.
fn run_name(args: &ImportArgs) -> String {
    if let Some(name) = &args.run {
        return name.clone();
    }
    let path = std::path::absolute(&args.model).unwrap_or_else(|_| PathBuf::from(&args.model));
    let name = path.file_name().map_or("imported".into(), |name| name.to_string_lossy());
    Run::free_name(&args.runs.artifacts, name.trim_start_matches('.'))
}

/// A folder that is there, or else one that is downloaded.
fn folder(model: &str) -> Result<PathBuf, InteropError> {
    let path = Path::new(model);
    if path.is_dir() {
        Ok(path.into())
    } else if path.is_file() {
        Err(InteropError::NotFolder { path: path.into() })
    } else if interop::is_hub_name(model) && !path.exists() {
        interop::download(model)
    } else {
        Err(InteropError::NoFolder { name: model.into() })
    }
}

/// A recipe with the model's architecture; what it does not say is as for any other run.
fn run_config(name: &str, model: &ForeignModel) -> anyhow::Result<RunConfig> {
    let batch_size = (BATCH_TOKENS / model.config.context_length).clamp(1, BATCH_SIZE);
    let config = json!({
        "name": name,
        "model": model.config,
        "tokenizer": model.tokenizer_config,
        "train": {"batch_size": batch_size},
    });
    Ok(config::resolve(config)?)
}
