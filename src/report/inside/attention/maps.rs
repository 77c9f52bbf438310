//! Heat maps of blocks, for a terminal.

use std::io::{self, Write};

use super::{AttentionLayer, HeadSteps};
use crate::report::terminal::{Style, clipped, padding, short, wrapped};

/// Columns between two maps, and the least that a map with its title has.
const GAP: usize = 2;
const LEAST: usize = 7;
/// From which weight on a cell has which block, and which of the 256 colours. What is seen with
/// less has a dot, or the first colour; what is not seen at all has nothing.
const LEVELS: [(f32, char, u8); 5] =
    [(0.0, '·', 236), (0.02, '░', 52), (0.1, '▒', 124), (0.3, '▓', 208), (0.6, '█', 229)];

/// Of a translator's cross-attention the columns are a source's tokens, and of its encoder the rows
/// are, too.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// Texts of the tokens that the decoder reads, or the encoder where it is alone, and of those
    /// that a source has.
    pub tokens: &'a [String],
    pub source: &'a [String],
    /// One head of each layer; all where absent.
    pub head: Option<usize>,
    /// The token that is followed; the last one where a layer has fewer.
    pub place: usize,
}

impl Selection<'_> {
    fn queries(&self, layer: &AttentionLayer) -> &[String] {
        if layer.is_of_source { self.source } else { self.tokens }
    }

    fn keys(&self, layer: &AttentionLayer) -> &[String] {
        if layer.is_cross || layer.is_of_source { self.source } else { self.tokens }
    }
}

/// The weights of every head as a small map: a row for each token that looks, a column for each
/// that is looked at.
pub fn write_maps(
    out: &mut impl Write,
    layers: &[AttentionLayer],
    selection: Selection,
    style: Style,
) -> io::Result<()> {
    let legend = LEVELS.map(|(from, block, color)| {
        let block = if style.color { style.on(color, color, "  ") } else { block.to_string() };
        format!("{block} {:.0}%", 100.0 * from)
    });
    let legend = format!("weight from {}; rows look at columns", legend.join("  "));
    writeln!(out, "{legend}")?;
    let pooled = layers.iter().map(|layer| factor(layer, style.width)).max().unwrap_or(1);
    if pooled > 1 {
        writeln!(out, "each cell is the largest of {pooled} by {pooled} weights")?;
    }
    writeln!(out)?;
    for layer in layers {
        writeln!(out, "{}", style.bold(&title(layer)))?;
        let heads = layer.heads.iter().enumerate();
        let heads: Vec<(usize, &HeadSteps)> =
            heads.filter(|(head, _)| selection.head.is_none_or(|only| only == *head)).collect();
        let maps: Vec<Map> =
            heads.iter().map(|(number, head)| Map::new(layer, *number, head, style)).collect();
        let width = maps.first().map_or(LEAST, |map| map.width);
        for row in maps.chunks(((style.width + GAP) / (width + GAP)).max(1)) {
            write_row(out, row)?;
        }
    }
    Ok(())
}

fn title(layer: &AttentionLayer) -> String {
    let stack = layer.path.split('.').next().unwrap_or_default();
    let kind = if layer.is_cross { ", attention to the source" } else { "" };
    format!("{stack} layer {}{kind}", layer.layer)
}

/// Weights in a cell of a map, along each side.
fn factor(layer: &AttentionLayer, width: usize) -> usize {
    layer.keys.div_ceil(width.max(1)).max(1)
}

/// A map as lines, each with its width.
struct Map {
    width: usize,
    lines: Vec<String>,
}

impl Map {
    fn new(layer: &AttentionLayer, number: usize, head: &HeadSteps, style: Style) -> Self {
        let factor = factor(layer, style.width);
        let [rows, columns] = [layer.queries, layer.keys].map(|side| side.div_ceil(factor));
        // The largest weight in each cell; none where nothing in it is seen.
        let cell = |row: usize, column: usize| {
            let rows = row * factor..((row + 1) * factor).min(layer.queries);
            let mut most = None;
            for place in rows.flat_map(|row| {
                let columns = column * factor..((column + 1) * factor).min(layer.keys);
                columns.map(move |column| row * layer.keys + column)
            }) {
                if head.scores[place] > f32::NEG_INFINITY {
                    most = Some(head.weights[place].max(most.unwrap_or(0.0)));
                }
            }
            most
        };
        let width = columns.max(LEAST);
        let name = clipped(&format!("head {number}"), width);
        let mut lines = vec![format!("{name}{}", padding(&name, width))];
        let rest = " ".repeat(width - columns);
        if style.color {
            // Two rows a line: the upper half of a block over the background of the lower one.
            for row in (0..rows).step_by(2) {
                let half = |row: usize, column| (row < rows).then(|| cell(row, column)).flatten();
                let line =
                    (0..columns).map(|column| halves(half(row, column), half(row + 1, column)));
                lines.push(format!("{}\x1b[0m{rest}", line.collect::<String>()));
            }
        } else {
            for row in 0..rows {
                let block = |column| cell(row, column).map_or(' ', |weight| level(weight).1);
                lines.push((0..columns).map(block).chain(rest.chars()).collect());
            }
        }
        Self { width, lines }
    }
}

fn level(weight: f32) -> (f32, char, u8) {
    LEVELS.into_iter().rev().find(|(from, ..)| weight >= *from).unwrap_or(LEVELS[0])
}

fn halves(upper: Option<f32>, lower: Option<f32>) -> String {
    let [upper, lower] = [upper, lower].map(|weight| weight.map(|weight| level(weight).2));
    match (upper, lower) {
        (Some(upper), Some(lower)) => format!("\x1b[38;5;{upper};48;5;{lower}m▀"),
        (Some(upper), None) => format!("\x1b[0;38;5;{upper}m▀"),
        (None, Some(lower)) => format!("\x1b[0;38;5;{lower}m▄"),
        (None, None) => "\x1b[0m ".into(),
    }
}

/// Maps of equal heights, side by side.
fn write_row(out: &mut impl Write, maps: &[Map]) -> io::Result<()> {
    let height = maps.iter().map(|map| map.lines.len()).max().unwrap_or(0);
    for line in 0..height {
        let parts: Vec<&str> =
            maps.iter().filter_map(|map| map.lines.get(line)).map(String::as_str).collect();
        writeln!(out, "{}", parts.join(&" ".repeat(GAP)).trim_end())?;
    }
    writeln!(out)
}

/// Columns of a bar.
const BAR: usize = 20;
/// Columns of a token's text.
const TOKEN: usize = 16;

/// One token's way through one head: its row of each step.
pub fn write_steps(
    out: &mut impl Write,
    layer: &AttentionLayer,
    number: usize,
    selection: Selection,
    style: Style,
) -> io::Result<()> {
    let head = &layer.heads[number];
    let (s, k) = (layer.keys, layer.head_dim);
    let place = selection.place.min(layer.queries - 1);
    let token = format!("{:?}", selection.queries(layer)[place]);
    let heading = format!("{}, head {number}: what token {place}, {token}, looks at", title(layer));
    writeln!(out, "{}", style.bold(&clipped(&heading, style.width)))?;
    let mut how = format!("Q and K are of {k} numbers; scaled by {}", short(layer.scale));
    if layer.heads.len() > layer.key_heads {
        how += &format!("; K and V are those of key/value head {}", head.key_head);
    }
    if let Some(cap) = layer.soft_cap {
        how += &format!("; kept within ± {cap}");
    }
    if let Some(slope) = head.slope {
        how += &format!("; less {} times the distance", short(slope));
    }
    if let Some(window) = layer.window {
        how += &format!("; sees what is less than {window} away");
    }
    for line in wrapped(&how, style.width) {
        writeln!(out, "{}", style.dim(&line))?;
    }
    writeln!(out, "{:>5} {:<TOKEN$}{:>10}{:>10}{:>9}", "key", "token", "QKᵀ", "score", "softmax")?;
    let row = place * s..(place + 1) * s;
    let values = head.products[row.clone()].iter().zip(&head.scores[row.clone()]);
    let values = values.zip(&head.weights[row]).zip(selection.keys(layer));
    for (key, (((product, score), weight), text)) in values.enumerate() {
        let text = clipped(&format!("{text:?}"), TOKEN - 1);
        let gap = padding(&text, TOKEN);
        let product = short(f64::from(*product));
        let line = match *score > f32::NEG_INFINITY {
            true => {
                let bar = "█".repeat((*weight * BAR as f32).round() as usize);
                let percent = format!("{:.1}%", 100.0 * weight);
                let score = short(f64::from(*score));
                format!("{key:>5} {text}{gap}{product:>10}{score:>10}{percent:>9} {bar}")
            }
            false => format!("{key:>5} {text}{gap}{product:>10}{:>10}", "masked"),
        };
        writeln!(out, "{}", line.trim_end())?;
    }
    let norm = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let d = layer.bias.len();
    let [attended, written] =
        [norm(&head.attended[place * k..][..k]), norm(&head.contribution[place * d..][..d])];
    let all = norm(&layer.output[place * d..][..d]);
    let end = format!(
        "times V: {k} numbers of norm {}; projected: {d} of norm {}, of {} that all heads add to the stream",
        short(attended),
        short(written),
        short(all)
    );
    for line in wrapped(&end, style.width) {
        writeln!(out, "{line}")?;
    }
    let check =
        format!("{:.0e} is the largest difference to the model's own result", head.difference);
    writeln!(out, "{}", style.dim(&check))
}
