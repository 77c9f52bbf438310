use anyhow::{Context, bail};
use serde_json::json;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::{megabytes_per_second, peak_mib, rounded, say};
use crate::cli::{BenchPrepareArgs, SHARD_TOKENS, SPLIT_SEED};
use crate::commands::prepare::default_split;
use crate::commands::tokenizer::open;
use crate::data::{Preparation, Prepare, SourceOptions, Sources, Stories, prepare};
use crate::files;

/// Of the text that is prepared where none is given.
const GENERATED_BYTES: usize = 16_000_000;

pub(super) fn run(args: BenchPrepareArgs) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("a temporary folder cannot be made")?;
    let paths = match args.sources.is_empty() {
        true => vec![generate(folder.path())?],
        false => args.sources,
    };
    let sources = Sources::find(&paths, SourceOptions::default())?;
    let tokenizer = open(&args.tokenizer, &args.runs)?;
    let preparation = Preparation {
        tokenizer: tokenizer.as_ref(),
        tokenizer_name: &args.tokenizer,
        sources: &sources,
        split: default_split(&sources, SPLIT_SEED),
        shard_tokens: SHARD_TOKENS,
    };
    let never = AtomicBool::new(false);
    let started = Instant::now();
    let done = prepare(&preparation, &folder.path().join("tokens"), &never, &mut |_| ())?;
    let time = started.elapsed();
    let Prepare::Finished(meta) = done else {
        bail!("the preparation in {} was disturbed", folder.path().display());
    };
    let bytes = meta.train.bytes + meta.validation.bytes;
    let tokens = meta.train.tokens + meta.validation.tokens;
    let mut result = json!({
        "bench": "prepare",
        "tokenizer": args.tokenizer,
        "threads": rayon::current_num_threads(),
        "bytes": bytes,
        "documents": meta.train.documents + meta.validation.documents,
        "tokens": tokens,
        "seconds": rounded(time.as_secs_f64()),
        "mb_per_s": rounded(megabytes_per_second(bytes, time)),
        "tokens_per_s": (tokens as f64 / time.as_secs_f64()).round(),
    });
    if let Some(peak) = peak_mib() {
        result["peak_mib"] = peak;
    }
    Ok(say(args.json, &result)?)
}

/// Writes built-in stories as JSON lines, and says where.
fn generate(folder: &Path) -> anyhow::Result<String> {
    let path = folder.join("stories.jsonl");
    let stories = Stories::new()?;
    files::write_whole(&path, |file| {
        let mut file = BufWriter::new(file);
        let mut bytes = 0;
        for story in stories.documents(usize::MAX, SPLIT_SEED, 0) {
            bytes += story.len();
            writeln!(file, "{}", json!({ "text": story }))?;
            if bytes >= GENERATED_BYTES {
                break;
            }
        }
        file.flush()
    })?;
    Ok(path.display().to_string())
}
