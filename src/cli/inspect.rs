use clap::Args;
use std::path::PathBuf;

use super::CommonArgs;

const INSPECT_HELP: &str = "\
Without an option --shapes is shown. A run is looked into as its best checkpoint has it, a
configuration as its training would begin.

Examples:
  emberlm inspect llama3
  emberlm inspect RUN --attention 'Anna had a red ball.'
  emberlm inspect RUN --grads --weights --json
  emberlm inspect RUN --tokens 'Anna had a red ball.' --checkpoint 500";

#[derive(Args, Debug)]
#[command(after_help = INSPECT_HELP)]
pub struct InspectArgs {
    /// Name or path of a run; a built-in configuration or a JSON file
    #[arg(value_name = "RUN|CONFIG")]
    pub subject: String,
    /// The modules as a tree: what goes into each, what comes out, its parameters, what it does
    #[arg(long)]
    pub shapes: bool,
    /// What a batch of the data does: activations, gradients, dead units
    #[arg(long)]
    pub grads: bool,
    /// Every step of attention to a text: maps of all heads, one token's way through a head, and a
    /// page to click through
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub attention: Option<String>,
    /// How the numbers of each parameter are distributed, and the spectral norms of matrices
    #[arg(long)]
    pub weights: bool,
    /// The tokens of a text, and how surprised the model is by each
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub tokens: Option<String>,
    /// With --grads: a text instead of a batch of the data
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, requires = "grads")]
    pub text: Option<String>,
    /// What a translator should make of the text
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub target: Option<String>,
    /// With --attention: only this layer, counted from 0; may be repeated
    #[arg(long, value_name = "N", requires = "attention")]
    pub layer: Vec<usize>,
    /// With --attention: show this head, counted from 0
    #[arg(long, value_name = "N", requires = "attention")]
    pub head: Option<usize>,
    /// With --attention: follow this token, counted from 0 [default: the last]
    #[arg(long, value_name = "N", requires = "attention")]
    pub place: Option<usize>,
    /// With --attention: the page's file, or a folder for it [default: inspections, in the run; the
    /// folder one is in, of a configuration]
    #[arg(long, value_name = "PATH", requires = "attention")]
    pub out: Option<PathBuf>,
    /// Rows of the pass of --shapes, and of the batch of --grads [default: 2, and the run's
    /// train.batch_size]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: Option<u32>,
    /// Tokens in each row of the pass of --shapes [default: 64, or the context length]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub length: Option<u32>,
    /// Take the model of this step's checkpoint [default: the best, or where none was evaluated the
    /// newest]
    #[arg(long, value_name = "STEP")]
    pub checkpoint: Option<usize>,
    /// Change a key of a configuration, as in --set model.n_layers=6; may be repeated
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Tokens in the vocabulary, where a configuration leaves that to the data
    #[arg(long, value_name = "N")]
    pub vocab_size: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}
