//! What is going to be trained: a new run, or one that goes on.

use anyhow::{Context, bail};
use burn::tensor::backend::Backend;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::say;
use crate::artifact::{Change, Checkpoints, Resumable, Run, Segment};
use crate::backend::BackendKind;
use crate::cli::TrainArgs;
use crate::config::{
    self, Architecture, ConfigError, DataConfig, PositionConfig, RunConfig, Source,
};
use crate::data::{Corpus, Task};
use crate::files::{self, LockedFile};
use crate::model::{Initializer, Model};
use crate::report::{Difference, differences};
use crate::train::{Best, RunState};

/// The key of what evaluations read and training does not.
const VALIDATION_PATH: &str = "data.validation_path";

/// A run before its next step.
pub(super) struct Plan {
    pub(super) config: RunConfig,
    pub(super) corpus: Corpus,
    pub(super) state: RunState,
    /// The run whose model it begins with.
    initial: Option<Run>,
    existing: Option<Existing>,
}

/// A run that is there already.
struct Existing {
    run: Run,
    lock: LockedFile,
    /// The step of the checkpoint to go on from; none where there is no checkpoint yet.
    step: Option<usize>,
    /// Those of checkpoints after it, which cannot be read.
    damaged: Vec<usize>,
    /// What is otherwise than before.
    changes: BTreeMap<String, Change>,
    /// What there is to say of all this.
    notes: Vec<String>,
    backend: BackendKind,
}

/// Tells what is learned from, in its order, and what evaluations choose from, from all else that
/// could be.
fn identities(config: &RunConfig, corpus: &Corpus) -> [String; 2] {
    let identity = |fingerprint: &str| {
        let mut hasher = Sha256::new();
        hasher.update(fingerprint);
        hasher.update((config.model.context_length as u64).to_le_bytes());
        hasher.update(format!("{:?}", corpus.train.packing));
        hasher
    };
    let [mut train, mut validation] = corpus.fingerprints.each_ref().map(|it| identity(it));
    let seed = config.seed.to_le_bytes();
    train.update(seed);
    // It says which tokens are to be found.
    if let Task::MaskedTokens { .. } = corpus.task {
        validation.update(seed);
    }
    [train, validation].map(files::hexadecimal)
}

impl Plan {
    /// A run that there is not yet.
    pub(super) fn new_run(args: &TrainArgs) -> anyhow::Result<Self> {
        let source = Source::find(&args.config, None)?;
        let mut value = config::load_value(&source)?;
        // Which model it is decides how data is read.
        let mut settings = value.clone();
        config::override_values(&mut settings, &args.set)?;
        let initial = match settings["init_from"].as_str() {
            Some(name) => Some(open_initial(args, name)?),
            None => None,
        };
        let initial_config = initial.as_ref().map(Run::config);
        apply(args, &mut value, config::architecture(&settings, initial_config))?;
        if let Some(config) = initial_config {
            config::inherit(&mut value, config)?;
        }
        let mut config = config::resolve(value)?;
        if let Some(name) = &args.run {
            config.name.clone_from(name);
            config.validate()?;
        } else {
            config.name = Run::free_name(&args.common.artifacts, &config.name);
        }
        let tokenizer = match &initial {
            Some(run) => Some(run.tokenizer()?.into()),
            None => None,
        };
        let corpus = Corpus::load(&config, tokenizer)?;
        let special = Task::special_tokens(config.model.architecture);
        let tokens = corpus.tokenizer.vocab_size() + special;
        let vocab_size = config.model.vocab_size.unwrap_or(tokens);
        if vocab_size < tokens {
            return Err(
                ConfigError::Vocabulary { configured: vocab_size, tokenizer: tokens }.into()
            );
        }
        config.model.vocab_size = Some(vocab_size);
        config.validate()?;
        let [data, validation] = identities(&config, &corpus);
        let state = RunState { data, validation, ..Default::default() };
        Ok(Self { config, corpus, state, initial, existing: None })
    }

    /// A run that goes on from its newest checkpoint that can be read.
    pub(super) fn resumed(
        args: &TrainArgs,
        name: &str,
        backend: BackendKind,
    ) -> anyhow::Result<Self> {
        let run = Run::open(&args.common.artifacts, name)?;
        run.check_trained()?;
        let lock = run.lock()?;
        let before = serde_json::to_value(run.config())?;
        let mut value = before.clone();
        apply(args, &mut value, run.config().model.architecture)?;
        for key in ["name", "tokenizer", "init_from"] {
            if value[key] != before[key] {
                bail!(
                    "`{key}` cannot be changed in a run that goes on; begin a new run with init_from"
                );
            }
        }
        let mut config = config::resolve(value)?;
        // Prepared data would name its own, which must be the same.
        config.tokenizer = run.config().tokenizer.clone();
        let corpus = Corpus::load(&config, Some(Arc::from(run.tokenizer()?)))?;
        let resumable = run.checkpoints().newest()?;
        let model = &run.config().model;
        if resumable.is_some()
            && model.position == (PositionConfig::Learned {})
            && config.model.context_length != model.context_length
        {
            bail!(
                "`model.context_length` cannot be changed in a run with learned positions that goes on; begin a new run with init_from"
            );
        }
        let (mut state, mut notes) = described(&run, resumable.as_ref());
        let after = serde_json::to_value(&config)?;
        let changes: BTreeMap<String, Change> = differences(&[before, after])
            .into_iter()
            .filter_map(|Difference { key, values }| {
                let [from, to] = values.try_into().ok()?;
                Some((key, Change { from, to }))
            })
            .collect();
        let identities = identities(&config, &corpus);
        check_data(&run, &mut state, identities, &changes, &config, args, &mut notes)?;
        for (path, Change { from, to }) in &changes {
            notes.push(format!("changed: {path} = {to} (was {from})"));
        }
        let initial = match (&resumable, &config.init_from) {
            (None, Some(name)) => Some(open_initial(args, name)?),
            _ => None,
        };
        let (step, damaged) = match resumable {
            Some(Resumable { step, damaged, .. }) => (Some(step), damaged),
            None => (None, Vec::new()),
        };
        let damaged = damaged.into_iter().map(|(step, _)| step).collect();
        let existing = Existing { run, lock, step, damaged, changes, notes, backend };
        Ok(Self { config, corpus, state, initial, existing: Some(existing) })
    }

    /// Whether the model comes from another run.
    pub(super) fn is_finetuning(&self) -> bool {
        self.initial.is_some()
    }

    /// The step that it goes on from, of a run that has a checkpoint, and where that is.
    pub(super) fn checkpoint(&self) -> Option<(usize, Checkpoints)> {
        let Existing { run, step, .. } = self.existing.as_ref()?;
        Some(((*step)?, run.checkpoints()))
    }

    /// The model as it is before the next step.
    pub(super) fn model<B: Backend>(&self, device: &B::Device) -> anyhow::Result<Model<B>> {
        let config = &self.config;
        if let Some(Existing { run, step: Some(step), .. }) = &self.existing {
            return Ok(run.load_model_of(*step, &config.model, device)?);
        }
        if let Some(initial) = &self.initial {
            return initial
                .load_model_as(config, device)
                .context("init_from names a run that cannot be trained further like this");
        }
        let vocab_size = config.model.vocab_size.unwrap_or_default();
        let initializer = Initializer::seeded(config.seed);
        Ok(Model::new(&config.name, &config.model, vocab_size, initializer, device))
    }

    /// The run's folder and its lock. From here on it is what the plan says: a run that there was not
    /// is made now, and one that there was has a new segment if its settings have changed.
    pub(super) fn open(self, args: &TrainArgs) -> anyhow::Result<(Run, LockedFile, Corpus)> {
        if let Some(existing) = self.existing {
            let Existing { mut run, lock, damaged, changes, notes, backend, .. } = existing;
            let step = self.state.progress.step;
            run.checkpoints().go_on(&damaged, self.state.best)?;
            notes.iter().for_each(|note| say(args, format_args!("{note}")));
            if !changes.is_empty() {
                let segment = Segment {
                    step,
                    started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
                    backend: backend.name().into(),
                    version: env!("CARGO_PKG_VERSION").into(),
                    changes,
                };
                run.begin_segment(self.config, &segment)?;
            }
            run.forget_after(step)?;
            return Ok((run, lock, self.corpus));
        }
        let run = Run::create(&args.common.artifacts, &self.config, self.corpus.tokenizer.saved())?;
        let lock = run.lock()?;
        Ok((run, lock, self.corpus))
    }
}

fn open_initial(args: &TrainArgs, name: &str) -> anyhow::Result<Run> {
    Run::open(&args.common.artifacts, name)
        .context("init_from names the run to begin with, as emberlm import makes one")
}

/// Goes on with the data that there is: from its beginning where it is other data than what was read
/// before, and without a best evaluation where those were of other data.
///
/// # Errors
/// Other data that nobody asked for.
fn check_data(
    run: &Run,
    state: &mut RunState,
    [data, validation]: [String; 2],
    changes: &BTreeMap<String, Change>,
    config: &RunConfig,
    args: &TrainArgs,
    notes: &mut Vec<String>,
) -> anyhow::Result<()> {
    // What was changed since the checkpoint, perhaps by a program that was killed before the next.
    let segments = run.segments()?;
    let since = segments.iter().filter(|segment| segment.step >= state.progress.step);
    let changed: Vec<_> = since.flat_map(|segment| &segment.changes).chain(changes).collect();
    // What is named again is meant as it is now.
    let named = args.set.iter().filter_map(|set| set.split_once('=')).map(|(key, _)| key);
    let named = named.chain(args.data.as_ref().map(|_| "data.path"));
    let named = named.chain(args.eval_data.as_ref().map(|_| VALIDATION_PATH));
    let has_own = !serde_json::to_value(&config.data)?["validation_path"].is_null();
    let changed_keys = changed.iter().map(|(key, Change { from, to })| {
        // Where validation comes to have a file of its own, or has none any more.
        (key.as_str(), from.is_null() || to.is_null())
    });
    let is_changed = concerned(changed_keys, has_own);
    let is_named = concerned(named.map(|key| (key, false)), has_own);
    let is_asked_for = [is_changed[0] || is_named[0], is_changed[1] || is_named[1]];
    let is_other = match state.validation.is_empty() {
        true => is_asked_for,
        false => [data != state.data, validation != state.validation],
    };
    if is_other.iter().zip(is_asked_for).any(|(is_other, is_asked_for)| *is_other && !is_asked_for)
    {
        bail!(
            "the data of the run {} is not what it was at step {}; bring it back, or give what it goes on with by --data, --eval-data or --set data..",
            run.path().display(),
            state.progress.step
        );
    }
    if is_other[0] && state.progress.cursor > 0 {
        notes.push("the training data is not what it was: it is read from its beginning".into());
        state.progress.cursor = 0;
    }
    if is_other[1] || changed.iter().any(|(key, _)| *key == "train.evaluation_windows") {
        if let Some(Best { step, loss }) = state.best.take() {
            notes.push(format!(
                "evaluations are of other data: their best, {loss:.4} nats a token at step {step}, counts no more"
            ));
        }
        state.to_beat = None;
        state.evaluations_without_improvement = 0;
    }
    (state.data, state.validation) = (data, validation);
    Ok(())
}

/// Whether any of some keys says what is learned from, and whether any says what evaluations read,
/// which may have a file of their own; each key with whether they come to have one, or lose it.
fn concerned<'a>(keys: impl Iterator<Item = (&'a str, bool)>, has_own: bool) -> [bool; 2] {
    let of_key = |(key, splits)| match key {
        VALIDATION_PATH => [splits, true],
        // Validation without a file of its own is a part of what is learned from.
        "data.path" | "data.validation_fraction" => [true, !has_own],
        "seed" | "model.context_length" | "data" => [true; 2],
        key => [key.starts_with("data."); 2],
    };
    keys.map(of_key).fold([false; 2], |all, one| [all[0] || one[0], all[1] || one[1]])
}

/// What a run goes on from, and what there is to say of that.
fn described(run: &Run, resumable: Option<&Resumable>) -> (RunState, Vec<String>) {
    let name = run.name();
    let Some(Resumable { step, state, damaged }) = resumable else {
        return (
            RunState::default(),
            vec![format!("{name} has no checkpoint yet: it begins anew")],
        );
    };
    let mut notes: Vec<String> = damaged
        .iter()
        .map(|(_, error)| format!("a checkpoint cannot be read and is set aside: {error}"))
        .collect();
    notes.push(format!("{name} goes on after step {step}"));
    (state.clone(), notes)
}

/// Lays what the command line says on a configuration.
fn apply(args: &TrainArgs, value: &mut Value, architecture: Architecture) -> anyhow::Result<()> {
    apply_data(value, architecture, args.data.as_ref(), args.eval_data.as_ref())?;
    Ok(config::override_values(value, &args.set)?)
}

/// Gives a configuration of such a model other data.
pub(in crate::commands) fn apply_data(
    value: &mut Value,
    architecture: Architecture,
    data: Option<&PathBuf>,
    eval_data: Option<&PathBuf>,
) -> anyhow::Result<()> {
    let mut text = serde_json::Map::new();
    for (key, path) in [("path", data), ("validation_path", eval_data)] {
        if let Some(path) = path {
            // Absolute, so that the run can be evaluated from anywhere.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            text.insert(key.into(), path.to_string_lossy().into());
        }
    }
    if !text.is_empty() {
        let kind = match (data, value["data"]["kind"].as_str()) {
            (None, Some(configured)) => configured,
            (None, None) => "text",
            (Some(path), _) => DataConfig::kind_of(path, architecture),
        };
        if kind == "tokens" && eval_data.is_some() {
            bail!("prepared data has its own validation split; leave out --eval-data");
        }
        text.insert("kind".into(), kind.into());
        config::override_value(value, &format!("data={}", json!(text)))?;
    }
    Ok(())
}
