//! Kernels for the `flex` backend, on plain slices of f32. Tensors of other types fall back to
//! the default operations.

mod activation;
mod adamw;
mod attention;
mod banded;
mod dense;
mod dropout;
mod embedding;
mod heads;
mod int8;
mod loss;
mod matrix;
mod normalization;
mod rotation;
mod rows;
mod scores;
mod team;
mod tensors;
mod vector;

use burn::tensor::ops::FloatTensorOps;
use burn::tensor::{DType, Tensor, TensorData};
use burn_flex::{Flex, FlexTensor};
use std::mem::MaybeUninit;

use super::compositions::{default_activation, default_activation_backward};
use super::ops::{from_float, to_float};
use super::{
    AdamwStep, AdamwUpdate, Dropout, GptBackend, Kernels, LossTerms, Products, Scaling, Sight, Turn,
};
use crate::config::Activation;
use crate::config::Precision;
use attention::Outcome;
use dense::Gradients;
use heads::Room;
use int8::Int8;
use matrix::{Matrix, product};
use tensors::{
    check_heads, contiguous, dims, elements, elements_mut, forwards, heads, indices, like, matrix,
    of_width, rows_of, tensor, weight_gradient, whole, width, with_rows,
};

/// Elements a task: large against the cost of handing one out, small enough to share evenly.
const TASK: usize = 16 * 1024;

impl GptBackend for Flex {
    fn products() -> Option<&'static dyn Products<Self>> {
        Some(&CpuKernels)
    }

    fn kernels() -> Option<&'static dyn Kernels<Self>> {
        Some(&CpuKernels)
    }

    /// On all threads, in the memory of one of them where nobody else holds it.
    fn sum(one: FlexTensor, other: FlexTensor) -> FlexTensor {
        let fits = |tensor: &FlexTensor| tensor.dtype() == DType::F32;
        if !(fits(&one) && fits(&other) && one.layout().shape() == other.layout().shape()) {
            return Self::float_add(one, other);
        }
        let [one, other] = [one, other].map(contiguous);
        let (mut sum, other) = if one.is_unique() { (one, other) } else { (other, one) };
        if sum.is_unique() {
            rows::add(elements_mut(&mut sum), elements(&other));
            return sum;
        }
        like(rows::sums(elements(&sum), elements(&other)), &sum)
    }

    fn activation<const D: usize>(input: Tensor<Self, D>, kind: Activation) -> Tensor<Self, D> {
        if input.dtype() != DType::F32 {
            return default_activation(input, kind);
        }
        let input = contiguous(to_float(input));
        from_float(like(activation::forward(kind, elements(&input)), &input))
    }

    fn activation_backward<const D: usize>(
        input: Tensor<Self, D>,
        gradient: Tensor<Self, D>,
        kind: Activation,
    ) -> Tensor<Self, D> {
        if input.dtype() != DType::F32 || gradient.dtype() != DType::F32 {
            return default_activation_backward(input, gradient, kind);
        }
        let (input, mut gradient) = (contiguous(to_float(input)), contiguous(to_float(gradient)));
        assert_eq!(input.layout().shape(), gradient.layout().shape());
        activation::backward(kind, elements(&input), elements_mut(&mut gradient));
        from_float(gradient)
    }

    /// Without the checks and the copies of shapes of burn's own way, of which there would be
    /// some for every token.
    fn separate(joined: Tensor<Self, 4>, [h, g]: [usize; 2]) -> [Tensor<Self, 4>; 3] {
        let joined = to_float(joined);
        [(0, h), (h, g), (h + g, g)]
            .map(|(first, count)| from_float(joined.narrow(1, first, count)))
    }

    fn join(parts: [Tensor<Self, 4>; 3]) -> Tensor<Self, 4> {
        if parts.iter().any(|part| part.dtype() != DType::F32) {
            return Tensor::cat(Vec::from(parts), 1);
        }
        let parts = parts.map(|part| with_rows(to_float(part)));
        let [[b, h, t, k], [_, g, ..], _] = parts.each_ref().map(dims);
        let joined = heads::join(parts.each_ref().map(heads));
        from_float(tensor(joined, &[b, t, h + 2 * g, k]).transpose(1, 2))
    }

    /// More of them are multiplied together, in another order.
    fn equal_rows() -> Option<usize> {
        Some(vector::FEW)
    }
}

#[derive(Debug)]
struct CpuKernels;

impl Products<Flex> for CpuKernels {
    fn dense(&self, input: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
        let (input, weight, bias) = (contiguous(input), forwards(weight), bias.map(contiguous));
        let weight = matrix(&weight);
        let output = product(rows_of(&input), weight, bias.as_ref().map(elements));
        of_width(output, &input, weight.shape()[1])
    }

    fn dense_activated(
        &self,
        input: FlexTensor,
        weight: FlexTensor,
        bias: Option<FlexTensor>,
        kind: Activation,
    ) -> [FlexTensor; 2] {
        let (input, weight, bias) = (contiguous(input), forwards(weight), bias.map(contiguous));
        let weight = matrix(&weight);
        let (bias, width) = (bias.as_ref().map(elements), weight.shape()[1]);
        let mut sums = product(rows_of(&input), weight, None);
        let activated = activation::forward_keeping_slopes(kind, &mut sums, width, bias);
        [activated, sums].map(|numbers| of_width(numbers, &input, width))
    }

    fn dense_int8(
        &self,
        input: FlexTensor,
        values: FlexTensor,
        scales: FlexTensor,
        bias: Option<FlexTensor>,
    ) -> FlexTensor {
        let [input, values, scales] = [input, values, scales].map(contiguous);
        let bias = bias.map(contiguous);
        let (a, width) = (rows_of(&input), width(&values));
        let values = values.as_slice::<i8>().expect("made contiguous, and its type was checked");
        let weight = Int8::new(values, elements(&scales), a.shape()[1]);
        of_width(int8::product(a, weight, bias.as_ref().map(elements)), &input, width)
    }

    fn dense_backward(
        &self,
        input: FlexTensor,
        weight: FlexTensor,
        slopes: Option<FlexTensor>,
        gradient: FlexTensor,
        wanted: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let ([input, weight], mut gradient) = ([input, weight].map(forwards), contiguous(gradient));
        let (x, w) = (matrix(&input), matrix(&weight));
        let mut gradients = Gradients::new(x.shape()[0], w, wanted);
        match slopes.map(contiguous) {
            Some(slopes) => {
                gradients.add_activated(x, w, elements_mut(&mut gradient), elements(&slopes));
            }
            // Others may hold it: it is not to be copied.
            None => gradients.add(x, w, elements(&gradient)),
        }
        dense_gradients(gradients, x, w)
    }
}

impl Kernels<Flex> for CpuKernels {
    fn gated(&self, gate: FlexTensor, up: FlexTensor, kind: Activation) -> FlexTensor {
        let (gate, up) = (contiguous(gate), contiguous(up));
        like(activation::gated(kind, elements(&gate), elements(&up)), &gate)
    }

    fn gated_backward(
        &self,
        gate: FlexTensor,
        up: FlexTensor,
        gradient: FlexTensor,
        kind: Activation,
    ) -> [FlexTensor; 2] {
        let [gate, up, mut gradient] = [gate, up, gradient].map(contiguous);
        let of_gate = elements_mut(&mut gradient);
        let of_up = activation::gated_backward(kind, elements(&gate), elements(&up), of_gate);
        [gradient, like(of_up, &up)]
    }

    fn apply_dropout(&self, input: FlexTensor, dropout: Dropout) -> FlexTensor {
        let mut numbers = contiguous(input);
        let width = width(&numbers);
        dropout::apply(elements_mut(&mut numbers), width, dropout);
        numbers
    }

    fn rotate(&self, input: FlexTensor, angles: [FlexTensor; 2], turn: Turn) -> FlexTensor {
        let (input, angles) = (with_rows(input), angles.map(contiguous));
        let ([b, h, t, k], half) = (dims(&input), width(&angles[0]));
        let turned = rotation::rotate(heads(&input), angles.each_ref().map(elements), half, turn);
        tensor(turned, &[b, t, h, k]).transpose(1, 2)
    }

    fn normalization(
        &self,
        input: FlexTensor,
        weight: Option<FlexTensor>,
        bias: Option<FlexTensor>,
        scaling: Scaling,
        _precision: Precision, // f32, in which alone it computes
    ) -> FlexTensor {
        let [weight, bias] = [weight, bias].map(|tensor| tensor.map(contiguous));
        let input = contiguous(input);
        let (weight, bias) = (weight.as_ref().map(elements), bias.as_ref().map(elements));
        let width = width(&input);
        like(normalization::forward(elements(&input), width, weight, bias, scaling), &input)
    }

    fn normalization_backward(
        &self,
        input: FlexTensor,
        weight: Option<FlexTensor>,
        gradient: FlexTensor,
        scaling: Scaling,
    ) -> [FlexTensor; 3] {
        let weight = weight.map(contiguous);
        let (input, mut gradient) = (contiguous(input), contiguous(gradient));
        let width = width(&input);
        let (of_weight, of_bias) = normalization::backward(
            elements(&input),
            width,
            weight.as_ref().map(elements),
            elements_mut(&mut gradient),
            scaling,
        );
        [gradient, tensor(of_weight, &[width]), tensor(of_bias, &[width])]
    }

    fn attend(&self, inputs: [FlexTensor; 3], sight: &Sight) -> (FlexTensor, FlexTensor) {
        let inputs = inputs.map(with_rows);
        check_heads(&inputs);
        let [b, h, t, _] = dims(&inputs[0]);
        let width = dims(&inputs[2])[3];
        let [query, key, value] = inputs.each_ref().map(heads);
        let s = dims(&inputs[1])[2];
        let (output, log_sums) = attention::forward(query, key, value, |_| s, sight);
        (tensor(output, &[b, t, h, width]).transpose(1, 2), tensor(log_sums, &[b, h, t]))
    }

    fn attend_joined(
        &self,
        joined: FlexTensor,
        heads: [usize; 2],
        sight: &Sight,
    ) -> (FlexTensor, FlexTensor) {
        let parts = Flex::separate(from_float(joined), heads).map(to_float);
        Kernels::<Flex>::attend(self, parts, sight)
    }

    fn attend_backward(
        &self,
        inputs: [FlexTensor; 3],
        output: FlexTensor,
        log_sums: FlexTensor,
        gradient: FlexTensor,
        sight: &Sight,
    ) -> [FlexTensor; 3] {
        let inputs = inputs.map(with_rows);
        check_heads(&inputs);
        let mut gradients = [Vec::new(), Vec::new(), Vec::new()];
        let shapes = inputs.each_ref().map(|input| {
            let [b, heads, length, width] = dims(input);
            [b, length, heads, width]
        });
        let mut rooms = Vec::new();
        for (gradient, [b, length, heads, width]) in gradients.iter_mut().zip(shapes) {
            gradient.reserve_exact(b * length * heads * width);
            // SAFETY: of that size, and nobody else's.
            rooms.push(unsafe { Room::new(gradient.as_mut_ptr(), heads, [length, width]) });
        }
        let rooms = [rooms[0], rooms[1], rooms[2]];
        backward(&inputs, output, log_sums, gradient, sight, rooms);
        let mut finished = gradients.into_iter().zip(shapes).map(|(mut gradient, shape)| {
            // SAFETY: the kernel writes all of it.
            unsafe { gradient.set_len(shape.iter().product()) };
            tensor(gradient, &shape).transpose(1, 2)
        });
        std::array::from_fn(|_| finished.next().expect("there are three"))
    }

    fn attend_joined_backward(
        &self,
        joined: FlexTensor,
        [h, g]: [usize; 2],
        output: FlexTensor,
        log_sums: FlexTensor,
        gradient: FlexTensor,
        sight: &Sight,
    ) -> FlexTensor {
        let joined = with_rows(joined);
        let [b, all, length, width] = dims(&joined);
        assert_eq!(h + 2 * g, all);
        let inputs = [(0, h), (h, g), (h + g, g)].map(|(first, n)| joined.narrow(1, first, n));
        check_heads(&inputs);
        // SAFETY: the kernel writes the queries', the keys' and the values' part, which are all.
        let of_joined = unsafe {
            written(b * length * all * width, |room| {
                let start: *mut f32 = room.as_mut_ptr().cast();
                let rooms = [0, h, h + g]
                    .map(|first| Room::new(start.add(first * width), all, [length, width]));
                backward(&inputs, output, log_sums, gradient, sight, rooms);
            })
        };
        tensor(of_joined, &[b, length, all, width]).transpose(1, 2)
    }

    /// burn's own assignment always copies the room.
    fn put(&self, room: FlexTensor, new: FlexTensor, places: &[[usize; 2]]) -> FlexTensor {
        let ([_, g, positions, k], [_, _, t, _]) = (dims(&room), dims(&new));
        let new = with_rows(new);
        let mut room = whole(room);
        let (new, all) = (heads(&new), room.storage_mut::<f32>());
        for (entry, [row, start]) in places.iter().enumerate() {
            for head in 0..g {
                let new = new.head(entry, head);
                let all = &mut all[((row * g + head) * positions + start) * k..][..t * k];
                for (number, place) in all.chunks_exact_mut(k.max(1)).enumerate() {
                    place.copy_from_slice(new.row(number));
                }
            }
        }
        room
    }

    /// All rows in one, on all threads.
    fn attend_rows(&self, inputs: [FlexTensor; 3], lengths: &[usize], sight: &Sight) -> FlexTensor {
        let inputs = inputs.map(with_rows);
        let [[b, h, t, _], _, [.., width]] = inputs.each_ref().map(dims);
        let [query, key, value] = inputs.each_ref().map(heads);
        let (output, _) = attention::forward(query, key, value, |row| lengths[row], sight);
        tensor(output, &[b, t, h, width]).transpose(1, 2)
    }

    fn cross_entropy(
        &self,
        logits: FlexTensor,
        targets: FlexTensor,
        terms: LossTerms,
    ) -> [FlexTensor; 3] {
        let logits = contiguous(logits);
        let targets = indices(targets);
        let (losses, log_sums) = loss::forward(elements(&logits), width(&logits), &targets, terms);
        let [loss, minimised] = losses.map(|loss| tensor(vec![loss], &[1]));
        [loss, minimised, tensor(log_sums, &[targets.len()])]
    }

    fn cross_entropy_backward(
        &self,
        logits: FlexTensor,
        targets: FlexTensor,
        log_sums: FlexTensor,
        gradient: FlexTensor,
        terms: LossTerms,
    ) -> FlexTensor {
        let (logits, log_sums) = (contiguous(logits), contiguous(log_sums));
        let gradient = contiguous(gradient);
        let targets = indices(targets);
        let factor = elements(&gradient)[0] / targets.len() as f32;
        let width = width(&logits);
        let log_sums = elements(&log_sums);
        let slopes = loss::backward(elements(&logits), width, &targets, log_sums, factor, terms);
        like(slopes, &logits)
    }

    fn linear_cross_entropy(
        &self,
        factors: [FlexTensor; 2],
        bias: Option<FlexTensor>,
        targets: FlexTensor,
        _precision: Precision, // f32, as `computes_in` says
        terms: LossTerms,
        wanted: [bool; 3],
    ) -> ([FlexTensor; 2], [Option<FlexTensor>; 3]) {
        let [input, weight] = factors.map(forwards);
        let bias = bias.map(contiguous);
        let (x, w, targets) = (matrix(&input), matrix(&weight), indices(targets));
        let bias = bias.as_ref().map(elements);
        let (losses, gradients) = loss::of_product(x, w, bias, &targets, terms, wanted);
        (losses.map(|loss| tensor(vec![loss], &[1])), dense_gradients(gradients, x, w))
    }

    fn scaled(&self, tensor: FlexTensor, factor: FlexTensor) -> FlexTensor {
        match elements(&contiguous(factor))[0] {
            1.0 => tensor,
            factor => Flex::float_mul_scalar(tensor, factor.into()),
        }
    }

    fn embed_backward(
        &self,
        tokens: FlexTensor,
        gradient: FlexTensor,
        vocab_size: usize,
    ) -> FlexTensor {
        let gradient = contiguous(gradient);
        let width = width(&gradient);
        let sums = embedding::backward(&indices(tokens), elements(&gradient), width, vocab_size);
        tensor(sums, &[vocab_size, width])
    }

    fn sums_of_squares(&self, tensors: Vec<FlexTensor>) -> FlexTensor {
        let tensors: Vec<FlexTensor> = tensors.into_iter().map(contiguous).collect();
        let sum = rows::sum_of_squares(&tensors.iter().map(elements).collect::<Vec<_>>());
        FlexTensor::from_data(TensorData::new(vec![sum], [1]))
    }

    fn adamw(&self, updates: Vec<AdamwUpdate<FlexTensor>>) -> Vec<[FlexTensor; 3]> {
        let mut updates: Vec<_> = updates.into_iter().map(prepared).collect();
        adamw::update(updates.iter_mut().map(|(value, [gradient, first, second], step)| {
            let moments = [first.storage_mut(), second.storage_mut()];
            adamw::Part::new(elements(value), gradient.storage_mut(), moments, step)
        }));
        updates.into_iter().map(|(_, tensors, _)| tensors).collect()
    }
}

/// With respect to the input, the weight, as which its gradient lies in memory, and the bias.
fn dense_gradients(gradients: Gradients, input: Matrix, weight: Matrix) -> [Option<FlexTensor>; 3] {
    let [of_input, of_weight, of_bias] = gradients.into_parts();
    [
        of_input.map(|gradient| tensor(gradient, &input.shape())),
        of_weight.map(|gradient| weight_gradient(gradient, weight)),
        of_bias.map(|gradient| tensor(gradient, &[weight.shape()[1]])),
    ]
}

/// The value, and gradient and moments for their memory to be written.
fn prepared(update: AdamwUpdate<FlexTensor>) -> (FlexTensor, [FlexTensor; 3], AdamwStep) {
    let AdamwUpdate { value, gradient, moments, step } = update;
    let count = value.layout().num_elements();
    let [first, second] = match moments {
        Some(moments) => moments.map(whole),
        None => [(); 2].map(|()| tensor(vec![0.0; count], &[count])),
    };
    (contiguous(value), [whole(gradient), first, second], step)
}

fn backward(
    inputs: &[FlexTensor; 3],
    output: FlexTensor,
    log_sums: FlexTensor,
    gradient: FlexTensor,
    sight: &Sight,
    rooms: [Room; 3],
) {
    let (output, gradient) = (with_rows(output), with_rows(gradient));
    let log_sums = contiguous(log_sums);
    let [b, h, t, _] = dims(&inputs[0]);
    let expected = [b, h, t, dims(&inputs[2])[3]];
    assert_eq!([dims(&output), dims(&gradient)], [expected; 2]);
    assert_eq!(elements(&log_sums).len(), b * h * t);
    let outcome = Outcome {
        output: heads(&output),
        log_sums: elements(&log_sums),
        gradient: heads(&gradient),
    };
    // SAFETY: the rooms are of the inputs' shapes, and apart.
    unsafe { attention::backward(inputs.each_ref().map(heads), outcome, sight, rooms) };
}

/// So many numbers, which `write` puts there.
///
/// # Safety
/// It writes all of them.
unsafe fn written(count: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(count);
    write(&mut numbers.spare_capacity_mut()[..count]);
    // SAFETY: they have been written.
    unsafe { numbers.set_len(count) };
    numbers
}
