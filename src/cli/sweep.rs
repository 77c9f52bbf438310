use clap::Args;
use std::path::PathBuf;

use super::CommonArgs;

const SWEEP_HELP: &str = "\
The same command goes on where a sweep was stopped or killed: trials that are finished are not
trained again, and one that is half trained goes on from its checkpoint.

Examples:
  emberlm sweep learning-rate --dry-run
  emberlm sweep learning-rate --parallel 2
  emberlm sweep mine.json --data my.txt --json

Exit code: 0 when all trials have come to their end, 2 where something has gone wrong with some that
another time may go well, 130 after Ctrl-C.";

#[derive(Args, Debug)]
#[command(after_help = SWEEP_HELP)]
pub struct SweepArgs {
    /// A built-in sweep, learning-rate or shape, or a JSON file
    #[arg(value_name = "NAME|FILE")]
    pub sweep: String,
    /// Train on this UTF-8 text instead of the configuration's data
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Validate on this text instead of the end of the training text
    #[arg(long, value_name = "FILE")]
    pub eval_data: Option<PathBuf>,
    /// Trials that are trained at a time, where memory is enough
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub parallel: u32,
    /// Memory for all trials together, as 24GiB or 800MB [default: what the device has free now]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Try those again that have failed, as for want of disk space
    #[arg(long)]
    pub retry: bool,
    /// List the trials, and those that would be left out, without training any
    #[arg(long)]
    pub dry_run: bool,
    /// Print what happens as lines of JSON, and the leaderboard as the last
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}
