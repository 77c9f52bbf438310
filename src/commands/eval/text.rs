use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Evaluate;
use crate::artifact::Run;
use crate::backend::GptBackend;
use crate::cli::{EvalArgs, EvalSplit};
use crate::config::DataConfig;
use crate::config::RunConfig;
use crate::data::{Corpus, Prepared, Split, Task};
use crate::eval::{HeldOut, Measure, Outcome, Stopped};
use crate::tokenizer::Tokenizer;
use crate::train::LanguageModel;

/// A text that the model is measured on.
pub(super) struct Text {
    held_out: HeldOut,
    name: String,
    data: String,
    source_entropy: Option<f64>,
    /// Of the tokens that are predicted, where every byte of the text is.
    bytes: Option<usize>,
}

impl Text {
    pub(super) fn read(
        args: &EvalArgs,
        run: &Run,
        tokenizer: &Arc<dyn Tokenizer>,
        task: Task,
    ) -> anyhow::Result<Self> {
        let config = run.config();
        let (split, source_entropy) = split(args, config, tokenizer)?;
        let side = match args.split.unwrap_or_default() {
            EvalSplit::Train => "train",
            EvalSplit::Validation => "validation",
        };
        let is_prepared = args.data.as_ref().is_some_and(|path| Prepared::is_at(path));
        let (name, data) = match &args.data {
            Some(path) if is_prepared => {
                let name = format!("{}-{side}", prepared_name(path)?);
                (name, format!("{}, {side} split", path.display()))
            }
            Some(path) => {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                (stem, path.display().to_string())
            }
            None => (side.into(), format!("the run's data, {side} split")),
        };
        let context_length = config.model.context_length;
        let mut held_out = HeldOut::new(split, task, context_length, args.stride)?;
        if let Some(limit) = args.limit {
            held_out.limit(limit as usize);
        }
        let bytes = held_out.bytes(tokenizer.as_ref());
        Ok(Self { held_out, name, data, source_entropy, bytes })
    }

    pub(super) fn name(&self) -> String {
        self.name.clone()
    }

    /// That the files are still there in full.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        Ok(self.held_out.split().check()?)
    }

    pub(super) fn measure<B: GptBackend>(
        &self,
        model: &LanguageModel<B>,
        weights: &str,
        job: &Evaluate,
    ) -> Result<Outcome, Stopped> {
        let top_k: Vec<usize> = job.args.accuracies.iter().map(|k| *k as usize).collect();
        let score = job.watched(self.held_out.len(), "windows", |watch| {
            self.held_out.score(model, job.batch_size(), &top_k, watch)
        })?;
        let mut measures = vec![Measure::new("loss", score.loss)];
        measures.extend(self.source_entropy.map(|value| Measure::new("source entropy", value)));
        measures.push(Measure::new("perplexity", score.perplexity()));
        measures.extend(self.bytes.map(|it| Measure::new("bits a byte", score.bits_per_byte(it))));
        measures.extend(
            score
                .hits
                .iter()
                .map(|(k, hits)| Measure::share(&format!("top-{k} accuracy"), *hits, score.tokens)),
        );
        Ok(Outcome {
            task: "text".into(),
            data: self.data.clone(),
            weights: weights.into(),
            protocol: self.held_out.protocol(),
            examples: score.tokens,
            measures,
        })
    }
}

/// `datasets/my/gpt2` -> `my-gpt2`: a folder of prepared data is often called by its tokenizer, as
/// those of other texts are.
fn prepared_name(path: &Path) -> anyhow::Result<String> {
    let whole = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
    let names: Vec<_> = [whole.parent(), Some(whole.as_path())]
        .into_iter()
        .filter_map(|folder| Some(folder?.file_name()?.to_string_lossy().into_owned()))
        .collect();
    Ok(names.join("-"))
}

/// What is measured, and the entropy of its source in nats a token, where that is known.
fn split(
    args: &EvalArgs,
    config: &RunConfig,
    tokenizer: &Arc<dyn Tokenizer>,
) -> anyhow::Result<(Split, Option<f64>)> {
    let model = &config.model;
    let side = args.split.unwrap_or_default();
    // Of prepared data only the side that is asked for is needed.
    let own = match &config.data {
        DataConfig::Tokens { path, .. } => path.as_ref(),
        _ => None,
    };
    let path: Option<&PathBuf> = args.data.as_ref().or(own);
    match (path, side) {
        (Some(path), EvalSplit::Validation) => {
            if args.split.is_some() && !Prepared::is_at(path) {
                bail!("{} is not split; leave out --split", path.display());
            }
            Ok((Split::read(path, &config.data, tokenizer.as_ref(), model)?, None))
        }
        (Some(path), EvalSplit::Train) => {
            if !Prepared::is_at(path) {
                bail!("{} is not split; leave out --split", path.display());
            }
            let packing = match &config.data {
                DataConfig::Tokens { packing, .. } => *packing,
                _ => Default::default(),
            };
            let data = DataConfig::Tokens { path: Some(path.clone()), packing };
            let config = RunConfig { data, ..config.clone() };
            Ok((Corpus::load(&config, Some(tokenizer.clone()))?.train, None))
        }
        (None, side) => {
            // With the run's own tokenizer: the text may have changed since.
            let corpus = Corpus::load(config, Some(tokenizer.clone()))?;
            let bytes = |split: &Split| split.bytes_per_target(corpus.task);
            match side {
                EvalSplit::Validation => Ok((corpus.validation, corpus.source_entropy)),
                EvalSplit::Train => {
                    let of_train = bytes(&corpus.train).zip(bytes(&corpus.validation));
                    let entropy = corpus.source_entropy.zip(of_train);
                    let entropy = entropy.map(|(entropy, (train, other))| entropy * train / other);
                    Ok((corpus.train, entropy))
                }
            }
        }
    }
}
