use console::Style;
use ratatui::buffer::{Buffer, Cell};
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::symbols::Marker;
use ratatui::widgets::{Axis, Chart, Dataset, GraphType, Widget};

/// Colours of curves, in the order of the lines.
const COLOURS: [Color; 6] =
    [Color::Red, Color::Cyan, Color::Yellow, Color::Magenta, Color::Green, Color::Blue];

/// A curve of a chart.
#[derive(Debug, Clone)]
pub struct Line {
    pub points: Vec<(f64, f64)>,
    /// Drawn with this character instead of with dots of a line.
    pub character: Option<char>,
}

/// Curves as rows of text, with labels evenly apart along both axes: those of y from the bottom up.
/// In colours if they are wanted; then each line has one of its own.
pub fn line_chart(
    lines: &[Line],
    [x_bounds, y_bounds]: [[f64; 2]; 2],
    [x_labels, y_labels]: [Vec<String>; 2],
    [width, height]: [u16; 2],
    coloured: bool,
) -> Vec<String> {
    // Both axes go from zero to one, so that no number is too large or too small for the canvas.
    let place = |value: f64, [low, high]: [f64; 2]| match high > low {
        true => (value - low) / (high - low),
        false => 0.0,
    };
    let placed: Vec<Vec<(f64, f64)>> = lines
        .iter()
        .map(|line| {
            let points = line.points.iter();
            points.map(|(x, y)| (place(*x, x_bounds), place(*y, y_bounds))).collect()
        })
        .collect();
    let datasets = lines.iter().zip(&placed).enumerate().map(|(number, (line, points))| {
        let marker = line.character.map_or(Marker::Braille, Marker::Custom);
        let dataset = Dataset::default().data(points).marker(marker).graph_type(GraphType::Line);
        match coloured {
            true => dataset.style(COLOURS[number % COLOURS.len()]),
            false => dataset,
        }
    });
    let chart = Chart::new(datasets.collect())
        .x_axis(Axis::default().bounds([0.0, 1.0]).labels(x_labels))
        .y_axis(Axis::default().bounds([0.0, 1.0]).labels(y_labels));

    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    chart.render(area, &mut buffer);
    let row = |row: Rect| {
        let cells = row.columns().map(|cell| &buffer[cell.as_position()]);
        let cells: Vec<&Cell> = cells.collect();
        let used = cells.iter().rposition(|cell| cell.symbol() != " ").map_or(0, |last| last + 1);
        cells[..used].iter().map(|cell| symbol(cell)).collect()
    };
    area.rows().map(row).collect()
}

/// The colour in which the line of a number is drawn.
pub fn colour(number: usize) -> Style {
    style(COLOURS[number % COLOURS.len()])
}

fn symbol(cell: &Cell) -> String {
    match cell.fg {
        Color::Reset => cell.symbol().into(),
        colour => style(colour).apply_to(cell.symbol()).to_string(),
    }
}

fn style(colour: Color) -> Style {
    // The caller has asked whether there are to be colours.
    let style = Style::new().force_styling(true);
    match colour {
        Color::Red => style.red(),
        Color::Cyan => style.cyan(),
        Color::Yellow => style.yellow(),
        Color::Magenta => style.magenta(),
        Color::Green => style.green(),
        Color::Blue => style.blue(),
        _ => style,
    }
}
