//! All integration tests in one binary, since each would link the whole of burn again.

mod architecture;
mod averages;
mod batches;
mod beams;
mod bench;
mod benchmarks;
mod bpe_training;
mod byte_pairs;
mod command_line;
mod compare;
mod configuration;
#[cfg(feature = "cuda-source")]
mod cuda_runtime;
#[cfg(feature = "cuda-source")]
mod cuda_source;
mod cut_data;
mod data;
mod datasets;
mod decoding;
mod doctor;
mod engine;
mod eval_command;
mod evaluation;
mod examples;
mod files;
mod generate_command;
mod generation;
mod gguf;
mod golden;
mod gradient_checkpointing;
mod inspect;
mod inspect_attention;
mod inspect_command;
mod int8;
mod interop;
mod kept_kernels;
mod kernels;
mod loggers;
mod lora;
mod losses;
mod manners;
mod memory;
mod mlflow;
mod model;
mod model_files;
mod operations;
mod optimizers;
mod options;
mod packing;
mod panics;
mod precision;
mod preparation;
mod reference;
mod resume;
mod runs;
mod schedule_command;
mod schedules;
mod serve;
mod serve_limits;
mod several_devices;
mod sources;
mod split;
mod stopping;
mod stories;
mod support;
mod sweep;
mod sweep_command;
mod tasks;
mod tokenizer_commands;
mod tokenizers;
mod tour;
mod training;
mod training_goldens;
mod training_memory;
mod writing;

/// The program's, on top of the system's.
#[global_allocator]
static ALLOCATOR: emberlm::backend::Allocator<std::alloc::System> =
    emberlm::backend::Allocator::new(std::alloc::System);
