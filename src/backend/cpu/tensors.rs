//! Tensors of `flex` as the slices that kernels work on, and back.

use burn::tensor::{Shape, TensorData};
use burn_flex::FlexTensor;

use super::heads::Heads;
use super::matrix::Matrix;

/// In order, though it may be a part of other memory.
pub(super) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.layout().is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// In order, and all of its memory, which can be written.
pub(super) fn whole(tensor: FlexTensor) -> FlexTensor {
    match tensor.as_slice::<f32>() {
        Some(all) if all.len() == tensor.storage::<f32>().len() => tensor,
        _ => tensor.to_contiguous(),
    }
}

/// The elements in order.
pub(super) fn elements(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("made contiguous, and its type was checked")
}

/// The elements in order, to be written: those of a copy where others hold them, too.
pub(super) fn elements_mut(tensor: &mut FlexTensor) -> &mut [f32] {
    assert!(tensor.layout().is_contiguous());
    let (start, count) = (tensor.layout().start_offset(), tensor.layout().num_elements());
    &mut tensor.storage_mut()[start..start + count]
}

pub(super) fn indices(tensor: FlexTensor) -> Vec<usize> {
    tensor.into_data().iter::<i64>().map(|index| index as usize).collect()
}

/// Of the last dimension.
pub(super) fn width(tensor: &FlexTensor) -> usize {
    let shape = tensor.layout().shape();
    shape[shape.num_dims() - 1]
}

pub(super) fn dims(tensor: &FlexTensor) -> [usize; 4] {
    let shape = tensor.layout().shape();
    std::array::from_fn(|dimension| shape[dimension])
}

fn strides<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    let strides = tensor.layout().strides();
    std::array::from_fn(|dimension| strides[dimension] as usize)
}

/// Rows of the last dimension, which are in order.
pub(super) fn rows_of(tensor: &FlexTensor) -> Matrix<'_> {
    Matrix::of_rows(elements(tensor), width(tensor))
}

/// Two dimensions, wherever they are in memory.
pub(super) fn matrix(tensor: &FlexTensor) -> Matrix<'_> {
    let shape = tensor.layout().shape();
    let elements = &tensor.storage::<f32>()[tensor.layout().start_offset()..];
    Matrix::new(elements, [shape[0], shape[1]], strides(tensor))
}

/// Not flipped.
pub(super) fn forwards(tensor: FlexTensor) -> FlexTensor {
    if tensor.layout().has_positive_strides() { tensor } else { tensor.to_contiguous() }
}

/// With the numbers of a row side by side.
pub(super) fn with_rows(tensor: FlexTensor) -> FlexTensor {
    let strides = tensor.layout().strides();
    let has_rows = strides[strides.len() - 1] == 1 && strides.iter().all(|stride| *stride >= 0);
    if has_rows { tensor } else { tensor.to_contiguous() }
}

pub(super) fn heads(tensor: &FlexTensor) -> Heads<'_> {
    let elements = &tensor.storage::<f32>()[tensor.layout().start_offset()..];
    Heads::new(elements, dims(tensor), strides(tensor))
}

/// The gradient of a weight, which lies in memory as the weight does.
pub(super) fn weight_gradient(gradient: Vec<f32>, weight: Matrix) -> FlexTensor {
    let [d_input, d_output] = weight.shape();
    match weight.is_transposed() {
        true => tensor(gradient, &[d_output, d_input]).transpose(0, 1),
        false => tensor(gradient, &[d_input, d_output]),
    }
}

pub(super) fn tensor(elements: Vec<f32>, shape: &[usize]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(elements, Shape::from(shape.to_vec())))
}

/// A tensor of the same shape as another.
pub(super) fn like(elements: Vec<f32>, other: &FlexTensor) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(elements, other.layout().shape().clone()))
}

/// A tensor of the same shape as another but for its last dimension.
pub(super) fn of_width(elements: Vec<f32>, other: &FlexTensor, width: usize) -> FlexTensor {
    let mut shape = other.layout().shape().clone();
    let last = shape.num_dims() - 1;
    shape[last] = width;
    FlexTensor::from_data(TensorData::new(elements, shape))
}

/// That queries, keys and values belong together: what the kernels write relies on it.
pub(super) fn check_heads(inputs: &[FlexTensor; 3]) {
    let [[b, h, _, k], key, value] = inputs.each_ref().map(dims);
    let [_, g, s, width] = key;
    assert!(g > 0 && h.is_multiple_of(g), "{h} query heads on {g} key heads");
    assert_eq!((key[0], width), (b, k));
    assert_eq!([value[0], value[1], value[2]], [b, g, s]);
}
