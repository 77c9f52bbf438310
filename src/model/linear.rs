use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{Initializer, Lora, Weight};
use crate::backend::{GptBackend, factor};
use crate::config::Activation;
use crate::config::Precision;

/// A projection of the last dimension.
#[derive(Module, Debug)]
pub struct Linear<B: Backend> {
    /// `[d_input, d_output]`
    pub weight: Weight<B>,
    /// `[d_output]`
    pub bias: Option<Param<Tensor<B, 1>>>,
    /// Added to the output, where the configuration has adapters for this layer.
    pub lora: Option<Lora<B>>,
    #[module(skip)]
    precision: Precision,
}

impl<B: Backend> Linear<B> {
    /// Normal weights of the given deviation, zero biases.
    pub fn new(
        [d_input, d_output]: [usize; 2],
        bias: bool,
        deviation: f64,
        initializer: &mut Initializer,
        device: &B::Device,
    ) -> Self {
        Self {
            weight: Weight::Float(initializer.normal([d_input, d_output], deviation, device)),
            bias: bias.then(|| Initializer::constant([d_output], 0.0, device)),
            lora: None,
            precision: Precision::F32,
        }
    }

    /// Of the matrix product; adapters, which are small, stay in f32.
    pub(super) fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// `[d_input, d_output]`
    pub(super) fn shape(&self) -> [usize; 2] {
        self.weight.shape()
    }
}

impl<B: GptBackend> Linear<B> {
    /// # Shapes
    /// - `input` `[.., d_input]` -> `[.., d_output]`
    pub fn forward<const D: usize>(&self, input: Tensor<B, D>) -> Tensor<B, D> {
        let adapted = self.lora.as_ref().map(|lora| lora.forward(input.clone()));
        let bias = self.bias.as_ref().map(Param::val);
        let output = self.weight.multiply(input, bias, self.precision);
        match adapted {
            Some(adapted) => output + adapted,
            None => output,
        }
    }

    /// What an input may be rounded to beforehand: where it is a factor of this product and nothing
    /// else, it is rounded to that anyway.
    pub(super) fn input_precision(&self) -> Precision {
        match (&self.weight, &self.lora) {
            (Weight::Float(_), None) => self.precision,
            _ => Precision::F32,
        }
    }

    /// [`Linear::forward`], rounded to the precision of the product.
    ///
    /// # Shapes
    /// - `input` `[.., d_input]` -> `[.., d_output]`
    pub fn rounded<const D: usize>(&self, input: Tensor<B, D>) -> Tensor<B, D> {
        match (&self.weight, &self.lora) {
            (Weight::Float(weight), None) => {
                let bias = self.bias.as_ref().map(Param::val);
                let weight = factor(weight.val(), self.precision);
                B::product(factor(input, self.precision), weight, bias)
            }
            _ => factor(self.forward(input), self.precision),
        }
    }

    /// An activation of [`Linear::forward`], as a factor of the next product: in the precision of
    /// this one, where nothing else is added to it.
    ///
    /// # Shapes
    /// - `input` `[.., d_input]` -> `[.., d_output]`
    pub fn activated<const D: usize>(&self, input: Tensor<B, D>, kind: Activation) -> Tensor<B, D> {
        match (&self.weight, &self.lora) {
            (Weight::Float(weight), None) => {
                let bias = self.bias.as_ref().map(Param::val);
                let weight = factor(weight.val(), self.precision);
                B::dense_activated(factor(input, self.precision), weight, bias, kind)
            }
            _ => B::activation(self.forward(input), kind),
        }
    }
}
