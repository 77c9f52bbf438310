use clap::{Args, ValueEnum};
use std::path::PathBuf;

use super::CommonArgs;

const PREDICT_HELP: &str = "\
Examples:
  emberlm predict stories --text 'Once upon a'";

const GENERATE_HELP: &str = "\
Examples:
  emberlm generate stories --prompt 'Once upon' --top-p 0.9 --seed 2
  emberlm generate stories --prompts-file prompts.txt --json --logprobs 5
  emberlm generate stories --interactive";

/// What a model's weights are while it runs.
#[derive(Args, Debug)]
pub struct WeightArgs {
    /// Store the weights of projections in less than f32, which takes less memory, and with the
    /// backend `flex` less time
    #[arg(long, value_name = "KIND")]
    pub quantize: Option<Quantization>,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// A byte each, with a scale for each output
    Int8,
}

/// How tokens are chosen.
#[derive(Args, Debug)]
pub struct SamplingArgs {
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
    /// Make tokens less likely that are in the text: a positive logit is divided by this, a
    /// negative one multiplied
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub repetition_penalty: f64,
    /// Make tokens less likely by this for each time that they have been chosen
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f64,
    /// Make tokens less likely by this that have been chosen
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f64,
    /// Same seed, same text
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// What becomes of a text whose context is full.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverflowPolicy {
    /// It ends there
    Stop,
    /// The older half is forgotten, but for the token that the model has learned to begin with
    Slide,
}

#[derive(Args, Debug)]
#[command(after_help = GENERATE_HELP)]
pub struct GenerateArgs {
    /// Name or path of the run
    pub run: String,
    /// Text to continue; may be repeated [default: a text of its own]
    #[arg(long, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// Read the prompt from a file
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub prompt_file: Option<PathBuf>,
    /// Read prompts from a file, one a line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "prompt_file"])]
    pub prompts_file: Option<PathBuf>,
    /// Ask for prompts, one after the other; Ctrl-C stops an answer, Ctrl-D ends
    #[arg(long, short, conflicts_with_all = ["prompt", "prompt_file", "prompts_file", "json"])]
    pub interactive: bool,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub max_tokens: usize,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Stop before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Stop at the token with this id; may be repeated
    #[arg(long, value_name = "ID")]
    pub stop_token: Vec<u32>,
    /// What to do where the context is full [default: slide; translations stop]
    #[arg(long, value_name = "POLICY")]
    pub overflow: Option<OverflowPolicy>,
    /// Texts to generate of each prompt, with seeds one after the other
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub samples: u64,
    /// Texts that are generated together
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// Look for the likeliest text instead, following the N best; needs no seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024),
        conflicts_with_all = ["temperature", "top_k", "top_p", "min_p", "repetition_penalty",
            "frequency_penalty", "presence_penalty", "seed", "samples", "batch", "stop", "logprobs",
            "overflow"])]
    pub beams: Option<u32>,
    /// With --beams: divide a text's log-probability by its length to the power of X
    #[arg(
        long,
        value_name = "X",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        requires = "beams"
    )]
    pub length_penalty: f64,
    /// Print a line of JSON a text, when it is whole
    #[arg(long)]
    pub json: bool,
    /// With --json: the log-probability of each token, and those of the N likeliest beside it
    #[arg(long, value_name = "N", requires = "json")]
    pub logprobs: Option<usize>,
    #[command(flatten)]
    pub weights: WeightArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args, Debug)]
#[command(after_help = PREDICT_HELP)]
pub struct PredictArgs {
    /// Name or path of the run
    pub run: String,
    /// The text
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub text: String,
    /// Next tokens to list
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,
    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub weights: WeightArgs,
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
    pub weights: WeightArgs,
    #[command(flatten)]
    pub common: CommonArgs,
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
    pub weights: WeightArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}
