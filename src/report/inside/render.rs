//! Trees and tables for a terminal of eighty columns.

use console::measure_text_width;
use std::io::{self, Write};

use super::describe::{Axis, LETTERS};
use super::gradients::{Activity, GradientReport, ParameterGradient, Units};
use super::module::{Module, ModuleParameter};
use super::weights::{Histogram, WeightSummary};
use crate::report::terminal::{Style, clipped, padding, short, wrapped};

/// Columns that a module stands to the right of the one that it is part of.
const INDENT: usize = 2;
/// The letter of a number that hangs on the text.
const OF_TEXT: &str = "n";

/// A model as a tree: of every module what goes in and comes out, its parameters, and what it does.
/// Modules that follow each other and are alike are written once.
pub fn write_outline(out: &mut impl Write, model: &Module, style: Style) -> io::Result<()> {
    let mut letters: Vec<&str> = Vec::new();
    model.walk(&mut |module| {
        let axes = module.input.iter().chain(&module.output).flatten();
        letters.extend(axes.map(|axis| axis.symbol));
    });
    for line in wrapped(&legend(&letters), style.width) {
        writeln!(out, "{}", style.dim(&line))?;
    }
    writeln!(out)?;
    write_group(out, std::slice::from_ref(model), 0, false, style)
}

/// What the letters stand for, those included that others are made of.
fn legend(letters: &[&str]) -> String {
    let is_used = |letter: &str| {
        letters
            .iter()
            .any(|used| *used == letter || (used.len() > letter.len() && used.contains(letter)))
    };
    let meanings = LETTERS.iter().filter_map(|symbol| Some((symbol.letter(), symbol.meaning()?)));
    let used = meanings.filter(|(letter, _)| is_used(letter));
    used.map(|(letter, meaning)| format!("{letter} {meaning}")).collect::<Vec<_>>().join(", ")
}

/// Modules that are alike, as one.
fn write_group(
    out: &mut impl Write,
    group: &[Module],
    depth: usize,
    is_folded: bool,
    style: Style,
) -> io::Result<()> {
    let first = &group[0];
    let indent = " ".repeat(depth * INDENT);
    let label = label(group);
    let is_folded = is_folded || group.len() > 1;
    let total: usize = group.iter().map(|module| module.parameter_count).sum();
    let count = if total == 0 { String::new() } else { total.to_string() };
    let [input, output] =
        [&first.input, &first.output].map(|axes| shape(axes.as_deref(), is_folded));
    let shapes = match first.input {
        Some(_) => format!("{input} -> {output}"),
        None => "no token came here".into(),
    };
    let left = format!("{indent}{}", style.bold(&label));
    let inner = " ".repeat((depth + 1) * INDENT);
    let room = style.width.saturating_sub(measure_text_width(&left) + count.len() + 1);
    let head =
        if measure_text_width(&shapes) + 2 <= room { format!("  {shapes}") } else { String::new() };
    let line = format!("{left}{head}");
    let gap =
        if count.is_empty() { String::new() } else { padding(&line, style.width - count.len()) };
    writeln!(out, "{line}{gap}{count}")?;
    if head.is_empty() {
        let whole = format!("{inner}{shapes}");
        match measure_text_width(&whole) <= style.width {
            true => writeln!(out, "{whole}")?,
            false => writeln!(out, "{inner}{input}\n{inner}-> {output}")?,
        }
    }
    let text = wrapped(&text(first, group.len()), style.width - inner.len());
    for line in text {
        writeln!(out, "{inner}{}", style.dim(&line))?;
    }
    // The first of each kind, beside which there is nothing new to be said of others.
    let mut told: Vec<&Module> = Vec::new();
    let mut rest = &first.modules[..];
    while !rest.is_empty() {
        let alike = rest.iter().take_while(|module| is_alike(&rest[0], module)).count();
        let (group, others) = rest.split_at(alike);
        match told.iter().find(|before| is_alike(before, &group[0])) {
            Some(before) if !before.modules.is_empty() => {
                write_again(out, group, &before.name, depth + 1, style)?;
            }
            _ => write_group(out, group, depth + 1, is_folded, style)?,
        }
        told.push(&group[0]);
        rest = others;
    }
    Ok(())
}

/// Modules that are alike one further up.
fn write_again(
    out: &mut impl Write,
    group: &[Module],
    before: &str,
    depth: usize,
    style: Style,
) -> io::Result<()> {
    let total: usize = group.iter().map(|module| module.parameter_count).sum();
    let (label, count) = (label(group), total.to_string());
    let line = format!("{}{}  as {before}", " ".repeat(depth * INDENT), style.bold(&label));
    writeln!(out, "{line}{}{count}", padding(&line, style.width - count.len()))
}

fn label(group: &[Module]) -> String {
    let (first, last) = (&group[0].name, &group[group.len() - 1].name);
    if group.len() == 1 { first.clone() } else { format!("{first} to {last}") }
}

/// What a module does, and its own parameters.
fn text(module: &Module, times: usize) -> String {
    let mut text = String::new();
    if times > 1 {
        text += &format!("{} alike, {} parameters each: ", times, module.parameter_count);
    }
    text += &module.does;
    if module.shared {
        text += "; the same parameters as above";
    }
    let own: Vec<String> = module.parameters.iter().map(parameter).collect();
    if !own.is_empty() && module.input.is_some() {
        text += &format!("; {}", own.join(", "));
    }
    text
}

fn parameter(parameter: &ModuleParameter) -> String {
    format!("{} {}", parameter.name, dimensions(&parameter.shape))
}

/// `144 x 432`
fn dimensions(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
}

/// Whether nothing but their numbers and the ways of the tokens tells two modules apart.
fn is_alike(a: &Module, b: &Module) -> bool {
    let stem = |name: &str| name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
    let axes = |a: &Option<Vec<Axis>>, b: &Option<Vec<Axis>>| match (a, b) {
        (Some(a), Some(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || a.symbol == OF_TEXT)
        }
        (None, None) => true,
        _ => false,
    };
    stem(&a.name) == stem(&b.name)
        && a.does == b.does
        && a.shared == b.shared
        && axes(&a.input, &b.input)
        && axes(&a.output, &b.output)
        && a.parameters == b.parameters
        && a.modules.len() == b.modules.len()
        && a.modules.iter().zip(&b.modules).all(|(a, b)| is_alike(a, b))
}

/// `[B 2, T 64, D 144]`; without the numbers that are others in each of several modules.
fn shape(axes: Option<&[Axis]>, is_folded: bool) -> String {
    let axis = |axis: &Axis| match is_folded && axis.symbol == OF_TEXT {
        true => axis.symbol.to_owned(),
        false => format!("{} {}", axis.symbol, axis.size),
    };
    format!("[{}]", axes.unwrap_or_default().iter().map(axis).collect::<Vec<_>>().join(", "))
}

/// Columns of a number, and of the last column of [`write_gradients`].
const NUMBER: usize = 10;
const DEAD: usize = 12;

/// A table of what a batch does to a model, as a tree.
pub fn write_gradients(
    out: &mut impl Write,
    report: &GradientReport,
    style: Style,
) -> io::Result<()> {
    writeln!(
        out,
        "loss {:.4} nats over {} tokens, gradient norm {}",
        report.loss,
        report.tokens,
        short(report.gradient_norm)
    )?;
    let notes = "rms: root mean square of a module's output, or of a parameter's values. gradient: norm of the loss's gradient with respect to it. / norm: that, over the parameter's own norm. zero: share of the output, or of the parameter's gradient, that is exactly zero. dead: hidden units that stay within ± 1e-6 for every token; outputs of a projection whose weights have no gradient.";
    for line in wrapped(notes, style.width) {
        writeln!(out, "{}", style.dim(&line))?;
    }
    let name = style.width.saturating_sub(4 * NUMBER + DEAD);
    let columns = [("rms", NUMBER), ("gradient", NUMBER), ("/ norm", NUMBER), ("zero", NUMBER)];
    let heads: String = columns.map(|(head, width)| format!("{head:>width$}")).concat();
    writeln!(out, "\n{:<name$}{heads}{:>DEAD$}", "", "dead")?;
    let parameters = report.by_name();
    for module in &report.model.modules {
        write_activity(out, module, 0, &parameters, name, style)?;
    }
    Ok(())
}

fn write_activity(
    out: &mut impl Write,
    module: &Module<Activity>,
    depth: usize,
    parameters: &std::collections::HashMap<&str, &ParameterGradient>,
    width: usize,
    style: Style,
) -> io::Result<()> {
    let indent = " ".repeat(depth * INDENT);
    let label = clipped(&format!("{indent}{}", module.name), width - 1);
    let row = match &module.kept {
        Some(kept) => {
            cells(Some(kept.rms), Some(kept.gradient_norm), None, Some(kept.zeros), kept.dead)
        }
        None => "  no token came here".into(),
    };
    writeln!(out, "{}{}{row}", style.bold(&label), padding(&label, width))?;
    if module.kept.is_some() {
        for parameter in &module.parameters {
            let name = format!("{}.{}", module.path, parameter.name);
            let Some(found) = parameters.get(&name[..]) else { continue };
            let label = clipped(&format!("{indent}  {}", parameter.name), width - 1);
            let row = match found.gradient_norm {
                Some(norm) => {
                    cells(Some(found.rms), Some(norm), found.relative, found.zeros, found.dead)
                }
                None => format!(
                    "{}  not trained",
                    cells(Some(found.rms), None, None, None, None).trim_end()
                ),
            };
            writeln!(out, "{label}{}{row}", padding(&label, width))?;
        }
    }
    for inner in &module.modules {
        write_activity(out, inner, depth + 1, parameters, width, style)?;
    }
    Ok(())
}

fn cells(
    rms: Option<f64>,
    gradient: Option<f64>,
    relative: Option<f64>,
    zeros: Option<f64>,
    dead: Option<Units>,
) -> String {
    let number = |value: Option<f64>| value.map(short).unwrap_or_default();
    let zeros = zeros.map(|share| format!("{:.1}%", 100.0 * share)).unwrap_or_default();
    let dead = dead.map(|units| format!("{} of {}", units.count, units.of)).unwrap_or_default();
    let [rms, gradient, relative] = [rms, gradient, relative].map(number);
    let row = format!(
        "{rms:>NUMBER$}{gradient:>NUMBER$}{relative:>NUMBER$}{zeros:>NUMBER$}{dead:>DEAD$}"
    );
    row.trim_end().to_owned()
}

/// The quantiles that have room in a line.
const SHOWN: [f64; 5] = [0.01, 0.25, 0.5, 0.75, 0.99];

/// Of every parameter how its numbers are distributed.
pub fn write_weights(
    out: &mut impl Write,
    weights: &[WeightSummary],
    style: Style,
) -> io::Result<()> {
    for weight in weights {
        let shape = dimensions(&weight.shape);
        let name = clipped(&weight.name, style.width.saturating_sub(shape.len() + 2));
        let gap = padding(&name, style.width - shape.len());
        writeln!(out, "{}{gap}{shape}", style.bold(&name))?;
        let mut facts = vec![("mean", weight.mean), ("std", weight.std), ("norm", weight.norm)];
        facts.extend(weight.spectral_norm.map(|norm| ("spectral norm", norm)));
        let mut facts: Vec<String> =
            facts.into_iter().map(|(name, value)| format!("{name} {}", short(value))).collect();
        if weight.not_finite > 0 {
            facts.push(format!("{} not finite", weight.not_finite));
        }
        writeln!(out, "  {}", facts.join("  "))?;
        let (min, max) = (short(weight.min), short(weight.max));
        writeln!(out, "  min {min} {} {max} max", bars(&weight.histogram))?;
        let quantile = |it: &super::weights::Quantile| {
            format!("{}% {}", (100.0 * it.share).round(), short(it.value))
        };
        let shown = weight.quantiles.iter().filter(|it| SHOWN.contains(&it.share));
        let quantiles: Vec<String> = shown.map(quantile).collect();
        writeln!(out, "  {}", style.dim(&quantiles.join("  ")))?;
    }
    Ok(())
}

/// A block a bin, of a height by its count; what is not empty can be seen.
fn bars(histogram: &Histogram) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = histogram.counts.iter().copied().max().unwrap_or(0).max(1);
    let block = |count: &usize| match count {
        0 => ' ',
        count => BLOCKS[(count * BLOCKS.len()).div_ceil(most).clamp(1, BLOCKS.len()) - 1],
    };
    histogram.counts.iter().map(block).collect()
}
