use console::Term;
use serde_json::Value;
use std::io::{self, Write};
use textwrap::Options;
use textwrap::core::display_width;

use crate::commands::figures::{count, time};
use crate::report::terminal::{clipped, harmless};
use crate::report::{Axis, Compared, Comparison, CurvePoint, Line, colour, line_chart, range};

/// Columns where there is no terminal, and the most in one.
const WIDTH: usize = 80;
const WIDEST: usize = 160;
/// Columns of what stands before the values of a line.
const LABEL: usize = 24;
/// Of a run's values, with the blank before them, at least.
const COLUMN: usize = 18;
/// Of a text beside others; where there is less room they stand one below the other.
const TEXT: usize = 24;
const CHART: u16 = 18;
/// What draws a curve where there are no colours.
const CHARACTERS: [char; 8] = ['1', '2', '3', '4', '5', '6', '7', '8'];

pub(super) fn write(out: &mut impl Write, comparison: &Comparison) -> io::Result<()> {
    let width = match Term::stdout().size_checked() {
        Some((_, columns)) => usize::from(columns).clamp(LABEL + COLUMN, WIDEST),
        None => WIDTH,
    };
    let names: Vec<String> = comparison.runs.iter().map(|run| run.name.clone()).collect();
    curves(out, comparison, width)?;
    writeln!(out)?;
    table(out, "results", &names, &results(&comparison.runs), width)?;
    let mut notes: Vec<String> = Vec::new();
    for measured in comparison.runs.iter().flat_map(|run| &run.measured) {
        let note = format!("measured on {}: {}", measured.data, measured.protocol);
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    for note in notes {
        writeln!(out, "{}", textwrap::fill(&note, Options::new(width).subsequent_indent("  ")))?;
    }
    writeln!(out)?;
    let settings: Vec<(String, Vec<String>)> = comparison
        .differences
        .iter()
        .map(|difference| (difference.key.clone(), difference.values.iter().map(setting).collect()))
        .collect();
    match settings.is_empty() {
        true if names.len() > 1 => writeln!(out, "no setting differs")?,
        true => {} // from what should they?
        false => table(out, "settings that differ", &names, &settings, width)?,
    }
    texts(out, comparison, width)
}

/// The validation losses, or of runs without any those of the steps.
fn curves(out: &mut impl Write, comparison: &Comparison, width: usize) -> io::Result<()> {
    let coloured = console::colors_enabled();
    let axis = comparison.axis;
    let lines: Vec<Line> = comparison
        .runs
        .iter()
        .enumerate()
        .map(|(number, run)| {
            let thinned = run.curves.thinned(width * 2);
            let place = |point: &CurvePoint| Some((point.on(axis)?, point.loss));
            Line {
                points: thinned.best_known().iter().filter_map(place).collect(),
                character: (!coloured).then(|| CHARACTERS[number % CHARACTERS.len()]),
            }
        })
        .collect();
    let points = || lines.iter().flat_map(|line| &line.points);
    let [_, most] = range(points().map(|(x, _)| *x));
    let [low, high] = range(points().map(|(_, loss)| *loss));
    if !most.is_finite() {
        return writeln!(out, "there is no loss to plot over {}", axis.label());
    }
    // What is drawn of a run that was never evaluated is another loss.
    let is_training = |run: &Compared| run.curves.valid.is_empty() && !run.curves.train.is_empty();
    let all_training = comparison.runs.iter().all(|run| run.curves.valid.is_empty());
    let loss = if all_training { "training loss" } else { "validation loss" };
    writeln!(out, "{loss} over {}", axis.label())?;
    let on_axis = |share: f64| match axis {
        Axis::Steps | Axis::Tokens => count((share * most) as u64),
        Axis::Flops => format!("{:.1e}", share * most),
        Axis::Time => time(share * most),
    };
    let x_labels = [0.0, 0.5, 1.0].map(on_axis).to_vec();
    let y_labels =
        [0.0, 0.25, 0.5, 0.75, 1.0].map(|share| format!("{:.3}", low + share * (high - low)));
    let size = [width as u16, CHART];
    let bounds = [[0.0, most], [low, high]];
    for row in line_chart(&lines, bounds, [x_labels, y_labels.to_vec()], size, coloured) {
        writeln!(out, "{row}")?;
    }
    let legend = comparison.runs.iter().enumerate().map(|(number, run)| {
        let of = if is_training(run) && !all_training { " (training)" } else { "" };
        match coloured {
            true => format!("{} {}{of}", colour(number).apply_to("━━"), run.name),
            false => format!("{} {}{of}", CHARACTERS[number % CHARACTERS.len()], run.name),
        }
    });
    writeln!(out, "  {}", legend.collect::<Vec<_>>().join("   "))
}

/// Lines of the table of results; those that no run has are left out.
fn results(runs: &[Compared]) -> Vec<(String, Vec<String>)> {
    let last = |run: &Compared| run.curves.train.last().or(run.curves.valid.last()).copied();
    let loss = |value: Option<f64>| value.map(|value| format!("{value:.4}"));
    type Read<'a> = &'a dyn Fn(&Compared) -> Option<String>;
    let fixed: [(&str, Read); 9] = [
        ("parameters", &|run| Some(count(run.parameters as u64))),
        ("steps", &|run| Some(last(run)?.step.to_string())),
        ("tokens", &|run| Some(count(last(run)?.tokens as u64))),
        ("operations", &|run| Some(format!("{:.2e}", last(run)?.flops?))),
        ("time of its steps", &|run| Some(time(last(run)?.seconds))),
        ("tokens a second", &|run| Some(format!("{:.0}", run.summary.as_ref()?.tokens_per_s))),
        ("best validation loss", &|run| loss(run.summary.as_ref()?.best_val_loss)),
        ("final validation loss", &|run| loss(run.summary.as_ref()?.final_val_loss)),
        ("source entropy", &|run| loss(run.summary.as_ref()?.source_entropy)),
    ];
    let mut rows: Vec<(String, Vec<String>)> = fixed
        .iter()
        .map(|(name, read)| {
            (name.to_string(), runs.iter().map(|run| read(run).unwrap_or_default()).collect())
        })
        .collect();
    let mut measured: Vec<&str> = Vec::new();
    for measure in runs.iter().flat_map(|run| &run.measured).flat_map(|found| &found.measures) {
        if !measured.contains(&measure.name.as_str()) {
            measured.push(&measure.name);
        }
    }
    rows.extend(measured.into_iter().map(|name| {
        let value = |run: &Compared| {
            let measures = &run.measured.as_ref()?.measures;
            let value = measures.iter().find(|measure| measure.name == name)?.value;
            Some(match name.starts_with("top-") {
                true => format!("{:.1}%", 100.0 * value),
                false => format!("{value:.4}"),
            })
        };
        let values = runs.iter().map(|run| value(run).unwrap_or_default()).collect();
        (format!("measured {name}"), values)
    }));
    rows.retain(|(_, values)| values.iter().any(|value| !value.is_empty()));
    rows
}

/// A setting as it is typed.
fn setting(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// A column a run, and below each other those for which there is no room.
fn table(
    out: &mut impl Write,
    title: &str,
    names: &[String],
    rows: &[(String, Vec<String>)],
    width: usize,
) -> io::Result<()> {
    let labels = rows.iter().map(|(label, _)| display_width(label)).max().unwrap_or(0);
    let label = (labels + 1).max(LABEL).min(width / 2);
    let side = ((width - label) / COLUMN).clamp(1, names.len().max(1));
    let column = (width - label) / side;
    for first in (0..names.len()).step_by(side) {
        let of = first..names.len().min(first + side);
        if first > 0 {
            writeln!(out)?;
        }
        line(out, title, &names[of.clone()], label, column)?;
        for (name, values) in rows {
            line(out, name, &values[of.clone()], label, column)?;
        }
    }
    Ok(())
}

/// Values that are too long go on in the lines below.
fn line(
    out: &mut impl Write,
    name: &str,
    values: &[String],
    label: usize,
    column: usize,
) -> io::Result<()> {
    let wrapped: Vec<Vec<String>> = values
        .iter()
        .map(|value| {
            let lines = textwrap::wrap(value, column - 1);
            lines.into_iter().map(|line| line.into_owned()).collect()
        })
        .collect();
    let height = wrapped.iter().map(Vec::len).max().unwrap_or(0).max(1);
    for number in 0..height {
        let mut text = match number {
            0 => clipped(name, label - 1),
            _ => String::new(),
        };
        for (place, value) in wrapped.iter().enumerate() {
            let value = value.get(number).map(String::as_str).unwrap_or_default();
            let until = label + (place + 1) * column;
            let blank = until.saturating_sub(display_width(&text) + display_width(value));
            text += &" ".repeat(blank);
            text += value;
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

/// What the runs have written, side by side where there is room.
fn texts(out: &mut impl Write, comparison: &Comparison, width: usize) -> io::Result<()> {
    for written in &comparison.texts {
        writeln!(out)?;
        writeln!(out, "prompt {:?}, seed {}", written.prompt, written.seed)?;
        let runs = comparison.runs.iter().zip(&written.texts);
        let texts: Vec<(&str, String)> = runs
            .filter_map(|(run, text)| Some((run.name.as_str(), harmless(text.as_deref()?))))
            .collect();
        let column = (width + 3) / texts.len().max(1);
        if column < TEXT + 3 {
            for (name, text) in texts {
                writeln!(out, "{name}:")?;
                let options = Options::new(width).initial_indent("  ").subsequent_indent("  ");
                writeln!(out, "{}", textwrap::fill(&text, options))?;
            }
            continue;
        }
        let column = column - 3;
        let blocks: Vec<Vec<String>> = texts
            .iter()
            .map(|(name, text)| {
                let head = [clipped(name, column), "─".repeat(column)];
                let lines = textwrap::wrap(text, column);
                head.into_iter().chain(lines.into_iter().map(|line| line.into_owned())).collect()
            })
            .collect();
        for number in 0..blocks.iter().map(Vec::len).max().unwrap_or(0) {
            let cells = blocks.iter().map(|block| {
                let cell = block.get(number).map(String::as_str).unwrap_or_default();
                format!("{cell}{}", " ".repeat(column.saturating_sub(display_width(cell))))
            });
            writeln!(out, "{}", cells.collect::<Vec<_>>().join(" │ ").trim_end())?;
        }
    }
    Ok(())
}
