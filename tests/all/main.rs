//! All integration tests in one binary, since each would link the whole of burn again.

mod architecture;
mod command_line;
mod configuration;
mod data;
mod generation;
mod gguf;
mod golden;
mod model;
mod operations;
mod runs;
mod stories;
mod support;
mod tokenizers;
mod training;
