use std::io::{self, Write};
use textwrap::Options;

use crate::eval::{Measure, Outcome};

/// Of the table.
const WIDTH: usize = 80;

/// Results as lines, that of a text first, and as a table.
pub(super) fn lines(results: &[Outcome], out: &mut impl Write) -> io::Result<()> {
    let (texts, others): (Vec<&Outcome>, Vec<&Outcome>) =
        results.iter().partition(|found| found.task == "text");
    if let [first, rest @ ..] = &texts[..] {
        text(first, out)?;
        if let [quantized] = rest {
            change(first, quantized, out)?;
        }
    }
    if others.is_empty() {
        return Ok(());
    }
    if !texts.is_empty() {
        writeln!(out)?;
    }
    writeln!(
        out,
        "{:<14} {:>8}  {:<20} {:>10} {:>15}",
        "task", "examples", "measure", "value", "standard error"
    )?;
    for found in &others {
        for (number, Measure { name, value, standard_error }) in found.measures.iter().enumerate() {
            let (task, examples) = match number {
                0 => (found.task.as_str(), found.examples.to_string()),
                _ => ("", String::new()),
            };
            let error = standard_error.map(|error| format!("{error:.4}")).unwrap_or_default();
            let line = format!("{task:<14} {examples:>8}  {name:<20} {value:>10.4} {error:>15}");
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    for found in others {
        writeln!(out)?;
        let protocol = format!("{}: {}", found.task, found.protocol);
        let lines = textwrap::fill(&protocol, Options::new(WIDTH).subsequent_indent("  "));
        writeln!(out, "{lines}")?;
    }
    Ok(())
}

fn text(found: &Outcome, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:<16}{}", "tokens", found.examples)?;
    for Measure { name, value, standard_error } in &found.measures {
        let value = match (name.as_str(), standard_error) {
            ("loss", _) => format!("{value:.4} nats a token"),
            ("source entropy", _) => format!("{value:.4} nats a token, which no model can beat"),
            ("perplexity", _) => format!("{value:.3}"),
            (_, Some(error)) => format!("{value:.4}, standard error {error:.4}"),
            (_, None) => format!("{value:.4}"),
        };
        writeln!(out, "{name:<16}{value}")?;
    }
    Ok(())
}

/// What storing weights in less has changed.
fn change(before: &Outcome, found: &Outcome, out: &mut impl Write) -> io::Result<()> {
    let value = |of: &Outcome, name: &str| {
        of.measures.iter().find(|measure| measure.name == name).map_or(f64::NAN, |it| it.value)
    };
    let weights = &found.weights;
    let [found_perplexity, perplexity] = [found, before].map(|it| value(it, "perplexity"));
    let percent = 100.0 * (found_perplexity / perplexity - 1.0);
    writeln!(out, "{weights} loss       {:.4} nats a token", value(found, "loss"))?;
    writeln!(
        out,
        "{weights} perplexity {found_perplexity:.3}, {percent:+.3}% against {}",
        before.weights
    )
}
