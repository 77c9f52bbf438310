use clap::Args;
use std::net::IpAddr;

use super::{CommonArgs, WeightArgs};
use crate::serve::Key;

const SERVE_HELP: &str = "\
Examples:
  emberlm serve stories
  emberlm serve small large --port 9000 --max-batch 32
  EMBERLM_API_KEY=secret emberlm serve stories --host 0.0.0.0
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
    -d '{\"model\": \"stories\", \"prompt\": \"Once upon\", \"max_tokens\": 50}'

The playground is at http://127.0.0.1:8000/. Ctrl-C finishes what has begun; a second one ends at once.";

#[derive(Args, Debug)]
#[command(after_help = SERVE_HELP)]
pub struct ServeArgs {
    /// Names or paths of runs
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<String>,
    /// Address to listen at; 0.0.0.0 lets other machines in
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen at; 0 takes any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    pub port: u16,
    /// Key that clients must have, as Authorization: Bearer KEY [default: EMBERLM_API_KEY of the
    /// environment, where others cannot see it]
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<Key>,
    /// Let pages of this origin ask, as `https://example.org`, or `*` for any; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    pub cors_origin: Vec<String>,
    /// Texts of a run that are written together
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_batch: u32,
    /// Texts of a run that may wait; what is beyond is refused
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub queue: u32,
    /// Tokens that a text may have
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// Size that a request may have, as 1MiB
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    pub max_body: String,
    /// Seconds that a request may take, waiting included
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    pub timeout: u32,
    /// Seconds in which what has begun may finish when the server stops
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub grace: u32,
    #[command(flatten)]
    pub weights: WeightArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}
