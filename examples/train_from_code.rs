//! Trains a small model on the built-in stories, saves it as a run, opens the run again and lets
//! the model write: what `emberlm train` and `emberlm generate` do, without the command line.
//!
//! ```text
//! cargo run --example train_from_code
//! ```

use anyhow::bail;
use burn::module::AutodiffModule;
use burn_train::Interrupter;
use emberlm::artifact::{Checkpoints, Run};
use emberlm::backend::{self, Job, TrainBackend};
use emberlm::config;
use emberlm::data::{Corpus, EvaluationLoader};
use emberlm::generate::{Sampler, Sampling};
use emberlm::model::{Initializer, Model};
use emberlm::train::{
    Best, Checkpoint, Display, LanguageModel, Loggers, ModelOptimizer, RunKeeper, RunState,
    SaveError, Training, evaluate, train,
};
use serde_json::json;
use std::path::Path;

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let outcome = run(folder.path(), Display::Lines)?;
    println!("\nuntrained {:.4}, trained {:.4} nats a character", outcome.before, outcome.after);
    println!("opened again {:.4}\n\n{}", outcome.opened, outcome.text);
    Ok(())
}

/// Validation losses in nats a character, and what the model has written.
#[derive(Debug)]
pub struct Outcome {
    pub before: f64,
    pub after: f64,
    /// Of the model that was read from the disk.
    pub opened: f64,
    pub text: String,
}

/// Makes the run in a folder.
pub fn run(root: &Path, display: Display) -> anyhow::Result<Outcome> {
    // The best backend that is compiled in. A `Job` is a function that is generic over it.
    backend::dispatch(backend::choose(None)?, Example { root, display })?
}

struct Example<'a> {
    root: &'a Path,
    display: Display,
}

impl Job for Example<'_> {
    type Output = anyhow::Result<Outcome>;

    /// `B` computes gradients; `B::InnerBackend` is the same backend without them.
    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<Outcome> {
        // The same document as a configuration file; what it leaves out has its usual value.
        let mut config = config::resolve(json!({
            "name": "from-code",
            "model": {"d_model": 48, "n_layers": 2, "n_heads": 4, "context_length": 48},
            "data": {"kind": "stories", "train_stories": 500, "validation_stories": 20},
            "train": {
                "steps": 150, "batch_size": 8, "log_every": 50,
                "evaluate_every": 150, "evaluation_windows": 40, "checkpoint_every": 150,
                "schedule": {"learning_rate": 5e-3, "warmup_steps": 10}
            }
        }))?;
        let corpus = Corpus::load(&config, None)?;
        let vocab_size = corpus.tokenizer.vocab_size();
        config.model.vocab_size = Some(vocab_size);

        // A seed gives the same weights on every backend.
        let weights = Initializer::seeded(config.seed);
        let model = Model::<B>::new(&config.name, &config.model, vocab_size, weights, &device);
        let model = LanguageModel::for_training(model, &config)?;
        let optimizer = ModelOptimizer::new(&config.train.optimizer, &model)?;
        let sample = corpus.validation.spread(config.model.context_length, 40);
        let sample = EvaluationLoader::new(corpus.validation.clone(), corpus.task, sample, 8);
        let before = evaluate(&model.valid(), sample.batches()).loss;

        let run = Run::create(self.root, &config, corpus.tokenizer.saved())?;
        let outcome = train(Training {
            config: &config,
            corpus: &corpus,
            model,
            optimizer,
            average: None,
            state: RunState::default(),
            device: device.clone(),
            further_devices: Vec::new(),
            keeper: Box::new(Keeper { checkpoints: run.checkpoints() }),
            loggers: Loggers::new(Vec::new()),
            display: self.display,
            interrupter: Interrupter::new(),
        })?;
        let after = evaluate(&outcome.model, sample.batches()).loss;

        // Configuration, tokenizer and weights are all in the run's folder.
        let run = Run::open(self.root, "from-code")?;
        let tokenizer = run.tokenizer()?;
        let model = run.load_model::<B::InnerBackend>(&device)?;
        let opened = LanguageModel::new(model.clone(), &run.config().model);
        let opened = evaluate(&opened, sample.batches()).loss;
        let Model::Gpt(model) = model else { bail!("the configuration asks for a decoder") };
        let sampling = Sampling { temperature: 0.8, top_k: None, top_p: None, min_p: None };
        let prompt = tokenizer.encode("\n")?;
        let tokens = model.generate(&prompt, 200, Sampler::new(sampling, 1)?);
        Ok(Outcome { before, after, opened, text: tokenizer.decode(&tokens) })
    }
}

/// Training knows of no files: it hands checkpoints to a keeper, which does as it likes with them.
struct Keeper {
    checkpoints: Checkpoints,
}

impl<B: TrainBackend> RunKeeper<B> for Keeper {
    fn save(&mut self, checkpoint: &Checkpoint<B>) -> Result<(), SaveError> {
        Ok(self.checkpoints.save(checkpoint)?)
    }

    fn mark_best(&mut self, best: Best) -> Result<(), SaveError> {
        Ok(self.checkpoints.mark_best(best)?)
    }

    fn sample(
        &mut self,
        _step: usize,
        _model: &LanguageModel<B::InnerBackend>,
    ) -> Result<(), SaveError> {
        Ok(())
    }
}
