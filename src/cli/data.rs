use clap::Args;
use std::path::PathBuf;

use super::RunsArgs;

const PREPARE_HELP: &str = "\
Examples:
  emberlm prepare my.txt --tokenizer gpt2
  emberlm prepare articles/ more.jsonl.zst 'crawl/*.parquet' --out datasets/articles
  emberlm prepare tinystories --tokenizer mine";

/// Chooses validation documents, where no other is given.
pub const SPLIT_SEED: u64 = 1337;

/// Tokens of a prepared file, where nothing else is said.
pub const SHARD_TOKENS: u64 = 1 << 28;

/// Where texts come from.
#[derive(Args, Debug)]
pub struct SourceArgs {
    /// Key of JSON lines, column of tables and of parquet
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub field: String,
    /// What stands between the documents of a plain text [default: a file is a document]
    #[arg(long, value_name = "TEXT")]
    pub separator: Option<String>,
}

#[derive(Args, Debug)]
#[command(after_help = PREPARE_HELP)]
pub struct PrepareArgs {
    /// A data set by its name (see emberlm datasets), or files, folders and patterns of text,
    /// .jsonl, .parquet, .csv and .tsv, also .gz and .zst; - for standard input
    #[arg(value_name = "NAME|PATH", required = true)]
    pub sources: Vec<String>,
    /// character, byte, gpt2 and other encodings, a tokenizer's file or folder, or a run
    /// [default: the data set's, or gpt2]
    #[arg(long, value_name = "NAME|PATH")]
    pub tokenizer: Option<String>,
    /// Folder to write [default: datasets/NAME/TOKENIZER]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Files of validation documents; training documents that are among them are left out
    #[arg(long, value_name = "PATH", conflicts_with_all = ["split", "validation_fraction"])]
    pub validation: Vec<String>,
    /// Keep the last characters of all text for validation, or a share of the documents
    /// [default: characters of a single text, else documents]
    #[arg(long, value_name = "RULE", value_parser = ["characters", "documents"])]
    pub split: Option<String>,
    /// Share that is kept for validation [default: 0.1, or 0.01 of the documents of more than 64 MiB]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub validation_fraction: Option<f64>,
    /// Another seed, another choice of validation documents
    #[arg(long, value_name = "N", default_value_t = SPLIT_SEED)]
    pub seed: u64,
    /// Tokens after which another file is begun
    #[arg(long, value_name = "N", default_value_t = SHARD_TOKENS, value_parser = clap::value_parser!(u64).range(1..))]
    pub shard_tokens: u64,
    /// Use these copies of a data set's files instead of downloading them
    #[arg(long, value_name = "PATH")]
    pub from: Option<PathBuf>,
    /// Read only the first N files of a data set
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub files: Option<u64>,
    /// Key of JSON lines, column of tables and of parquet [default: text]
    #[arg(long, value_name = "NAME")]
    pub field: Option<String>,
    /// What stands between the documents of a plain text [default: a file is a document]
    #[arg(long, value_name = "TEXT")]
    pub separator: Option<String>,
    /// Folder of the data sets
    #[arg(long, value_name = "DIR", default_value = "datasets")]
    pub datasets: PathBuf,
    /// Print what the finished folder says of itself as a line of JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub runs: RunsArgs,
}

#[derive(Args, Debug)]
pub struct DatasetsArgs {
    /// Folder of the data sets
    #[arg(long, value_name = "DIR", default_value = "datasets")]
    pub datasets: PathBuf,
}
