//! What burn-train's metrics see of a step. burn's own loss and perplexity metrics want the
//! logits, which would have to be copied to the host at every step.

use burn_train::SupervisedTraining;
use burn_train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry, format_float,
};
use memory_stats::memory_stats;
use serde_json::json;
use std::sync::Arc;

use super::step::Components;
use super::utilisation::{flops_per_token, peak_tflops};
use super::{Recorded, StepOutput};
use crate::backend::GptBackend;
use crate::backend::TrainBackend;
use crate::config::RunConfig;
use crate::data::{Corpus, StoryScore};

pub(super) const LOSS: &str = "Loss";
pub(super) const PERPLEXITY: &str = "Perplexity";
pub(super) const LEARNING_RATE: &str = "Learning Rate";
pub(super) const GRADIENT_NORM: &str = "Gradient Norm";
pub(super) const TOKENS_PER_SECOND: &str = "Tokens per Second";
pub(super) const GRAMMATICAL: &str = "Grammatical Stories";

/// Gives a training on so many devices its metrics. The dashboard shows them in this order, and has room for two or
/// three on a small terminal.
pub(super) fn register<B: TrainBackend>(
    supervised: SupervisedTraining<Components<B>>,
    config: &RunConfig,
    corpus: &Corpus,
    devices: usize,
) -> SupervisedTraining<Components<B>> {
    let mut supervised = supervised
        .metric_train_numeric(StepMetric::loss())
        .metric_valid_numeric(StepMetric::loss())
        .metric_train_numeric(StepMetric::perplexity())
        .metric_valid_numeric(StepMetric::perplexity())
        .metric_train_numeric(StepMetric::tokens_per_second())
        .metric_train_numeric(StepMetric::learning_rate())
        .metric_train_numeric(StepMetric::gradient_norm());
    if let Some(bytes) = corpus.train.bytes_per_target(corpus.task) {
        supervised = supervised.metric_train_numeric(StepMetric::bits_per_byte(bytes));
    }
    if let Some(bytes) = corpus.validation.bytes_per_target(corpus.task) {
        supervised = supervised.metric_valid_numeric(StepMetric::bits_per_byte(bytes));
    }
    if config.train.evaluation_stories.is_some() {
        supervised = supervised
            .metric_valid_numeric(StepMetric::stories(GRAMMATICAL, |found| found.grammatical))
            .metric_valid_numeric(StepMetric::stories("Story Names", |found| found.names))
            .metric_valid_numeric(StepMetric::stories("Story Object", |found| found.object));
    }
    supervised = supervised
        .metric_train_numeric(StepMetric::step_time())
        .metric_train_numeric(StepMetric::data_wait());
    let known = || peak_tflops(&<B::InnerBackend as GptBackend>::device_model()?);
    let flops = flops_per_token(config, config.model.vocab_size.unwrap_or_default());
    if let (Some(flops), Some(peak)) = (flops, config.train.peak_tflops.or_else(known)) {
        let peak = peak * 1e12 * devices as f64;
        supervised = supervised.metric_train_numeric(StepMetric::utilisation(flops, peak));
    }
    if memory_stats().is_some() {
        supervised = supervised.metric_train_numeric(StepMetric::memory());
    }
    supervised = supervised.metric_train_numeric(StepMetric::tokens());
    if config.model.feed_forward.experts.is_some() {
        supervised = supervised
            .metric_train_numeric(ExpertTokens::new())
            .metric_valid_numeric(ExpertTokens::new());
    }
    supervised
}

type Read = Arc<dyn Fn(&StepOutput, &MetricMetadata) -> f64 + Send + Sync>;

/// A number of a [`StepOutput`], with its mean over the tokens since the last evaluation.
#[derive(Clone)]
struct StepMetric {
    name: MetricName,
    unit: Option<&'static str>,
    higher_is_better: bool,
    precision: usize,
    /// Whether its mean says anything.
    averaged: bool,
    read: Read,
    /// Applied to the value and to its mean: the perplexity of a mean is not a mean perplexity.
    transform: fn(f64) -> f64,
    sum: f64,
    tokens: usize,
    current: f64,
}

impl StepMetric {
    fn new(
        name: &str,
        precision: usize,
        read: impl Fn(&StepOutput, &MetricMetadata) -> f64 + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: Arc::new(name.into()),
            unit: None,
            higher_is_better: false,
            precision,
            averaged: true,
            read: Arc::new(read),
            transform: |value| value,
            sum: 0.0,
            tokens: 0,
            current: f64::NAN,
        }
    }

    fn loss() -> Self {
        Self::new(LOSS, 4, |seen, _| seen.loss)
    }

    fn perplexity() -> Self {
        Self { transform: f64::exp, ..Self::new(PERPLEXITY, 2, |seen, _| seen.loss) }
    }

    fn bits_per_byte(bytes_per_token: f64) -> Self {
        let bits = move |loss: f64| loss / std::f64::consts::LN_2 / bytes_per_token;
        Self::new("Bits per Byte", 4, move |seen, _| bits(seen.loss))
    }

    /// The share of the stories that are right in some way.
    fn stories(name: &str, right: fn(&StoryScore) -> usize) -> Self {
        let share = move |score: &StoryScore| right(score) as f64 / score.stories as f64;
        let metric =
            Self::new(name, 3, move |seen, _| seen.stories.as_ref().map_or(f64::NAN, share));
        Self { higher_is_better: true, ..metric }
    }

    fn learning_rate() -> Self {
        Self::new(LEARNING_RATE, 2, |_, metadata| metadata.lr.unwrap_or(f64::NAN))
    }

    fn gradient_norm() -> Self {
        Self::new(GRADIENT_NORM, 3, |seen, _| seen.gradient_norm)
    }

    fn tokens_per_second() -> Self {
        Self {
            higher_is_better: true,
            ..Self::new(TOKENS_PER_SECOND, 0, |seen, _| seen.tokens_per_second())
        }
    }

    fn step_time() -> Self {
        let metric = Self::new("Step Milliseconds", 1, |seen, _| seen.seconds * 1e3);
        Self { unit: Some("ms"), ..metric }
    }

    fn data_wait() -> Self {
        let metric = Self::new("Data Wait Milliseconds", 2, |seen, _| seen.phases.data * 1e3);
        Self { unit: Some("ms"), ..metric }
    }

    /// The share of `peak` operations a second that the model's own `flops` for each token take.
    fn utilisation(flops: f64, peak: f64) -> Self {
        let share = move |seen: &StepOutput| seen.tokens_per_second() * flops / peak;
        let metric = Self::new("Model FLOPs Utilisation", 4, move |seen, _| share(seen));
        Self { higher_is_better: true, ..metric }
    }

    /// Resident, of the whole process.
    fn memory() -> Self {
        let mebibytes = || memory_stats().map(|now| now.physical_mem as f64 / f64::from(1 << 20));
        let metric = Self::new("Memory MiB", 0, move |_, _| mebibytes().unwrap_or(f64::NAN));
        Self { unit: Some("MiB"), averaged: false, ..metric }
    }

    fn tokens() -> Self {
        let metric = Self::new("Tokens", 0, |seen, _| seen.tokens_so_far as f64);
        Self { higher_is_better: true, averaged: false, ..metric }
    }

    fn entry(&self, value: f64, count: usize) -> NumericEntry {
        NumericEntry::Aggregated { aggregated_value: (self.transform)(value), count }
    }

    fn format(&self, entry: &NumericEntry) -> String {
        format_float(entry.current(), self.precision)
    }
}

impl Metric for StepMetric {
    type Input = StepOutput;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        let unit = self.unit.map(String::from);
        NumericAttributes { unit, higher_is_better: self.higher_is_better }.into()
    }

    fn update(&mut self, seen: &StepOutput, metadata: &MetricMetadata) -> SerializedEntry {
        self.current = (self.read)(seen, metadata);
        self.sum += self.current * seen.tokens as f64;
        self.tokens += seen.tokens;
        let (now, mean) = (self.value(), self.running_value());
        let mean = self.averaged.then(|| format!(" (mean {})", self.format(&mean)));
        SerializedEntry {
            formatted: self.format(&now) + &mean.unwrap_or_default(),
            serialized: Recorded { step: metadata.iteration, list: None }.to_string(),
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
/// `metrics.jsonl` the tokens of each, a layer a list.
#[derive(Clone)]
struct ExpertTokens {
    name: MetricName,
    /// One where all are used alike.
    most: f64,
}

impl ExpertTokens {
    fn new() -> Self {
        Self { name: Arc::new("Expert Tokens".into()), most: f64::NAN }
    }
}

impl Metric for ExpertTokens {
    type Input = StepOutput;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes { unit: None, higher_is_better: false }.into()
    }

    fn update(&mut self, seen: &StepOutput, metadata: &MetricMetadata) -> SerializedEntry {
        let shares = seen.expert_tokens.iter().flat_map(|layer| {
            let even = layer.iter().sum::<usize>() as f64 / layer.len() as f64;
            layer.iter().map(move |tokens| *tokens as f64 / even)
        });
        let (least, most) = shares
            .fold((f64::INFINITY, 0.0), |(least, most): (f64, f64), share| {
                (least.min(share), most.max(share))
            });
        self.most = most;
        let list = Some(json!(seen.expert_tokens));
        SerializedEntry {
            formatted: format!("{least:.2} to {most:.2} of an even share"),
            serialized: Recorded { step: metadata.iteration, list }.to_string(),
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
