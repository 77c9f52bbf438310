//! A tokenizer of one's own: a token a word, with the space before it. A model is trained through
//! it, and it is saved in a form that every `emberlm` can read.
//!
//! ```text
//! cargo run --example custom_tokenizer
//! ```

use anyhow::anyhow;
use burn::data::dataloader::DataLoader;
use burn::module::AutodiffModule;
use emberlm::backend::{self, Job, TrainBackend};
use emberlm::config;
use emberlm::data::{
    Corpus, EvaluationLoader, LoaderPosition, SplitText, Stories, TokenBatch, TrainLoader,
};
use emberlm::model::{Initializer, Model};
use emberlm::tokenizer::{SavedTokenizer, Tokenizer, TokenizerError};
use emberlm::train::{Guard, LanguageModel, Progress, Stepper, evaluate};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

fn main() -> anyhow::Result<()> {
    let Outcome { vocab_size, cut, before, after } = run()?;
    println!("{vocab_size} different tokens; a story begins {cut:?}");
    println!("validation loss before training {before:.4}, after it {after:.4} bits a byte");
    Ok(())
}

/// A token a word, or a character that belongs to no word.
#[derive(Debug)]
pub struct WordTokenizer {
    words: Vec<String>,
    ids: HashMap<String, u32>,
}

impl WordTokenizer {
    /// The words of a text, in alphabetical order.
    pub fn train(text: &str) -> Self {
        let words: BTreeSet<&str> = words(text).collect();
        let words: Vec<String> = words.into_iter().map(String::from).collect();
        let ids = words.iter().cloned().zip(0..).collect();
        Self { words, ids }
    }
}

/// ` ?[A-Za-z]+|.`, by hand: where the next word would begin, this one ends.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let letters = |text: &str| text.chars().take_while(char::is_ascii_alphabetic).count();
        let space = usize::from(rest.starts_with(' '));
        let length = match letters(&rest[space..]) {
            0 => rest.chars().next()?.len_utf8(),
            letters => space + letters,
        };
        let (word, after) = rest.split_at(length);
        rest = after;
        Some(word)
    })
}

impl Tokenizer for WordTokenizer {
    fn vocab_size(&self) -> usize {
        self.words.len()
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let unknown = |word: &str| TokenizerError::Custom {
            reason: format!("the tokenizer has never seen the word `{word}`"),
        };
        words(text).map(|word| self.ids.get(word).copied().ok_or_else(|| unknown(word))).collect()
    }

    fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        Some(self.words.get(id as usize)?.clone().into_bytes())
    }

    fn end_of_text(&self) -> Option<u32> {
        None
    }

    /// As a `tokenizer.json` that says the same: who opens a run need not know this program.
    fn saved(&self) -> SavedTokenizer {
        let json = json!({
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": {
                "type": "Split", "pattern": {"Regex": " ?[A-Za-z]+|(?s:.)"},
                "behavior": "Isolated", "invert": false,
            },
            "model": {"type": "WordLevel", "vocab": self.ids, "unk_token": "<unknown>"},
        });
        SavedTokenizer::HuggingFace { json: json.to_string(), end_of_text: None }
    }
}

#[derive(Debug)]
pub struct Outcome {
    pub vocab_size: usize,
    /// The first tokens of a story.
    pub cut: Vec<String>,
    /// Validation losses, in bits a byte, which can be compared whatever the tokenizer is.
    pub before: f64,
    pub after: f64,
}

pub fn run() -> anyhow::Result<Outcome> {
    backend::dispatch(backend::choose(None)?, Example)?
}

struct Example;

impl Job for Example {
    type Output = anyhow::Result<Outcome>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<Outcome> {
        let stories = Stories::new()?;
        let (train, validation) = (stories.generate(500, 1, 0), stories.generate(20, 1, 1));
        let tokenizer = Arc::new(WordTokenizer::train(&train));
        let vocab_size = tokenizer.vocab_size();
        let mut config = config::resolve(json!({
            "name": "words",
            "model": {"d_model": 48, "n_layers": 2, "n_heads": 4, "context_length": 32},
            "train": {
                "steps": 150, "batch_size": 8,
                "schedule": {"kind": "constant", "learning_rate": 5e-3, "warmup_steps": 10}
            }
        }))?;
        config.model.vocab_size = Some(vocab_size);
        let first = tokenizer.encode(validation.lines().next().unwrap_or_default())?;
        let cut = first[..6].iter().map(|id| tokenizer.decode(&[*id])).collect();

        let text = SplitText::new(train, validation);
        let corpus = Corpus::encode(&text, tokenizer, &config.model, config.seed)?;
        let weights = Initializer::seeded(config.seed);
        let model = Model::<B>::new(&config.name, &config.model, vocab_size, weights, &device);
        let model = LanguageModel::for_training(model, &config)?;
        let sample = corpus.validation.all(config.model.context_length);
        let sample = EvaluationLoader::new(corpus.validation.clone(), corpus.task, sample, 8);
        let bytes = corpus.validation.bytes_per_target(corpus.task).unwrap_or(f64::NAN);
        let bits = |model: &LanguageModel<B>| {
            evaluate(&model.valid(), sample.batches()).bits_per_byte(bytes)
        };
        let before = bits(&model);

        let mut stepper = Stepper::<B>::of_run(model, &config, device)?;
        let loader = TrainLoader::of_run(&config, &corpus, LoaderPosition::default());
        let mut batches = DataLoader::<B, TokenBatch>::iter(&loader);
        let (mut progress, mut guard) = (Progress::default(), Guard::default());
        for _ in 0..config.train.steps.unwrap_or_default() {
            let step = stepper.step(&mut batches, &mut progress, &mut guard);
            step.map_err(|reason| anyhow!("no step: {reason:?}"))?;
        }
        Ok(Outcome { vocab_size, cut, before, after: bits(&stepper.model()) })
    }
}
