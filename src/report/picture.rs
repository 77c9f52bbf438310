use plotters::prelude::*;
use plotters::style::register_font;
use std::sync::Once;

use super::{Axis, CurvePoint, Curves, range};

const SIZE: (u32, u32) = (960, 600);
/// Of the letters; every program that shows SVG has one of that name.
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x26, 0x21, 0x1c);
const GRID: RGBColor = RGBColor(0xe6, 0xe0, 0xd8);
/// Told apart by people who confuse some colours, too (Okabe and Ito 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x00, 0x00, 0x00),
];

/// What keeps a picture from being drawn.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error("there is no loss to draw over {}", .0.label())]
    Nothing(Axis),
    #[error("the picture cannot be drawn: {0}")]
    Drawing(String),
    #[error("the picture cannot be encoded: {0}")]
    Encoding(#[from] png::EncodingError),
}

/// The losses of runs over one axis: thin the training, with dots the evaluations.
#[derive(Debug)]
pub struct Picture<'a> {
    axis: Axis,
    runs: Vec<(&'a str, Curves)>,
    bounds: [[f64; 2]; 2],
}

impl<'a> Picture<'a> {
    /// # Errors
    /// [`PictureError::Nothing`]
    pub fn new<'b>(
        runs: impl IntoIterator<Item = (&'a str, &'b Curves)>,
        axis: Axis,
    ) -> Result<Self, PictureError> {
        // Two points a column at most.
        let thinned = |curves: &Curves| curves.thinned(2 * SIZE.0 as usize);
        let runs: Vec<_> = runs.into_iter().map(|(name, curves)| (name, thinned(curves))).collect();
        let points = runs.iter().flat_map(|(_, curves)| curves.train.iter().chain(&curves.valid));
        let placed: Vec<_> =
            points.filter_map(|point| Some((point.on(axis)?, point.loss))).collect();
        let [_, most] = range(placed.iter().map(|(x, _)| *x));
        let [low, high] = range(placed.iter().map(|(_, loss)| *loss));
        if placed.is_empty() {
            return Err(PictureError::Nothing(axis));
        }
        let margin = 0.05 * (high - low).max(1e-6);
        let most = if most > 0.0 { most } else { 1.0 };
        Ok(Self { axis, runs, bounds: [[0.0, most], [low - margin, high + margin]] })
    }

    /// # Errors
    /// [`PictureError::Drawing`]
    pub fn svg(&self) -> Result<String, PictureError> {
        let mut text = String::new();
        self.draw(SVGBackend::with_string(&mut text, SIZE))?;
        Ok(text)
    }

    /// # Errors
    /// [`PictureError::Drawing`], [`PictureError::Encoding`]
    pub fn png(&self) -> Result<Vec<u8>, PictureError> {
        let (width, height) = SIZE;
        let mut pixels = vec![0; (width * height * 3) as usize]; // red, green, blue
        self.draw(BitMapBackend::with_buffer(&mut pixels, SIZE))?;
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header()?.write_image_data(&pixels)?;
        Ok(file)
    }

    fn draw<D: DrawingBackend>(&self, backend: D) -> Result<(), PictureError> {
        register_letters();
        self.draw_on(&backend.into_drawing_area())
            .map_err(|error| PictureError::Drawing(error.to_string()))
    }

    fn draw_on<D: DrawingBackend>(
        &self,
        area: &DrawingArea<D, plotters::coord::Shift>,
    ) -> Result<(), DrawingAreaErrorKind<D::ErrorType>> {
        area.fill(&WHITE)?;
        let [[left, right], [bottom, top]] = self.bounds;
        let mut chart = ChartBuilder::on(area)
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(left..right, bottom..top)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style((FONT, 15, &INK))
            .x_desc(self.axis.label())
            .y_desc("loss, nats a token")
            .x_label_formatter(&|value| short(*value))
            .draw()?;
        for (number, (name, curves)) in self.runs.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let placed = |points: &[CurvePoint]| -> Vec<(f64, f64)> {
                let placed = |point: &CurvePoint| Some((point.on(self.axis)?, point.loss));
                points.iter().filter_map(placed).collect()
            };
            let (train, valid) = (placed(&curves.train), placed(&curves.valid));
            chart.draw_series(LineSeries::new(train, colour.mix(0.35)))?;
            chart
                .draw_series(LineSeries::new(valid.clone(), colour.stroke_width(2)))?
                .label(*name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(3))
                });
            chart.draw_series(valid.into_iter().map(|at| Circle::new(at, 3, colour.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .legend_area_size(32)
            .margin(12)
            .background_style(WHITE.mix(0.8))
            .label_font((FONT, 16, &INK))
            .draw()?;
        area.present()
    }
}

/// A number on an axis.
fn short(value: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.iter().find(|(unit, _)| value.abs() >= *unit) {
        _ if value.abs() >= 1e15 => format!("{value:.1e}"),
        Some((unit, name)) => format!("{}{name}", (value / unit * 100.0).round() / 100.0),
        None => format!("{}", (value * 100.0).round() / 100.0),
    }
}

/// The letters of pictures lie in the program, since a server may have none.
fn register_letters() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails for no font but a damaged one; then the drawing does, and says so.
        let _ = register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    });
}
