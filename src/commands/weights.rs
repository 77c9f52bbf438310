use burn::tensor::backend::Backend;

use crate::backend::{BackendError, BackendKind, check_int8};
use crate::cli::{Quantization, WeightArgs};
use crate::model::Model;

/// Whether a backend can store weights as it is asked to, before anything is loaded.
///
/// # Errors
/// [`BackendError::NoInt8`]
pub(super) fn check<B: Backend>(
    args: &WeightArgs,
    backend: BackendKind,
    device: &B::Device,
) -> Result<(), BackendError> {
    match args.quantize {
        Some(Quantization::Int8) => check_int8::<B>(backend, device),
        None => Ok(()),
    }
}

/// The model with its weights stored as it was asked for.
pub(super) fn stored<B: Backend>(model: Model<B>, args: &WeightArgs) -> Model<B> {
    match args.quantize {
        Some(Quantization::Int8) => model.quantize_int8(),
        None => model,
    }
}
