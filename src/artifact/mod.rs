//! A run on disk: its configuration, tokenizer, checkpoints, metrics and summary. Everything is
//! JSON or safetensors, nothing can execute code, and what is written appears whole or not at
//! all.

mod checkpoints;
mod error;
mod history;
mod run;
mod segments;
mod tensors;

pub use checkpoints::{Checkpoints, Resumable};
pub use error::ArtifactError;
pub use history::{History, LossPoint, Summary, write_evaluation};
pub use run::{Run, run_names};
pub use segments::{Change, Segment};
pub use tensors::{TensorError, TensorFile, read_tensors, stream_tensors, write_tensors};
