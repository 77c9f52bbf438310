//! The operations of [`GptBackend`] as compositions of burn's own: what runs where a backend has no
//! kernels, and the reference that kernels are tested against.
//!
//! B batch, T new positions, S all positions, H heads, G key heads, V vocabulary

use burn::tensor::activation::{gelu, gelu_approximate, log_softmax, relu, sigmoid, softmax};
use burn::tensor::backend::Backend;
use burn::tensor::{Bool, DType, FloatDType, Int, Tensor, TensorData};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, FRAC_2_SQRT_PI};

use super::precision::{factor, precision_of, product};
use super::{
    AdamwUpdate, AttentionOptions, Dropout, GptBackend, KeyRanges, LossTerms, Rotation, Scaling,
    alibi_slope,
};
use crate::config::Activation;
use crate::config::NormKind;
use crate::config::Precision;
use crate::config::RotaryPairing;

/// [`GptBackend::dense`] by burn's own product.
pub(super) fn default_dense<B: GptBackend, const D: usize>(
    input: Tensor<B, D>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, D> {
    let d_output = weight.dims()[1];
    on_rows(input, d_output, |input| biased(input.matmul(weight), bias))
}

/// [`GptBackend::product`] by burn's own.
pub(super) fn default_product<B: GptBackend, const D: usize>(
    input: Tensor<B, D>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, D> {
    let (d_output, precision) = (weight.dims()[1], precision_of(&input));
    on_rows(input, d_output, |input| match bias {
        Some(bias) => B::add_bias(input.matmul(weight), bias, precision),
        None => input.matmul(weight),
    })
}

/// [`GptBackend::dense_activated`] by burn's own product.
pub(super) fn default_dense_activated<B: GptBackend, const D: usize>(
    input: Tensor<B, D>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
    kind: Activation,
) -> Tensor<B, D> {
    let d_output = weight.dims()[1];
    on_rows(input, d_output, |input| B::activated(input.matmul(weight), bias, kind))
}

/// A product with what is added to each of its rows, in f32.
fn biased<B: GptBackend>(product: Tensor<B, 2>, bias: Option<Tensor<B, 1>>) -> Tensor<B, 2> {
    match bias {
        Some(bias) => B::add_bias(product, bias, Precision::F32),
        None => product.cast(FloatDType::F32),
    }
}

/// [`GptBackend::gated`] in f32, by the operations that it is made of, and rounded to bf16.
pub(super) fn default_gated<B: GptBackend, const D: usize>(
    gate: Tensor<B, D>,
    up: Tensor<B, D>,
    kind: Activation,
) -> Tensor<B, D> {
    match gate.dtype() {
        DType::BF16 => {
            let [gate, up] = [gate, up].map(|tensor| tensor.cast(FloatDType::F32));
            B::gated(gate, up, kind).cast(FloatDType::BF16)
        }
        _ => B::activation(gate, kind) * up,
    }
}

/// [`GptBackend::activated`] by the operations that it is made of.
pub(super) fn default_activated<B: GptBackend>(
    product: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
    kind: Activation,
) -> Tensor<B, 2> {
    let dtype = product.dtype();
    B::activation(biased(product, bias), kind).cast(dtype)
}

/// [`GptBackend::activated_backward`] by the operations that it is made of.
pub(super) fn default_activated_backward<B: GptBackend>(
    product: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
    gradient: Tensor<B, 2>,
    kind: Activation,
) -> (Tensor<B, 2>, Option<Tensor<B, 1>>) {
    let (dtype, has_bias) = (product.dtype(), bias.is_some());
    let gradient = gradient.cast(FloatDType::F32);
    let of_sum = B::activation_backward(biased(product, bias), gradient, kind);
    let of_bias = has_bias.then(|| B::sum_rows(of_sum.clone()));
    (of_sum.cast(dtype), of_bias)
}

/// [`GptBackend::sum_rows`] by burn's own operations.
pub(super) fn default_sum_rows<B: Backend>(rows: Tensor<B, 2>) -> Tensor<B, 1> {
    rows.cast(FloatDType::F32).sum_dim(0).squeeze_dim(0)
}

/// [`GptBackend::dense_int8`] by burn's own operations.
pub(super) fn default_dense_int8<B: GptBackend, const D: usize>(
    input: Tensor<B, D>,
    values: Tensor<B, 2, Int>,
    scales: Tensor<B, 1>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, D> {
    default_dense(input, values.float() * scales.unsqueeze(), bias)
}

/// One product over all rows: a batched one would build a weight gradient a batch entry.
pub(super) fn on_rows<B: Backend, const D: usize>(
    input: Tensor<B, D>,
    d_output: usize,
    multiply: impl FnOnce(Tensor<B, 2>) -> Tensor<B, 2>,
) -> Tensor<B, D> {
    let mut dims = input.dims();
    let (rows, d_input) = (dims.iter().take(D - 1).product(), dims[D - 1]);
    dims[D - 1] = d_output;
    multiply(input.reshape([rows, d_input])).reshape(dims)
}

/// [`GptBackend::normalization`] by burn's own operations.
pub(super) fn default_normalization<B: Backend, const D: usize>(
    input: Tensor<B, D>,
    weight: Option<Tensor<B, 1>>,
    bias: Option<Tensor<B, 1>>,
    kind: NormKind,
    epsilon: f64,
) -> Tensor<B, D> {
    // Not `powf`: the square of a negative number must stay exact on every backend.
    let square = |input: &Tensor<B, D>| input.clone() * input.clone();
    let output = match kind {
        NormKind::Layer => {
            let centered = input.clone() - input.mean_dim(D - 1);
            let variance = square(&centered).mean_dim(D - 1);
            centered / (variance + epsilon).sqrt()
        }
        NormKind::Rms => {
            let mean_square = square(&input).mean_dim(D - 1);
            input / (mean_square + epsilon).sqrt()
        }
        NormKind::Cosine => {
            // Bounded before the root, whose slope at zero is infinite.
            let square_length = square(&input).sum_dim(D - 1).clamp_min(epsilon * epsilon);
            input / square_length.sqrt()
        }
    };
    let output = match weight {
        Some(weight) => output * weight.unsqueeze(),
        None => output,
    };
    match bias {
        Some(bias) => output + bias.unsqueeze(),
        None => output,
    }
}

/// What kernels need to know of a norm; none of one that they do not compute.
pub(super) fn scaling(kind: NormKind, epsilon: f64) -> Option<Scaling> {
    let epsilon = epsilon as f32;
    match kind {
        NormKind::Layer => Some(Scaling { centered: true, epsilon }),
        NormKind::Rms => Some(Scaling { centered: false, epsilon }),
        NormKind::Cosine => None,
    }
}

/// [`GptBackend::rotate`] by burn's own operations.
pub(super) fn default_rotate<B: Backend>(
    input: Tensor<B, 4>,
    heads: usize,
    rotation: &Rotation<B>,
) -> Tensor<B, 4> {
    let [b, h, t, k] = input.dims();
    if heads < h {
        let others = input.clone().narrow(1, heads, h - heads);
        let turned = default_rotate(input.narrow(1, 0, heads), heads, rotation);
        return Tensor::cat(vec![turned, others], 1);
    }
    let half = rotation.cosines.dims()[1];
    let width = 2 * half;
    // As rows of T R/2 numbers, the one broadcast that every backend is fast at.
    let rows = |part: Tensor<B, 4>| part.reshape([b * h, t * half]);
    let angles = |table: &Tensor<B, 2>| table.clone().reshape([1, t * half]);
    let (cosines, sines) = (angles(&rotation.cosines), angles(&rotation.sines));
    let (x, y) = match rotation.pairing {
        RotaryPairing::Half => {
            (rows(input.clone().narrow(3, 0, half)), rows(input.clone().narrow(3, half, half)))
        }
        RotaryPairing::Interleaved => {
            let pairs = input.clone().narrow(3, 0, width).reshape([b * h, t * half, 2]);
            (pairs.clone().narrow(2, 0, 1).squeeze_dim(2), pairs.narrow(2, 1, 1).squeeze_dim(2))
        }
    };
    let new_x = x.clone() * cosines.clone() - y.clone() * sines.clone();
    let new_y = y * cosines + x * sines;
    let mut parts = match rotation.pairing {
        RotaryPairing::Half => {
            vec![new_x.reshape([b, h, t, half]), new_y.reshape([b, h, t, half])]
        }
        RotaryPairing::Interleaved => {
            let pairs = Tensor::stack::<3>(vec![new_x, new_y], 2); // [B H, T R/2, 2]
            vec![pairs.reshape([b, h, t, width])]
        }
    };
    if width < k {
        parts.push(input.narrow(3, width, k - width));
    }
    Tensor::cat(parts, 3)
}

/// [`GptBackend::attend`] by burn's own operations.
pub(super) fn default_attend<B: GptBackend>(
    query: Tensor<B, 4>,
    key: Tensor<B, 4>,
    value: Tensor<B, 4>,
    options: &AttentionOptions,
) -> Tensor<B, 4> {
    if precision_of(&query) == Precision::Bf16 {
        let [query, key, value] = [query, key, value].map(|heads| heads.cast(FloatDType::F32));
        return factor(default_attend(query, key, value, options), Precision::Bf16);
    }
    let ([b, h, t, k], [_, g, s, _]) = (query.dims(), key.dims());
    // The oldest keys may be out of every query's sight. What is dropped follows from places among
    // all keys.
    let may_leave_out = options.causal && options.dropout.is_none();
    let keys = s;
    let (key, value, s) = match options.window {
        Some(window) if may_leave_out && s > t + window - 1 => {
            let seen = t + window - 1;
            (key.narrow(2, s - seen, seen), value.narrow(2, s - seen, seen), seen)
        }
        _ => (key, value, s),
    };
    let query = query * options.scale;
    // The query heads of a group stand one below the other, so that nothing is repeated.
    // Groups of one are left alone: to reshape heads that lie apart is to copy them.
    let query = if g == h { query } else { query.reshape([b, g, h / g * t, k]) };
    let factor = |tensor| factor(tensor, options.precision);
    let mut scores = product(factor(query), factor(key).swap_dims(2, 3)); // [B, G, H/G T, S]
    if let Some(cap) = options.soft_cap {
        scores = B::soft_cap(scores, cap);
    }
    // Added rather than filled in: a sum broadcasts over rows without a mask of all scores,
    // and its gradient is free.
    let device = value.device();
    let summands = [barrier(options, t, s, &device), alibi(options, [h, t, s], &device)];
    for summand in summands.into_iter().flatten() {
        let [rows, columns] = [b * h * t * s / summand.dims()[1], summand.dims()[1]];
        let sum = scores.reshape([rows, columns]) + summand;
        scores = sum.reshape([b, g, h / g * t, s]);
    }
    if let Some(ranges) = &options.ranges {
        let hidden = hidden(ranges, [b, s], keys, &device);
        let columns = hidden.dims()[2];
        let sum = scores.reshape([b, h * t * s / columns, columns]) + hidden;
        scores = sum.reshape([b, g, h / g * t, s]);
    }
    let weights = softmax(scores, 3);
    let weights = match options.dropout {
        Some(dropout) => B::apply_dropout(weights, dropout),
        None => weights,
    };
    let width = value.dims()[3];
    product(factor(weights), factor(value)).reshape([b, h, t, width])
}

/// [`GptBackend::apply_dropout`] by burn's own operations.
pub(super) fn default_dropout<B: Backend, const D: usize>(
    input: Tensor<B, D>,
    dropout: Dropout,
) -> Tensor<B, D> {
    let mask = dropout.mask(input.dims(), &input.device()).cast(input.dtype());
    input * mask
}

/// [`GptBackend::separate`] by burn's own operations.
pub(super) fn default_separate<B: Backend>(
    joined: Tensor<B, 4>,
    [h, g]: [usize; 2],
) -> [Tensor<B, 4>; 3] {
    [(0, h), (h, g), (h + g, g)].map(|(first, count)| joined.clone().narrow(1, first, count))
}

/// [`GptBackend::put`] by burn's own operations.
pub(super) fn default_put<B: Backend>(
    room: Tensor<B, 4>,
    new: Tensor<B, 4>,
    places: &[[usize; 2]],
) -> Tensor<B, 4> {
    let [b, heads, positions, width] = new.dims();
    assert_eq!(b, places.len());
    let entry = |entry| if b == 1 { new.clone() } else { new.clone().narrow(0, entry, 1) };
    places.iter().enumerate().fold(room, |room, (number, [row, start])| {
        let ranges = [*row..row + 1, 0..heads, *start..start + positions, 0..width];
        room.slice_assign(ranges, entry(number))
    })
}

/// [`GptBackend::attend_rows`], row by row.
pub(super) fn default_attend_rows<B: GptBackend>(
    query: Tensor<B, 4>,
    key: Tensor<B, 4>,
    value: Tensor<B, 4>,
    lengths: &[usize],
    options: &AttentionOptions,
) -> Tensor<B, 4> {
    if let ([length], 1) = (lengths, key.dims()[0]) {
        let seen = |tensor: Tensor<B, 4>| tensor.narrow(2, 0, *length);
        return B::attend(query, seen(key), seen(value), options);
    }
    let attend = |(row, length): (usize, &usize)| {
        let seen = |tensor: &Tensor<B, 4>| tensor.clone().narrow(0, row, 1).narrow(2, 0, *length);
        B::attend(query.clone().narrow(0, row, 1), seen(&key), seen(&value), options)
    };
    Tensor::cat(lengths.iter().enumerate().map(attend).collect(), 0)
}

/// [`GptBackend::training_loss`] by burn's own operations.
pub(super) fn default_training_loss<B: Backend>(
    logits: Tensor<B, 2>,
    targets: Tensor<B, 1, Int>,
    terms: LossTerms,
) -> [Tensor<B, 1>; 2] {
    let targets = targets.unsqueeze_dim(1);
    let log_probabilities = log_softmax(logits.clone(), 1);
    let of_targets = log_probabilities.clone().gather(1, targets.clone()); // [N, 1]
    let loss = of_targets.clone().mean().neg();
    let smoothing = terms.label_smoothing;
    let mut minimised = loss.clone();
    if smoothing > 0.0 {
        // Of rows first, since a single sum over so many numbers would lose digits.
        let of_all = log_probabilities.mean_dim(1).mean();
        minimised = minimised * (1.0 - smoothing) - of_all * smoothing;
    }
    if terms.z_loss > 0.0 {
        // log p = x - log Z, so that one column says what Z is.
        let log_z = logits.gather(1, targets) - of_targets;
        minimised = minimised + (log_z.clone() * log_z).mean() * terms.z_loss;
    }
    [loss.detach(), minimised]
}

/// [`GptBackend::sums_of_squares`] by burn's own operations: a single sum.
pub(super) fn default_sums_of_squares<B: Backend>(tensors: Vec<Tensor<B, 1>>) -> Tensor<B, 1> {
    let squares = tensors.into_iter().map(|tensor| (tensor.clone() * tensor).sum());
    squares.reduce(|total, next| total + next).expect("there is at least one tensor")
}

/// [`GptBackend::adamw`] by burn's own operations, in PyTorch's order.
pub(super) fn default_adamw<B: Backend>(update: AdamwUpdate<Tensor<B, 1>>) -> [Tensor<B, 1>; 3] {
    let AdamwUpdate { value, gradient, moments, step } = update;
    let gradient = match step.gradient_factor {
        1.0 => gradient,
        factor => gradient * factor,
    };
    let (new1, new2) = (gradient.clone(), gradient.clone() * gradient);
    let (new1, new2) = (new1 * (1.0 - step.beta1), new2 * (1.0 - step.beta2));
    let (first, second) = match moments {
        Some([first, second]) => (first * step.beta1 + new1, second * step.beta2 + new2),
        None => (new1, new2),
    };
    let [correction1, correction2] = step.corrections();
    let denominator = second.clone().sqrt() / correction2.sqrt() + step.epsilon;
    let update = first.clone() / denominator * (step.learning_rate / correction1);
    let value = value * (1.0 - step.learning_rate * step.weight_decay) - update;
    [value, first, second]
}

/// What the causal mask and the window add to the scores, `[1, T S]`.
fn barrier<B: Backend>(
    options: &AttentionOptions,
    t: usize,
    s: usize,
    device: &B::Device,
) -> Option<Tensor<B, 2>> {
    // Query `row` stands at position `row + offset` of the keys.
    let offset = if options.causal { s - t } else { 0 } as i64;
    let mut hidden: Option<Tensor<B, 2, Bool>> = None;
    let mut hide = |more: Tensor<B, 2, Bool>| {
        hidden = Some(match hidden.take() {
            Some(hidden) => hidden.bool_or(more),
            None => more,
        });
    };
    // burn's masks are true outside the triangle that they are named after.
    if options.causal && t > 1 {
        hide(Tensor::tril_mask([t, s], offset, device));
    }
    if let Some(window) = options.window.filter(|window| t.max(s) > *window) {
        let window = window as i64;
        hide(Tensor::triu_mask([t, s], offset - window + 1, device));
        if !options.causal {
            hide(Tensor::tril_mask([t, s], offset + window - 1, device));
        }
    }
    let barrier = Tensor::zeros([t, s], device).mask_fill(hidden?, f32::NEG_INFINITY);
    Some(barrier.reshape([1, t * s]))
}

/// What is added to the scores of keys that are not there, of the last S of so many in all: far
/// below any score, and finite, since a query that sees nothing must get some number all the same.
///
/// # Shapes
/// - `[B, 1, N S]`, of an entry's N ranges
fn hidden<B: Backend>(
    ranges: &KeyRanges,
    [b, s]: [usize; 2],
    keys: usize,
    device: &B::Device,
) -> Tensor<B, 3> {
    const HIDDEN: f32 = -1e30;
    let of_range = |(entry, query)| {
        let there = ranges.keys(entry, query);
        (keys - s..keys).map(move |key| if there.contains(&key) { 0.0 } else { HIDDEN })
    };
    let of_entry = ranges.of_entry();
    let all = (0..b).flat_map(|entry| (0..of_entry).map(move |query| (entry, query)));
    let numbers: Vec<f32> = all.flat_map(of_range).collect();
    Tensor::from_data(TensorData::new(numbers, [b, 1, of_entry * s]), device)
}

/// What ALiBi adds to the scores, `[1, H T S]`.
fn alibi<B: Backend>(
    options: &AttentionOptions,
    [heads, t, s]: [usize; 3],
    device: &B::Device,
) -> Option<Tensor<B, 2>> {
    if !options.alibi {
        return None;
    }
    let offset = if options.causal { s - t } else { 0 };
    let count =
        |from: usize, to: usize| Tensor::<B, 1, Int>::arange(from as i64..to as i64, device);
    let (queries, keys) = (count(offset, offset + t).float(), count(0, s).float());
    let distances = (keys.reshape([1, s]) - queries.reshape([t, 1])).abs(); // [T, S]
    let slopes: Vec<f32> = (0..heads).map(|head| -alibi_slope(head, heads) as f32).collect();
    let slopes = Tensor::<B, 2>::from_data(TensorData::new(slopes, [heads, 1]), device);
    Some((slopes * distances.reshape([1, t * s])).reshape([1, heads * t * s]))
}

/// [`GptBackend::activation`] by burn's own operations.
pub(super) fn default_activation<B: Backend, const D: usize>(
    input: Tensor<B, D>,
    kind: Activation,
) -> Tensor<B, D> {
    match kind {
        Activation::Gelu => gelu(input),
        Activation::GeluTanh => gelu_approximate(input),
        Activation::Relu => relu(input),
        Activation::ReluSquared => {
            let positive = relu(input);
            positive.clone() * positive
        }
        Activation::Silu => input.clone() * sigmoid(input),
        Activation::Mish => input.clone() * mish_gate(input),
    }
}

/// `tanh(ln(1 + eˣ))`. With `e = exp(-|x|)` nothing overflows: it is `a / (a + b)` where
/// `(a, b)` is `(1 + 2 e, 2 e²)` for positive `x` and `(e² + 2 e, 2)` for others.
fn mish_gate<B: Backend, const D: usize>(input: Tensor<B, D>) -> Tensor<B, D> {
    let e = input.clone().abs().neg().exp();
    let square = e.clone() * e.clone();
    let positive = input.greater_elem(0.0);
    let a = (square.clone() + e.clone() * 2.0).mask_where(positive.clone(), e * 2.0 + 1.0);
    let b = square.ones_like().mask_where(positive, square) * 2.0;
    a.clone() / (a + b)
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
        Activation::Relu => gradient.mask_fill(input.lower_equal_elem(0.0), 0.0),
        Activation::ReluSquared => gradient * relu(input) * 2.0,
        Activation::Silu => {
            let gate = sigmoid(input.clone());
            gradient * (gate.clone() + input * gate.clone() * (gate.neg() + 1.0))
        }
        Activation::Mish => {
            let gate = mish_gate(input.clone());
            let slope = (gate.clone() * gate.clone()).neg() + 1.0;
            gradient * (gate + input.clone() * slope * sigmoid(input))
        }
    }
}
