use burn::tensor::backend::Backend;

use crate::backend::{BackendError, BackendKind, check_int8};
use crate::cli::{Quantization, WeightArgs};
use crate::model::Model;

/// The model with its weights stored as it was asked for.
pub(super) fn stored<B: Backend>(
    model: Model<B>,
    args: &WeightArgs,
    backend: BackendKind,
) -> Result<Model<B>, BackendError> {
    match args.quantize {
        Some(Quantization::Int8) => {
            check_int8::<B>(backend, &model.device())?;
            Ok(model.quantize_int8())
        }
        None => Ok(model),
    }
}
