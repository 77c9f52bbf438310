//! All integration tests in one binary, since each would link the whole of burn again.

mod architecture;
mod byte_pairs;
mod command_line;
mod configuration;
mod data;
mod generation;
mod gguf;
mod golden;
mod interop;
mod model;
mod operations;
mod options;
mod reference;
mod runs;
mod split;
mod stories;
mod support;
mod tasks;
mod tokenizers;
mod training;
