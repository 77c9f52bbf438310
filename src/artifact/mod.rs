//! A run on disk: its configuration, tokenizer, checkpoints, metrics and summary. Everything is
//! JSON or safetensors, nothing can execute code, and what is written appears whole or not at
//! all.

mod checkpoints;
mod error;
mod run;
mod tensors;

pub use checkpoints::{Checkpoints, Resumable};
pub use error::ArtifactError;
pub use run::{Change, Run, RunLock, Segment, Summary};
pub use tensors::{TensorError, TensorFile, read_tensors, stream_tensors, write_tensors};
