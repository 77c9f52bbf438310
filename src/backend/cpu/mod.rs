//! Kernels for the `flex` backend, on plain slices of f32. Tensors of other types fall back to
//! the default operations.

mod activation;

use burn::tensor::{DType, Tensor, TensorData, TensorPrimitive};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::GptBackend;
use super::ops::{default_activation, default_activation_backward};
use crate::config::Activation;

/// Elements a task: large against the cost of handing one out, small enough to share evenly.
const TASK: usize = 16 * 1024;

impl GptBackend for Flex {
    fn activation<const D: usize>(input: Tensor<Self, D>, kind: Activation) -> Tensor<Self, D> {
        if input.dtype() != DType::F32 {
            return default_activation(input, kind);
        }
        let input = contiguous(input);
        let x = elements(&input);
        let mut output = vec![0.0; x.len()];
        output
            .par_chunks_mut(TASK)
            .zip(x.par_chunks(TASK))
            .for_each(|(output, x)| activation::forward(kind, x, output));
        tensor(output, &input)
    }

    fn activation_backward<const D: usize>(
        input: Tensor<Self, D>,
        gradient: Tensor<Self, D>,
        kind: Activation,
    ) -> Tensor<Self, D> {
        if input.dtype() != DType::F32 || gradient.dtype() != DType::F32 {
            return default_activation_backward(input, gradient, kind);
        }
        let (input, gradient) = (contiguous(input), contiguous(gradient));
        let (x, gradients) = (elements(&input), elements(&gradient));
        let mut output = vec![0.0; x.len()];
        output
            .par_chunks_mut(TASK)
            .zip(x.par_chunks(TASK).zip(gradients.par_chunks(TASK)))
            .for_each(|(output, (x, gradient))| activation::backward(kind, x, gradient, output));
        tensor(output, &input)
    }
}

fn contiguous<const D: usize>(tensor: Tensor<Flex, D>) -> FlexTensor {
    tensor.into_primitive().tensor().to_contiguous()
}

/// The elements in order.
fn elements(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("made contiguous, and its type was checked")
}

/// A tensor of the same shape as another.
fn tensor<const D: usize>(elements: Vec<f32>, like: &FlexTensor) -> Tensor<Flex, D> {
    let data = TensorData::new(elements, like.layout().shape().clone());
    Tensor::from_primitive(TensorPrimitive::Float(FlexTensor::from_data(data)))
}
