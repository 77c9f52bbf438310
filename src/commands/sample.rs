//! What models are asked to write, at the end of a training and on request.

use std::io::Write;

use crate::backend::GptBackend;
use crate::data::{Example, Task};
use crate::generate::{Decoder, NextToken, Sampler, Translation, Utf8Stream};
use crate::model::{Encoder, Seq2Seq};
use crate::tokenizer::Tokenizer;

/// How a masked token is typed and shown.
pub(super) const MASK: &str = "[MASK]";

/// Writes each token as soon as it is known, up to the one that ends the text.
pub(super) fn stream<B: GptBackend>(
    model: &impl NextToken<B>,
    tokenizer: &dyn Tokenizer,
    prompt: &[u32],
    end: Option<u32>,
    max_tokens: usize,
    sampler: Sampler,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let mut text = Utf8Stream::new();
    // What ends a text may be a token beyond the tokenizer's.
    let vocab_size = end.map_or(0, |end| end as usize + 1).max(tokenizer.vocab_size());
    for id in Decoder::new(model, prompt, vocab_size, sampler).take(max_tokens) {
        if Some(id) == end {
            break;
        }
        write!(out, "{}", text.push(&tokenizer.decode_bytes(&[id])))?;
        out.flush()?;
    }
    write!(out, "{}", text.finish())
}

/// Writes the target of a source; `ends` are the tokens before and after a target.
pub(super) fn translate<B: GptBackend>(
    model: &Seq2Seq<B>,
    tokenizer: &dyn Tokenizer,
    source: &[u32],
    (begin, end): (u32, u32),
    max_tokens: usize,
    sampler: Sampler,
    out: &mut impl Write,
) -> std::io::Result<()> {
    // A target has no older half that could be forgotten.
    let max_tokens = max_tokens.min(model.context_length());
    let translation = Translation::new(model, source);
    stream(&translation, tokenizer, &[begin], Some(end), max_tokens, sampler, out)
}

/// Writes a translator's target of an example beside what it should be.
pub(super) fn translation<B: GptBackend>(
    model: &Seq2Seq<B>,
    tokenizer: &dyn Tokenizer,
    task: Task,
    example: &Example,
    sampler: Sampler,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let Task::Translation { begin, end } = task else {
        return Ok(());
    };
    let source = example.source.as_deref().unwrap_or_default();
    let target = example.target.split_last().map_or(&[][..], |(_end, target)| target);
    writeln!(out, "source: {}", tokenizer.decode(source))?;
    writeln!(out, "target: {}", tokenizer.decode(target))?;
    write!(out, "model:  ")?;
    let max_tokens = model.context_length();
    translate(model, tokenizer, source, (begin, end), max_tokens, sampler, out)?;
    writeln!(out, "\n")
}

/// Writes an example with its gaps, and the likeliest token for each beside the true one.
pub(super) fn gaps<B: GptBackend>(
    model: &Encoder<B>,
    tokenizer: &dyn Tokenizer,
    task: Task,
    example: &Example,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let Task::MaskedTokens { mask, .. } = task else {
        return Ok(());
    };
    writeln!(out, "{}\n", with_gaps(tokenizer, mask, &example.input))?;
    let filled = model.fill(&example.input, mask, 1);
    let places = (0..example.input.len()).filter(|place| example.input[*place] == mask);
    for (place, guesses) in places.zip(filled) {
        let text = |id: u32| format!("{:?}", tokenizer.decode(&[id]));
        for guess in guesses {
            writeln!(
                out,
                "{MASK} {:<12} {:5.1}%   was {}",
                text(guess.token),
                100.0 * guess.probability,
                text(example.target[place]),
            )?;
        }
    }
    Ok(())
}

/// The text of tokens of which some are masked.
fn with_gaps(tokenizer: &dyn Tokenizer, mask: u32, ids: &[u32]) -> String {
    let parts: Vec<String> =
        ids.split(|id| *id == mask).map(|part| tokenizer.decode(part)).collect();
    parts.join(MASK)
}
