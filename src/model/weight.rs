//! I inputs, O outputs

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};

use crate::backend::{GptBackend, factor, on_host, without_keeping};
use crate::config::Precision;

/// The weights of a projection, as they are learned or as they are stored to be fast.
#[derive(Module, Debug)]
pub enum Weight<B: Backend> {
    /// `[I, O]`
    Float(Param<Tensor<B, 2>>),
    Int8(Int8Weight<B>),
}

/// Weights of a byte each, in units of their output's scale: the largest of them is 127 units.
#[derive(Module, Debug)]
pub struct Int8Weight<B: Backend> {
    /// `[I, O]`, each within ± 127.
    pub values: Tensor<B, 2, Int>,
    /// `[O]`
    pub scales: Tensor<B, 1>,
}

impl<B: Backend> Weight<B> {
    /// `[I, O]`
    pub(super) fn shape(&self) -> [usize; 2] {
        match self {
            Self::Float(weight) => weight.lazy_shape().dims(),
            Self::Int8(weight) => weight.values.dims(),
        }
    }

    /// `[I, O]`, whatever they are stored as.
    pub fn val(&self) -> Tensor<B, 2> {
        match self {
            Self::Float(weight) => weight.val(),
            Self::Int8(weight) => weight.values.clone().float() * weight.scales.clone().unsqueeze(),
        }
    }

    /// Stores them in a byte each.
    pub(super) fn quantize(&mut self) {
        if let Self::Float(weight) = self {
            let floats = weight.val();
            without_keeping(|| *self = Self::Int8(Int8Weight::new(floats)));
        }
    }
}

impl<B: GptBackend> Weight<B> {
    /// `input weight + bias`, of floats in a precision.
    ///
    /// # Shapes
    /// - `input` `[.., I]` -> `[.., O]`
    pub(super) fn multiply<const D: usize>(
        &self,
        input: Tensor<B, D>,
        bias: Option<Tensor<B, 1>>,
        precision: Precision,
    ) -> Tensor<B, D> {
        match self {
            Self::Float(weight) => {
                B::dense(factor(input, precision), factor(weight.val(), precision), bias)
            }
            Self::Int8(weight) => {
                B::dense_int8(input, weight.values.clone(), weight.scales.clone(), bias)
            }
        }
    }
}

impl<B: Backend> Int8Weight<B> {
    /// The nearest of what a byte can hold, each within half a scale of its weight.
    ///
    /// # Shapes
    /// - `weight` `[I, O]`
    pub fn new(weight: Tensor<B, 2>) -> Self {
        let ([d_input, d_output], device) = (weight.dims(), weight.device());
        // On the host, once, so that it is the same on every backend.
        let weight = on_host(weight);
        let mut scales = vec![0.0f32; d_output];
        for row in weight.chunks_exact(d_output.max(1)) {
            for (largest, weight) in scales.iter_mut().zip(row) {
                // What is not a number stays so.
                if weight.abs() > *largest || weight.is_nan() {
                    *largest = weight.abs();
                }
            }
        }
        scales.iter_mut().for_each(|scale| *scale /= 127.0);
        let unit = |(weight, scale): (&f32, &f32)| match *scale {
            0.0 => 0,
            scale => (weight / scale).round() as i8, // saturates
        };
        let values: Vec<i8> = weight
            .chunks_exact(d_output.max(1))
            .flat_map(|row| row.iter().zip(&scales).map(unit))
            .collect();
        let values = TensorData::new(values, [d_input, d_output]);
        Self {
            values: Tensor::from_data(values, (&device, DType::I8)),
            scales: Tensor::from_data(TensorData::new(scales, [d_output]), &device),
        }
    }
}
