use anyhow::Context;
use serde_json::json;
use std::io::Write;
use std::time::Instant;

use super::{check_is_new, open, sources, write_folder};
use crate::cli::TrainTokenizerArgs;
use crate::commands::progress;
use crate::config::{SPECIAL_TOKENS, SplitPattern};
use crate::data::Sources;
use crate::tokenizer::{Trainer, to_hugging_face};

/// Bytes of text that are split and counted at a time.
const BATCH: usize = 16 << 20;

pub(super) fn run(args: TrainTokenizerArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    check_is_new(&args.out)?;
    let sources = sources(&args.paths, args.sources)?;
    let mut trainer = match &args.grow {
        Some(name) => Trainer::grow(&open(name, &args.runs)?.saved(), &args.special)
            .with_context(|| format!("cannot grow {name}"))?,
        None => {
            let special = SPECIAL_TOKENS.map(String::from).into_iter().chain(args.special);
            let split = match (args.split.as_deref(), args.split_regex) {
                (_, Some(regex)) => SplitPattern::Custom(regex),
                (Some("gpt2"), _) => SplitPattern::Gpt2,
                (Some("none"), _) => SplitPattern::None,
                _ => SplitPattern::Gpt4,
            };
            Trainer::new(&split, &special.collect::<Vec<_>>())?
        }
    };
    trainer.check_size(args.vocab_size)?;
    let start_size = trainer.start_size();
    let (documents, bytes) = count_words(&mut trainer, &sources)?;

    let bar = progress::items(args.vocab_size, "merging");
    let trained = trainer.train(args.vocab_size, |tokens| bar.set_position(tokens as u64))?;
    bar.finish_and_clear();
    write_folder(&args.out, &to_hugging_face(&trained.saved)?)?;

    let mut out = std::io::stdout().lock();
    let folder = args.out.display().to_string();
    writeln!(
        out,
        "text: {documents} documents, {bytes} bytes, {} different words",
        trained.different_words
    )?;
    writeln!(
        out,
        "tokenizer: {} tokens, {} of them learned in {:.1} s; {:.2} bytes a token",
        trained.vocab_size,
        trained.vocab_size - start_size,
        started.elapsed().as_secs_f64(),
        bytes as f64 / trained.tokens as f64
    )?;
    if trained.vocab_size < args.vocab_size {
        writeln!(
            out,
            "note: {} tokens were asked for, but no pair is left that could be merged; more text has more",
            args.vocab_size
        )?;
    }
    writeln!(out, "folder: {folder}")?;
    let shown = quoted(&folder);
    writeln!(out, "look at it: emberlm tokenizer show {shown} \"Some text of yours\"")?;
    let config = quoted(&json!({"kind": "file", "path": folder}).to_string());
    writeln!(out, "train with it: emberlm train --data my.txt \\\n  --set tokenizer={config}")?;
    Ok(())
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    match text.chars().all(|it| it.is_alphanumeric() || ['/', '.', '_', '-'].contains(&it)) {
        true => text.into(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Feeds all documents; the number of them and of their bytes.
fn count_words(trainer: &mut Trainer, sources: &Sources) -> anyhow::Result<(u64, u64)> {
    let bar = progress::bytes(sources.total_bytes(), "reading");
    let splitter = trainer.splitter().clone();
    let mut reading = sources.read();
    let (mut documents, mut bytes) = (0, 0);
    let mut batch: Vec<String> = Vec::new();
    let mut batch_bytes = 0;
    loop {
        let piece = reading.next(&|text| splitter.cut(text))?;
        let is_last = piece.is_none();
        if let Some(piece) = piece {
            documents += u64::from(piece.ends_document);
            batch_bytes += piece.text.len();
            batch.push(piece.text);
        }
        if batch_bytes >= BATCH || is_last {
            trainer.feed(&batch.iter().map(String::as_str).collect::<Vec<_>>())?;
            bytes += batch_bytes as u64;
            batch.clear();
            batch_bytes = 0;
            bar.set_position(reading.bytes_read());
        }
        if is_last {
            bar.finish_and_clear();
            return Ok((documents, bytes));
        }
    }
}
