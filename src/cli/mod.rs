//! What can be typed. No behaviour.

mod bench;
mod data;
mod device;
mod doctor;
mod eval;
mod inspect;
mod runs;
mod serve;
mod shell;
mod sweep;
mod text;
mod tokenizer;
mod train;

pub use bench::{
    BenchArgs, BenchCommand, BenchDecodeArgs, BenchEncodeArgs, BenchEngineArgs, BenchPrepareArgs,
    BenchScalingArgs, BenchTokenizerTrainArgs, BenchTrainArgs,
};
pub use data::{DatasetsArgs, PrepareArgs, SHARD_TOKENS, SPLIT_SEED, SourceArgs};
pub use device::{CommonArgs, TargetArgs};
pub use doctor::DoctorArgs;
pub use eval::{EvalArgs, EvalSplit};
pub use inspect::InspectArgs;
pub use runs::{
    CompareArgs, CurveAxis, ExportArgs, ImportArgs, ListRunsArgs, MergeArgs, RunOrder, RunsArgs,
};
pub use serve::ServeArgs;
pub use shell::{CompletionsArgs, ManArgs};
pub use sweep::SweepArgs;
pub use text::{
    FillMaskArgs, GenerateArgs, LogitsArgs, OverflowPolicy, PredictArgs, Quantization,
    SamplingArgs, WeightArgs,
};
pub use tokenizer::{
    DecodeArgs, EncodeArgs, ExportTokenizerArgs, ShowArgs, StatsArgs, TokenizerArgs,
    TokenizerCommand, TrainTokenizerArgs,
};
pub use train::{ParamsArgs, PlanArgs, ScheduleArgs, TrainArgs};

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::{Parser, Subcommand};

/// Of help and of errors, where there are colours.
const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Green.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  emberlm train
  emberlm train --data my.txt --config shakespeare-char-cpu --run mine
  emberlm generate mine --prompt 'It was'
  emberlm serve mine

Exit codes: 0 where it was done, 2 where something has to be put right, 130 after Ctrl-C.";

/// Train, evaluate and sample GPT-family language models.
#[derive(Parser, Debug)]
#[command(name = "emberlm", version, arg_required_else_help = true, styles = STYLES, after_help = EXAMPLES)]
pub struct Cli {
    /// Tell nothing but results and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Train a model; without arguments, a small one on the built-in stories
    Train(TrainArgs),
    /// Continue a prompt with the model of a run
    Generate(GenerateArgs),
    /// Print the distribution of the token after a text, and how likely each of its tokens was
    Predict(PredictArgs),
    /// Measure a run's model: its loss on a text, its answers to benchmarks, the stories it writes
    Eval(EvalArgs),
    /// Answer requests over HTTP with the models of runs, as OpenAI's interface does
    Serve(ServeArgs),
    /// Guess the masked tokens of a text with the encoder of a run
    FillMask(FillMaskArgs),
    /// Make a run of a model of another project: a folder, or a name on the Hugging Face Hub
    Import(ImportArgs),
    /// Write a run's model for use in another program
    Export(ExportArgs),
    /// Make a run without adapters of one with them, which are added to its weights
    Merge(MergeArgs),
    /// Print the logits that a run's model computes for given token ids
    Logits(LogitsArgs),
    /// Train tokenizers, use them, and look at what they do
    Tokenizer(TokenizerArgs),
    /// Turn text into token files to train on
    Prepare(PrepareArgs),
    /// List the built-in configurations with their sizes
    Configs,
    /// Count the parameters of a configuration by component
    Params(ParamsArgs),
    /// Look into a model: shapes, gradients, attention, weights, surprise at each token
    Inspect(InspectArgs),
    /// Foretell what training takes: memory, time, operations, disk
    Plan(PlanArgs),
    /// Plot the learning rate of a configuration over its steps
    Schedule(ScheduleArgs),
    /// List the runs, with their status, loss, size and age
    Runs(ListRunsArgs),
    /// Put runs side by side: settings, loss curves, results, and what they write
    Compare(CompareArgs),
    /// Train many variants of a configuration, and rank them
    Sweep(SweepArgs),
    /// List the named data sets
    Datasets(DatasetsArgs),
    /// See what can be computed on here, whether it computes right, and what is missing
    Doctor(DoctorArgs),
    /// Print what a shell needs to complete commands and options
    Completions(CompletionsArgs),
    /// Print the manual page, or write that of every command
    Man(ManArgs),
    /// Measure how fast this machine does what the program does
    Bench(BenchArgs),
}
