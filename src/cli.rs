//! What can be typed. No behaviour.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Train, evaluate and sample GPT-family language models.
#[derive(Parser, Debug)]
#[command(name = "emberlm", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Train a model; without arguments, a small one on the built-in stories
    Train(TrainArgs),
    /// Continue a prompt with the model of a run
    Generate(GenerateArgs),
    /// Measure the loss of a run's model on its whole validation split or on a text
    Eval(EvalArgs),
    /// Guess the masked tokens of a text with the encoder of a run
    FillMask(FillMaskArgs),
    /// Make a run of a model of another project: a folder, or a name on the Hugging Face Hub
    Import(ImportArgs),
    /// Write a run's model for use in another program
    Export(ExportArgs),
    /// Print the logits that a run's model computes for given token ids
    Logits(LogitsArgs),
    /// List the built-in configurations with their sizes
    Configs,
    /// Count the parameters of a configuration by component
    Params(ParamsArgs),
    /// List the named data sets
    Datasets(DatasetsArgs),
}

/// Where to compute and where runs are.
#[derive(Args, Debug)]
pub struct CommonArgs {
    /// Backend to compute on: cuda, wgpu, flex or ndarray [default: the first that is compiled in]
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Folder of the runs
    #[arg(long, value_name = "DIR", default_value = "artifacts")]
    pub artifacts: PathBuf,
}

#[derive(Args, Debug)]
pub struct TrainArgs {
    /// A built-in configuration or a JSON file
    #[arg(long, value_name = "NAME|FILE", default_value = "stories")]
    pub config: String,
    /// Train on this UTF-8 text instead of the configuration's data
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Validate on this text instead of the end of the training text
    #[arg(long, value_name = "FILE")]
    pub eval_data: Option<PathBuf>,
    /// Change a key of the configuration, as in --set train.steps=500; may be repeated
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Name of the run [default: the configuration's name, numbered where it is taken]
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
    /// Print lines instead of opening the dashboard
    #[arg(long)]
    pub plain: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Name or path of the run
    pub run: String,
    /// Text to continue [default: a text of its own]
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub prompt_file: Option<PathBuf>,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub max_tokens: usize,
    /// Divides the logits; 0 always takes the most likely token
    #[arg(long, value_name = "X", default_value_t = 0.8, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Choose among the N most likely tokens only
    #[arg(long, value_name = "N")]
    pub top_k: Option<usize>,
    /// Choose among the fewest tokens whose probabilities sum to P
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Choose among tokens at least P times as likely as the most likely one
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f64>,
    /// Texts to generate
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub samples: u64,
    /// Same seed, same text
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args, Debug)]
pub struct EvalArgs {
    /// Name or path of the run
    pub run: String,
    /// Evaluate on this UTF-8 text instead of the run's validation split
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args, Debug)]
pub struct FillMaskArgs {
    /// Name or path of the run
    pub run: String,
    #[arg(help = "A text with [MASK] where a token is to be guessed")]
    pub text: String,
    /// Guesses to list for each
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub top: usize,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args, Debug)]
pub struct ParamsArgs {
    /// A built-in configuration or a JSON file
    #[arg(value_name = "NAME|FILE")]
    pub config: String,
    /// Change a key of the configuration, as in --set model.n_layers=6; may be repeated
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Tokens in the vocabulary, where the configuration leaves that to the data
    #[arg(long, value_name = "N")]
    pub vocab_size: Option<usize>,
}

#[derive(Args, Debug)]
pub struct DatasetsArgs {
    /// Folder of the data sets
    #[arg(long, value_name = "DIR", default_value = "datasets")]
    pub datasets: PathBuf,
}

#[derive(Args, Debug)]
pub struct ImportArgs {
    /// Folder with config.json and model.safetensors, or with templateGPT's model_config.json and
    /// model.pth; or a name on the Hugging Face Hub, as openai-community/gpt2
    #[arg(value_name = "FOLDER|NAME")]
    pub model: String,
    /// Name of the run [default: the model's, numbered where it is taken]
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
    /// Folder of the runs
    #[arg(long, value_name = "DIR", default_value = "artifacts")]
    pub artifacts: PathBuf,
}

#[derive(Args, Debug)]
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
    /// Folder of the runs
    #[arg(long, value_name = "DIR", default_value = "artifacts")]
    pub artifacts: PathBuf,
}

#[derive(Args, Debug)]
pub struct LogitsArgs {
    /// Name or path of the run
    pub run: String,
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    pub tokens: String,
    /// Print all logits as JSON instead of the largest as a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}
