//! What the optimizer does with all numbers of a model, many parameters a launch.
//!
//! N numbers of a parameter

use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::rows::{ROW_UNITS, sum_of_units};
use super::tensors::{UNITS, address, count, cubes, empty, writable, zeroed};
use crate::backend::{AdamwStep, AdamwUpdate};

/// Tensors whose squares a launch adds up. Each is a loop of its own in the kernel.
const MOST_TENSORS: usize = 32;
/// Sums that all squares are added up to on the device, unless there are more tensors.
const MOST_SUMS: usize = 1 << 14;
/// Numbers of a sum at least.
const LEAST_SHARE: usize = 16 * ROW_UNITS as usize;

/// Parameters that a launch updates: each is up to 140 bytes of the 4 KiB that CUDA hands to a
/// kernel.
pub const MOST_PARAMETERS: usize = 24;
/// Numbers that a cube updates.
const SHARE: usize = 16 * UNITS as usize;

/// Tensors of a launch with so many arrays for each and so many more, one of which is for what
/// is no array.
fn at_once<R: CubeRuntime>(tensor: &CubeTensor<R>, each: usize, more: usize, most: usize) -> usize {
    let room = tensor.client.properties().hardware.max_bindings as usize;
    (room.saturating_sub(more) / each).clamp(1, most)
}

/// Numbers that are squared.
#[derive(CubeType, CubeLaunch)]
struct Squared {
    numbers: Array<f32>,
    /// Cubes for these and for those before.
    cubes: u32,
}

/// Adds up the squares of a share of one of the tensors, a cube each.
#[cube(launch, address_type = "dynamic")]
fn squares_kernel(
    tensors: &Sequence<Squared>,
    sums: &mut Array<f32>,
    // The first sum of this launch.
    start: u32,
    share: usize,
) {
    let cube = CUBE_POS as u32;
    let mut sum = 0.0f32;
    let mut before = 0u32;
    #[unroll]
    for number in 0..comptime!(tensors.len()) {
        let tensor = tensors.index(number);
        if cube >= before && cube < tensor.cubes {
            let first = (cube - before) as usize * share;
            let end = min(first + share, tensor.numbers.len());
            let mut place = first + UNIT_POS as usize;
            while place < end {
                let value = tensor.numbers[place];
                sum += value * value;
                place += ROW_UNITS as usize;
            }
        }
        before = tensor.cubes;
    }
    let sum = sum_of_units(sum, ROW_UNITS);
    if UNIT_POS == 0 && cube < before {
        sums[(start + cube) as usize] = sum;
    }
}

/// How many numbers of tensors of these sizes a sum is of, and how many sums there are.
pub fn shares(counts: impl Iterator<Item = usize> + Clone) -> (usize, usize) {
    let share = counts.clone().sum::<usize>().div_ceil(MOST_SUMS).max(LEAST_SHARE);
    (share, counts.map(|count| count.div_ceil(share)).sum())
}

/// Sums of the squares of all numbers of all tensors, at least one, which are yet to be added up.
pub fn squares<R: CubeRuntime>(tensors: Vec<CubeTensor<R>>) -> CubeTensor<R> {
    let first = &tensors[0];
    let (share, sums) = shares(tensors.iter().map(count));
    let (sums, client) = (empty(first, [sums]), first.client.clone());
    let most = at_once(first, 1, 2, MOST_TENSORS);
    let mut start = 0;
    let mut tensors = tensors.into_iter().peekable();
    while tensors.peek().is_some() {
        let group: Vec<CubeTensor<R>> = tensors.by_ref().take(most).map(into_contiguous).collect();
        let address = address(&group.iter().collect::<Vec<_>>());
        let (mut squared, mut total) = (SequenceArg::new(), 0);
        for tensor in group {
            total += count(&tensor).div_ceil(share);
            squared.push(SquaredLaunch::new(tensor.into_array_arg(), total as u32));
        }
        squares_kernel::launch(
            &client,
            cubes(total),
            CubeDim::new_1d(ROW_UNITS),
            address,
            squared,
            sums.clone().into_array_arg(),
            start as u32,
            share,
        );
        start += total;
    }
    sums
}

/// A parameter with its update.
#[derive(CubeType, CubeLaunch)]
struct Parameter {
    value: Array<f32>,
    gradient: Array<f32>,
    first: Array<f32>,
    second: Array<f32>,
    /// Cubes for this one and for those before.
    cubes: u32,
    gradient_factor: f32,
    beta1: f32,
    beta2: f32,
    /// `1 - beta`, which as an f32 would lose digits.
    rest1: f32,
    rest2: f32,
    /// What is left of the value by its decay.
    kept: f32,
    /// The learning rate over the first correction.
    rate: f32,
    /// One over the root of the second correction.
    second_factor: f32,
    epsilon: f32,
}

/// Updates by AdamW; new values take the gradients' place. A cube has a share of one parameter.
#[cube(launch, address_type = "dynamic")]
fn adamw_kernel(parameters: &mut Sequence<Parameter>) {
    let cube = CUBE_POS as u32;
    let mut before = 0u32;
    #[unroll]
    for number in 0..comptime!(parameters.len()) {
        let parameter = parameters.index_mut(number);
        if cube >= before && cube < parameter.cubes {
            let first = (cube - before) as usize * SHARE;
            let end = min(first + SHARE, parameter.value.len());
            let mut place = first + UNIT_POS as usize;
            while place < end {
                let slope = parameter.gradient[place] * parameter.gradient_factor;
                let mean = parameter.first[place] * parameter.beta1 + slope * parameter.rest1;
                let square =
                    parameter.second[place] * parameter.beta2 + slope * slope * parameter.rest2;
                parameter.first[place] = mean;
                parameter.second[place] = square;
                let root = f32::sqrt(square) * parameter.second_factor + parameter.epsilon;
                parameter.gradient[place] =
                    parameter.value[place] * parameter.kept - parameter.rate * mean / root;
                place += UNITS as usize;
            }
        }
        before = parameter.cubes;
    }
}

/// [`Kernels::adamw`](crate::backend::Kernels::adamw).
pub fn adamw<R: CubeRuntime>(updates: Vec<AdamwUpdate<CubeTensor<R>>>) -> Vec<[CubeTensor<R>; 3]> {
    let Some(first) = updates.first() else { return Vec::new() };
    let most = at_once(&first.value, 4, 1, MOST_PARAMETERS);
    let mut updated = Vec::with_capacity(updates.len());
    let mut updates = updates.into_iter().peekable();
    while updates.peek().is_some() {
        updated.extend(update(updates.by_ref().take(most)));
    }
    updated
}

/// One launch.
fn update<R: CubeRuntime>(
    updates: impl Iterator<Item = AdamwUpdate<CubeTensor<R>>>,
) -> Vec<[CubeTensor<R>; 3]> {
    let (mut values, mut updated, mut steps) = (Vec::new(), Vec::new(), Vec::new());
    for AdamwUpdate { value, gradient, moments, step } in updates {
        let moments = match moments {
            Some(moments) => moments.map(writable),
            None => [(); 2].map(|()| zeroed(&value, value.meta.shape().clone())),
        };
        let [first, second] = moments;
        updated.push([writable(gradient), first, second]);
        values.push(into_contiguous(value));
        steps.push(step);
    }
    let (address, client) = (address(&values.iter().collect::<Vec<_>>()), values[0].client.clone());
    let (mut parameters, mut total) = (SequenceArg::new(), 0);
    for ((value, updated), step) in values.into_iter().zip(&updated).zip(steps) {
        total += count(&value).div_ceil(SHARE);
        parameters.push(parameter(value, updated, step, total as u32));
    }
    adamw_kernel::launch(&client, cubes(total), CubeDim::new_1d(UNITS), address, parameters);
    updated
}

fn parameter<R: CubeRuntime>(
    value: CubeTensor<R>,
    updated: &[CubeTensor<R>; 3],
    step: AdamwStep,
    cubes: u32,
) -> ParameterLaunch<R> {
    let [gradient, first, second] = updated.clone().map(CubeTensor::into_array_arg);
    let AdamwStep { learning_rate, weight_decay, beta1, beta2, epsilon, gradient_factor, .. } =
        step;
    let [correction1, correction2] = step.corrections();
    ParameterLaunch::new(
        value.into_array_arg(),
        gradient,
        first,
        second,
        cubes,
        gradient_factor as f32,
        beta1 as f32,
        beta2 as f32,
        (1.0 - beta1) as f32,
        (1.0 - beta2) as f32,
        (1.0 - learning_rate * weight_decay) as f32,
        (learning_rate / correction1) as f32,
        (1.0 / correction2.sqrt()) as f32,
        epsilon as f32,
    )
}
