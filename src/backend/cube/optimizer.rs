//! What the optimizer does with all numbers of a model.
//!
//! N numbers of a parameter

use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::rows::{ROW_UNITS, sum_of_units};
use super::tensors::{UNITS, count, cubes_of_elements, empty, writable, zeroed};
use crate::backend::{AdamwStep, AdamwUpdate};

/// Most sums that a tensor's squares are added up to on the device.
const MOST_SUMS: usize = 1024;

/// Each cube adds up every so many'th square.
#[cube(launch)]
fn squares_kernel(input: &Array<f32>, sums: &mut Array<f32>, start: u32, step: u32) {
    let mut sum = 0.0f32;
    let mut place = ABSOLUTE_POS;
    while place < input.len() {
        let value = input[place];
        sum += value * value;
        place += step as usize;
    }
    let sum = sum_of_units(sum, ROW_UNITS);
    if UNIT_POS == 0 {
        sums[(start + CUBE_POS_X) as usize] = sum;
    }
}

/// Sums that so many squares are added up to on the device.
pub fn parts(count: usize) -> usize {
    count.div_ceil(16 * ROW_UNITS as usize).clamp(1, MOST_SUMS)
}

/// Sums of the squares of all numbers of all tensors, at least one, which are yet to be added up.
pub fn squares<R: CubeRuntime>(tensors: Vec<CubeTensor<R>>) -> CubeTensor<R> {
    let sums: usize = tensors.iter().map(|tensor| parts(count(tensor))).sum();
    let sums = empty(&tensors[0], [sums]);
    let mut start = 0;
    for tensor in tensors {
        let (parts, client) = (parts(count(&tensor)), tensor.client.clone());
        squares_kernel::launch(
            &client,
            CubeCount::Static(parts as u32, 1, 1),
            CubeDim::new_1d(ROW_UNITS),
            into_contiguous(tensor).into_array_arg(),
            sums.clone().into_array_arg(),
            start as u32,
            parts as u32 * ROW_UNITS,
        );
        start += parts;
    }
    sums
}

/// An update by AdamW; the new value takes the gradient's place.
#[cube(launch)]
fn adamw_kernel(
    value: &Array<f32>,
    gradient: &mut Array<f32>,
    first: &mut Array<f32>,
    second: &mut Array<f32>,
    gradient_factor: f32,
    beta1: f32,
    beta2: f32,
    // `1 - beta`, which as an f32 would lose digits.
    rest1: f32,
    rest2: f32,
    // What is left of the value by its decay.
    kept: f32,
    // The learning rate over the first correction.
    rate: f32,
    // One over the root of the second correction.
    second_factor: f32,
    epsilon: f32,
) {
    if ABSOLUTE_POS < value.len() {
        let slope = gradient[ABSOLUTE_POS] * gradient_factor;
        let mean = first[ABSOLUTE_POS] * beta1 + slope * rest1;
        let square = second[ABSOLUTE_POS] * beta2 + slope * slope * rest2;
        first[ABSOLUTE_POS] = mean;
        second[ABSOLUTE_POS] = square;
        let root = f32::sqrt(square) * second_factor + epsilon;
        gradient[ABSOLUTE_POS] = value[ABSOLUTE_POS] * kept - rate * mean / root;
    }
}

/// [`Kernels::adamw`](crate::backend::Kernels::adamw), of one parameter.
pub fn adamw<R: CubeRuntime>(update: AdamwUpdate<CubeTensor<R>>) -> [CubeTensor<R>; 3] {
    let AdamwUpdate { value, gradient, moments, step } = update;
    let value = into_contiguous(value);
    let gradient = writable(gradient);
    let [first, second] = match moments {
        Some(moments) => moments.map(writable),
        None => [(); 2].map(|()| zeroed(&value, value.meta.shape().clone())),
    };
    let AdamwStep { learning_rate, weight_decay, beta1, beta2, epsilon, gradient_factor, .. } =
        step;
    let [correction1, correction2] = step.corrections();
    let client = value.client.clone();
    adamw_kernel::launch(
        &client,
        cubes_of_elements(count(&value)),
        CubeDim::new_1d(UNITS),
        value.into_array_arg(),
        gradient.clone().into_array_arg(),
        first.clone().into_array_arg(),
        second.clone().into_array_arg(),
        gradient_factor as f32,
        beta1 as f32,
        beta2 as f32,
        (1.0 - beta1) as f32,
        (1.0 - beta2) as f32,
        (1.0 - learning_rate * weight_decay) as f32,
        (learning_rate / correction1) as f32,
        (1.0 / correction2.sqrt()) as f32,
        epsilon as f32,
    );
    [gradient, first, second]
}
