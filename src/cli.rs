//! What can be typed. No behaviour.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;

use crate::serve::Key;

/// Chooses validation documents, where no other is given.
pub const SPLIT_SEED: u64 = 1337;
/// Tokens of a prepared file, where nothing else is said.
pub const SHARD_TOKENS: u64 = 1 << 28;

const SERVE_HELP: &str = "\
Examples:
  emberlm serve stories
  emberlm serve small large --port 9000 --max-batch 32
  EMBERLM_API_KEY=secret emberlm serve stories --host 0.0.0.0
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
    -d '{\"model\": \"stories\", \"prompt\": \"Once upon\", \"max_tokens\": 50}'

The playground is at http://127.0.0.1:8000/. Ctrl-C finishes what has begun; a second one ends at once.";

const DOCTOR_HELP: &str = "\
Every device that is found takes one training step of a small GPT-2 and a small Llama; the loss and
the norm of the gradients must be those that PyTorch computes. Nothing is changed.

Exit code: 0 if a run with the same --backend and --device would work, 2 if it would not. What is
wrong with other backends and devices is told, and does not count.";

const EVAL_HELP: &str = "\
Without --task and --stories the loss on the validation split is measured. With them it is left out,
unless --split, --data, --stride or --top-k asks for it.

Examples:
  emberlm eval RUN --text book.txt --stride 128 --top-k 1,5
  emberlm eval RUN --task hellaswag --task piqa=valid.jsonl --limit 500
  emberlm eval RUN --stories 200 --checkpoint 1000 --json";

const SWEEP_HELP: &str = "\
The same command goes on where a sweep was stopped or killed: trials that are finished are not
trained again, and one that is half trained goes on from its checkpoint.

Examples:
  emberlm sweep learning-rate --dry-run
  emberlm sweep learning-rate --parallel 2
  emberlm sweep mine.json --data my.txt --json

Exit code: 0 when all trials have come to their end, 2 where something has gone wrong with some that
another time may go well, 130 after Ctrl-C.";

/// Train, evaluate and sample GPT-family language models.
#[derive(Parser, Debug)]
#[command(name = "emberlm", version, arg_required_else_help = true)]
pub struct Cli {
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
    #[command(after_help = SERVE_HELP)]
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
    /// Foretell what training takes: memory, time, operations, disk
    Plan(PlanArgs),
    /// Plot the learning rate of a configuration over its steps
    Schedule(ScheduleArgs),
    /// Train many variants of a configuration, and rank them
    #[command(after_help = SWEEP_HELP)]
    Sweep(SweepArgs),
    /// List the named data sets
    Datasets(DatasetsArgs),
    /// See what can be computed on here, whether it computes right, and what is missing
    #[command(after_help = DOCTOR_HELP)]
    Doctor(DoctorArgs),
    /// Measure how fast this machine does what the program does
    Bench(BenchArgs),
}

/// Where to compute and where runs are.
#[derive(Args, Debug)]
pub struct CommonArgs {
    /// Backend to compute on: cuda, wgpu, flex or ndarray [default: the first that is compiled in]
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Device of the backend, by its number in `emberlm doctor` [default: the backend's own choice]
    #[arg(long, value_name = "INDEX")]
    pub device: Option<usize>,
    /// Folder of the runs
    #[arg(long, value_name = "DIR", default_value = "artifacts")]
    pub artifacts: PathBuf,
}

#[derive(Args, Debug)]
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
    /// Print lines instead of opening the dashboard
    #[arg(long)]
    pub plain: bool,
    /// Stop, with a checkpoint, when standard input ends: for programs that start this one
    #[arg(long)]
    pub stop_at_eof: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args, Debug)]
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
    /// Print nothing but the leaderboard
    #[arg(long, conflicts_with = "json")]
    pub quiet: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What a model's weights are while it runs.
#[derive(Args, Debug)]
pub struct WeightArgs {
    /// Store the weights of projections in less than f32, which takes less memory, and with the
    /// backend `flex` less time
    #[arg(long, value_name = "KIND")]
    pub quantize: Option<Quantization>,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// A byte each, with a scale for each output
    Int8,
}

/// How tokens are chosen.
#[derive(Args, Debug)]
pub struct SamplingArgs {
    /// Divides the logits; 0 always takes the most likely token
    #[arg(long, value_name = "X", default_value_t = 0.8, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Choose among the N most likely tokens only
    #[arg(long, value_name = "N")]
    pub top_k: Option<usize>,
    /// Choose among the fewest tokens whose probabilities sum to P
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Choose among tokens at least P times as likely as the most likely one
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f64>,
    /// Make tokens less likely that are in the text: a positive logit is divided by this, a
    /// negative one multiplied
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub repetition_penalty: f64,
    /// Make tokens less likely by this for each time that they have been chosen
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f64,
    /// Make tokens less likely by this that have been chosen
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f64,
    /// Same seed, same text
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// What becomes of a text whose context is full.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverflowPolicy {
    /// It ends there
    Stop,
    /// The older half is forgotten, but for the token that the model has learned to begin with
    Slide,
}

#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Name or path of the run
    pub run: String,
    /// Text to continue; may be repeated [default: a text of its own]
    #[arg(long, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// Read the prompt from a file
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub prompt_file: Option<PathBuf>,
    /// Read prompts from a file, one a line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "prompt_file"])]
    pub prompts_file: Option<PathBuf>,
    /// Ask for prompts, one after the other; Ctrl-C stops an answer, Ctrl-D ends
    #[arg(long, short, conflicts_with_all = ["prompt", "prompt_file", "prompts_file", "json"])]
    pub interactive: bool,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub max_tokens: usize,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Stop before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Stop at the token with this id; may be repeated
    #[arg(long, value_name = "ID")]
    pub stop_token: Vec<u32>,
    /// What to do where the context is full [default: slide; translations stop]
    #[arg(long, value_name = "POLICY")]
    pub overflow: Option<OverflowPolicy>,
    /// Texts to generate of each prompt, with seeds one after the other
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub samples: u64,
    /// Texts that are generated together
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// Look for the likeliest text instead, following the N best; needs no seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024),
        conflicts_with_all = ["temperature", "top_k", "top_p", "min_p", "repetition_penalty",
            "frequency_penalty", "presence_penalty", "seed", "samples", "stop", "logprobs",
            "overflow"])]
    pub beams: Option<u32>,
    /// With --beams: divide a text's log-probability by its length to the power of X
    #[arg(
        long,
        value_name = "X",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        requires = "beams"
    )]
    pub length_penalty: f64,
    /// Print a line of JSON a text, when it is whole
    #[arg(long)]
    pub json: bool,
    /// With --json: the log-probability of each token, and those of the N likeliest beside it
    #[arg(long, value_name = "N", requires = "json")]
    pub logprobs: Option<usize>,
    #[command(flatten)]
    pub weights: WeightArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args, Debug)]
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

#[derive(Args, Debug)]
pub struct PredictArgs {
    /// Name or path of the run
    pub run: String,
    /// The text
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub text: String,
    /// Next tokens to list
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,
    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub weights: WeightArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

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
    #[arg(long, value_name = "K,..", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: Vec<u32>,
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
    /// Name of the files that keep the results [default: what was measured]
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

#[derive(Args, Debug)]
pub struct FillMaskArgs {
    /// Name or path of the run
    pub run: String,
    #[arg(help = "A text with [MASK] where a token is to be guessed")]
    pub text: String,
    /// Guesses to list for each
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub top: usize,
    #[command(flatten)]
    pub weights: WeightArgs,
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
    /// Memory to train in, as 24GiB or 800MB [default: what the device has free now]
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

#[derive(Args, Debug)]
pub struct DatasetsArgs {
    /// Folder of the data sets
    #[arg(long, value_name = "DIR", default_value = "datasets")]
    pub datasets: PathBuf,
}

#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Backend that has to work: cuda, wgpu, flex or ndarray [default: the first that is compiled
    /// in]
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Device of the backend that has to work, by its number [default: the backend's own choice]
    #[arg(long, value_name = "INDEX")]
    pub device: Option<usize>,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct ImportArgs {
    /// Folder with config.json and model.safetensors, or with templateGPT's model_config.json and
    /// model.pth; or a name on the Hugging Face Hub, as openai-community/gpt2
    #[arg(value_name = "FOLDER|NAME")]
    pub model: String,
    /// Name of the run [default: the model's, numbered where it is taken]
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
    /// Folder of the runs
    #[arg(long, value_name = "DIR", default_value = "artifacts")]
    pub artifacts: PathBuf,
}

#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Name or path of the run
    pub run: String,
    /// For which program: a folder for transformers, or a file for llama.cpp
    #[arg(long, value_name = "FORMAT", value_parser = ["huggingface", "gguf"])]
    pub to: String,
    /// Folder or file to write
    #[arg(value_name = "FOLDER|FILE")]
    pub path: PathBuf,
    /// How a GGUF file keeps its matrices: f32, f16 or q8_0 [default: f32]
    #[arg(long = "type", value_name = "TYPE", value_parser = ["f32", "f16", "q8_0"])]
    pub data_type: Option<String>,
    /// Folder of the runs
    #[arg(long, value_name = "DIR", default_value = "artifacts")]
    pub artifacts: PathBuf,
}

#[derive(Args, Debug)]
pub struct MergeArgs {
    /// Name or path of the run
    pub run: String,
    /// Name of the new run
    #[arg(long, value_name = "NEW")]
    pub name: String,
    /// Folder of the runs
    #[arg(long, value_name = "DIR", default_value = "artifacts")]
    pub artifacts: PathBuf,
}

#[derive(Args, Debug)]
pub struct LogitsArgs {
    /// Name or path of the run
    pub run: String,
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    pub tokens: String,
    /// Print all logits as JSON instead of the largest as a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub weights: WeightArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

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
    #[command(flatten)]
    pub runs: RunsArgs,
}

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

/// Where runs are, whose names are names of their tokenizers.
#[derive(Args, Debug)]
pub struct RunsArgs {
    /// Folder of the runs
    #[arg(long, value_name = "DIR", default_value = "artifacts")]
    pub artifacts: PathBuf,
}

#[derive(Args, Debug)]
pub struct TrainTokenizerArgs {
    /// Texts: files (.txt, .jsonl, .csv, .tsv, .parquet, also .gz and .zst), folders, patterns, or
    /// - for standard input
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<String>,
    /// Tokens to end with, special ones and the 256 bytes included
    #[arg(long, value_name = "N")]
    pub vocab_size: usize,
    /// How a text is split into words, which tokens do not cross [default: gpt4]
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
    /// Tokens, of which there are no more than the context is long
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    #[command(flatten)]
    pub weights: WeightArgs,
    /// Backend to compute on: cuda, wgpu, flex or ndarray [default: the first that is compiled in]
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Device of the backend, by its number in `emberlm doctor` [default: the backend's own choice]
    #[arg(long, value_name = "INDEX")]
    pub device: Option<usize>,
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
    /// Backend to compute on: cuda, wgpu, flex or ndarray [default: the first that is compiled in]
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Device of the backend, by its number in `emberlm doctor` [default: the backend's own choice]
    #[arg(long, value_name = "INDEX")]
    pub device: Option<usize>,
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
    /// Backend to compute on: cuda, wgpu, flex or ndarray [default: the first that is compiled in]
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Device of the backend, by its number in `emberlm doctor` [default: the backend's own choice]
    #[arg(long, value_name = "INDEX")]
    pub device: Option<usize>,
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
    /// Backend to compute on: cuda, wgpu, flex or ndarray [default: the first that is compiled in]
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Device of the backend, by its number in `emberlm doctor` [default: the backend's own choice]
    #[arg(long, value_name = "INDEX")]
    pub device: Option<usize>,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}
