use serde::Serialize;
use std::io::Write;
use std::time::Duration;
use std::time::Instant;

use super::{open, sources};
use crate::cli::StatsArgs;
use crate::commands::progress;
use crate::config::SplitPattern;
use crate::tokenizer::{Splitter, Tokenizer};

/// What a tokenizer makes of a text.
#[derive(Serialize)]
struct Stats {
    tokenizer: String,
    vocab_size: usize,
    /// Different ids that occur.
    used: usize,
    tokens: u64,
    bytes: u64,
    characters: u64,
    bytes_per_token: f64,
    characters_per_token: f64,
    /// Bytes of the longest token that occurs, and its text.
    longest_token_bytes: usize,
    longest_token: String,
    round_trip: bool,
    /// Long documents were encoded in pieces, and it is not known whether its tokens go over the
    /// cuts.
    cut_anywhere: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_difference: Option<Difference>,
    /// Of encoding, on one thread.
    megabytes_per_second: f64,
}

/// Where the decoded text is not what was encoded.
#[derive(Serialize, Clone, Copy)]
struct Difference {
    /// Counted from one.
    document: u64,
    /// Counted from zero.
    byte: u64,
}

struct Tally {
    tokenizer: Box<dyn Tokenizer>,
    name: String,
    used: Vec<bool>,
    tokens: u64,
    difference: Option<Difference>,
    cut_anywhere: bool,
    seconds: Duration,
}

pub(super) fn run(args: StatsArgs) -> anyhow::Result<()> {
    let mut tallies = args
        .tokenizers
        .iter()
        .map(|name| {
            let tokenizer = open(name, &args.runs)?;
            let used = vec![false; tokenizer.vocab_size()];
            let (tokens, difference, seconds) = (0, None, Duration::ZERO);
            let (name, cut_anywhere) = (name.clone(), false);
            Ok(Tally { tokenizer, name, used, tokens, difference, cut_anywhere, seconds })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let sources = sources(&args.data, args.sources)?;
    let mut reading = sources.read();
    // All see the same pieces of long documents; a cut before whitespace suits nearly any.
    let splitter = Splitter::new(&SplitPattern::Gpt4)?;
    let bar = progress::bytes(sources.total_bytes(), "reading");
    let (mut bytes, mut characters, mut document, mut offset) = (0, 0, 1, 0);
    while let Some(piece) = reading.next(&|text| splitter.cut(text))? {
        for tally in &mut tallies {
            tally.add(&piece.text, document, offset)?;
            // One that can be cut can be before whitespace.
            tally.cut_anywhere |=
                !piece.ends_document && tally.tokenizer.cut(&piece.text).is_none();
        }
        bytes += piece.text.len() as u64;
        characters += piece.text.chars().count() as u64;
        offset += piece.text.len() as u64;
        if piece.ends_document {
            (document, offset) = (document + 1, 0);
        }
        bar.set_position(reading.bytes_read());
    }
    bar.finish_and_clear();
    let all: Vec<Stats> =
        tallies.into_iter().map(|tally| tally.finish(bytes, characters)).collect();
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &all)?;
        writeln!(out)?;
        return Ok(());
    }
    let documents = document - 1;
    writeln!(out, "{documents} documents, {bytes} bytes, {characters} characters")?;
    write_table(&mut out, &all)
}

impl Tally {
    fn add(&mut self, text: &str, document: u64, offset: u64) -> anyhow::Result<()> {
        let started = Instant::now();
        let ids = self.tokenizer.encode(text);
        self.seconds += started.elapsed();
        let ids = ids.map_err(|error| {
            anyhow::Error::new(error).context(format!("{}, document {document}", self.name))
        })?;
        self.tokens += ids.len() as u64;
        for id in &ids {
            if let Some(used) = self.used.get_mut(*id as usize) {
                *used = true;
            }
        }
        if self.difference.is_none() {
            let decoded = self.tokenizer.decode_bytes(&ids);
            if decoded != text.as_bytes() {
                let same = decoded.iter().zip(text.as_bytes()).take_while(|(a, b)| a == b).count();
                let byte = offset + same as u64;
                self.difference = Some(Difference { document, byte });
            }
        }
        Ok(())
    }

    fn finish(self, bytes: u64, characters: u64) -> Stats {
        let used = (0..).zip(&self.used).filter(|(_, used)| **used).map(|(id, _)| id);
        let tokens: Vec<Vec<u8>> =
            used.map(|id| self.tokenizer.token_bytes(id).unwrap_or_default()).collect();
        // Of several the first.
        let longest = tokens.iter().rev().max_by_key(|token| token.len());
        let per_token = |count: u64| count as f64 / (self.tokens.max(1)) as f64;
        Stats {
            vocab_size: self.tokenizer.vocab_size(),
            used: tokens.len(),
            tokens: self.tokens,
            bytes,
            characters,
            bytes_per_token: per_token(bytes),
            characters_per_token: per_token(characters),
            longest_token_bytes: longest.map_or(0, Vec::len),
            longest_token: String::from_utf8_lossy(longest.map_or(&[], Vec::as_slice)).into(),
            round_trip: self.difference.is_none(),
            cut_anywhere: self.cut_anywhere,
            first_difference: self.difference,
            megabytes_per_second: bytes as f64 / 1e6 / self.seconds.as_secs_f64().max(1e-9),
            tokenizer: self.name,
        }
    }
}

/// Characters of a longest token that are shown.
const SHOWN: usize = 50;

fn write_table(out: &mut impl Write, all: &[Stats]) -> anyhow::Result<()> {
    let width = |stats: &Stats| stats.tokenizer.chars().count();
    let width = all.iter().map(width).max().unwrap_or(0).max("tokenizer".len());
    writeln!(
        out,
        "{:<width$} {:>8} {:>6} {:>10} {:>8} {:>8} {:>8} {:>6} {:>7}",
        "tokenizer", "vocab", "used", "tokens", "b/token", "c/token", "longest", "exact", "MB/s"
    )?;
    for stats in all {
        writeln!(
            out,
            "{:<width$} {:>8} {:>5.1}% {:>10} {:>8.3} {:>8.3} {:>8} {:>6} {:>7.1}",
            stats.tokenizer,
            stats.vocab_size,
            100.0 * stats.used as f64 / stats.vocab_size.max(1) as f64,
            stats.tokens,
            stats.bytes_per_token,
            stats.characters_per_token,
            stats.longest_token_bytes,
            if stats.round_trip { "yes" } else { "no" },
            stats.megabytes_per_second,
        )?;
    }
    writeln!(
        out,
        "used: share of the vocabulary; b, c: bytes, characters; longest: bytes of the\nlongest token; exact: whether decoding gives the text back; MB/s: on one thread"
    )?;
    for stats in all {
        let token: String = stats.longest_token.chars().take(SHOWN).collect();
        let more = if stats.longest_token.chars().count() > SHOWN { ".." } else { "" };
        writeln!(out, "{}: the longest token is {token:?}{more}", stats.tokenizer)?;
        if stats.cut_anywhere {
            writeln!(
                out,
                "{}: long documents were encoded in pieces, which may make other tokens",
                stats.tokenizer
            )?;
        }
        if let Some(Difference { document, byte }) = stats.first_difference {
            writeln!(
                out,
                "{}: decoding differs first in document {document} at byte {byte}",
                stats.tokenizer
            )?;
        }
    }
    Ok(())
}
