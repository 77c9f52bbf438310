use clap::Args;
use std::path::PathBuf;

use super::CommonArgs;

const PLAN_HELP: &str = "\
Examples:
  emberlm plan gpt2 --measure
  emberlm plan gpt2-xl --backend cuda --memory 80GiB --set train.precision=bf16";

const TRAIN_HELP: &str = "\
Examples:
  emberlm train
  emberlm train --config modern --set model.depth=6 --data datasets/my/gpt2
  emberlm train --config gpt2 --set train.batch_size=4 --plain
  emberlm train --config gpt2 --devices 0,1 --set train.accumulation=2
  emberlm train --resume stories --set train.steps=8000";

#[derive(Args, Debug)]
#[command(after_help = TRAIN_HELP)]
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
    /// Go on with a run from its newest checkpoint; --set and --data change what it goes on with
    #[arg(long, value_name = "RUN", conflicts_with_all = ["config", "run"])]
    pub resume: Option<String>,
    /// Devices of the backend to train on together, by their numbers in `emberlm doctor`: each has a
    /// copy of the model and its part of the micro-batches of a step
    #[arg(long, value_name = "INDEX,..", value_delimiter = ',', conflicts_with = "device")]
    pub devices: Vec<usize>,
    /// Print lines instead of opening the dashboard
    #[arg(long)]
    pub plain: bool,
    /// Print the metrics of each step and each evaluation as a line of JSON, and the summary as the
    /// last
    #[arg(long, conflicts_with = "plain")]
    pub json: bool,
    /// Stop, with a checkpoint, when standard input ends: for programs that start this one
    #[arg(long)]
    pub stop_at_eof: bool,
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
#[command(after_help = PLAN_HELP)]
pub struct PlanArgs {
    /// A built-in configuration or a JSON file
    #[arg(value_name = "NAME|FILE")]
    pub config: String,
    /// Change a key of the configuration, as in --set train.batch_size=4; may be repeated
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Tokens in the vocabulary, where the configuration leaves that to the data
    #[arg(long, value_name = "N")]
    pub vocab_size: Option<usize>,
    /// Memory of one device to train in, as 24GiB or 800MB [default: what the device has free now]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Backend to train on: cuda, wgpu, flex or ndarray, compiled in or not [default: the first
    /// that is compiled in]
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Device of the backend, by its number in `emberlm doctor` [default: the backend's own choice]
    #[arg(long, value_name = "INDEX")]
    pub device: Option<usize>,
    /// Take training steps for about two seconds, to tell how long the run would take
    #[arg(long)]
    pub measure: bool,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct ScheduleArgs {
    /// A built-in configuration or a JSON file
    #[arg(value_name = "NAME|FILE")]
    pub config: String,
    /// Change a key of the configuration, as in --set train.steps=500; may be repeated
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Print a line of JSON a step instead of a plot
    #[arg(long)]
    pub json: bool,
}
