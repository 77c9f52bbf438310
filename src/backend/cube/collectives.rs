//! NVIDIA's NCCL, by which burn sums tensors over devices.

use burn::tensor::Tensor;
use burn::tensor::backend::DeviceOps;
use burn::tensor::backend::distributed::{DistributedBackend, ReduceOperation};
use std::sync::OnceLock;

use crate::backend::device::{System, has_nccl};
use crate::backend::group::all_reduce_over_host;
use crate::backend::ops::{from_float, to_float};
use crate::backend::{GptBackend, LeftAlone, Member};

/// Its name, where it is installed: burn would panic without it.
pub(super) fn library() -> Option<&'static str> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    FOUND.get_or_init(|| has_nccl(&System::here())).then_some("NCCL")
}

/// [`GptBackend::all_reduce`], in the device's own order of operations: the host goes on.
pub(super) fn all_reduce<B: GptBackend + DistributedBackend>(
    tensor: Tensor<B, 1>,
    member: &Member,
) -> Result<Tensor<B, 1>, LeftAlone> {
    let device = tensor.device();
    if B::collectives(&device).is_none() {
        return all_reduce_over_host(tensor, member);
    }
    // Whoever waits for a device that never comes waits for ever: all are here now.
    let devices = member.meet(device.id())?.iter().map(|id| **id).collect();
    let sum =
        <B as DistributedBackend>::all_reduce(to_float(tensor), ReduceOperation::Sum, devices);
    Ok(from_float(sum.resolve()))
}
