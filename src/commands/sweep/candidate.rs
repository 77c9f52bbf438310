use anyhow::{Context, bail};
use std::collections::{BTreeMap, HashMap};

use crate::artifact::Run;
use crate::backend::BackendKind;
use crate::cli::SweepArgs;
use crate::commands::figures::size;
use crate::commands::params::vocab_size;
use crate::config::{self, Architecture, DataConfig, RunConfig};
use crate::data::{SplitText, Task};
use crate::model;
use crate::sweep::{Metric, Setting, Sweep, Trial, explain};
use crate::tokenizer;
use crate::train::{flops_per_token, planned_steps, training_memory};

/// A trial that can be trained here.
#[derive(Debug)]
pub(super) struct Candidate {
    /// Bytes of the device's memory that its training takes.
    pub(super) needed: u64,
    /// Floating-point operations of a step.
    pub(super) work: f64,
    /// Its length where no rung says one and it is known beforehand.
    pub(super) steps: Option<u64>,
    /// What `train` is told beside the configuration that all begin with.
    pub(super) assignments: Vec<String>,
}

/// Finds out which trials can be trained.
pub(super) struct Examiner<'a> {
    pub(super) sweep: &'a Sweep,
    pub(super) args: &'a SweepArgs,
    pub(super) backend: BackendKind,
    /// What the device has, where that is known.
    pub(super) available: Option<u64>,
    /// Sizes of vocabularies, by the data and the tokenizer that they come from.
    vocabularies: BTreeMap<String, Result<usize, String>>,
}

impl<'a> Examiner<'a> {
    pub(super) fn new(
        sweep: &'a Sweep,
        args: &'a SweepArgs,
        backend: BackendKind,
        available: Option<u64>,
    ) -> Self {
        Self { sweep, args, backend, available, vocabularies: BTreeMap::new() }
    }

    /// Every trial by its number, or why it is left out.
    pub(super) fn examine(&mut self) -> BTreeMap<usize, Result<Candidate, String>> {
        let trials = self.sweep.trials();
        let mut all = BTreeMap::new();
        let mut firsts: HashMap<Vec<String>, &Trial> = HashMap::new();
        for trial in &trials {
            let settings = trial.settings.iter().map(Setting::assignment).collect();
            let first = *firsts.entry(settings).or_insert(trial);
            let found = match first.number == trial.number {
                true => self.candidate(trial).map_err(|error| format!("{error:#}")),
                false => Err(format!("the same as {}", first.run(&self.sweep.name))),
            };
            all.insert(trial.number, found);
        }
        all
    }

    fn candidate(&mut self, trial: &Trial) -> anyhow::Result<Candidate> {
        let mut assignments: Vec<String> =
            trial.settings.iter().map(|setting| setting.assignment()).collect();
        let longest = self.sweep.longest();
        // Whoever is trained longer has been on the way to there from its first step on.
        assignments.extend(longest.map(|steps| format!("train.steps={steps}")));
        let mut config = self.config(&assignments)?;
        if let Some(steps) = longest {
            assignments.pop();
            if config.train.schedule.ends_with_run() {
                assignments.push(format!("train.schedule.decay_steps={steps}"));
                let length = format!("train.steps={steps}");
                config = self.config(&[&assignments[..], &[length]].concat())?;
            }
        }
        let vocab_size = match vocab_size(&config) {
            Some(vocab_size) => vocab_size,
            None => self.vocabulary(&config)?,
        };
        config.model.vocab_size = Some(vocab_size);
        config.validate()?;
        let is_encoder = config.model.architecture == Architecture::Encoder;
        if is_encoder && self.sweep.metric == Metric::BitsPerByte {
            bail!("an encoder does not predict every byte: it has no bits a byte, only a `loss`");
        }
        let memory = training_memory(&config, vocab_size, self.backend.into())?;
        let needed = memory.needed(self.backend);
        if let Some(available) = self.available
            && needed > available
        {
            bail!("training takes {}, and there is {}", size(needed), size(available));
        }
        let RunConfig { model, train, .. } = &config;
        let tokens = (train.examples_per_step() * model.context_length) as f64;
        // Of encoders it is not counted; compared with each other they take as their parameters.
        let parameters = model::parameter_count(model, vocab_size) as f64;
        let of_token = flops_per_token(&config, vocab_size).unwrap_or(6.0 * parameters);
        let steps = planned_steps(&config).map(|steps| steps as u64);
        Ok(Candidate { needed, work: of_token * tokens, steps, assignments })
    }

    fn config(&self, assignments: &[String]) -> anyhow::Result<RunConfig> {
        let mut value = self.sweep.base.clone();
        config::override_values(&mut value, assignments)
            .map_err(|error| anyhow::Error::msg(explain(&error)))?;
        if let Some(name) = value["init_from"].as_str() {
            let run = Run::open(&self.args.common.artifacts, name).context("init_from")?;
            config::inherit(&mut value, run.config())?;
        }
        Ok(config::resolve(value)?)
    }

    /// Of a tokenizer that is made of the text, or read from a file.
    fn vocabulary(&mut self, config: &RunConfig) -> anyhow::Result<usize> {
        let key = serde_json::to_string(&(&config.data, &config.tokenizer, config.seed))?;
        let read = || -> anyhow::Result<usize> {
            if let DataConfig::Tokens { .. } = config.data {
                return Ok(tokenizer::build(&config.tokenizer, [])?.vocab_size());
            }
            let text = SplitText::read(&config.data, config.seed)?;
            Ok(text.tokenizer(&config.tokenizer)?.vocab_size())
        };
        let found = self
            .vocabularies
            .entry(key)
            .or_insert_with(|| read().map_err(|error| format!("{error:#}")));
        let tokens = found.clone().map_err(anyhow::Error::msg)?;
        Ok(tokens + Task::special_tokens(config.model.architecture))
    }
}
