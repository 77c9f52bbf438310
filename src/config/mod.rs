//! The one configuration schema.
//!
//! A configuration is a JSON document. It is composed in a fixed order: the
//! document that `extends` names, then the document itself, then each
//! `--set path.to.key=value`; the result is checked and written into the run.

mod average;
mod depth;
mod error;
mod kind;
mod load;
mod loggers;
mod lora;
mod model;
mod optimizer;
mod pattern;
mod precision;
mod schedule;
mod schema;
mod span;
mod train;

pub use average::AverageConfig;
pub use error::ConfigError;
pub use load::{
    Source, architecture, builtin_names, deserialize, inherit, load, load_value, override_value,
    override_values, resolve,
};
pub use loggers::{LoggersConfig, MlflowConfig};
pub use lora::LoraConfig;
pub use model::{
    Activation, Architecture, AttentionConfig, ExpertsConfig, FeedForwardConfig, ModelConfig,
    NormConfig, NormKind, NormPlacement, PositionConfig, Residual, RotaryPairing, RotaryScaling,
};
pub use optimizer::{
    AdamwConfig, LionConfig, MuonAdamwConfig, MuonConfig, OptimizerConfig, ParameterGroup,
    SgdConfig,
};
pub use pattern::{NamePattern, component, select_names};
pub use precision::Precision;
pub use schedule::{DecayShape, ScheduleConfig};
pub use schema::{
    DataConfig, Packing, RunConfig, SOURCE_FIELD, SPECIAL_TOKENS, SampleConfig, SplitPattern,
    TARGET_FIELD, TokenizerConfig,
};
pub use span::Span;
pub use train::{BatchWarmup, DEFAULT_STEPS, EarlyStopping, NonFinite, SkipSpikes, TrainConfig};
