//! A data source of one's own: sums that are made up as they are needed, such as `7+5=12`. The
//! model learns to add one digit to another, and is asked all hundred sums.
//!
//! ```text
//! cargo run --example custom_data
//! ```

use anyhow::{anyhow, bail};
use burn::data::dataloader::DataLoader;
use burn::module::AutodiffModule;
use emberlm::backend::{self, Job, TrainBackend};
use emberlm::config;
use emberlm::data::{Corpus, LoaderPosition, SplitText, TokenBatch, TrainLoader};
use emberlm::generate::{Sampler, Sampling};
use emberlm::model::{Initializer, Model};
use emberlm::tokenizer::CharacterTokenizer;
use emberlm::train::{Guard, LanguageModel, Progress, Stepper};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use std::sync::Arc;

fn main() -> anyhow::Result<()> {
    let Outcome { first, last, right, shown } = run()?;
    println!("loss of the first step {first:.4}, of the last {last:.4} nats a character");
    println!("{}\n{right} of 100 sums are right", shown.join("  "));
    Ok(())
}

/// The source: an endless series of texts that follows from a seed.
struct Sums {
    random: ChaCha8Rng,
}

impl Sums {
    fn new(seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed) }
    }
}

impl Iterator for Sums {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let [a, b] = [(); 2].map(|()| self.random.random_range(0..10));
        Some(format!("{a}+{b}={}\n", a + b))
    }
}

#[derive(Debug)]
pub struct Outcome {
    /// Losses of the first and the last step, in nats a character.
    pub first: f64,
    pub last: f64,
    /// Sums of a hundred to which the model knows the answer.
    pub right: usize,
    /// A few of them, as the model has it.
    pub shown: Vec<String>,
}

pub fn run() -> anyhow::Result<Outcome> {
    backend::dispatch(backend::choose(None)?, Example)?
}

struct Example;

impl Job for Example {
    type Output = anyhow::Result<Outcome>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<Outcome> {
        let mut config = config::resolve(json!({
            "name": "sums",
            "model": {"d_model": 48, "n_layers": 2, "n_heads": 4, "context_length": 16},
            "train": {
                "steps": 1000, "batch_size": 24,
                "schedule": {"kind": "constant", "learning_rate": 3e-3, "warmup_steps": 10}
            }
        }))?;
        // Whatever can be put into strings can be trained on: windows, batches and their order are
        // the library's from here on.
        let text = SplitText::new(
            Sums::new(config.seed).take(5000).collect(),
            Sums::new(config.seed + 1).take(100).collect(),
        );
        let tokenizer = Arc::new(CharacterTokenizer::from_characters("\n+=0123456789")?);
        let corpus = Corpus::encode(&text, tokenizer, &config.model, config.seed)?;
        let vocab_size = corpus.tokenizer.vocab_size();
        config.model.vocab_size = Some(vocab_size);

        let weights = Initializer::seeded(config.seed);
        let model = Model::<B>::new(&config.name, &config.model, vocab_size, weights, &device);
        let model = LanguageModel::for_training(model, &config)?;
        // A stepper takes steps and nothing else; evaluations and checkpoints are up to its caller.
        let mut stepper = Stepper::<B>::of_run(model, &config, device)?;
        let loader = TrainLoader::of_run(&config, &corpus, LoaderPosition::default());
        let mut batches = DataLoader::<B, TokenBatch>::iter(&loader);
        let (mut progress, mut guard) = (Progress::default(), Guard::default());
        let mut losses = Vec::new();
        for _ in 0..config.train.steps.unwrap_or_default() {
            let step = stepper.step(&mut batches, &mut progress, &mut guard);
            losses.push(step.map_err(|reason| anyhow!("no step: {reason:?}"))?.output.loss);
        }

        let Model::Gpt(model) = stepper.model().valid().model else { bail!("it is a decoder") };
        let likeliest = Sampling { temperature: 0.0, top_k: None, top_p: None, min_p: None };
        let (mut right, mut shown) = (0, Vec::new());
        for (a, b) in (0..10).flat_map(|a| (0..10).map(move |b| (a, b))) {
            let question = format!("\n{a}+{b}=");
            let prompt = corpus.tokenizer.encode(&question)?;
            let answer = model.generate(&prompt, 3, Sampler::new(likeliest, 0)?);
            let answer = corpus.tokenizer.decode(&answer);
            let answer = answer.lines().next().unwrap_or_default();
            right += usize::from(answer == (a + b).to_string());
            if (a + 7 * b) % 20 == 13 {
                shown.push(format!("{}{answer}", question.trim()));
            }
        }
        let (first, last) = (losses[0], losses[losses.len() - 1]);
        Ok(Outcome { first, last, right, shown })
    }
}
