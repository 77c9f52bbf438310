use anyhow::{Context, anyhow, bail};
use burn::tensor::backend::Backend;
use std::sync::Arc;

use crate::artifact::{ArtifactError, Run};
use crate::cli::InspectArgs;
use crate::commands::params;
use crate::config::{self, ConfigError, RunConfig, Source};
use crate::data::{Corpus, SplitText, Task};
use crate::files::FileError;
use crate::generate::begun;
use crate::model::{Initializer, Model};
use crate::report::inside::Passage;
use crate::tokenizer::{self, Tokenizer};

/// What is looked into: a run, or a model that nobody has trained yet.
pub(super) struct Subject {
    pub(super) config: RunConfig,
    /// None of a configuration.
    pub(super) run: Option<Run>,
    /// The step whose checkpoint is looked into.
    pub(super) step: Option<usize>,
    pub(super) vocab_size: usize,
    /// Of a configuration only where it is asked for.
    tokenizer: Option<Arc<dyn Tokenizer>>,
}

impl Subject {
    /// A run of that name, or else a configuration. `reads` says that a text is to be read.
    pub(super) fn find(args: &InspectArgs, reads: bool) -> anyhow::Result<Self> {
        let changes = !args.set.is_empty() || args.vocab_size.is_some();
        match Run::open(&args.common.artifacts, &args.subject) {
            Ok(_) if changes && Source::find(&args.subject, None).is_err() => bail!(
                "{} is a run, which has been trained as it is; --set and --vocab-size are for configurations",
                args.subject
            ),
            Ok(run) if !changes => Self::of_run(args, run),
            Ok(_) | Err(ArtifactError::UnknownRun { .. }) => Self::of_config(args, reads),
            // A configuration needs no folder of runs that can be read.
            Err(ArtifactError::File(FileError::Read { path, .. }))
                if path == args.common.artifacts && Source::find(&args.subject, None).is_ok() =>
            {
                Self::of_config(args, reads)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn of_run(args: &InspectArgs, run: Run) -> anyhow::Result<Self> {
        let step = match args.checkpoint {
            Some(step) => step,
            None => run.best_step()?,
        };
        let config = run.config().clone();
        Ok(Self {
            vocab_size: config.model.vocab_size.unwrap_or_default(),
            tokenizer: Some(run.tokenizer()?.into()),
            step: Some(step),
            run: Some(run),
            config,
        })
    }

    fn of_config(args: &InspectArgs, reads: bool) -> anyhow::Result<Self> {
        let source = Source::find(&args.subject, None).map_err(|error| match error {
            ConfigError::UnknownName { name, known, .. } => anyhow!(
                "there is no run `{name}` in {}, and no configuration of that name; there are {known}, and any JSON file",
                args.common.artifacts.display()
            ),
            other => other.into(),
        })?;
        if args.checkpoint.is_some() {
            bail!(
                "{} is a configuration, and has no checkpoints; leave out --checkpoint",
                args.subject
            );
        }
        let mut config = config::load(&source, &args.set)?;
        if args.vocab_size.is_some() {
            config.model.vocab_size = args.vocab_size;
            config.validate()?;
        }
        let known = params::vocab_size(&config);
        let tokenizer = match (reads, known) {
            (false, Some(_)) => None,
            (false, None) => Some(tokenizer(&config).context(
                "how many tokens the vocabulary has comes from the data; give it with --vocab-size N",
            )?),
            (true, _) => Some(tokenizer(&config)?),
        };
        let special = Task::special_tokens(config.model.architecture);
        let ids = tokenizer.as_ref().map(|tokenizer| tokenizer.vocab_size() + special);
        let vocab_size = config.model.vocab_size.or(ids).or(known).unwrap_or_default();
        if let Some(tokenizer) = ids.filter(|ids| *ids > vocab_size) {
            return Err(ConfigError::Vocabulary { configured: vocab_size, tokenizer }.into());
        }
        config.model.vocab_size = Some(vocab_size);
        config.validate()?;
        Ok(Self { config, run: None, step: None, vocab_size, tokenizer })
    }

    /// What is looked into, in words.
    pub(super) fn title(&self) -> String {
        match (&self.run, self.step) {
            (Some(_), Some(step)) => format!("{}, step {step}", self.name()),
            _ => format!("{}, untrained", self.name()),
        }
    }

    /// A run's, or a configuration's.
    pub(super) fn name(&self) -> &str {
        self.run.as_ref().map_or(&self.config.name, Run::name)
    }

    /// A checkpoint's, or that of a configuration as training begins with it.
    pub(super) fn model<B: Backend>(&self, device: &B::Device) -> anyhow::Result<Model<B>> {
        match (&self.run, self.step) {
            (Some(run), Some(step)) => Ok(run.load_checkpoint(step, device)?),
            _ => {
                let config = &self.config;
                let initializer = Initializer::seeded(config.seed);
                Ok(Model::new(&config.name, &config.model, self.vocab_size, initializer, device))
            }
        }
    }

    pub(super) fn tokenizer(&self) -> anyhow::Result<&Arc<dyn Tokenizer>> {
        self.tokenizer.as_ref().context("the configuration's tokenizer was not asked for")
    }

    pub(super) fn task(&self) -> anyhow::Result<Task> {
        Ok(Task::of(&self.config, self.tokenizer()?.as_ref()))
    }

    /// The data that it is trained on.
    pub(super) fn corpus(&self) -> anyhow::Result<Corpus> {
        Corpus::load(&self.config, Some(self.tokenizer()?.clone()))
            .context("the batch comes from the data; give a text instead with --text TEXT")
    }

    /// A text as the model reads it; `option` is where it was given.
    pub(super) fn passage(
        &self,
        text: &str,
        target: Option<&str>,
        option: &str,
    ) -> anyhow::Result<Passage> {
        let tokenizer = self.tokenizer()?;
        let most = self.config.model.context_length;
        let encode = |text: &str, option: &str, most: usize| {
            let tokens =
                tokenizer.encode(text).with_context(|| format!("{option} cannot be encoded"))?;
            if tokens.is_empty() {
                bail!("{option} is empty; give it some text");
            }
            if tokens.len() > most {
                bail!(
                    "{option} has {} tokens, the model sees at most {most}; shorten it",
                    tokens.len()
                );
            }
            Ok(tokens)
        };
        match (self.task()?, target) {
            (Task::Translation { .. }, None) => bail!(
                "{} translates: {option} is the source, give what it should become with --target TEXT",
                self.name()
            ),
            (Task::Translation { .. }, Some(target)) => Ok(Passage {
                source: Some(encode(text, option, most)?),
                // Before a target stands what begins it.
                tokens: encode(target, "--target", most - 1)?,
            }),
            (_, Some(_)) => {
                bail!("{} does not translate; leave out --target", self.name())
            }
            (Task::NextToken, None) => {
                let tokens = begun(tokenizer.as_ref(), encode(text, option, most)?);
                if tokens.len() > most {
                    bail!(
                        "{option} has {} tokens, the model sees at most {most}; shorten it",
                        tokens.len()
                    );
                }
                Ok(Passage { source: None, tokens })
            }
            (Task::MaskedTokens { .. }, None) => {
                Ok(Passage { source: None, tokens: encode(text, option, most)? })
            }
        }
    }
}

/// The tokenizer that a configuration leads to, of its data where that makes it.
fn tokenizer(config: &RunConfig) -> anyhow::Result<Arc<dyn Tokenizer>> {
    match tokenizer::known_vocab_size(&config.tokenizer) {
        Some(_) if !matches!(config.tokenizer, config::TokenizerConfig::Bpe { .. }) => {
            Ok(tokenizer::build(&config.tokenizer, [])?.into())
        }
        _ => Ok(SplitText::read(&config.data, config.seed)?.tokenizer(&config.tokenizer)?),
    }
}
