//! The subcommands of `emberlm bench`: what they measure is what the other commands do, without
//! the parts that are for their user.

mod decode;
mod encode;
mod engine;
mod peak;
mod prepare;
mod scaling;
mod shapes;
mod tokenizer_train;
mod train;

use anyhow::bail;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use crate::backend::GptBackend;
use crate::cli::{BenchArgs, BenchCommand};
use crate::data::read_text;

pub(super) fn run(args: BenchArgs) -> anyhow::Result<()> {
    match args.command {
        BenchCommand::TokenizerTrain(args) => tokenizer_train::run(args),
        BenchCommand::Encode(args) => encode::run(args),
        BenchCommand::Prepare(args) => prepare::run(args),
        BenchCommand::Train(args) => train::run(args),
        BenchCommand::Scaling(args) => scaling::run(args),
        BenchCommand::Engine(args) => engine::run(args),
        BenchCommand::Decode(args) => decode::run(args),
    }
}

/// A text that is read before anything is measured.
fn text_in_memory(path: &Path) -> anyhow::Result<String> {
    let text = read_text(path)?;
    if text.is_empty() {
        bail!("{} is empty; give a file with some text", path.display());
    }
    Ok(text)
}

/// The middle one, or the mean of the two in the middle; zero of none.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => 0.0,
        count if count % 2 == 1 => numbers[middle],
        _ => (numbers[middle - 1] + numbers[middle]) / 2.0,
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn megabytes_per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64()
}

/// The most memory that this process has had at a time, in MiB; known on Linux.
fn peak_mib() -> Option<Value> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u32 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(rounded(f64::from(kibibytes) / 1024.0))
}

/// What the allocator of a device holds of its memory, in MiB, where there is one that says. A GPU's
/// gives nothing back by itself: this is the most that it has held.
fn reserved_mib<B: GptBackend>(device: &B::Device) -> anyhow::Result<Option<Value>> {
    B::sync(device)?;
    Ok(B::reserved_bytes(device).map(mebibytes))
}

fn mebibytes(bytes: u64) -> Value {
    rounded(bytes as f64 / f64::from(1 << 20))
}

/// Rounded to four places, of which the fourth is noise already.
fn rounded(number: f64) -> Value {
    ((number * 1e4).round() / 1e4).into()
}

/// One line of JSON, or a line a result.
fn say(json: bool, result: &Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        return writeln!(out, "{result}");
    }
    for (key, value) in result.as_object().into_iter().flatten() {
        match value {
            Value::String(text) => writeln!(out, "{key:<20} {text}")?,
            value => writeln!(out, "{key:<20} {value}")?,
        }
    }
    Ok(())
}
