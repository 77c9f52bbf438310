use serde_json::json;
use std::time::Instant;

use super::{megabytes_per_second, rounded, say, text_in_memory};
use crate::cli::BenchTokenizerTrainArgs;
use crate::config::{SPECIAL_TOKENS, SplitPattern};
use crate::tokenizer::Trainer;

pub(super) fn run(args: BenchTokenizerTrainArgs) -> anyhow::Result<()> {
    let text = text_in_memory(&args.file)?;
    let split = match args.split.as_str() {
        "gpt2" => SplitPattern::Gpt2,
        _ => SplitPattern::Gpt4,
    };
    let started = Instant::now();
    let mut trainer = Trainer::new(&split, &SPECIAL_TOKENS.map(String::from))?;
    trainer.check_size(args.vocab_size)?;
    trainer.feed(&[&text])?;
    let counting = started.elapsed();
    let trained = trainer.train(args.vocab_size, |_| ())?;
    let all = started.elapsed();
    let result = json!({
        "bench": "tokenizer-train",
        "bytes": text.len(),
        "split": args.split,
        "threads": rayon::current_num_threads(),
        "vocab_size": trained.vocab_size,
        "different_words": trained.different_words,
        "tokens": trained.tokens,
        "counting_seconds": rounded(counting.as_secs_f64()),
        "merging_seconds": rounded((all - counting).as_secs_f64()),
        "seconds": rounded(all.as_secs_f64()),
        "mb_per_s": rounded(megabytes_per_second(text.len() as u64, all)),
    });
    Ok(say(args.json, &result)?)
}
