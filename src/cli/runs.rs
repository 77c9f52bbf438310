use clap::{Args, ValueEnum};
use std::path::PathBuf;

use super::{CommonArgs, SamplingArgs};

const EXPORT_HELP: &str = "\
Examples:
  emberlm export stories --to huggingface stories-hf
  emberlm export stories --to gguf stories.gguf --type q8_0";

const IMPORT_HELP: &str = "\
Examples:
  emberlm import openai-community/gpt2
  emberlm import folder-of-a-llama --run llama";

/// Where runs are.
#[derive(Args, Debug)]
pub struct RunsArgs {
    /// Folder of the runs
    #[arg(long, value_name = "DIR", default_value = "artifacts")]
    pub artifacts: PathBuf,
}

/// What runs are sorted by.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunOrder {
    /// The newest first
    #[default]
    Age,
    Name,
    /// The lowest first
    Loss,
    /// The largest first
    Size,
}

#[derive(Args, Debug)]
pub struct ListRunsArgs {
    /// What comes first
    #[arg(long, value_name = "ORDER", default_value = "age")]
    pub sort: RunOrder,
    /// Print a line of JSON a run
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub runs: RunsArgs,
}

/// What losses are plotted against.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CurveAxis {
    #[default]
    Steps,
    Tokens,
    /// Floating-point operations of training
    Flops,
    /// Of training steps, without evaluations
    Time,
}

const COMPARE_HELP: &str = "\
Each run's best model reads a text with each token given that came before, and counts how often the
next one is among its likeliest; and all continue the same prompts with the same seeds.

Examples:
  emberlm compare small large
  emberlm compare small large --over time --html comparison.html --svg losses.svg
  emberlm compare small large --text book.txt --prompt 'Once upon' --samples 2
  emberlm compare small large --quick --json";

#[derive(Args, Debug)]
#[command(after_help = COMPARE_HELP)]
pub struct CompareArgs {
    /// Names or paths of runs
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<String>,
    /// What losses are plotted against
    #[arg(long, value_name = "AXIS", default_value = "steps")]
    pub over: CurveAxis,
    /// Load no model: settings, curves and results only
    #[arg(long, conflicts_with_all = ["text", "accuracies", "limit", "prompt", "samples", "max_tokens",
        "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty",
        "presence_penalty", "seed"])]
    pub quick: bool,
    /// Measure all runs on this UTF-8 text [default: each on its own validation split]
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Count how often the token that comes is among the K likeliest
    #[arg(long, value_name = "K,..", value_delimiter = ',', default_values_t = [1, 5], value_parser = clap::value_parser!(u32).range(1..))]
    pub accuracies: Vec<u32>,
    /// Measure no more than the first N windows
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Text that all continue; may be repeated [default: that of the first run's configuration]
    #[arg(long, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// Texts of each prompt, with seeds one after the other
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub samples: u64,
    /// Tokens of a text
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub max_tokens: usize,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Write everything as one page with curves that can be looked into
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write a picture of the curves
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write a picture of the curves, in pixels
    #[arg(long, value_name = "FILE")]
    pub png: Option<PathBuf>,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args, Debug)]
#[command(after_help = IMPORT_HELP)]
pub struct ImportArgs {
    /// Folder with config.json and model.safetensors, or with templateGPT's model_config.json and
    /// model.pth; or a name on the Hugging Face Hub, as openai-community/gpt2
    #[arg(value_name = "FOLDER|NAME")]
    pub model: String,
    /// Name of the run [default: the model's, numbered where it is taken]
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
    #[command(flatten)]
    pub runs: RunsArgs,
}

#[derive(Args, Debug)]
#[command(after_help = EXPORT_HELP)]
pub struct ExportArgs {
    /// Name or path of the run
    pub run: String,
    /// For which program: a folder for transformers, or a file for llama.cpp
    #[arg(long, value_name = "FORMAT", value_parser = ["huggingface", "gguf"])]
    pub to: String,
    /// Folder or file to write
    #[arg(value_name = "FOLDER|FILE")]
    pub path: PathBuf,
    /// How a GGUF file keeps its matrices: f32, f16 or q8_0 [default: f32]
    #[arg(long = "type", value_name = "TYPE", value_parser = ["f32", "f16", "q8_0"])]
    pub data_type: Option<String>,
    #[command(flatten)]
    pub runs: RunsArgs,
}

#[derive(Args, Debug)]
pub struct MergeArgs {
    /// Name or path of the run
    pub run: String,
    /// Name of the new run
    #[arg(long, value_name = "NEW")]
    pub name: String,
    #[command(flatten)]
    pub runs: RunsArgs,
}
