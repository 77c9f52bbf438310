use serde::Serialize;
use std::io::{self, Write};

use super::passage::{Passage, batch};
use crate::backend::{GptBackend, on_host};
use crate::data::Task;
use crate::generate::LogProbabilities;
use crate::model::{Encoder, Model};
use crate::report::terminal::{Style, clipped, padding, visible, wrapped};
use crate::tokenizer::Tokenizer;

/// Likely tokens that are told beside the one that came.
const LIKELIEST: usize = 3;
/// Rows that an encoder reads at a time.
const ROWS: usize = 16;

/// What a model makes of the tokens of a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reading {
    pub tokens: Vec<TokenSurprise>,
    /// The mean surprise of the tokens that were predicted, in nats; none where none was.
    pub loss: Option<f64>,
    /// How that is counted.
    pub protocol: &'static str,
}

/// A token, and how much of a surprise it was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenSurprise {
    pub id: u32,
    pub text: String,
    /// Minus the logarithm of its probability, in nats; none of a token that nothing predicts.
    pub surprise: Option<f64>,
    /// One where no token was likelier.
    pub rank: Option<usize>,
    /// What was expected, likeliest first.
    pub expected: Vec<Expected>,
    #[serde(skip)]
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Expected {
    pub id: u32,
    pub text: String,
    pub probability: f64,
}

/// How surprised a model is by each token: a decoder by those after the first, from those before
/// them; an encoder by each, from all others (Salazar et al. 2020); a translator by each of a
/// target and by its end, from the source and the tokens before it.
pub fn surprise<B: GptBackend>(
    model: &Model<B>,
    tokenizer: &dyn Tokenizer,
    task: Task,
    passage: &Passage,
) -> Reading {
    let ids = tokenizer.vocab_size();
    let named = Named { tokenizer };
    let (tokens, protocol): (Vec<TokenSurprise>, _) = match (task, model) {
        (Task::MaskedTokens { mask, .. }, Model::Encoder(encoder)) => {
            let rows = masked_logits(encoder, &passage.tokens, mask);
            let tokens = passage.tokens.iter().zip(rows.chunks(encoder.vocab_size()));
            let known = ids.min(encoder.vocab_size());
            (
                tokens.map(|(id, row)| named.token(*id, Some(&row[..known]))).collect(),
                "each token from all others, masked one at a time",
            )
        }
        (Task::Translation { begin, end }, _) => {
            let inputs = [&[begin], &passage.tokens[..]].concat();
            let passage = Passage { source: passage.source.clone(), tokens: inputs };
            let logits = passage.logits(model);
            let rows = logits.chunks(logits.len() / passage.tokens.len());
            let targets = passage.tokens[1..].iter().chain([&end]);
            let known = end as usize + 1;
            (
                targets.zip(rows).map(|(id, row)| named.token(*id, Some(&row[..known]))).collect(),
                "each token of the target and its end, from the source and those before it",
            )
        }
        _ => {
            let logits = passage.logits(model);
            let width = logits.len() / passage.tokens.len();
            let known = ids.min(width);
            let rows = logits.chunks(width).map(|row| Some(&row[..known]));
            let rows = std::iter::once(None).chain(rows);
            (
                passage.tokens.iter().zip(rows).map(|(id, row)| named.token(*id, row)).collect(),
                "each token but the first, from those before it",
            )
        }
    };
    let known: Vec<f64> = tokens.iter().filter_map(|token| token.surprise).collect();
    let loss = (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64);
    Reading { tokens, loss, protocol }
}

/// `[T, V]`: at each place the logits of a text in which that place is masked.
fn masked_logits<B: GptBackend>(model: &Encoder<B>, tokens: &[u32], mask: u32) -> Vec<f32> {
    let (t, v) = (tokens.len(), model.vocab_size());
    let masked = |place: usize| {
        let mut row = tokens.to_vec();
        row[place] = mask;
        row
    };
    let places: Vec<usize> = (0..t).collect();
    let mut found = Vec::with_capacity(t * v);
    for places in places.chunks(ROWS) {
        let rows: Vec<Vec<u32>> = places.iter().map(|place| masked(*place)).collect();
        let logits = on_host(model.forward(batch(&rows, &model.device()), None));
        for (row, place) in places.iter().enumerate() {
            found.extend_from_slice(&logits[(row * t + place) * v..][..v]);
        }
    }
    found
}

struct Named<'a> {
    tokenizer: &'a dyn Tokenizer,
}

impl Named<'_> {
    fn bytes(&self, id: u32) -> Vec<u8> {
        match self.tokenizer.token_bytes(id) {
            Some(bytes) => bytes,
            // The tokens of a task are beyond the tokenizer's: of those only the end is predicted.
            None => format!("<{id}>").into_bytes(),
        }
    }

    fn text(&self, id: u32) -> String {
        String::from_utf8_lossy(&self.bytes(id)).into_owned()
    }

    /// From the logits of all tokens that there are, where anything predicts it.
    fn token(&self, id: u32, logits: Option<&[f32]>) -> TokenSurprise {
        // A token beyond the vocabulary's is none that is predicted.
        let found = logits.filter(|logits| (id as usize) < logits.len());
        let found = found.map(|logits| LogProbabilities::new(logits, id, LIKELIEST));
        let expected = found.iter().flat_map(|found| &found.top);
        let expected = expected.map(|(id, probability)| Expected {
            id: *id,
            text: self.text(*id),
            probability: probability.exp(),
        });
        TokenSurprise {
            id,
            text: self.text(id),
            surprise: found.as_ref().map(|found| -found.token),
            rank: found.as_ref().map(|found| found.rank),
            expected: expected.collect(),
            bytes: self.bytes(id),
        }
    }
}

/// From which surprise on, in nats, a token has which background of the 256 colours.
const LEVELS: [(f64, u8); 6] =
    [(0.0, 194), (0.5, 230), (1.0, 223), (2.0, 216), (4.0, 209), (6.0, 203)];
/// Of a token that nothing predicts.
const UNKNOWN: u8 = 252;
const BLACK: u8 = 16;
/// Tokens that are listed beside a text in colours.
const LISTED: usize = 10;
/// Nats that fill a bar.
const FULL: f64 = 8.0;
const BAR: usize = 10;
/// Columns of a token's text.
const TOKEN: usize = 14;

/// The text with its surprises: in colours, and the greatest of them as a list; where there are no
/// colours, all of them as a list.
pub fn write_surprise(out: &mut impl Write, reading: &Reading, style: Style) -> io::Result<()> {
    write_text(out, &reading.tokens, style)?;
    if style.color {
        let levels = LEVELS
            .iter()
            .map(|(from, background)| style.on(*background, BLACK, &format!(" {from:.1} ")));
        writeln!(out, "\nnats from {}", levels.collect::<Vec<_>>().join(""))?;
    }
    if let Some(loss) = reading.loss {
        let summary = format!(
            "{} tokens, mean surprise {loss:.4} nats, perplexity {:.2}: {}",
            reading.tokens.len(),
            loss.exp(),
            reading.protocol
        );
        for line in wrapped(&summary, style.width) {
            writeln!(out, "{line}")?;
        }
    }
    let mut listed: Vec<(usize, &TokenSurprise)> = reading.tokens.iter().enumerate().collect();
    if style.color && listed.len() > LISTED {
        listed.retain(|(_, token)| token.surprise.is_some());
        let surprise = |token: &TokenSurprise| token.surprise.unwrap_or_default();
        listed.sort_by(|(_, a), (_, b)| surprise(b).total_cmp(&surprise(a)));
        listed.truncate(LISTED);
    }
    writeln!(
        out,
        "\n{:>5} {:<18}{:>8} {:<BAR$} {:>6}  expected",
        "place", "token", "nats", "", "rank"
    )?;
    for (place, token) in listed {
        write_row(out, place, token, style)?;
    }
    Ok(())
}

/// Tokens on the colours of their surprise, or with lines between them.
fn write_text(out: &mut impl Write, tokens: &[TokenSurprise], style: Style) -> io::Result<()> {
    let mut at_line_start = true;
    for token in tokens {
        if !style.color && !at_line_start {
            write!(out, "|")?;
        }
        let text = visible(&token.bytes);
        at_line_start = text.ends_with('\n');
        let background = token.surprise.map_or(UNKNOWN, level);
        // A colour that went over the end of a line would fill the rest of it.
        for line in text.split_inclusive('\n') {
            let (line, end) = match line.strip_suffix('\n') {
                Some(line) => (line, "\n"),
                None => (line, ""),
            };
            write!(out, "{}{end}", style.on(background, BLACK, line))?;
        }
    }
    if at_line_start { Ok(()) } else { writeln!(out) }
}

fn level(surprise: f64) -> u8 {
    let reached = LEVELS.iter().rev().find(|(from, _)| surprise >= *from);
    reached.map_or(LEVELS[0].1, |(_, background)| *background)
}

fn write_row(
    out: &mut impl Write,
    place: usize,
    token: &TokenSurprise,
    style: Style,
) -> io::Result<()> {
    let text = clipped(&format!("{:?}", token.text), TOKEN - 1);
    let gap = padding(&text, TOKEN);
    let line = match (token.surprise, token.rank) {
        (Some(surprise), Some(rank)) => {
            let expected: Vec<String> = token
                .expected
                .iter()
                .map(|it| format!("{:?} {:.0}%", it.text, 100.0 * it.probability))
                .collect();
            let bar = bar(surprise);
            let gap = format!("{text}{gap}{surprise:>7.3} {bar}{}", padding(&bar, BAR));
            format!("{place:>5} {gap}{rank:>6}  {}", expected.join(", "))
        }
        _ => format!("{place:>5} {text}{gap}{:>7}", "-"),
    };
    writeln!(out, "{}", clipped(&line, style.width))
}

/// A bar of eighths of a column.
fn bar(surprise: f64) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = ((surprise / FULL).clamp(0.0, 1.0) * (8 * BAR) as f64).round() as usize;
    format!("{}{}", "█".repeat(eighths / 8), PARTS[eighths % 8])
}
