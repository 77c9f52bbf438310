use serde::{Deserialize, Serialize};

use super::schema::check;
use super::{
    AverageConfig, ConfigError, LoggersConfig, NamePattern, OptimizerConfig, Precision,
    ScheduleConfig, Span,
};

/// How the model is trained. Its length is given in one of four units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Length in optimizer steps; [`DEFAULT_STEPS`] where no length is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Length in passes over the training data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Length in tokens to learn from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Length in minutes, evaluations and checkpoints included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minutes: Option<f64>,
    /// Windows a micro-batch.
    pub batch_size: usize,
    /// Micro-batches an optimizer step.
    pub accumulation: usize,
    /// Of matrix products, in evaluations during training too.
    pub precision: Precision,
    /// Keeps no more of each layer than its input, and computes it again for its gradient: less
    /// memory for a third more arithmetic.
    pub gradient_checkpointing: bool,
    /// Steps begin small and grow; absent for equal steps.
    pub batch_warmup: Option<BatchWarmup>,
    /// Global gradient norm above which gradients are scaled down; absent for no clipping.
    pub clip_norm: Option<f64>,
    /// What happens at a step whose loss or gradient norm is not a number.
    pub non_finite: NonFinite,
    /// Leaves out steps whose loss or gradient norm stands out; absent for never.
    pub skip_spikes: Option<SkipSpikes>,
    pub evaluate_every: Span,
    /// Windows in the fixed sample of the validation split that evaluations during training use.
    pub evaluation_windows: usize,
    /// Stories that the model writes at each evaluation, to be judged by the grammar of the built-in
    /// corpus; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation_stories: Option<usize>,
    /// Ends the run when evaluations get no better; absent for never.
    pub early_stopping: Option<EarlyStopping>,
    /// Evaluates and keeps a running mean of the weights in place of the last ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average: Option<AverageConfig>,
    pub checkpoint_every: Span,
    /// Checkpoints kept, the newest first; the best one is kept as well.
    pub keep_checkpoints: usize,
    /// Every so many checkpoints one is kept for good; absent for none.
    pub keep_every: Option<u64>,
    /// How often a text is sampled and kept; at every evaluation where absent.
    pub sample_every: Option<Span>,
    /// A line is printed this often where there is no dashboard.
    pub log_every: Span,
    /// Where metrics go besides the screen and `metrics.jsonl`.
    pub loggers: LoggersConfig,
    /// What the device can do at most, in 10^12 operations a second, to tell how well it is used;
    /// known of some devices where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_tflops: Option<f64>,
    /// Share of the target that is spread over all tokens (Szegedy et al. 2016, section 7).
    pub label_smoothing: f64,
    /// Weight of the square of the logits' log-normaliser in what is minimised (Chowdhery et al.
    /// 2022, section 5).
    pub z_loss: f64,
    /// Parameters that stay as they are, by name.
    pub freeze: Vec<NamePattern>,
    /// Parameters that are trained after all: of those that `freeze` names, or beside adapters.
    pub unfreeze: Vec<NamePattern>,
    pub optimizer: OptimizerConfig,
    pub schedule: ScheduleConfig,
}

/// Of a run whose length is not given.
pub const DEFAULT_STEPS: u64 = 2000;

/// The keys that give a length, of which a configuration has one.
pub(super) const LENGTHS: [&str; 4] = ["steps", "epochs", "tokens", "minutes"];

/// Steps that begin with few examples, as GPT-3's did (Brown et al. 2020, appendix B).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchWarmup {
    /// Examples in the first step.
    pub examples: usize,
    /// Steps until they are as many as `batch_size * accumulation`, growing linearly.
    pub steps: u64,
}

/// What to do with a step whose loss or gradient norm is infinite or not a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NonFinite {
    /// The run ends; its last checkpoint is from before.
    #[default]
    Stop,
    /// The weights stay as they are, and the next step has other data.
    Skip,
}

/// Steps are left out whose loss or gradient norm is far above that of the steps before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SkipSpikes {
    /// Standard deviations above the mean.
    pub z_score: f64,
    /// Steps that mean and deviation are over; until there are as many, none is left out.
    pub window: usize,
}

impl Default for SkipSpikes {
    /// OLMo's figures (OLMo Team 2025, "2 OLMo 2 Furious").
    fn default() -> Self {
        Self { z_score: 6.0, window: 128 }
    }
}

/// When evaluations count as getting no better.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// Evaluations in succession that are no better than the best before them.
    pub patience: u64,
    /// Nats that the loss must fall to be better.
    #[serde(default)]
    pub min_improvement: f64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: None,
            epochs: None,
            tokens: None,
            minutes: None,
            batch_size: 12,
            accumulation: 1,
            precision: Precision::default(),
            gradient_checkpointing: false,
            batch_warmup: None,
            clip_norm: Some(1.0),
            non_finite: NonFinite::default(),
            skip_spikes: None,
            evaluate_every: Span::Steps(250),
            evaluation_windows: 240,
            evaluation_stories: None,
            early_stopping: None,
            average: None,
            checkpoint_every: Span::Steps(250),
            keep_checkpoints: 2,
            keep_every: None,
            sample_every: None,
            log_every: Span::Steps(20),
            loggers: LoggersConfig::default(),
            peak_tflops: None,
            label_smoothing: 0.0,
            z_loss: 0.0,
            freeze: Vec::new(),
            unfreeze: Vec::new(),
            optimizer: OptimizerConfig::default(),
            schedule: ScheduleConfig::default(),
        }
    }
}

impl TrainConfig {
    /// How long the run is.
    pub fn length(&self) -> Span {
        let steps = || Span::Steps(self.steps.unwrap_or(DEFAULT_STEPS));
        self.epochs
            .map(Span::Epochs)
            .or(self.tokens.map(Span::Tokens))
            .or(self.minutes.map(Span::Minutes))
            .unwrap_or_else(steps)
    }

    /// Examples of an optimizer step, once a warmup of the batch is over.
    pub fn examples_per_step(&self) -> usize {
        self.batch_size * self.accumulation
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let given = [
            ("train.steps", self.steps.is_some()),
            ("train.epochs", self.epochs.is_some()),
            ("train.tokens", self.tokens.is_some()),
            ("train.minutes", self.minutes.is_some()),
        ];
        let mut lengths = given.into_iter().filter(|(_, given)| *given).map(|(path, _)| path);
        if let (Some(first), Some(second)) = (lengths.next(), lengths.next()) {
            let reason = "a run has one length";
            return Err(ConfigError::Conflict { first, second, reason });
        }
        let length = self.length();
        let path = match length {
            Span::Steps(_) => "train.steps",
            Span::Epochs(_) => "train.epochs",
            Span::Tokens(_) => "train.tokens",
            Span::Minutes(_) => "train.minutes",
        };
        check(path, length, length.is_positive(), "positive")?;
        for (path, value) in [
            ("train.batch_size", self.batch_size),
            ("train.accumulation", self.accumulation),
            ("train.evaluation_windows", self.evaluation_windows),
            ("train.evaluation_stories", self.evaluation_stories.unwrap_or(1)),
            ("train.keep_checkpoints", self.keep_checkpoints),
        ] {
            check(path, value, value >= 1, "at least 1")?;
        }
        for (path, value) in
            [("train.batch_size", self.batch_size), ("train.accumulation", self.accumulation)]
        {
            check(path, value, value <= 1 << 20, "a number that some machine could hold")?;
        }
        for (path, span) in [
            ("train.evaluate_every", Some(self.evaluate_every)),
            ("train.checkpoint_every", Some(self.checkpoint_every)),
            ("train.sample_every", self.sample_every),
            ("train.log_every", Some(self.log_every)),
        ] {
            if let Some(span) = span {
                check(path, span, span.is_positive(), "at least 1")?;
            }
        }
        if let Some(every) = self.keep_every {
            check("train.keep_every", every, every >= 1, "at least 1")?;
        }
        if let Some(warmup) = self.batch_warmup {
            let most = self.examples_per_step();
            let valid = (1..=most).contains(&warmup.examples);
            let expected = "at least 1 and at most batch_size * accumulation";
            check("train.batch_warmup.examples", warmup.examples, valid, expected)?;
            check("train.batch_warmup.steps", warmup.steps, warmup.steps >= 1, "at least 1")?;
        }
        let clip_norm = self.clip_norm.unwrap_or(1.0);
        let positive = clip_norm.is_finite() && clip_norm > 0.0;
        check("train.clip_norm", clip_norm, positive, "a positive number")?;
        if let Some(SkipSpikes { z_score, window }) = self.skip_spikes {
            let positive = z_score.is_finite() && z_score > 0.0;
            check("train.skip_spikes.z_score", z_score, positive, "a positive number")?;
            check("train.skip_spikes.window", window, window >= 2, "at least 2")?;
        }
        if let Some(AverageConfig { decay }) = self.average {
            let valid = 0.0 < decay && decay < 1.0;
            check("train.average.decay", decay, valid, "between 0 and 1")?;
        }
        if let Some(EarlyStopping { patience, min_improvement: least }) = self.early_stopping {
            check("train.early_stopping.patience", patience, patience >= 1, "at least 1")?;
            let valid = least.is_finite() && least >= 0.0;
            let path = "train.early_stopping.min_improvement";
            check(path, least, valid, "zero or a positive number")?;
        }
        self.loggers.validate()?;
        let peak = self.peak_tflops.unwrap_or(1.0);
        let positive = peak.is_finite() && peak > 0.0;
        check("train.peak_tflops", peak, positive, "a positive number")?;
        let smoothing = self.label_smoothing;
        let valid = (0.0..1.0).contains(&smoothing);
        check("train.label_smoothing", smoothing, valid, "at least 0 and below 1")?;
        let valid = self.z_loss.is_finite() && self.z_loss >= 0.0;
        check("train.z_loss", self.z_loss, valid, "zero or a positive number")?;
        self.optimizer.validate()?;
        self.schedule.validate()?;
        if matches!(length, Span::Minutes(_)) && self.schedule.ends_with_run() {
            return Err(ConfigError::ScheduleEnd);
        }
        Ok(())
    }
}
