//! What burn-train's metrics see of a step. burn's own loss and perplexity metrics want the
//! logits, which would have to be copied to the host at every step.

use burn_train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry, format_float,
};
use serde_json::json;
use std::sync::Arc;

pub(super) const LOSS: &str = "Loss";
pub(super) const PERPLEXITY: &str = "Perplexity";
pub(super) const LEARNING_RATE: &str = "Learning Rate";
pub(super) const GRADIENT_NORM: &str = "Gradient Norm";
pub(super) const TOKENS_PER_SECOND: &str = "Tokens per Second";
pub(super) const EXPERT_TOKENS: &str = "Expert Tokens";

/// One step or one evaluation.
#[derive(Debug, Clone)]
pub struct Observation {
    pub(super) loss: f64,
    pub(super) tokens: usize,
    pub(super) gradient_norm: f64,
    pub(super) tokens_per_second: f64,
    pub(super) expert_tokens: Vec<Vec<usize>>,
}

/// A number of an [`Observation`], with its mean over the tokens since the last evaluation.
#[derive(Clone)]
pub(super) struct StepMetric {
    name: MetricName,
    higher_is_better: bool,
    precision: usize,
    read: fn(&Observation, &MetricMetadata) -> f64,
    /// Applied to the value and to its mean: the perplexity of a mean is not a mean perplexity.
    transform: fn(f64) -> f64,
    sum: f64,
    tokens: usize,
    current: f64,
}

impl StepMetric {
    fn new(name: &str, precision: usize, read: fn(&Observation, &MetricMetadata) -> f64) -> Self {
        Self {
            name: Arc::new(name.into()),
            higher_is_better: false,
            precision,
            read,
            transform: |value| value,
            sum: 0.0,
            tokens: 0,
            current: f64::NAN,
        }
    }

    pub(super) fn loss() -> Self {
        Self::new(LOSS, 4, |seen, _| seen.loss)
    }

    pub(super) fn perplexity() -> Self {
        Self { transform: f64::exp, ..Self::new(PERPLEXITY, 2, |seen, _| seen.loss) }
    }

    pub(super) fn learning_rate() -> Self {
        Self::new(LEARNING_RATE, 2, |_, metadata| metadata.lr.unwrap_or(f64::NAN))
    }

    pub(super) fn gradient_norm() -> Self {
        Self::new(GRADIENT_NORM, 3, |seen, _| seen.gradient_norm)
    }

    pub(super) fn tokens_per_second() -> Self {
        Self {
            higher_is_better: true,
            ..Self::new(TOKENS_PER_SECOND, 0, |seen, _| seen.tokens_per_second)
        }
    }

    fn entry(&self, value: f64, count: usize) -> NumericEntry {
        NumericEntry::Aggregated { aggregated_value: (self.transform)(value), count }
    }

    fn format(&self, entry: &NumericEntry) -> String {
        format_float(entry.current(), self.precision)
    }
}

impl Metric for StepMetric {
    type Input = Observation;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        let higher_is_better = self.higher_is_better;
        let attributes = NumericAttributes { unit: None, higher_is_better };
        attributes.into()
    }

    fn update(&mut self, seen: &Observation, metadata: &MetricMetadata) -> SerializedEntry {
        self.current = (self.read)(seen, metadata);
        self.sum += self.current * seen.tokens as f64;
        self.tokens += seen.tokens;
        let (now, mean) = (self.value(), self.running_value());
        SerializedEntry {
            formatted: format!("{} (mean {})", self.format(&now), self.format(&mean)),
            serialized: now.serialize(),
        }
    }

    fn clear(&mut self) {
        self.sum = 0.0;
        self.tokens = 0;
        self.current = f64::NAN;
    }
}

impl Numeric for StepMetric {
    fn value(&self) -> NumericEntry {
        self.entry(self.current, 1)
    }

    fn running_value(&self) -> NumericEntry {
        self.entry(self.sum / self.tokens as f64, self.tokens)
    }
}

/// How evenly the experts are used: the tokens of the most used one against an even share, and in
/// the file the tokens of each, a layer a list.
#[derive(Clone)]
pub(super) struct ExpertTokens {
    name: MetricName,
    /// One where all are used alike.
    most: f64,
}

impl ExpertTokens {
    pub(super) fn new() -> Self {
        Self { name: Arc::new(EXPERT_TOKENS.into()), most: f64::NAN }
    }
}

impl Metric for ExpertTokens {
    type Input = Observation;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes { unit: None, higher_is_better: false }.into()
    }

    fn update(&mut self, seen: &Observation, _metadata: &MetricMetadata) -> SerializedEntry {
        let shares = seen.expert_tokens.iter().flat_map(|layer| {
            let even = layer.iter().sum::<usize>() as f64 / layer.len() as f64;
            layer.iter().map(move |tokens| *tokens as f64 / even)
        });
        let (least, most) = shares
            .fold((f64::INFINITY, 0.0), |(least, most): (f64, f64), share| {
                (least.min(share), most.max(share))
            });
        self.most = most;
        SerializedEntry {
            formatted: format!("{least:.2} to {most:.2} of an even share"),
            serialized: json!(seen.expert_tokens).to_string(),
        }
    }

    fn clear(&mut self) {
        self.most = f64::NAN;
    }
}

impl Numeric for ExpertTokens {
    fn value(&self) -> NumericEntry {
        NumericEntry::Value(self.most)
    }

    fn running_value(&self) -> NumericEntry {
        self.value()
    }
}
