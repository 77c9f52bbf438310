//! One file a subcommand. They put the modules together, add context to errors, and print.

mod advice;
mod bench;
mod compare;
mod completions;
mod configs;
mod datasets;
mod doctor;
mod eval;
mod export;
mod figures;
mod fill_mask;
mod generate;
mod import;
mod inspect;
mod logits;
mod man;
mod merge;
mod panic;
mod params;
mod plan;
mod predict;
mod prepare;
mod progress;
mod runs;
mod sample;
mod schedule;
mod serve;
mod signals;
mod sweep;
mod tokenizer;
mod train;
mod weights;

pub use doctor::{BackendReport, CheckReport, DeviceReport, Report, examine};
pub use panic::end_on_panic;

use crate::cli::{Cli, Command};

/// Runs a subcommand.
///
/// # Errors
/// Whatever went wrong, with one line of context a level.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    progress::settle(cli.quiet);
    match cli.command {
        Command::Train(args) => train::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Predict(args) => predict::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Export(args) => export::run(args),
        Command::Serve(args) => serve::run(args),
        Command::FillMask(args) => fill_mask::run(args),
        Command::Import(args) => import::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Tokenizer(args) => tokenizer::run(args),
        Command::Prepare(args) => prepare::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Runs(args) => runs::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
        Command::Configs => configs::run(),
        Command::Datasets(args) => datasets::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Params(args) => params::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Schedule(args) => schedule::run(args),
        Command::Sweep(args) => sweep::run(args),
    }
}
