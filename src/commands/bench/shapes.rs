//! The models that speed is compared at, and their data.

use anyhow::Context;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::config::{self, DataConfig, Packing, RunConfig, Source, TokenizerConfig};
use crate::data::{Corpus, Preparation, SourceOptions, Sources, Task, ValidationSplit, prepare};
use crate::files;
use crate::tokenizer::{self, IdTokenizer};

/// Where a configuration leaves the vocabulary to its text: that of Shakespeare's characters.
const VOCAB_SIZE: usize = 65;
/// Windows of the generated data for each example of a step, and in all. They are few, and few
/// tokens, so that what they take is nothing beside the steps that are measured.
const WINDOWS_PER_EXAMPLE: usize = 8;
const MIN_WINDOWS: usize = 40;
const MAX_TOKENS: usize = 1 << 20;
/// Of the windows, each of which is a document.
const VALIDATION_FRACTION: f64 = 0.1;
const SEPARATOR: &str = "\n";

/// A model and its batch.
struct Shape {
    name: &'static str,
    n_layers: usize,
    n_heads: usize,
    d_model: usize,
    context_length: usize,
    batch_size: usize,
    vocab_size: usize,
}

/// nanoGPT's recipe for CPUs; that for GPUs with batches of 8; GPT-2 with a short context; GPT-2
/// as it is trained on GPUs.
#[rustfmt::skip]
const SHAPES: [Shape; 4] = [
    Shape { name: "s", n_layers: 4, n_heads: 4, d_model: 128, context_length: 64, batch_size: 12, vocab_size: 65 },
    Shape { name: "m", n_layers: 6, n_heads: 6, d_model: 384, context_length: 256, batch_size: 8, vocab_size: 65 },
    Shape { name: "l", n_layers: 12, n_heads: 12, d_model: 768, context_length: 256, batch_size: 1, vocab_size: 50257 },
    Shape { name: "xl", n_layers: 12, n_heads: 12, d_model: 768, context_length: 1024, batch_size: 8, vocab_size: 50304 },
];

impl Shape {
    /// Biases, no dropout, and a head of its own, as in the programs that this is compared with.
    fn config(&self) -> Value {
        json!({
            "name": self.name,
            "model": {
                "d_model": self.d_model,
                "n_layers": self.n_layers,
                "n_heads": self.n_heads,
                "context_length": self.context_length,
                "tied_head": false,
                "feed_forward": { "activation": "gelu-tanh" },
            },
            "tokenizer": { "kind": "ids", "vocab_size": self.vocab_size },
            "train": { "batch_size": self.batch_size },
        })
    }
}

/// A shape by its name, or a configuration, and random ids for it to be trained on.
///
/// `assignments` are those of `--set`.
pub(super) fn load(
    name: &str,
    assignments: &[String],
) -> anyhow::Result<(RunConfig, Corpus, tempfile::TempDir)> {
    let folder = tempfile::tempdir().context("a temporary folder cannot be made")?;
    let (config, vocab_size) = config_of(name, assignments, folder.path().join("tokens"))?;
    write_tokens(&config, vocab_size, folder.path()).context("the data cannot be written")?;
    let corpus = Corpus::load(&config, None)?;
    Ok((config, corpus, folder))
}

/// A shape or a configuration, on token files in a folder; and how many different ids they have.
pub(super) fn config_of(
    name: &str,
    assignments: &[String],
    data: PathBuf,
) -> anyhow::Result<(RunConfig, usize)> {
    let mut value = match SHAPES.iter().find(|shape| shape.name == name) {
        Some(shape) => shape.config(),
        None => config::load_value(&Source::find(name, None).with_context(|| {
            let shapes = SHAPES.map(|shape| shape.name).join(", ");
            format!("`{name}` is none of the shapes {shapes}")
        })?)?,
    };
    config::override_values(&mut value, assignments)?;
    let mut config = config::resolve(value)?;
    let special = Task::special_tokens(config.model.architecture);
    let of_model = || Some(config.model.vocab_size?.saturating_sub(special).max(1));
    let vocab_size =
        tokenizer::known_vocab_size(&config.tokenizer).or_else(of_model).unwrap_or(VOCAB_SIZE);
    config.tokenizer = TokenizerConfig::Ids { vocab_size };
    config.model.vocab_size.get_or_insert(vocab_size + special);
    config.data = DataConfig::Tokens { path: Some(data), packing: Packing::Stream };
    config.validate()?;
    Ok((config, vocab_size))
}

/// Random ids as prepared token files, in the folder of the configuration.
fn write_tokens(config: &RunConfig, vocab_size: usize, folder: &Path) -> anyhow::Result<()> {
    let DataConfig::Tokens { path: Some(path), .. } = &config.data else { return Ok(()) };
    let text = folder.join("ids.txt");
    let window = config.model.context_length + 1;
    let wanted = config.train.examples_per_step() * WINDOWS_PER_EXAMPLE;
    let windows = wanted.min(MAX_TOKENS / window).max(MIN_WINDOWS);
    let mut random = ChaCha8Rng::seed_from_u64(config.seed);
    files::write_whole(&text, |file| {
        let mut file = BufWriter::new(file);
        for _ in 0..windows {
            for _ in 0..window {
                write!(file, "<{}>", random.random_range(0..vocab_size))?;
            }
            file.write_all(SEPARATOR.as_bytes())?;
        }
        file.flush()
    })?;
    let options = SourceOptions { separator: Some(SEPARATOR.into()), ..Default::default() };
    let preparation = Preparation {
        tokenizer: &IdTokenizer::new(vocab_size),
        tokenizer_name: "ids",
        sources: &Sources::find(&[text.display().to_string()], options)?,
        split: ValidationSplit::Documents {
            validation_fraction: VALIDATION_FRACTION,
            seed: config.seed,
        },
        shard_tokens: u64::MAX,
    };
    prepare(&preparation, path, &AtomicBool::new(false), &mut |_| ())?;
    Ok(())
}
