use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::pass::Pass;
use super::record::Record;
use super::{Experts, Initializer, Linear};
use crate::backend::GptBackend;
use crate::config::Activation;
use crate::config::ModelConfig;
use crate::config::Precision;

/// What every position goes through by itself.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // handles of tensors, a few a layer, and never moved about
pub enum FeedForward<B: Backend> {
    Dense(Network<B>),
    Experts(Experts<B>),
}

/// What the hidden layer of a network is called by whoever looks on.
pub const ACTIVATION: &str = "activation";

/// Two projections with a non-linearity between them, or three where it is gated.
#[derive(Module, Debug)]
pub struct Network<B: Backend> {
    /// What the activation is applied to, where it gates another projection.
    pub gate: Option<Linear<B>>,
    pub up: Linear<B>,
    pub down: Linear<B>,
    #[module(skip)]
    activation: Activation,
}

impl<B: Backend> FeedForward<B> {
    pub fn new(
        config: &ModelConfig,
        residual_deviation: f64,
        initializer: &mut Initializer,
        device: &B::Device,
    ) -> Self {
        match &config.feed_forward.experts {
            None => Self::Dense(Network::new(
                config,
                config.d_ff(),
                residual_deviation,
                initializer,
                device,
            )),
            Some(experts) => Self::Experts(Experts::new(
                config,
                experts,
                residual_deviation,
                initializer,
                device,
            )),
        }
    }

    /// Of all matrix products but those that choose experts.
    pub(super) fn set_precision(&mut self, precision: Precision) {
        match self {
            Self::Dense(network) => network.set_precision(precision),
            Self::Experts(experts) => experts.set_precision(precision),
        }
    }
}

impl<B: Backend> Network<B> {
    pub fn new(
        config: &ModelConfig,
        d_ff: usize,
        residual_deviation: f64,
        initializer: &mut Initializer,
        device: &B::Device,
    ) -> Self {
        let (d_model, bias) = (config.d_model, config.feed_forward_bias());
        let deviation = super::init::DEVIATION;
        let mut into = || Linear::new([d_model, d_ff], bias, deviation, &mut *initializer, device);
        Self {
            gate: config.feed_forward.gated.then(&mut into),
            up: into(),
            down: Linear::new([d_ff, d_model], bias, residual_deviation, initializer, device),
            activation: config.feed_forward.activation,
        }
    }

    pub(super) fn set_precision(&mut self, precision: Precision) {
        for linear in self.gate.iter_mut().chain([&mut self.up, &mut self.down]) {
            linear.set_precision(precision);
        }
    }
}

impl<B: GptBackend> FeedForward<B> {
    /// [`Linear::input_precision`], where one projection alone takes the input: the gradients of
    /// several are added up in f32.
    pub(super) fn input_precision(&self) -> Precision {
        match self {
            Self::Dense(Network { gate: None, up, .. }) => up.input_precision(),
            _ => Precision::F32,
        }
    }

    /// # Shapes
    /// - `input` `[B, T, D]` -> `[B, T, D]`
    pub fn forward(&self, input: Tensor<B, 3>, pass: &mut Pass<B>) -> Tensor<B, 3> {
        match self {
            Self::Dense(network) => network.forward(input, pass.record),
            Self::Experts(experts) => experts.forward(input, pass),
        }
    }
}

impl<B: GptBackend> Network<B> {
    /// # Shapes
    /// - `input` `[.., D]` -> `[.., D]`
    pub(super) fn forward<const D: usize>(
        &self,
        input: Tensor<B, D>,
        record: Record<B>,
    ) -> Tensor<B, D> {
        let hidden = match &self.gate {
            Some(gate) => {
                // What is observed is in f32.
                let of = |linear: &Linear<B>, input| match record.is_observed() {
                    true => linear.forward(input),
                    false => linear.rounded(input),
                };
                let gate = record.part("gate", input.clone(), |input| of(gate, input));
                let up = record.part("up", input, |input| of(&self.up, input));
                record.part(ACTIVATION, gate, |gate| B::gated(gate, up, self.activation))
            }
            None if record.is_observed() => {
                let up = record.part("up", input, |input| self.up.forward(input));
                record.part(ACTIVATION, up, |up| B::activation(up, self.activation))
            }
            None => self.up.activated(input, self.activation),
        };
        record.part("down", hidden, |hidden| self.down.forward(hidden)) // [.., d_ff] -> [.., D]
    }
}
