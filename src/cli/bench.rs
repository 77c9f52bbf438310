use clap::{Args, Subcommand};
use std::path::PathBuf;

use super::{RunsArgs, TargetArgs, WeightArgs};

#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub command: BenchCommand,
}

#[derive(Subcommand, Debug)]
pub enum BenchCommand {
    /// Learn a byte-level BPE from a text in memory
    TokenizerTrain(BenchTokenizerTrainArgs),
    /// Encode a text in memory
    Encode(BenchEncodeArgs),
    /// Prepare token files in a temporary folder, of generated stories or of any text
    Prepare(BenchPrepareArgs),
    /// Take training steps, and see what their time is spent on
    Train(BenchTrainArgs),
    /// Double the batch, the layers and the context, and see how time and memory of a step grow
    Scaling(BenchScalingArgs),
    /// Time a whole training against its bare steps, written by hand
    Engine(BenchEngineArgs),
    /// Continue a sequence greedily, token by token
    Decode(BenchDecodeArgs),
}

#[derive(Args, Debug)]
pub struct BenchTokenizerTrainArgs {
    /// UTF-8 text
    pub file: PathBuf,
    /// Tokens to end with, special ones and the 256 bytes included
    #[arg(long, value_name = "N")]
    pub vocab_size: usize,
    /// How the text is split into words
    #[arg(long, value_name = "PATTERN", value_parser = ["gpt4", "gpt2"], default_value = "gpt4")]
    pub split: String,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct BenchEncodeArgs {
    /// UTF-8 text
    pub file: PathBuf,
    /// Tokenizer: gpt2 and other names, a file, a folder, or a run
    #[arg(long, value_name = "NAME|PATH", default_value = "gpt2")]
    pub tokenizer: String,
    /// Threads that encode [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Times that the text is encoded; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Encode a batch of documents, each of whole lines and of N bytes or a little more, instead
    /// of one text
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub document_bytes: Option<u64>,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub runs: RunsArgs,
}

#[derive(Args, Debug)]
pub struct BenchPrepareArgs {
    /// What emberlm prepare reads: files, folders and patterns [default: 16 MB of stories that are
    /// generated]
    #[arg(value_name = "PATH")]
    pub sources: Vec<String>,
    /// Tokenizer: gpt2 and other names, a file, a folder, or a run
    #[arg(long, value_name = "NAME|PATH", default_value = "gpt2")]
    pub tokenizer: String,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub runs: RunsArgs,
}

#[derive(Args, Debug)]
pub struct BenchDecodeArgs {
    /// s, m, l or xl, the shapes that speed is compared at; a built-in configuration of a decoder,
    /// or a JSON file
    #[arg(long, value_name = "SHAPE|NAME|FILE", default_value = "s")]
    pub shape: String,
    /// Tokens of each sequence, of which there are no more than the context is long
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// Sequences that are continued together
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    #[command(flatten)]
    pub weights: WeightArgs,
    #[command(flatten)]
    pub target: TargetArgs,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct BenchEngineArgs {
    /// s, m, l or xl, the shapes that speed is compared at; a built-in configuration, or a JSON
    /// file
    #[arg(long, value_name = "SHAPE|NAME|FILE", default_value = "s")]
    pub shape: String,
    /// Trainings and loops by hand, in turns
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Steps of each
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    #[command(flatten)]
    pub target: TargetArgs,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct BenchScalingArgs {
    /// What is not doubled is as in s, m, l or xl, the shapes that speed is compared at; in a
    /// built-in configuration, or in a JSON file
    #[arg(long, value_name = "SHAPE|NAME|FILE", default_value = "s")]
    pub shape: String,
    /// Times that the batch and the layers are doubled, from one on, and the context, from that of
    /// the shape on
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub doublings: u32,
    /// Steps that are measured of each size
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    #[command(flatten)]
    pub target: TargetArgs,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct BenchTrainArgs {
    /// s, m, l or xl, the shapes that speed is compared at; a built-in configuration, or a JSON
    /// file
    #[arg(long, value_name = "SHAPE|NAME|FILE", default_value = "s")]
    pub shape: String,
    /// Steps that are measured
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// Change a key of the configuration, as in --set train.precision=bf16; may be repeated
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    #[command(flatten)]
    pub target: TargetArgs,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}
