use std::path::{Path, PathBuf};

use crate::artifact::ArtifactError;
use crate::artifact::TensorError;
use crate::config::ConfigError;
use crate::files::{self, FileError, NamesFile};
use crate::tokenizer::TokenizerError;

/// Why a model cannot be taken over, or handed on.
#[derive(Debug, thiserror::Error)]
pub enum InteropError {
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {reason}", .path.display())]
    Syntax { path: PathBuf, reason: String },
    #[error(
        "there is no folder {name}, and no model can have that name on the Hugging Face Hub, where it would be organisation/model"
    )]
    NoFolder { name: String },
    #[error(
        "{} is a file; give the folder that it is in: emberlm import {}", .path.display(), files::folder_of(.path).display()
    )]
    NotFolder { path: PathBuf },
    #[error(
        "cannot get {name} from the Hugging Face Hub: {reason}; download its folder elsewhere and give that: emberlm import FOLDER"
    )]
    Hub { name: String, reason: String },
    #[error(
        "{} has neither config.json with model.safetensors nor model_config.json with model.pth", .folder.display()
    )]
    NoModel { folder: PathBuf },
    #[error(
        "{} has its weights only as {file}, a pickle, which can run any code; convert them with `save_pretrained(FOLDER, safe_serialization=True)` first", .folder.display()
    )]
    Pickle { folder: PathBuf, file: String },
    #[error("{}: {reason}", .path.display())]
    Pytorch { path: PathBuf, reason: String },
    #[error("config.json cannot be used")]
    Settings(#[from] serde_json::Error),
    #[error("model_type `{found}` is not supported; supported are {known}")]
    ModelType { found: String, known: String },
    #[error("`{option}` = {value} is not supported: {reason}")]
    Option { option: String, value: String, reason: String },
    #[error("the imported configuration is not valid")]
    Config(#[from] ConfigError),
    #[error("tensor `{name}` is missing; the configuration says it has shape {expected:?}")]
    Missing { name: String, expected: Vec<usize> },
    #[error("tensor `{name}` is {found:?}, the configuration says {expected:?}")]
    Shape { name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("tensor `{name}` {shape:?} has no place in the model that the configuration describes")]
    LeftOver { name: String, shape: Vec<usize> },
    #[error(transparent)]
    Tensors(#[from] TensorError),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} is not a tokenizer that can be used", .path.display())]
    Tokenizer { path: PathBuf, source: TokenizerError },
    #[error(
        "the tokenizer has {tokenizer} tokens and the model's vocabulary {vocabulary}; they do not belong together"
    )]
    Vocabulary { tokenizer: usize, vocabulary: usize },
    #[error(
        "no class of Hugging Face's that emberlm exports has {options}; the nearest is {nearest}"
    )]
    NoClass { options: String, nearest: &'static str },
    #[error("{} exists already; choose another folder", .path.display())]
    Exists { path: PathBuf },
}

impl NamesFile for InteropError {
    fn moved(self, from: &Path, to: &Path) -> Self {
        match self {
            Self::File(error) => Self::File(error.moved(from, to)),
            Self::Artifact(error) => Self::Artifact(error.moved(from, to)),
            other => other,
        }
    }
}

impl InteropError {
    /// An option whose value changes what the model computes, in a way that ours cannot follow.
    pub fn option(option: &str, value: impl std::fmt::Display, reason: impl Into<String>) -> Self {
        Self::Option { option: option.into(), value: value.to_string(), reason: reason.into() }
    }
}
