use serde::{Deserialize, Serialize};

/// What matrix products are computed in. Parameters, the optimizer's moments, the residual stream,
/// norms, the softmax and the loss are f32 in either.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    /// 8 bits of mantissa, and the range of f32, so that losses need no scaling.
    Bf16,
}
