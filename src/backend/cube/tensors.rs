//! Tensors as kernels take and make them: contiguous, and of f32 unless said otherwise.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::ops::numeric::{empty_device_contiguous_dtype, zeros};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Most cubes along one axis of a grid, which is what WebGPU promises.
pub const MOST_CUBES: u32 = 65_535;

/// Units of a cube of kernels that work element by element.
pub const UNITS: u32 = 256;

/// Room for so many f32 on the device of another tensor.
pub fn empty<R: CubeRuntime>(beside: &CubeTensor<R>, shape: impl Into<Shape>) -> CubeTensor<R> {
    empty_of(beside, shape, DType::F32)
}

/// [`empty`] of another type.
pub fn empty_of<R: CubeRuntime>(
    beside: &CubeTensor<R>,
    shape: impl Into<Shape>,
    element: DType,
) -> CubeTensor<R> {
    let (client, device) = (beside.client.clone(), beside.device.clone());
    empty_device_contiguous_dtype(client, device, shape.into(), element)
}

/// So many zeros on the device of another tensor. On CUDA burn makes rows that begin at multiples of
/// up to 512 bytes, but for those of a tensor that is a single one.
pub fn zeroed<R: CubeRuntime>(beside: &CubeTensor<R>, shape: impl Into<Shape>) -> CubeTensor<R> {
    let shape = shape.into();
    of_shape(zeros(beside.device.clone(), [shape.num_elements()].into(), DType::F32), shape)
}

/// The same contiguous numbers in another shape.
fn of_shape<R: CubeRuntime>(tensor: CubeTensor<R>, shape: Shape) -> CubeTensor<R> {
    let CubeTensor { client, handle, device, dtype, .. } = tensor;
    CubeTensor::new_contiguous(client, device, shape, handle, dtype)
}

/// So many f32, or as many as one tensor may be large on the device of another one: of some, Mesa's
/// software driver among them, no more than the 128 MiB that WebGPU promises.
pub fn at_most<R: CubeRuntime>(numbers: usize, beside: &CubeTensor<R>) -> usize {
    let bytes = beside.client.properties().memory.max_page_size;
    numbers.min(usize::try_from(bytes / size_of::<f32>() as u64).unwrap_or(usize::MAX))
}

/// Numbers that a unit takes together, in one access to memory, of so many in a row.
pub fn lanes(count: usize) -> usize {
    if count.is_multiple_of(4) { 4 } else { 1 }
}

/// The rows of a tensor, and how wide they are.
pub fn rows<R: CubeRuntime>(tensor: &CubeTensor<R>) -> [usize; 2] {
    let shape = tensor.meta.shape();
    let width = shape.iter().last().copied().unwrap_or(1);
    [shape.iter().product::<usize>() / width.max(1), width]
}

pub fn count<R: CubeRuntime>(tensor: &CubeTensor<R>) -> usize {
    tensor.meta.num_elements()
}

pub fn dims<R: CubeRuntime, const D: usize>(tensor: &CubeTensor<R>) -> [usize; D] {
    std::array::from_fn(|axis| tensor.meta.shape()[axis])
}

/// A tensor that a kernel may write to, which is a copy where others hold it, too.
pub fn writable<R: CubeRuntime>(tensor: CubeTensor<R>) -> CubeTensor<R> {
    let tensor = burn_cubecl::kernel::into_contiguous(tensor);
    if tensor.can_mut() {
        return tensor;
    }
    // As a single row, since a copy would have its rows apart, as in `zeroed`.
    let shape = tensor.meta.shape().clone();
    let row = [shape.num_elements()].into();
    of_shape(of_shape(tensor, row).copy(), shape)
}

/// All the memory that a tensor lies in, for a kernel that is told its strides as numbers. Those of
/// a tensor argument CubeCL copies to a CUDA device before each launch.
pub fn memory<R: CubeRuntime>(tensor: CubeTensor<R>) -> ArrayArg<R> {
    let length = tensor.handle.size_in_used() as usize / tensor.elem_size();
    let CubeTensor { client, handle, device, dtype, .. } = tensor;
    CubeTensor::new_contiguous(client, device, [length].into(), handle, dtype).into_array_arg()
}

/// A tensor whose rows lie evenly apart, each in one piece, and how many numbers one begins behind the
/// last. Matrix products on CUDA come so, as in [`zeroed`]; any other is made contiguous.
pub fn even_rows<R: CubeRuntime>(tensor: CubeTensor<R>) -> (CubeTensor<R>, usize) {
    let [_, width] = rows(&tensor);
    let (shape, strides) = (tensor.meta.shape(), tensor.meta.strides());
    // From the last dimension to the first, those of one place aside, which have no stride.
    let mut axes = shape.iter().zip(strides.iter()).rev().filter(|(size, _)| **size > 1);
    let (last, above) = (axes.next(), axes.next());
    let pitch = above.map_or(width, |(_, stride)| *stride);
    let mut next = above.map_or(0, |(size, _)| size * pitch);
    let is_even = axes.all(|(size, stride)| {
        let follows = *stride == next;
        next *= size;
        follows
    });
    let in_pieces = last.is_some_and(|(size, stride)| *size == width && *stride == 1);
    if in_pieces && pitch >= width && pitch.is_multiple_of(lanes(width)) && is_even {
        return (tensor, pitch);
    }
    (burn_cubecl::kernel::into_contiguous(tensor), width)
}

/// What kernels count the elements of these tensors by. Numbers of 32 bits go on to half of what
/// they can count, since a grid has more units than there are elements.
pub fn address<R: CubeRuntime>(tensors: &[&CubeTensor<R>]) -> AddressType {
    let elements = |tensor: &&CubeTensor<R>| tensor.handle.size() as usize / tensor.elem_size();
    AddressType::from_len_signed(tensors.iter().map(elements).max().unwrap_or(0))
}

/// At least so many cubes; those beyond have nothing to do.
pub fn cubes(count: usize) -> CubeCount {
    let count = u32::try_from(count).expect("a grid of cubes is below 2^32");
    let rows = count.div_ceil(MOST_CUBES).max(1);
    CubeCount::Static(count.div_ceil(rows), rows, 1)
}

/// Cubes of [`UNITS`] units, one for each element at least.
pub fn cubes_of_elements(count: usize) -> CubeCount {
    cubes(count.div_ceil(UNITS as usize))
}
