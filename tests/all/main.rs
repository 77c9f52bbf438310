//! All integration tests in one binary, since each would link the whole of burn again.

mod architecture;
mod bpe_training;
mod byte_pairs;
mod command_line;
mod configuration;
mod data;
mod datasets;
mod generation;
mod gguf;
mod golden;
mod interop;
mod model;
mod operations;
mod options;
mod packing;
mod preparation;
mod reference;
mod runs;
mod sources;
mod split;
mod stories;
mod support;
mod tasks;
mod tokenizer_commands;
mod tokenizers;
mod training;
