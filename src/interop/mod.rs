//! Models of other projects: how each names its settings and its tensors.

pub mod gguf;
pub mod gpt2;
