use serde::Serialize;

use crate::artifact::LossPoint;

/// What a loss is plotted against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    Steps,
    Tokens,
    /// Floating-point operations of forward and backward passes.
    Flops,
    /// Seconds of training steps, without evaluations and checkpoints.
    Time,
}

impl Axis {
    pub fn label(self) -> &'static str {
        match self {
            Self::Steps => "steps",
            Self::Tokens => "tokens",
            Self::Flops => "floating-point operations",
            Self::Time => "seconds of training",
        }
    }
}

/// A loss, and what had been spent when it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CurvePoint {
    pub step: u64,
    pub tokens: f64,
    /// None where the operations of the model are not known.
    pub flops: Option<f64>,
    pub seconds: f64,
    /// Nats a token.
    pub loss: f64,
}

impl CurvePoint {
    /// Where the point is on an axis.
    pub fn on(&self, axis: Axis) -> Option<f64> {
        match axis {
            Axis::Steps => Some(self.step as f64),
            Axis::Tokens => Some(self.tokens),
            Axis::Flops => self.flops,
            Axis::Time => Some(self.seconds),
        }
    }
}

/// How the loss of a run went.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Curves {
    pub train: Vec<CurvePoint>,
    pub valid: Vec<CurvePoint>,
}

impl Curves {
    /// `points` in the order in which they were written; each evaluation has had the tokens and the
    /// time of the steps before it.
    pub fn new(points: &[LossPoint], flops_per_token: Option<f64>) -> Self {
        let mut curves = Self::default();
        let (mut tokens, mut seconds) = (0.0, 0.0);
        for point in points {
            tokens = point.tokens.unwrap_or(tokens);
            seconds += point.step_milliseconds.unwrap_or_default() / 1e3;
            let flops = flops_per_token.map(|flops| flops * tokens);
            // What is no number is not drawn.
            let (step, Some(loss)) = (point.step, point.loss) else { continue };
            let point_of_curve = CurvePoint { step, tokens, flops, seconds, loss };
            match point.split.as_str() {
                "train" => curves.train.push(point_of_curve),
                _ => curves.valid.push(point_of_curve),
            }
        }
        curves
    }

    /// At most so many points of each: the mean loss of some that follow each other, at the last of
    /// them.
    pub fn thinned(&self, most: usize) -> Self {
        let thinned = |points: &[CurvePoint]| {
            let wide = points.len().div_ceil(most.max(1)).max(1);
            points.chunks(wide).filter_map(mean).collect()
        };
        Self { train: thinned(&self.train), valid: thinned(&self.valid) }
    }

    /// The evaluations, or of a run that was never evaluated its steps.
    pub fn best_known(&self) -> &[CurvePoint] {
        match self.valid.is_empty() {
            true => &self.train,
            false => &self.valid,
        }
    }
}

/// The least and the most of some numbers; infinite, the least above the most, of none.
pub fn range(values: impl IntoIterator<Item = f64>) -> [f64; 2] {
    let wider = |[low, high]: [f64; 2], value| [low.min(value), high.max(value)];
    values.into_iter().fold([f64::INFINITY, f64::NEG_INFINITY], wider)
}

fn mean(points: &[CurvePoint]) -> Option<CurvePoint> {
    let last = points.last()?;
    let sum: f64 = points.iter().map(|point| point.loss).sum();
    Some(CurvePoint { loss: sum / points.len() as f64, ..*last })
}
