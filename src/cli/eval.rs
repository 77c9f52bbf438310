use clap::{Args, ValueEnum};
use std::path::PathBuf;

use super::{CommonArgs, WeightArgs};

const EVAL_HELP: &str = "\
Without --task and --stories the loss on the validation split is measured. With them it is left out,
unless --split, --data, --stride or --accuracies asks for it.

Examples:
  emberlm eval RUN --text book.txt --stride 128 --accuracies 1,5
  emberlm eval RUN --task hellaswag --task piqa=valid.jsonl --limit 500
  emberlm eval RUN --stories 200 --checkpoint 1000 --json";

/// A side of a run's data.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EvalSplit {
    Train,
    #[default]
    Validation,
}

#[derive(Args, Debug)]
#[command(after_help = EVAL_HELP)]
pub struct EvalArgs {
    /// Name or path of the run
    pub run: String,
    /// Take the model of this step's checkpoint [default: the best, or where none was evaluated the
    /// newest]
    #[arg(long, value_name = "STEP")]
    pub checkpoint: Option<usize>,
    /// Measure the loss on this side of the run's data, or of prepared data [default: validation]
    #[arg(long, value_name = "SPLIT")]
    pub split: Option<EvalSplit>,
    /// Measure the loss on this UTF-8 text, or on a folder of prepared data
    #[arg(long, visible_alias = "text", value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Let windows begin N tokens apart, so that they overlap and each token has at least the
    /// context length less N before it [default: they follow each other]
    #[arg(long, value_name = "N")]
    pub stride: Option<usize>,
    /// Also count how often the token that comes is among the K likeliest
    #[arg(long, visible_alias = "top-k", value_name = "K,..", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub accuracies: Vec<u32>,
    /// Ask the questions of a benchmark: hellaswag, arc-easy, arc-challenge, piqa or lambada; may
    /// be repeated
    #[arg(long, value_name = "NAME[=FILE]")]
    pub task: Vec<String>,
    /// Folder of the data sets, where questions without a file are, or are downloaded to
    #[arg(long, value_name = "DIR", default_value = "datasets")]
    pub datasets: PathBuf,
    /// Let the model write N stories, and judge them by the grammar of the built-in corpus
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub stories: Option<u32>,
    /// Seed of the first story; the others have those after it
    #[arg(long, value_name = "N", default_value_t = 1, requires = "stories")]
    pub seed: u64,
    /// Take no more than the first N windows of a text and the first N questions of a benchmark
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Windows, choices or stories that go through the model together [default: the run's
    /// train.batch_size]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Option<u32>,
    /// Print one JSON object instead of lines and tables
    #[arg(long)]
    pub json: bool,
    /// Name of the files that keep the results [default: what was measured, and how]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Folder of these files [default: evaluations, in the run]
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub weights: WeightArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}
