use std::path::{Path, PathBuf};

use super::TensorError;
use crate::config::ConfigError;
use crate::files::{FileError, NamesFile};
use crate::model::ModelError;
use crate::tokenizer::TokenizerError;

/// What is wrong with a run directory.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("there is no run `{name}` in {}{}", .root.display(), known_runs(.known))]
    UnknownRun { name: String, root: PathBuf, known: Vec<String> },
    #[error("the run {} exists already; choose another name with --run, or go on with it by --resume", .path.display())]
    Exists { path: PathBuf },
    #[error("another program is training the run {} at this moment", .path.display())]
    Busy { path: PathBuf },
    #[error(
        "the run {0} was not trained here, so no training of it goes on; begin a new one with its model, as `emberlm train --config finetune-shakespeare --data FILE --set init_from={0}` does", .path.display()
    )]
    NotTrained { path: PathBuf },
    #[error("the run {} has no checkpoint yet", .path.display())]
    NoCheckpoint { path: PathBuf },
    #[error("the run {run} has no checkpoint of step {step}{}", known_steps(.known))]
    UnknownStep { run: String, step: usize, known: Vec<usize> },
    #[error(
        "the run {0} has adapters and the configuration has none; merge it first with `emberlm merge {0} --name NEW`", .path.display()
    )]
    Adapters { path: PathBuf },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} is not a valid configuration", .path.display())]
    Config { path: PathBuf, source: ConfigError },
    #[error("{} is not a valid tokenizer", .path.display())]
    Tokenizer { path: PathBuf, source: TokenizerError },
    #[error("{} does not fit the run's configuration", .path.display())]
    Model { path: PathBuf, source: ModelError },
}

impl NamesFile for ArtifactError {
    fn moved(self, from: &Path, to: &Path) -> Self {
        match self {
            Self::File(error) => Self::File(error.moved(from, to)),
            other => other,
        }
    }
}

impl From<TensorError> for ArtifactError {
    /// A run's own file: what is wrong with it, nobody can put right.
    fn from(error: TensorError) -> Self {
        let path = match &error {
            TensorError::Read { path, .. }
            | TensorError::Format { path, .. }
            | TensorError::Missing { path, .. }
            | TensorError::Type { path, .. }
            | TensorError::Adapter { path, .. }
            | TensorError::Twice { second: path, .. } => path.clone(),
        };
        match error {
            TensorError::Read { path, source } => FileError::Read { path, source },
            TensorError::Format { reason, .. } => FileError::Damaged { path, reason },
            other => FileError::Damaged { path, reason: other.to_string() },
        }
        .into()
    }
}

fn known_runs(known: &[String]) -> String {
    if known.is_empty() {
        "; train one with `emberlm train`".into()
    } else {
        format!("; there are {}", known.join(", "))
    }
}

fn known_steps(known: &[usize]) -> String {
    if known.is_empty() {
        return "; it has none yet".into();
    }
    let known: Vec<String> = known.iter().map(usize::to_string).collect();
    format!("; there are those of {}", known.join(", "))
}
