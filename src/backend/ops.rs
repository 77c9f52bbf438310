//! The heavy operations of a GPT behind one trait.
//!
//! Every default method is a composition of burn's own operations, so that any backend works
//! and autodiff finds the gradient by itself. Where a backend has a faster kernel, the operation
//! has a `_backward` beside it, [`Autodiff`] joins the two, and the backend overrides both; the
//! defaults stay the reference that the kernels are tested against.
//!
//! B batch, T new positions, S all positions, H heads, K head width, D model width,
//! V vocabulary, N any number of rows

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::autodiff::{Autodiff, NodeId};
use burn::tensor::activation::{gelu, gelu_approximate, log_softmax, softmax};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Bool, Distribution, Int, Tensor, TensorPrimitive};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, FRAC_2_SQRT_PI};

use crate::config::Activation;

/// What attention needs beside its three tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionOptions {
    /// Factor on the scores before the softmax.
    pub scale: f64,
    /// Probability of dropping an attention weight, after the softmax, in training only.
    pub dropout: f64,
}

/// A backend that can run the models of this crate.
pub trait GptBackend: Backend {
    /// `input weight + bias`.
    ///
    /// # Shapes
    /// - `input` `[.., d_input]`, `weight` `[d_input, d_output]`, `bias` `[d_output]` ->
    ///   `[.., d_output]`
    fn dense<const D: usize>(
        input: Tensor<Self, D>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, D> {
        let mut dims = input.dims();
        let [d_input, d_output] = weight.dims();
        let rows = dims.iter().take(D - 1).product();
        dims[D - 1] = d_output;
        // One product over all rows: a batched one would build a weight gradient a batch entry.
        let output = input.reshape([rows, d_input]).matmul(weight);
        let output = match bias {
            Some(bias) => output + bias.unsqueeze(),
            None => output,
        };
        output.reshape(dims)
    }

    /// Normalisation over the last dimension (Ba, Kiros and Hinton 2016).
    ///
    /// # Shapes
    /// - `input` `[.., D]`, `weight` and `bias` `[D]` -> `[.., D]`
    fn layer_normalization<const D: usize>(
        input: Tensor<Self, D>,
        weight: Tensor<Self, 1>,
        bias: Option<Tensor<Self, 1>>,
        epsilon: f64,
    ) -> Tensor<Self, D> {
        let mean = input.clone().mean_dim(D - 1);
        let centered = input - mean;
        // Not `powf`: the square of a negative number must stay exact on every backend.
        let variance = (centered.clone() * centered.clone()).mean_dim(D - 1);
        let output = centered / (variance + epsilon).sqrt() * weight.unsqueeze();
        match bias {
            Some(bias) => output + bias.unsqueeze(),
            None => output,
        }
    }

    /// The feed-forward network's non-linearity, element by element.
    fn activation<const D: usize>(input: Tensor<Self, D>, kind: Activation) -> Tensor<Self, D> {
        default_activation(input, kind)
    }

    /// The gradient with respect to the input of [`GptBackend::activation`], from the gradient
    /// with respect to its output.
    fn activation_backward<const D: usize>(
        input: Tensor<Self, D>,
        gradient: Tensor<Self, D>,
        kind: Activation,
    ) -> Tensor<Self, D> {
        default_activation_backward(input, gradient, kind)
    }

    /// Rows of `weight` by token id.
    ///
    /// # Shapes
    /// - `weight` `[V, D]`, `tokens` `[B, T]` -> `[B, T, D]`
    fn embed(weight: Tensor<Self, 2>, tokens: Tensor<Self, 2, Int>) -> Tensor<Self, 3> {
        burn::tensor::module::embedding(weight, tokens)
    }

    /// Causal scaled dot-product attention (Vaswani et al. 2017). The queries are those of the
    /// last `T` of `S` positions, and each sees the positions up to its own.
    ///
    /// # Shapes
    /// - `query` `[B, H, T, K]`, `key` and `value` `[B, H, S, K]` -> `[B, H, T, K]`
    fn causal_attention(
        query: Tensor<Self, 4>,
        key: Tensor<Self, 4>,
        value: Tensor<Self, 4>,
        options: AttentionOptions,
    ) -> Tensor<Self, 4> {
        let device = query.device();
        let [b, h, t, _] = query.dims();
        let s = key.dims()[2];
        let scores = (query * options.scale).matmul(key.swap_dims(2, 3)); // [B, H, T, S]
        let scores = if t == 1 {
            scores
        } else {
            // True where the key lies in the future of the query.
            let offset = (s - t) as i64;
            let future = Tensor::<Self, 2, Bool>::tril_mask([t, s], offset, &device);
            // Added rather than filled in: a sum broadcasts without a mask of all scores, and its
            // gradient is free.
            let barrier =
                Tensor::<Self, 2>::zeros([t, s], &device).mask_fill(future, f32::NEG_INFINITY);
            // As rows of T S numbers, the one broadcast that every backend is fast at.
            let rows = scores.reshape([b * h, t * s]) + barrier.reshape([1, t * s]);
            rows.reshape([b, h, t, s])
        };
        let weights = Self::dropout(softmax(scores, 3), options.dropout);
        weights.matmul(value)
    }

    /// Zeroes each element with the given probability and scales the others up, in training
    /// only (Srivastava et al. 2014).
    fn dropout<const D: usize>(input: Tensor<Self, D>, probability: f64) -> Tensor<Self, D> {
        if probability == 0.0 || !Self::ad_enabled(&input.device()) {
            return input;
        }
        let keep = 1.0 - probability;
        let mask = input.random_like(Distribution::Bernoulli(keep));
        input * mask * (1.0 / keep)
    }

    /// Mean negative log-likelihood of the targets, in nats.
    ///
    /// # Shapes
    /// - `logits` `[N, V]`, `targets` `[N]` -> `[1]`
    fn cross_entropy(logits: Tensor<Self, 2>, targets: Tensor<Self, 1, Int>) -> Tensor<Self, 1> {
        let log_probabilities = log_softmax(logits, 1);
        log_probabilities.gather(1, targets.unsqueeze_dim(1)).mean().neg()
    }
}

/// [`GptBackend::activation`] by burn's own operations.
pub(super) fn default_activation<B: Backend, const D: usize>(
    input: Tensor<B, D>,
    kind: Activation,
) -> Tensor<B, D> {
    match kind {
        Activation::Gelu => gelu(input),
        Activation::GeluTanh => gelu_approximate(input),
    }
}

/// [`GptBackend::activation_backward`] by burn's own operations.
pub(super) fn default_activation_backward<B: Backend, const D: usize>(
    input: Tensor<B, D>,
    gradient: Tensor<B, D>,
    kind: Activation,
) -> Tensor<B, D> {
    match kind {
        Activation::Gelu => {
            // burn's own `gelu_backward` is the derivative of the tanh form, not of this one.
            let cumulative = ((input.clone() * FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
            let bell = (input.clone() * input.clone() * -0.5).exp();
            let density = bell * (0.5 * FRAC_1_SQRT_2 * FRAC_2_SQRT_PI);
            gradient * (cumulative + input * density)
        }
        Activation::GeluTanh => {
            // x g(u) with g = (1 + tanh) / 2 and u = sqrt(2 / pi) (x + a x^3).
            let (scale, cubic) = (FRAC_2_PI.sqrt(), 0.044715);
            let square = input.clone() * input.clone();
            let argument = input.clone() * (square.clone() * cubic + 1.0) * scale;
            let gate = (argument.tanh() + 1.0) * 0.5;
            let slope = (square * (3.0 * cubic) + 1.0) * (2.0 * scale);
            let rest = input * gate.clone() * (gate.clone().neg() + 1.0) * slope;
            gradient * (gate + rest)
        }
    }
}

impl<B: GptBackend, C: CheckpointStrategy> GptBackend for Autodiff<B, C> {
    fn activation<const D: usize>(input: Tensor<Self, D>, kind: Activation) -> Tensor<Self, D> {
        #[derive(Debug)]
        struct ActivationBackward<const D: usize>;

        impl<B: GptBackend, const D: usize> Backward<B, 1> for ActivationBackward<D> {
            type State = (NodeId, Activation);

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                checkpointer: &mut Checkpointer,
            ) {
                let (input, kind) = ops.state;
                let input: FloatTensor<B> = checkpointer.retrieve_node_output(input);
                unary::<B, _>(ops.parents, ops.node, grads, |gradient| {
                    let (input, gradient) = (float::<B, D>(input), float(gradient));
                    B::activation_backward(input, gradient, kind).into_primitive().tensor()
                });
            }
        }

        let input = input.into_primitive().tensor();
        let output = B::activation(float::<B, D>(input.primitive.clone()), kind);
        let output = output.into_primitive().tensor();
        let prepared =
            ActivationBackward::<D>.prepare::<C>([input.node.clone()]).compute_bound().stateful();
        Tensor::from_primitive(TensorPrimitive::Float(match prepared {
            OpsKind::Tracked(mut prepared) => {
                let state = (prepared.checkpoint(&input), kind);
                prepared.finish(state, output)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }))
    }
}

fn float<B: Backend, const D: usize>(tensor: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(tensor))
}

/// All that training asks of a backend: gradients, and our operations with and without them.
pub trait TrainBackend: AutodiffBackend<InnerBackend: GptBackend> + GptBackend {}

impl<B: AutodiffBackend<InnerBackend: GptBackend> + GptBackend> TrainBackend for B {}
