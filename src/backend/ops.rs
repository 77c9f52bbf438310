//! The heavy operations of a GPT behind one trait.
//!
//! Every operation can be composed of burn's own, so that any backend works and autodiff finds
//! the gradient by itself. Where a backend has [`Kernels`], they are used instead, and autodiff is
//! told of their gradients; the compositions stay the reference that they are tested against.
//!
//! B batch, T new positions, S all positions, H query heads, G key heads, K head width, W width of a
//! value, D model width, V vocabulary, N any number of rows, C rows of a cache, R positions that it
//! has room for

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, FloatDType, Int, Tensor, TensorPrimitive};

use super::compositions::{
    default_activated, default_activated_backward, default_activation, default_activation_backward,
    default_adamw, default_attend, default_attend_rows, default_dense, default_dense_activated,
    default_dense_int8, default_dropout, default_gated, default_normalization, default_product,
    default_put, default_rotate, default_separate, default_sum_rows, default_sums_of_squares,
    default_training_loss, scaling,
};
use super::group::all_reduce_over_host;
use super::precision::{factor, precision_of};
use super::{
    AdamwUpdate, AttentionOptions, Dropout, Kernels, LeftAlone, LossTerms, Member, Products,
    Rotation, Turn,
};
use crate::config::Activation;
use crate::config::NormKind;
use crate::config::Precision;

/// A backend that can run the models of this crate.
pub trait GptBackend: Backend {
    /// The model of the device that it runs on, as its maker names it, where that is known.
    fn device_model() -> Option<String> {
        None
    }

    /// The format that a device rounds the factors of matrix products in f32 to, where it may.
    fn coarse_products(_device: &Self::Device) -> Option<&'static str> {
        None
    }

    /// Bytes of a device's memory that its allocator holds for what this thread computes, in use or
    /// kept for later, where there is one that says.
    fn reserved_bytes(_device: &Self::Device) -> Option<u64> {
        None
    }

    /// Matrix products of this backend's own, where burn's are not what it is fastest at.
    fn products() -> Option<&'static dyn Products<Self>> {
        None
    }

    /// Kernels of this backend's own.
    fn kernels() -> Option<&'static dyn Kernels<Self>> {
        None
    }

    /// Whether kernels of its own take and make tensors in this precision.
    fn has_kernels_in(precision: Precision) -> bool {
        Self::kernels().is_some_and(|kernels| kernels.computes_in(precision))
    }

    /// `input weight + bias`, the sum in f32; the product is in the precision that both factors
    /// have.
    ///
    /// # Shapes
    /// - `input` `[.., d_input]`, `weight` `[d_input, d_output]`, `bias` `[d_output]` ->
    ///   `[.., d_output]`
    fn dense<const D: usize>(
        input: Tensor<Self, D>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, D> {
        let all_fit = fits(&input) && fits(&weight) && all_fit(&[&bias]);
        let Some(products) = Self::products().filter(|_| all_fit) else {
            return default_dense(input, weight, bias);
        };
        from_float(products.dense(to_float(input), to_float(weight), bias.map(to_float)))
    }

    /// [`GptBackend::dense`], rounded to the precision that both factors have.
    ///
    /// # Shapes
    /// - `input` `[.., d_input]`, `weight` `[d_input, d_output]`, `bias` `[d_output]` ->
    ///   `[.., d_output]`
    fn product<const D: usize>(
        input: Tensor<Self, D>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, D> {
        match precision_of(&input) {
            Precision::F32 => Self::dense(input, weight, bias),
            Precision::Bf16 => default_product(input, weight, bias),
        }
    }

    /// [`GptBackend::activation`] of [`GptBackend::dense`], rounded to the precision of the factors:
    /// it is to be a factor itself. For the gradient, a backend with products of its own keeps the
    /// activation's slopes in place of what it is applied to, and any other the product alone.
    ///
    /// # Shapes
    /// - `input` `[.., d_input]`, `weight` `[d_input, d_output]`, `bias` `[d_output]` ->
    ///   `[.., d_output]`
    fn dense_activated<const D: usize>(
        input: Tensor<Self, D>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        kind: Activation,
    ) -> Tensor<Self, D> {
        let all_fit = fits(&input) && fits(&weight) && all_fit(&[&bias]);
        match Self::products().filter(|_| all_fit) {
            Some(_) => Self::activation(Self::dense(input, weight, bias), kind),
            None => default_dense_activated(input, weight, bias, kind),
        }
    }

    /// [`GptBackend::activation`] of a product with a bias, whose sum is in f32, in the product's
    /// own precision.
    ///
    /// # Shapes
    /// - `product` `[N, O]`, `bias` `[O]` -> `[N, O]`
    fn activated(
        product: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        kind: Activation,
    ) -> Tensor<Self, 2> {
        default_activated(product, bias, kind)
    }

    /// The gradients with respect to product, in its precision, and bias, in f32, of
    /// [`GptBackend::activated`], from the gradient with respect to its output.
    ///
    /// # Shapes
    /// - `product` and `gradient` `[N, O]`, `bias` `[O]` -> `[N, O]` and `[O]`
    fn activated_backward(
        product: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        gradient: Tensor<Self, 2>,
        kind: Activation,
    ) -> (Tensor<Self, 2>, Option<Tensor<Self, 1>>) {
        default_activated_backward(product, bias, gradient, kind)
    }

    /// `input (values scales) + bias`: a product with weights of a byte each, in units of their
    /// output's scale. There is no gradient with respect to them.
    ///
    /// # Shapes
    /// - `input` `[.., d_input]`, `values` `[d_input, d_output]`, `scales` and `bias` `[d_output]`
    ///   -> `[.., d_output]`
    fn dense_int8<const D: usize>(
        input: Tensor<Self, D>,
        values: Tensor<Self, 2, Int>,
        scales: Tensor<Self, 1>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, D> {
        let all_fit = fits(&input) && fits(&scales) && all_fit(&[&bias]);
        let all_fit = all_fit && values.dtype() == DType::I8 && values.dims()[0] > 0;
        let Some(products) = Self::products().filter(|_| all_fit) else {
            return default_dense_int8(input, values, scales, bias);
        };
        let (values, scales) = (values.into_primitive(), to_float(scales));
        from_float(products.dense_int8(to_float(input), values, scales, bias.map(to_float)))
    }

    /// Brings the last dimension to one scale, then multiplies by `weight` and adds `bias`: in f32,
    /// and rounded to a precision in the end.
    ///
    /// # Shapes
    /// - `input` `[.., D]`, `weight` and `bias` `[D]` -> `[.., D]`
    fn normalization<const D: usize>(
        input: Tensor<Self, D>,
        weight: Option<Tensor<Self, 1>>,
        bias: Option<Tensor<Self, 1>>,
        kind: NormKind,
        epsilon: f64,
        precision: Precision,
    ) -> Tensor<Self, D> {
        if precision != Precision::F32 && !Self::has_kernels_in(precision) {
            let exact = Self::normalization(input, weight, bias, kind, epsilon, Precision::F32);
            return factor(exact, precision);
        }
        let all_fit = fits(&input) && all_fit(&[&weight, &bias]);
        let scaling = scaling(kind, epsilon).filter(|_| all_fit);
        match (Self::kernels(), scaling) {
            (Some(kernels), Some(scaling)) => from_float(kernels.normalization(
                to_float(input),
                weight.map(to_float),
                bias.map(to_float),
                scaling,
                precision,
            )),
            _ => factor(default_normalization(input, weight, bias, kind, epsilon), precision),
        }
    }

    /// A product with what is added to each of its rows: in f32, and rounded to a precision in the end.
    ///
    /// # Shapes
    /// - `product` `[N, O]`, `bias` `[O]` -> `[N, O]`
    fn add_bias(
        product: Tensor<Self, 2>,
        bias: Tensor<Self, 1>,
        precision: Precision,
    ) -> Tensor<Self, 2> {
        factor(product.cast(FloatDType::F32) + bias.unsqueeze(), precision)
    }

    /// The gradients with respect to product, in its own type, and bias, in f32, of
    /// [`GptBackend::add_bias`], from the gradient with respect to the sum.
    ///
    /// # Shapes
    /// - `gradient` `[N, O]` -> `[N, O]` and `[O]`
    fn add_bias_backward(
        gradient: Tensor<Self, 2>,
        product: DType,
    ) -> (Tensor<Self, 2>, Tensor<Self, 1>) {
        (gradient.clone().cast(product), Self::sum_rows(gradient))
    }

    /// The sum of all rows, in f32.
    ///
    /// # Shapes
    /// - `rows` `[N, O]` -> `[O]`
    fn sum_rows(rows: Tensor<Self, 2>) -> Tensor<Self, 1> {
        default_sum_rows(rows)
    }

    /// The sum of two tensors of one shape, such as the residual stream and a sublayer's output.
    fn add<const D: usize>(one: Tensor<Self, D>, other: Tensor<Self, D>) -> Tensor<Self, D> {
        from_float(Self::sum(to_float(one), to_float(other)))
    }

    /// [`GptBackend::add`] of any rank, which is also how gradients are added up.
    fn sum(one: FloatTensor<Self>, other: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_add(one, other)
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

    /// `activation(gate) * up` (Shazeer 2020), in the precision that both have.
    fn gated<const D: usize>(
        gate: Tensor<Self, D>,
        up: Tensor<Self, D>,
        kind: Activation,
    ) -> Tensor<Self, D> {
        match kernels_for::<Self, _, _>(&gate, &up) {
            Some(kernels) => from_float(kernels.gated(to_float(gate), to_float(up), kind)),
            None => default_gated(gate, up, kind),
        }
    }

    /// Rows of `weight` by token id.
    ///
    /// # Shapes
    /// - `weight` `[V, D]`, `tokens` `[B, T]` -> `[B, T, D]`
    fn embed(weight: Tensor<Self, 2>, tokens: Tensor<Self, 2, Int>) -> Tensor<Self, 3> {
        burn::tensor::module::embedding(weight, tokens)
    }

    /// Turns the first so many heads, which are queries and keys, by the angles of their positions
    /// (Su et al. 2021); other heads, and what is beyond the width of the rotation, stay as they
    /// are. In f32, and rounded to a precision in the end.
    ///
    /// # Shapes
    /// - `input` `[B, H, T, K]`, `rotation` over `T` positions -> `[B, H, T, K]`
    fn rotate(
        input: Tensor<Self, 4>,
        heads: usize,
        rotation: &Rotation<Self>,
        precision: Precision,
    ) -> Tensor<Self, 4> {
        if precision != Precision::F32 && !Self::has_kernels_in(precision) {
            return factor(Self::rotate(input, heads, rotation, Precision::F32), precision);
        }
        match Self::kernels().filter(|_| fits(&input) && fits(&rotation.cosines)) {
            Some(kernels) => {
                let turn = Turn { heads, pairing: rotation.pairing, back: false, precision };
                from_float(kernels.rotate(to_float(input), rotation.angles(), turn))
            }
            None => factor(default_rotate(input, heads, rotation), precision),
        }
    }

    /// Scaled dot-product attention (Vaswani et al. 2017). Where there are fewer key heads than
    /// query heads, each serves `H / G` query heads in a row. What comes out is in the precision that
    /// all three have, which is f32 or that of the products.
    ///
    /// # Shapes
    /// - `query` `[B, H, T, K]`, `key` `[B, G, S, K]`, `value` `[B, G, S, W]` -> `[B, H, T, W]`
    fn attend(
        query: Tensor<Self, 4>,
        key: Tensor<Self, 4>,
        value: Tensor<Self, 4>,
        options: &AttentionOptions,
    ) -> Tensor<Self, 4> {
        let kernels = Self::kernels().filter(|it| it.computes_in(options.precision));
        match (kernels, options.sight(&[&query, &key, &value])) {
            (Some(kernels), Some(sight)) => {
                from_float(kernels.attend([query, key, value].map(to_float), &sight).0)
            }
            _ => default_attend(query, key, value, options),
        }
    }

    /// [`GptBackend::attend`] of H query heads, then G key heads, then their values, which stand
    /// in one tensor.
    ///
    /// # Shapes
    /// - `joined` `[B, H + 2 G, T, K]` -> `[B, H, T, K]`
    fn attend_joined(
        joined: Tensor<Self, 4>,
        heads: [usize; 2],
        options: &AttentionOptions,
    ) -> Tensor<Self, 4> {
        let kernels = Self::kernels().filter(|it| it.computes_in(options.precision));
        match (kernels, options.sight(&[&joined])) {
            (Some(kernels), Some(sight)) => {
                from_float(kernels.attend_joined(to_float(joined), heads, &sight).0)
            }
            _ => {
                let [query, key, value] = Self::separate(joined, heads);
                default_attend(query, key, value, options)
            }
        }
    }

    /// H query heads, G key heads and their values, which stand in one tensor.
    ///
    /// Where one of them takes part in what is differentiated, all three have to: otherwise there
    /// is no gradient of `joined`, without which a backward pass may panic.
    ///
    /// # Shapes
    /// - `joined` `[B, H + 2 G, T, K]` -> `[B, H, T, K]` and twice `[B, G, T, K]`
    fn separate(joined: Tensor<Self, 4>, heads: [usize; 2]) -> [Tensor<Self, 4>; 3] {
        default_separate(joined, heads)
    }

    /// The opposite of [`GptBackend::separate`].
    ///
    /// # Shapes
    /// - `[B, H, T, K]` and twice `[B, G, T, K]` -> `[B, H + 2 G, T, K]`
    fn join(parts: [Tensor<Self, 4>; 3]) -> Tensor<Self, 4> {
        Tensor::cat(Vec::from(parts), 1)
    }

    /// Writes new positions into the room for them: those of each entry of the batch into the row
    /// of the room, and from the position of the row on, that its place says. Whoever else holds
    /// the room does not see them.
    ///
    /// # Shapes
    /// - `room` `[C, G, R, K]`, `new` `[B, G, T, K]`, `places` `B` of a row and a position ->
    ///   `[C, G, R, K]`
    fn put(room: Tensor<Self, 4>, new: Tensor<Self, 4>, places: &[[usize; 2]]) -> Tensor<Self, 4> {
        let ([rows, g, positions, k], [b, of_new, t, width]) = (room.dims(), new.dims());
        assert_eq!(([g, k], b), ([of_new, width], places.len()));
        assert!(places.iter().all(|[row, start]| *row < rows && start + t <= positions));
        match Self::kernels().filter(|_| fits(&room) && fits(&new)) {
            Some(kernels) => from_float(kernels.put(to_float(room), to_float(new), places)),
            None => default_put(room, new, places),
        }
    }

    /// [`GptBackend::attend`] of one new position in each row, to the first so many of its keys.
    /// Every row comes out as it would alone, whatever the others are. Lengths are all that there is of
    /// ranges here.
    ///
    /// # Shapes
    /// - `query` `[B, H, 1, K]`, `key` `[C, G, R, K]`, `value` `[C, G, R, W]`, where C is not less
    ///   than B, `lengths` `B` -> `[B, H, 1, W]`
    fn attend_rows(
        query: Tensor<Self, 4>,
        key: Tensor<Self, 4>,
        value: Tensor<Self, 4>,
        lengths: &[usize],
        options: &AttentionOptions,
    ) -> Tensor<Self, 4> {
        let ([b, _, t, _], [rows, _, room, _]) = (query.dims(), key.dims());
        assert!(t == 1 && b == lengths.len() && b <= rows && options.ranges.is_none());
        assert!(lengths.iter().all(|length| (1..=room).contains(length)));
        let kernels = Self::kernels().filter(|it| it.computes_in(options.precision));
        let sight = options.sight(&[&query, &key, &value]);
        match (
            kernels,
            sight.filter(|sight| sight.dropout.is_none() && sight.given == Precision::F32),
        ) {
            (Some(kernels), Some(sight)) => {
                let inputs = [query, key, value].map(to_float);
                from_float(kernels.attend_rows(inputs, lengths, &sight))
            }
            _ => default_attend_rows(query, key, value, lengths, options),
        }
    }

    /// Rows of a product that come out bit by bit as each of them would alone; none where that
    /// depends on how many there are.
    fn equal_rows() -> Option<usize> {
        None
    }

    /// Keeps numbers within ± `cap`: `cap * tanh(x / cap)` (Gemma 2).
    fn soft_cap<const D: usize>(input: Tensor<Self, D>, cap: f64) -> Tensor<Self, D> {
        (input * (1.0 / cap)).tanh() * cap
    }

    /// Drops numbers of a tensor of any shape, and scales the others up.
    fn apply_dropout<const D: usize>(input: Tensor<Self, D>, dropout: Dropout) -> Tensor<Self, D> {
        match Self::kernels().filter(|_| fits(&input)) {
            Some(kernels) => from_float(kernels.apply_dropout(to_float(input), dropout)),
            None => default_dropout(input, dropout),
        }
    }

    /// [`GptBackend::apply_dropout`] with the given probability, which is below one, and a seed from
    /// this thread's generator; in training only.
    fn dropout<const D: usize>(input: Tensor<Self, D>, probability: f64) -> Tensor<Self, D> {
        match Dropout::draw::<Self>(probability, &input.device()) {
            Some(dropout) => Self::apply_dropout(input, dropout),
            None => input,
        }
    }

    /// Mean negative log-likelihood of the targets, in nats.
    ///
    /// # Shapes
    /// - `logits` `[N, V]`, `targets` `[N]` -> `[1]`
    fn cross_entropy(logits: Tensor<Self, 2>, targets: Tensor<Self, 1, Int>) -> Tensor<Self, 1> {
        let [_, loss] = Self::training_loss(logits, targets, LossTerms::default());
        loss
    }

    /// [`GptBackend::cross_entropy`], and what is minimised in its place, which alone has
    /// gradients: with ε of label smoothing, V tokens and a z-loss of weight w, the mean of
    /// `(1 - ε) (-log p_target) + ε / V Σ (-log p) + w log² Z`. Without terms they are equal.
    ///
    /// # Shapes
    /// - `logits` `[N, V]`, `targets` `[N]` -> `[1]` and `[1]`
    fn training_loss(
        logits: Tensor<Self, 2>,
        targets: Tensor<Self, 1, Int>,
        terms: LossTerms,
    ) -> [Tensor<Self, 1>; 2] {
        match Self::kernels().filter(|_| fits(&logits)) {
            Some(kernels) => {
                let (logits, targets) = (to_float(logits), targets.into_primitive());
                let [loss, minimised, _] = kernels.cross_entropy(logits, targets, terms);
                [loss, minimised].map(from_float)
            }
            None => default_training_loss(logits, targets, terms),
        }
    }

    /// [`GptBackend::training_loss`] of the logits that [`GptBackend::dense`] makes of factors in
    /// this precision, of which a backend with kernels has no more than so many in memory at a
    /// time.
    ///
    /// # Shapes
    /// - `input` `[N, D]`, `weight` `[D, V]`, `bias` `[V]`, `targets` `[N]` -> `[1]` and `[1]`
    fn linear_training_loss(
        input: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        targets: Tensor<Self, 1, Int>,
        precision: Precision,
        terms: LossTerms,
    ) -> [Tensor<Self, 1>; 2] {
        let all_fit = fits(&input) && fits(&weight) && all_fit(&[&bias]);
        match Self::kernels().filter(|it| all_fit && it.computes_in(precision)) {
            Some(kernels) => {
                let factors = [input, weight].map(to_float);
                let (bias, targets) = (bias.map(to_float), targets.into_primitive());
                let wanted = [false; 3];
                let (losses, _) =
                    kernels.linear_cross_entropy(factors, bias, targets, precision, terms, wanted);
                losses.map(from_float)
            }
            None => {
                let (input, weight) = (factor(input, precision), factor(weight, precision));
                Self::training_loss(Self::dense(input, weight, bias), targets, terms)
            }
        }
    }

    /// The squares of all numbers of all tensors, of which there is at least one, in sums of many:
    /// the host adds these up in f64 once it has read them.
    ///
    /// # Shapes
    /// - tensors `[N]` -> `[P]`
    fn sums_of_squares(tensors: Vec<Tensor<Self, 1>>) -> Tensor<Self, 1> {
        let kernels = Self::kernels().filter(|_| tensors.iter().all(fits));
        match kernels {
            Some(kernels) => {
                let tensors = tensors.into_iter().map(to_float).collect();
                from_float(kernels.sums_of_squares(tensors))
            }
            None => default_sums_of_squares(tensors),
        }
    }

    /// The library by which devices of this backend send tensors to each other; none where that
    /// goes over the host.
    fn collectives(_device: &Self::Device) -> Option<&'static str> {
        None
    }

    /// The sum of the tensors that the members of a group bring, for all of them the same to the
    /// last bit. Each calls this from its own thread, with a tensor on its own device.
    ///
    /// # Shapes
    /// - `tensor` `[N]`, the same N for all -> `[N]`
    ///
    /// # Errors
    /// Where a member has left the group.
    fn all_reduce(tensor: Tensor<Self, 1>, member: &Member) -> Result<Tensor<Self, 1>, LeftAlone> {
        all_reduce_over_host(tensor, member)
    }

    /// Each parameter and its two moments after a step.
    ///
    /// # Shapes
    /// - tensors `[N]`
    fn adamw(updates: Vec<AdamwUpdate<Tensor<Self, 1>>>) -> Vec<[Tensor<Self, 1>; 3]> {
        let all_fit = updates.iter().flat_map(AdamwUpdate::tensors).all(fits);
        match Self::kernels().filter(|_| all_fit) {
            Some(kernels) => {
                let updates = updates.into_iter().map(|update| update.map(to_float)).collect();
                let updated = kernels.adamw(updates).into_iter();
                updated.map(|tensors| tensors.map(from_float)).collect()
            }
            None => updates.into_iter().map(default_adamw).collect(),
        }
    }
}

/// Whether kernels take a tensor: f32, and some of it.
pub(super) fn fits<B: Backend, const D: usize>(tensor: &Tensor<B, D>) -> bool {
    tensor.dtype() == DType::F32 && tensor.shape().num_elements() > 0
}

/// [`fits`] of products, or of one and its gradient: they may be in bf16, as their factors are.
pub(super) fn products_fit<B: Backend, const D: usize>(
    one: &Tensor<B, D>,
    other: &Tensor<B, D>,
) -> bool {
    let is_known = matches!(one.dtype(), DType::F32 | DType::BF16);
    is_known && one.dtype() == other.dtype() && one.shape().num_elements() > 0
}

/// The kernels for products in the precision that both have, where there are any. They are those of
/// the backend within, where autodiff asks.
pub(super) fn kernels_for<B: GptBackend, C: Backend, const D: usize>(
    one: &Tensor<C, D>,
    other: &Tensor<C, D>,
) -> Option<&'static dyn Kernels<B>> {
    B::kernels().filter(|it| products_fit(one, other) && it.computes_in(precision_of(one)))
}

pub(super) fn all_fit<B: Backend>(tensors: &[&Option<Tensor<B, 1>>]) -> bool {
    tensors.iter().all(|tensor| tensor.as_ref().is_none_or(fits))
}

pub(super) fn to_float<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

pub(super) fn from_float<B: Backend, const D: usize>(tensor: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(tensor))
}

/// All that training asks of a backend: gradients, and our operations with and without them.
pub trait TrainBackend: AutodiffBackend<InnerBackend: GptBackend> + GptBackend {}

impl<B: AutodiffBackend<InnerBackend: GptBackend> + GptBackend> TrainBackend for B {}
