use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

/// What a key may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Distribution {
    /// One of these, each as likely as the others.
    Choice { values: Vec<Value> },
    /// A number, all between the bounds equally likely.
    Uniform {
        low: f64,
        high: f64,
        /// Where it is given, a multiple of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<f64>,
    },
    /// A number whose logarithm is uniform: as likely between 1 and 10 as between 10 and 100.
    LogUniform {
        low: f64,
        high: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<f64>,
    },
}

/// Significant digits of a number that is drawn: more would only be longer to read.
const DIGITS: usize = 4;

impl Distribution {
    /// The values that it lists, where it does.
    pub fn values(&self) -> Option<&[Value]> {
        match self {
            Self::Choice { values } => Some(values),
            Self::Uniform { .. } | Self::LogUniform { .. } => None,
        }
    }

    /// What is out of range: which key of it, what was found, and what is expected.
    pub(super) fn wrong(&self) -> Option<(&'static str, String, &'static str)> {
        let (low, high, step) = match self {
            Self::Choice { values } if values.is_empty() => {
                return Some(("values", "[]".into(), "a list of at least one value"));
            }
            Self::Choice { .. } => return None,
            Self::Uniform { low, high, step } => (*low, *high, *step),
            Self::LogUniform { low, high, step } => {
                if *low <= 0.0 {
                    return Some(("low", low.to_string(), "above 0, to have a logarithm"));
                }
                (*low, *high, *step)
            }
        };
        if low >= high {
            return Some(("high", high.to_string(), "above `low`"));
        }
        let step = step?;
        if step <= 0.0 {
            return Some(("step", step.to_string(), "a positive number"));
        }
        let [first, last] = multiples([low, high], step);
        (first > last).then(|| ("step", step.to_string(), "one that has a multiple in the bounds"))
    }

    /// A value at random.
    pub fn draw(&self, random: &mut impl Rng) -> Value {
        match self {
            Self::Choice { values } => values[random.random_range(0..values.len())].clone(),
            Self::Uniform { low, high, step } => {
                number(low + (high - low) * random.random::<f64>(), [*low, *high], *step)
            }
            Self::LogUniform { low, high, step } => {
                let (first, last) = (low.ln(), high.ln());
                let drawn = (first + (last - first) * random.random::<f64>()).exp();
                number(drawn, [*low, *high], *step)
            }
        }
    }
}

/// A number as it is tried: of few digits, or a multiple, and not beyond the bounds.
fn number(drawn: f64, [low, high]: [f64; 2], step: Option<f64>) -> Value {
    let Some(step) = step else {
        let rounded: f64 = format!("{drawn:.*e}", DIGITS - 1).parse().unwrap_or(drawn);
        return Number::from_f64(rounded.clamp(low, high)).map_or(Value::Null, Value::Number);
    };
    let [first, last] = multiples([low, high], step);
    let number = (drawn / step).round().clamp(first, last) * step;
    // The multiples of 16 are whole numbers, as widths must be.
    if step.fract() == 0.0 && number.abs() < 2f64.powi(53) {
        return Value::from(number as i64);
    }
    let rounded: f64 = format!("{number:.12e}").parse().unwrap_or(number);
    let within = rounded.clamp(low, high) + 0.0; // not -0
    Number::from_f64(within).map_or(Value::Null, Value::Number)
}

/// The first and the last multiple of a step within bounds, in steps. A bound that is a multiple is
/// one of them, although 0.3 / 0.1 is a little less than 3.
fn multiples([low, high]: [f64; 2], step: f64) -> [f64; 2] {
    const ROUNDING: f64 = 1e-9;
    [(low / step - ROUNDING).ceil(), (high / step + ROUNDING).floor()]
}
