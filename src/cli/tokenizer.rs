use clap::{Args, Subcommand};
use std::path::PathBuf;

use super::{RunsArgs, SourceArgs};

const TRAIN_HELP: &str = "\
Examples:
  emberlm tokenizer train my.txt --vocab-size 4096 --out mine
  cat *.txt | emberlm tokenizer train - --vocab-size 16000 --split gpt2";

#[derive(Args, Debug)]
pub struct TokenizerArgs {
    #[command(subcommand)]
    pub command: TokenizerCommand,
}

#[derive(Subcommand, Debug)]
pub enum TokenizerCommand {
    /// Learn a byte-level BPE from texts and write it as a folder that transformers loads
    Train(TrainTokenizerArgs),
    /// Print the token ids of a text
    Encode(EncodeArgs),
    /// Print the text of token ids
    Decode(DecodeArgs),
    /// Print a text with its tokens in colours, and their ids
    Show(ShowArgs),
    /// Compare what tokenizers make of a text
    Stats(StatsArgs),
    /// Write a tokenizer as files of Hugging Face's
    Export(ExportTokenizerArgs),
}

#[derive(Args, Debug)]
#[command(after_help = TRAIN_HELP)]
pub struct TrainTokenizerArgs {
    /// Texts: files (.txt, .jsonl, .csv, .tsv, .parquet, also .gz and .zst), folders, patterns, or
    /// - for standard input
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<String>,
    /// Tokens to end with, special ones and the 256 bytes included
    #[arg(long, value_name = "N")]
    pub vocab_size: usize,
    /// How a text is split into words, which tokens do not cross; with `none` each document is
    /// held whole, and has 256 MiB at most [default: gpt4]
    #[arg(long, value_name = "PATTERN", value_parser = ["gpt4", "gpt2", "none"])]
    pub split: Option<String>,
    /// A regular expression that matches words, instead; each document is then held whole, and has
    /// 256 MiB at most
    #[arg(long, value_name = "REGEX", conflicts_with = "split")]
    pub split_regex: Option<String>,
    /// A special token besides <|bos|>, <|eos|>, <|pad|> and <|unk|>; may be repeated
    #[arg(long, value_name = "TOKEN")]
    pub special: Vec<String>,
    /// Add to this tokenizer, whose ids stay as they are, instead of starting a new one
    #[arg(long, value_name = "NAME|PATH", conflicts_with_all = ["split", "split_regex"])]
    pub grow: Option<String>,
    /// Folder to write
    #[arg(long, value_name = "FOLDER", default_value = "tokenizer")]
    pub out: PathBuf,
    #[command(flatten)]
    pub sources: SourceArgs,
    #[command(flatten)]
    pub runs: RunsArgs,
}

#[derive(Args, Debug)]
pub struct EncodeArgs {
    /// Tokenizer: gpt2 and other names, a file, a folder, or a run
    #[arg(value_name = "NAME|PATH")]
    pub tokenizer: String,
    /// Text to encode [default: standard input]
    #[arg(allow_hyphen_values = true)]
    pub text: Option<String>,
    /// Print the ids as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub runs: RunsArgs,
}

#[derive(Args, Debug)]
pub struct DecodeArgs {
    /// Tokenizer: gpt2 and other names, a file, a folder, or a run
    #[arg(value_name = "NAME|PATH")]
    pub tokenizer: String,
    /// Token ids [default: those on standard input]
    #[arg(allow_negative_numbers = true)]
    pub ids: Vec<String>,
    /// Write the bytes exactly as they are, also those that are no text
    #[arg(long)]
    pub bytes: bool,
    #[command(flatten)]
    pub runs: RunsArgs,
}

#[derive(Args, Debug)]
pub struct ShowArgs {
    /// Tokenizer: gpt2 and other names, a file, a folder, or a run
    #[arg(value_name = "NAME|PATH")]
    pub tokenizer: String,
    /// Text to show [default: standard input]
    #[arg(allow_hyphen_values = true)]
    pub text: Option<String>,
    #[command(flatten)]
    pub runs: RunsArgs,
}

#[derive(Args, Debug)]
#[command(override_usage = "emberlm tokenizer stats [OPTIONS] <NAME|PATH>... --data <PATH>...")]
pub struct StatsArgs {
    /// Tokenizers: gpt2 and other names, files, folders, or runs
    #[arg(value_name = "NAME|PATH", required = true)]
    pub tokenizers: Vec<String>,
    /// Text to compare them on; may be repeated
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub data: Vec<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub sources: SourceArgs,
    #[command(flatten)]
    pub runs: RunsArgs,
}

#[derive(Args, Debug)]
pub struct ExportTokenizerArgs {
    /// Tokenizer: gpt2 and other names, a file, a folder, or a run
    #[arg(value_name = "NAME|PATH")]
    pub tokenizer: String,
    /// Folder to write
    pub folder: PathBuf,
    #[command(flatten)]
    pub runs: RunsArgs,
}
