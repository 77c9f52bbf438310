use burn::tensor::backend::Backend;
use burn::tensor::{DType, FloatDType, Tensor};

use super::{BackendError, BackendKind, compiled, list};
use crate::config::Precision;

/// Whether a device computes in a precision.
///
/// # Errors
/// [`BackendError::F32Only`]
pub fn check_precision<B: Backend>(
    kind: BackendKind,
    device: &B::Device,
    precision: Precision,
) -> Result<(), BackendError> {
    match precision {
        Precision::Bf16 if !B::supports_dtype(device, DType::BF16) => {
            let others = list(compiled().filter(|other| *other != kind));
            Err(BackendError::F32Only { kind, others })
        }
        _ => Ok(()),
    }
}

/// Whether a device has weights of one byte.
///
/// # Errors
/// [`BackendError::NoInt8`]
pub fn check_int8<B: Backend>(kind: BackendKind, device: &B::Device) -> Result<(), BackendError> {
    if B::supports_dtype(device, DType::I8) {
        return Ok(());
    }
    Err(BackendError::NoInt8 { kind, others: list(compiled().filter(|other| *other != kind)) })
}

/// A factor of a matrix product in this precision.
pub fn factor<B: Backend, const D: usize>(
    tensor: Tensor<B, D>,
    precision: Precision,
) -> Tensor<B, D> {
    match precision {
        Precision::F32 => tensor,
        Precision::Bf16 => tensor.cast(FloatDType::BF16),
    }
}

/// The precision that a factor is in.
pub(super) fn precision_of<B: Backend, const D: usize>(factor: &Tensor<B, D>) -> Precision {
    match factor.dtype() {
        DType::BF16 => Precision::Bf16,
        _ => Precision::F32,
    }
}

/// The matrix product of two factors of one precision, in f32.
pub(super) fn product<B: Backend, const D: usize>(
    left: Tensor<B, D>,
    right: Tensor<B, D>,
) -> Tensor<B, D> {
    left.matmul(right).cast(FloatDType::F32)
}
