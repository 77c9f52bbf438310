use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::checkpoints::MODEL;
use super::files::{self, read_error, write_error};
use super::{ArtifactError, Checkpoints, read_tensors};
use crate::config::{self, RunConfig};
use crate::model::{self, Initializer, Model, ModelError};
use crate::tokenizer::{SavedTokenizer, Tokenizer};

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const SUMMARY: &str = "summary.json";

/// The best evaluation of a run on the fixed sample of its validation split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    pub step: usize,
    /// Nats a token.
    pub loss: f64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    pub name: String,
    pub steps: usize,
    pub tokens: u64,
    pub params: usize,
    /// The lowest loss on the fixed sample of the validation split, in nats a token.
    pub best_val_loss: f64,
    pub best_step: usize,
    /// The last model's loss on the whole validation split, in nats a token.
    pub final_val_loss: f64,
    /// The same in bits a byte, where the model predicts every byte.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bits_per_byte: Option<f64>,
    /// What the loss cannot fall below in the long run, in nats a token, where it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source_entropy: Option<f64>,
    /// From the first step to the last evaluation.
    pub seconds: f64,
    /// Over the whole of `seconds`, evaluations and checkpoints included.
    pub tokens_per_s: f64,
    pub backend: String,
}

/// A run directory.
#[derive(Debug, Clone)]
pub struct Run {
    path: PathBuf,
    name: String,
    config: RunConfig,
    tokenizer: SavedTokenizer,
}

impl Run {
    /// Makes the directory and writes into it what the run is going to be.
    ///
    /// # Errors
    /// [`ArtifactError::Exists`], or a disk that cannot be written; then nothing is left behind.
    pub fn create(
        root: &Path,
        config: &RunConfig,
        tokenizer: SavedTokenizer,
    ) -> Result<Self, ArtifactError> {
        let path = root.join(&config.name);
        fs::create_dir_all(root).map_err(write_error(root))?;
        fs::create_dir(&path).map_err(|source| match source.kind() {
            ErrorKind::AlreadyExists => ArtifactError::Exists { path: path.clone() },
            _ => ArtifactError::Write { path: path.clone(), source },
        })?;
        let run = Self { name: config.name.clone(), config: config.clone(), tokenizer, path };
        let written = files::write_json(&run.path.join(CONFIG), &run.config)
            .and_then(|()| files::write_json(&run.path.join(TOKENIZER), &run.tokenizer))
            .and_then(|()| files::write_checksums(&run.path, &[CONFIG, TOKENIZER]));
        if let Err(error) = written {
            // Best effort: the error that matters is the first one.
            let _ = fs::remove_dir_all(&run.path);
            return Err(error);
        }
        Ok(run)
    }

    /// The first of `name`, `name-2`, `name-3`, .. that no run has yet.
    pub fn free_name(root: &Path, name: &str) -> String {
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        std::iter::once(name.to_string())
            .chain(numbered)
            .find(|name| !root.join(name).exists())
            .expect("there are more numbers than files")
    }

    /// Opens a run by its name under `root`, or by its path.
    ///
    /// # Errors
    /// A run that does not exist, or one of its files that is missing or damaged.
    pub fn open(root: &Path, name: &str) -> Result<Self, ArtifactError> {
        let path = [root.join(name), PathBuf::from(name)]
            .into_iter()
            .find(|path| path.join(CONFIG).is_file())
            .ok_or_else(|| ArtifactError::UnknownRun {
                name: name.into(),
                root: root.into(),
                known: run_names(root),
            })?;
        files::verify(&path, CONFIG)?;
        files::verify(&path, TOKENIZER)?;
        let value: Value = files::read_json(&path.join(CONFIG))?;
        let config = config::resolve(value)
            .map_err(|source| ArtifactError::Config { path: path.join(CONFIG), source })?;
        Ok(Self {
            name: config.name.clone(),
            config,
            tokenizer: files::read_json(&path.join(TOKENIZER))?,
            path,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// # Errors
    /// A tokenizer that contradicts itself.
    pub fn tokenizer(&self) -> Result<Box<dyn Tokenizer>, ArtifactError> {
        self.tokenizer
            .restore()
            .map_err(|source| ArtifactError::Tokenizer { path: self.path.join(TOKENIZER), source })
    }

    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(&self.path, self.config.train.keep_checkpoints)
    }

    /// The best model, or where none was evaluated the newest.
    ///
    /// # Errors
    /// A run without checkpoints, or a checkpoint that is damaged or does not fit.
    pub fn load_model<B: Backend>(&self, device: &B::Device) -> Result<Model<B>, ArtifactError> {
        let checkpoints = self.checkpoints();
        let best = checkpoints.best()?.map(|best| best.step);
        let newest = checkpoints.steps()?.last().copied();
        let step = best
            .or(newest)
            .ok_or_else(|| ArtifactError::NoCheckpoint { path: self.path.clone() })?;
        self.load_checkpoint(step, device)
    }

    fn load_checkpoint<B: Backend>(
        &self,
        step: usize,
        device: &B::Device,
    ) -> Result<Model<B>, ArtifactError> {
        let folder = self.checkpoints().path(step);
        files::verify(&folder, MODEL)?;
        let path = folder.join(MODEL);
        let mut tensors = read_tensors(&path)?;
        let vocab_size = self.config.model.vocab_size.unwrap_or_default();
        let model =
            Model::new(&self.name, &self.config.model, vocab_size, Initializer::Zeros, device);
        let loaded = model::load_parameters(model, |name| tensors.remove(name));
        let left_over = tensors.into_keys().min();
        match (loaded, left_over) {
            (Ok(model), None) => Ok(model),
            (Ok(_), Some(name)) => {
                Err(ArtifactError::Model { path, source: ModelError::LeftOver { name } })
            }
            (Err(source), _) => Err(ArtifactError::Model { path, source }),
        }
    }

    /// Where the metrics go, a JSON object a line.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn metrics_file(&self) -> Result<File, ArtifactError> {
        let path = self.path.join("metrics.jsonl");
        File::options().create(true).append(true).open(&path).map_err(write_error(&path))
    }

    /// # Errors
    /// A disk that cannot be written.
    pub fn write_summary(&self, summary: &Summary) -> Result<(), ArtifactError> {
        files::write_json(&self.path.join(SUMMARY), summary)
    }

    /// # Errors
    /// A summary that is missing or damaged.
    pub fn summary(&self) -> Result<Summary, ArtifactError> {
        files::read_json(&self.path.join(SUMMARY))
    }
}

/// The runs under a folder, by name; none where it cannot be read.
fn run_names(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).map_err(read_error(root));
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join(CONFIG).is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
