//! Kernels for GPUs in CubeCL: the same for CUDA and wgpu, with fusion and without.
//!
//! They take tensors of f32, and those of feed-forward networks and attention what products in bf16
//! are made of, too. What is elementary, and what burn's fusion makes one kernel of by itself, stays a composition.

mod activation;
mod attention;
#[cfg(feature = "cuda")]
mod collectives;
mod decoding;
mod dropout;
mod embedding;
mod fusion;
mod loss;
mod normalization;
mod optimizer;
mod products;
mod rotation;
mod rows;
mod sums;
mod tensors;

pub use fusion::Fused;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensorOps;
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime};
use cubecl::prelude::CubePrimitive;
use cubecl::tf32;

use super::compositions::{
    default_activated, default_activated_backward, default_activation, default_activation_backward,
    default_sum_rows,
};
use super::ops::{all_fit, fits, from_float, products_fit, to_float};
use super::{
    AdamwUpdate, Dropout, GptBackend, Kernels, LossTerms, NVIDIA_DEVICES, Scaling, Sight, Turn,
    nvidia_model,
};
#[cfg(feature = "cuda")]
use super::{LeftAlone, Member};
use crate::config::Activation;
use crate::config::Precision;

/// A backend that computes by CubeCL kernels.
type Cube<R, BT> = CubeBackend<R, f32, i32, BT>;

impl<R: CubeRuntime, BT: BoolElement> GptBackend for Cube<R, BT> {
    fn device_model() -> Option<String> {
        let is_nvidia = is_cuda::<R>(&R::Device::default());
        is_nvidia.then(|| nvidia_model(std::path::Path::new(NVIDIA_DEVICES))).flatten()
    }

    fn coarse_products(device: &Self::Device) -> Option<&'static str> {
        let tf32 = tf32::as_type_native_unchecked();
        R::client(device).properties().supports_type(tf32).then_some("TF32")
    }

    fn reserved_bytes(device: &Self::Device) -> Option<u64> {
        R::client(device).memory_usage().ok().map(|usage| usage.bytes_reserved)
    }

    fn kernels() -> Option<&'static dyn Kernels<Self>> {
        Some(&CubeKernels)
    }

    /// Only where nothing is fused: otherwise burn computes the composition together with the
    /// product and the bias before it.
    fn activation<const D: usize>(input: Tensor<Self, D>, kind: Activation) -> Tensor<Self, D> {
        match fits(&input) {
            true => from_float(activation::forward(to_float(input), kind)),
            false => default_activation(input, kind),
        }
    }

    fn activation_backward<const D: usize>(
        input: Tensor<Self, D>,
        gradient: Tensor<Self, D>,
        kind: Activation,
    ) -> Tensor<Self, D> {
        match fits(&input) && fits(&gradient) {
            true => from_float(activation::backward(to_float(input), to_float(gradient), kind)),
            false => default_activation_backward(input, gradient, kind),
        }
    }

    /// As [`GptBackend::activation`].
    fn activated(
        product: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        kind: Activation,
    ) -> Tensor<Self, 2> {
        if !(products_fit(&product, &product) && all_fit(&[&bias])) {
            return default_activated(product, bias, kind);
        }
        from_float(activation::activated(to_float(product), bias.map(to_float), kind))
    }

    fn activated_backward(
        product: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        gradient: Tensor<Self, 2>,
        kind: Activation,
    ) -> (Tensor<Self, 2>, Option<Tensor<Self, 1>>) {
        if !(products_fit(&product, &gradient) && all_fit(&[&bias])) {
            return default_activated_backward(product, bias, gradient, kind);
        }
        let (product, bias, gradient) = (to_float(product), bias.map(to_float), to_float(gradient));
        let (of_product, of_bias) = activation::activated_backward(product, bias, gradient, kind);
        (from_float(of_product), of_bias.map(from_float))
    }

    fn add_bias_backward(
        gradient: Tensor<Self, 2>,
        product: DType,
    ) -> (Tensor<Self, 2>, Tensor<Self, 1>) {
        if product == DType::F32 || !fits(&gradient) {
            return (gradient.clone().cast(product), Self::sum_rows(gradient));
        }
        let [of_product, of_bias] = sums::of_rows_rounding(to_float(gradient), product);
        (from_float(of_product), from_float(of_bias))
    }

    fn sum_rows(rows: Tensor<Self, 2>) -> Tensor<Self, 1> {
        match products_fit(&rows, &rows) {
            true => from_float(sums::of_rows(to_float(rows))),
            false => default_sum_rows(rows),
        }
    }

    fn join(parts: [Tensor<Self, 4>; 3]) -> Tensor<Self, 4> {
        join_by_tokens(parts)
    }

    #[cfg(feature = "cuda")]
    fn collectives(device: &Self::Device) -> Option<&'static str> {
        is_cuda::<R>(device).then(collectives::library).flatten()
    }

    #[cfg(feature = "cuda")]
    fn all_reduce(tensor: Tensor<Self, 1>, member: &Member) -> Result<Tensor<Self, 1>, LeftAlone> {
        collectives::all_reduce(tensor, member)
    }
}

/// [`GptBackend::join`] with the heads of a token side by side in memory, as they were in what a layer
/// made of it.
fn join_by_tokens<B: Backend>(parts: [Tensor<B, 4>; 3]) -> Tensor<B, 4> {
    Tensor::cat(parts.map(|part| part.swap_dims(1, 2)).into(), 2).swap_dims(1, 2)
}

fn is_cuda<R: CubeRuntime>(device: &R::Device) -> bool {
    R::name(&R::client(device)) == "cuda"
}

#[derive(Debug)]
struct CubeKernels;

impl<R: CubeRuntime, BT: BoolElement> Kernels<Cube<R, BT>> for CubeKernels {
    fn computes_in(&self, _precision: Precision) -> bool {
        true // where the device does, which was checked
    }

    fn gated(&self, gate: CubeTensor<R>, up: CubeTensor<R>, kind: Activation) -> CubeTensor<R> {
        activation::gated(gate, up, kind)
    }

    fn gated_backward(
        &self,
        gate: CubeTensor<R>,
        up: CubeTensor<R>,
        gradient: CubeTensor<R>,
        kind: Activation,
    ) -> [CubeTensor<R>; 2] {
        activation::gated_backward(gate, up, gradient, kind)
    }

    fn apply_dropout(&self, input: CubeTensor<R>, dropout: Dropout) -> CubeTensor<R> {
        dropout::apply(input, dropout)
    }

    fn rotate(
        &self,
        input: CubeTensor<R>,
        angles: [CubeTensor<R>; 2],
        turn: Turn,
    ) -> CubeTensor<R> {
        rotation::rotate(input, angles, turn)
    }

    fn normalization(
        &self,
        input: CubeTensor<R>,
        weight: Option<CubeTensor<R>>,
        bias: Option<CubeTensor<R>>,
        scaling: Scaling,
        precision: Precision,
    ) -> CubeTensor<R> {
        normalization::forward(input, weight, bias, scaling, products::element(precision))
    }

    fn normalization_backward(
        &self,
        input: CubeTensor<R>,
        weight: Option<CubeTensor<R>>,
        gradient: CubeTensor<R>,
        scaling: Scaling,
    ) -> [CubeTensor<R>; 3] {
        let [of_input, of_weight, of_bias] =
            normalization::backward(input, weight, gradient, scaling);
        [of_input, sums::of_rows(of_weight), sums::of_rows(of_bias)]
    }

    fn attend(&self, inputs: [CubeTensor<R>; 3], sight: &Sight) -> (CubeTensor<R>, CubeTensor<R>) {
        attention::forward::<R, BT>(attention::Inputs::Apart(inputs.into()), sight)
    }

    fn attend_joined(
        &self,
        joined: CubeTensor<R>,
        heads: [usize; 2],
        sight: &Sight,
    ) -> (CubeTensor<R>, CubeTensor<R>) {
        attention::forward::<R, BT>(attention::Inputs::Joined(joined.into(), heads), sight)
    }

    fn attend_backward(
        &self,
        inputs: [CubeTensor<R>; 3],
        output: CubeTensor<R>,
        log_sums: CubeTensor<R>,
        gradient: CubeTensor<R>,
        sight: &Sight,
    ) -> [CubeTensor<R>; 3] {
        let inputs = attention::Inputs::Apart(inputs.into());
        attention::backward::<R, BT>(inputs, output, log_sums, gradient, sight)
            .try_into()
            .expect("as many as go in")
    }

    fn attend_joined_backward(
        &self,
        joined: CubeTensor<R>,
        heads: [usize; 2],
        output: CubeTensor<R>,
        log_sums: CubeTensor<R>,
        gradient: CubeTensor<R>,
        sight: &Sight,
    ) -> CubeTensor<R> {
        let inputs = attention::Inputs::Joined(joined.into(), heads);
        attention::backward::<R, BT>(inputs, output, log_sums, gradient, sight)
            .pop()
            .expect("as many as go in")
    }

    fn put(&self, room: CubeTensor<R>, new: CubeTensor<R>, places: &[[usize; 2]]) -> CubeTensor<R> {
        decoding::put(room, new, places)
    }

    fn attend_rows(
        &self,
        inputs: [CubeTensor<R>; 3],
        lengths: &[usize],
        sight: &Sight,
    ) -> CubeTensor<R> {
        decoding::attend_rows(inputs, lengths, sight)
    }

    fn cross_entropy(
        &self,
        logits: CubeTensor<R>,
        targets: CubeTensor<R>,
        terms: LossTerms,
    ) -> [CubeTensor<R>; 3] {
        let width = logits.meta.shape()[1];
        let [losses, log_sums] = loss::forward(logits, targets, width, terms);
        let [loss, minimised] = means::<R, BT>(losses);
        [loss, minimised, log_sums]
    }

    fn cross_entropy_backward(
        &self,
        logits: CubeTensor<R>,
        targets: CubeTensor<R>,
        log_sums: CubeTensor<R>,
        gradient: CubeTensor<R>,
        terms: LossTerms,
    ) -> CubeTensor<R> {
        loss::backward(logits, targets, log_sums, gradient, terms)
    }

    fn linear_cross_entropy(
        &self,
        factors: [CubeTensor<R>; 2],
        bias: Option<CubeTensor<R>>,
        targets: CubeTensor<R>,
        precision: Precision,
        terms: LossTerms,
        wanted: [bool; 3],
    ) -> ([CubeTensor<R>; 2], [Option<CubeTensor<R>>; 3]) {
        let (losses, gradients) =
            loss::of_product::<R, BT>(factors, bias, targets, precision, terms, wanted);
        (means::<R, BT>(losses), gradients)
    }

    fn scaled(&self, tensor: CubeTensor<R>, factor: CubeTensor<R>) -> CubeTensor<R> {
        let ones = Shape::from(vec![1; tensor.meta.rank()]);
        Cube::<R, BT>::float_mul(tensor, Cube::<R, BT>::float_reshape(factor, ones))
    }

    fn embed_backward(
        &self,
        tokens: CubeTensor<R>,
        gradient: CubeTensor<R>,
        vocab_size: usize,
    ) -> CubeTensor<R> {
        embedding::backward(tokens, gradient, vocab_size)
    }

    fn sums_of_squares(&self, tensors: Vec<CubeTensor<R>>) -> CubeTensor<R> {
        optimizer::squares(tensors)
    }

    fn adamw(&self, updates: Vec<AdamwUpdate<CubeTensor<R>>>) -> Vec<[CubeTensor<R>; 3]> {
        optimizer::adamw(updates)
    }
}

/// The means of losses, `[N, K]`, of which a single kind stands for both.
fn means<R: CubeRuntime, BT: BoolElement>(losses: CubeTensor<R>) -> [CubeTensor<R>; 2] {
    let losses: Tensor<Cube<R, BT>, 2> = from_float(losses);
    if losses.dims()[1] == 1 {
        let mean = to_float(losses.mean());
        return [mean.clone(), mean];
    }
    [0, 1].map(|kind| to_float(losses.clone().narrow(1, kind, 1).mean()))
}
