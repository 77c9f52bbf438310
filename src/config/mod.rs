//! The one configuration schema.
//!
//! A configuration is a JSON document. It is composed in a fixed order: the
//! document that `extends` names, then the document itself, then each
//! `--set path.to.key=value`; the result is checked and written into the run.

mod depth;
mod error;
mod load;
mod model;
mod schema;

pub use error::ConfigError;
pub use load::{
    Source, builtin_names, inherit, load, load_value, override_value, override_values, resolve,
};
pub use model::{
    Activation, Architecture, AttentionConfig, ExpertsConfig, FeedForwardConfig, ModelConfig,
    NormConfig, NormKind, NormPlacement, PositionConfig, Residual, RotaryPairing, RotaryScaling,
};
pub use schema::{
    DataConfig, OptimizerConfig, Packing, RunConfig, SOURCE_FIELD, SPECIAL_TOKENS, SampleConfig,
    ScheduleConfig, SplitPattern, TARGET_FIELD, TokenizerConfig, TrainConfig,
};
