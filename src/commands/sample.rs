//! What models are asked to write, at the end of a training and on request.

use std::io::Write;

use crate::backend::GptBackend;
use crate::data::{Example, Task};
use crate::generate::{Batch, NextToken, Request, Sampling};
use crate::model::{Encoder, Seq2Seq};
use crate::tokenizer::Tokenizer;

/// How a masked token is typed and shown.
pub(super) const MASK: &str = "[MASK]";

/// Writes each token of a text as soon as it is known; `end` is the one that ends it.
pub(super) fn stream<B: GptBackend>(
    model: &impl NextToken<B>,
    tokenizer: &dyn Tokenizer,
    end: Option<u32>,
    request: Request,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let mut batch = Batch::new(model, tokenizer, end);
    batch.enter(request).map_err(std::io::Error::other)?;
    while !batch.is_empty() {
        for (_, progress) in batch.step() {
            write!(out, "{}", progress.text)?;
            out.flush()?;
        }
    }
    Ok(())
}

/// Writes a translator's target of an example beside what it should be.
pub(super) fn translation<B: GptBackend>(
    model: &Seq2Seq<B>,
    tokenizer: &dyn Tokenizer,
    task: Task,
    example: &Example,
    (sampling, seed): (Sampling, u64),
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
    let request = Request::translation(source.to_vec(), begin, sampling, seed, max_tokens);
    stream(model, tokenizer, Some(end), request, out)?;
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
