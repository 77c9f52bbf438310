use anyhow::Context;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::time::Instant;

use super::{median, rounded, say, text_in_memory};
use crate::cli::BenchEncodeArgs;
use crate::commands::tokenizer::open;
use crate::files;
use crate::tokenizer::{Tokenizer, TokenizerError};

pub(super) fn run(args: BenchEncodeArgs) -> anyhow::Result<()> {
    let text = text_in_memory(&args.file)?;
    let tokenizer = open(&args.tokenizer, &args.runs)?;
    let documents = match args.document_bytes {
        Some(bytes) => documents(&text, bytes as usize),
        None => vec![text.as_str()],
    };
    let threads = args.threads.map_or(0, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.context("these threads cannot be started")?;
    let batch = args.document_bytes.is_some();
    let measure = || measure(tokenizer.as_ref(), &documents, batch, args.repeat);
    // All that is parallel within is so on the threads of the pool.
    let (seconds, ids) = pool.install(measure)?;

    let tokens: usize = ids.iter().map(Vec::len).sum();
    let of_median = median(seconds.clone());
    let mut hasher = Sha256::new();
    for ids in &ids {
        hasher.update(ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
    }
    let result = json!({
        "bench": "encode",
        "tokenizer": args.tokenizer,
        "threads": pool.current_num_threads(),
        "bytes": text.len(),
        "documents": documents.len(),
        "tokens": tokens,
        "ids_sha256": files::hexadecimal(hasher),
        "runs_seconds": seconds.into_iter().map(rounded).collect::<Vec<Value>>(),
        "seconds": rounded(of_median),
        "mb_per_s": rounded(text.len() as f64 / 1e6 / of_median),
        "tokens_per_s": (tokens as f64 / of_median).round(),
    });
    Ok(say(args.json, &result)?)
}

/// The seconds of each time, and the ids of each document.
fn measure(
    tokenizer: &dyn Tokenizer,
    documents: &[&str],
    batch: bool,
    repeat: u32,
) -> Result<(Vec<f64>, Vec<Vec<u32>>), TokenizerError> {
    let mut seconds = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..repeat {
        // What is left of the time before is given back first.
        drop(ids);
        let started = Instant::now();
        ids = match batch {
            true => tokenizer.encode_batch(documents).into_iter().collect::<Result<_, _>>()?,
            false => documents.iter().map(|it| tokenizer.encode(it)).collect::<Result<_, _>>()?,
        };
        seconds.push(started.elapsed().as_secs_f64());
    }
    Ok((seconds, ids))
}

/// Parts of whole lines, each of so many bytes or, for its last line, a little more.
fn documents(text: &str, bytes: usize) -> Vec<&str> {
    let mut documents = Vec::new();
    let (mut start, mut end) = (0, 0);
    for line in text.split_inclusive('\n') {
        end += line.len();
        if end - start >= bytes {
            documents.push(&text[start..end]);
            start = end;
        }
    }
    if start < end {
        documents.push(&text[start..end]);
    }
    documents
}
