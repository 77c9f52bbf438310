//! A model seen from inside: its modules and their shapes, gradients, weights, attention, and what
//! it makes of each token.
//!
//! Whatever is shown of a pass comes from a pass of the model itself, which an
//! [`Observer`](crate::model::Observer) has looked at.

mod describe;
mod gradients;
mod module;
mod render;
mod spectral;
mod visits;
mod weights;

pub use describe::{Axis, Sizes, Symbol};
pub use gradients::{Activity, GradientReport, ParameterGradient, gradients};
pub use module::{Module, ModuleParameter, outline};
pub use render::{write_gradients, write_outline, write_weights};
pub use spectral::spectral_norm;
pub use weights::{Histogram, WeightSummary, summarize};
