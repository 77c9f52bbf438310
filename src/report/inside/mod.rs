//! A model seen from inside: its modules and their shapes, gradients, weights, attention, and what
//! it makes of each token.
//!
//! Whatever is shown of a pass comes from a pass of the model itself, which an
//! [`Observer`](crate::model::Observer) has looked at.

mod attention;
mod describe;
mod gradients;
mod module;
mod passage;
mod render;
mod spectral;
mod surprise;
mod visits;
mod weights;

pub use attention::{
    AttentionLayer, HeadSteps, Holder, PageError, Selection, TooLarge, attention, attention_page,
    attention_size, write_maps, write_steps,
};
pub use describe::{Axis, Sizes, Symbol};
pub use gradients::{Activity, GradientReport, ParameterGradient, Units, gradients};
pub use module::{Module, ModuleParameter, outline};
pub use passage::Passage;
pub use render::{write_gradients, write_outline, write_weights};
pub use spectral::spectral_norm;
pub use surprise::{Expected, Reading, TokenSurprise, surprise, write_surprise};
pub use weights::{Histogram, Quantile, WeightSummary, summarize};
