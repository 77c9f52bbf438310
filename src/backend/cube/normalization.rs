//! Layer and root-mean-square normalization, a cube a row.
//!
//! N rows, W width

use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::rows::{ROW_UNITS, sum_of_units};
use super::sums::slab;
use super::tensors::{UNITS, address, cubes, empty, rows};
use crate::backend::Scaling;

/// The mean of a row, and what its distances from it are multiplied by.
#[cube]
fn statistics(
    input: &Array<f32>,
    start: usize,
    width: u32,
    epsilon: f32,
    #[comptime] centered: bool,
) -> (f32, f32) {
    let mut mean = 0.0f32;
    if centered {
        let mut sum = 0.0f32;
        let mut place = UNIT_POS;
        while place < width {
            sum += input[start + place as usize];
            place += ROW_UNITS;
        }
        mean = sum_of_units(sum, ROW_UNITS) / f32::cast_from(width);
    }
    let mut sum = 0.0f32;
    let mut place = UNIT_POS;
    while place < width {
        let distance = input[start + place as usize] - mean;
        sum += distance * distance;
        place += ROW_UNITS;
    }
    let variance = sum_of_units(sum, ROW_UNITS) / f32::cast_from(width);
    (mean, 1.0f32 / f32::sqrt(variance + epsilon))
}

#[cube(launch, address_type = "dynamic")]
fn forward_kernel(
    input: &Array<f32>,
    weight: &Array<f32>,
    bias: &Array<f32>,
    output: &mut Array<f32>,
    width: u32,
    rows: u32,
    epsilon: f32,
    #[comptime] centered: bool,
    #[comptime] weighted: bool,
    #[comptime] biased: bool,
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let start = row * width as usize;
    let (mean, factor) = statistics(input, start, width, epsilon, centered);
    let mut place = UNIT_POS;
    while place < width {
        let mut value = (input[start + place as usize] - mean) * factor;
        if weighted {
            value *= weight[place as usize];
        }
        if biased {
            value += bias[place as usize];
        }
        output[start + place as usize] = value;
        place += ROW_UNITS;
    }
}

/// [`Kernels::normalization`](crate::backend::Kernels::normalization).
pub fn forward<R: CubeRuntime>(
    input: CubeTensor<R>,
    weight: Option<CubeTensor<R>>,
    bias: Option<CubeTensor<R>>,
    scaling: Scaling,
) -> CubeTensor<R> {
    let input = into_contiguous(input);
    let output = empty(&input, input.meta.shape().clone());
    let ([rows, width], client) = (rows(&input), input.client.clone());
    let (weighted, biased) = (weight.is_some(), bias.is_some());
    // What is not there is not read, but something has to stand in its place.
    let stand_in = |tensor: Option<CubeTensor<R>>| match tensor {
        Some(tensor) => into_contiguous(tensor),
        None => input.clone(),
    };
    forward_kernel::launch(
        &client,
        cubes(rows),
        CubeDim::new_1d(ROW_UNITS),
        address(&[&input]),
        input.clone().into_array_arg(),
        stand_in(weight).into_array_arg(),
        stand_in(bias).into_array_arg(),
        output.clone().into_array_arg(),
        width as u32,
        rows as u32,
        scaling.epsilon,
        scaling.centered,
        weighted,
        biased,
    );
    output
}

/// With n the normalized input and h the gradient times the weight, the gradient of a row is
/// `factor (h - mean(h) - n mean(h n))`, without its second term where rows keep their mean.
#[cube(launch, address_type = "dynamic")]
fn backward_kernel(
    input: &Array<f32>,
    weight: &Array<f32>,
    gradient: &Array<f32>,
    of_input: &mut Array<f32>,
    kept: &mut Array<f32>,
    width: u32,
    rows: u32,
    epsilon: f32,
    #[comptime] centered: bool,
    #[comptime] weighted: bool,
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let start = row * width as usize;
    let (mean, factor) = statistics(input, start, width, epsilon, centered);
    let mut sum = 0.0f32;
    let mut product = 0.0f32;
    let mut place = UNIT_POS;
    while place < width {
        let index = start + place as usize;
        let mut slope = gradient[index];
        if weighted {
            slope *= weight[place as usize];
        }
        sum += slope;
        product += slope * (input[index] - mean) * factor;
        place += ROW_UNITS;
    }
    let product = sum_of_units(product, ROW_UNITS) / f32::cast_from(width);
    let mut shift = 0.0f32;
    if centered {
        shift = sum_of_units(sum, ROW_UNITS) / f32::cast_from(width);
    }
    let mut place = UNIT_POS;
    while place < width {
        let index = start + place as usize;
        let mut slope = gradient[index];
        if weighted {
            slope *= weight[place as usize];
        }
        let normalized = (input[index] - mean) * factor;
        of_input[index] = factor * (slope - shift - normalized * product);
        place += ROW_UNITS;
    }
    if UNIT_POS == 0 {
        kept[2 * row] = mean;
        kept[2 * row + 1] = factor;
    }
}

/// The sums over a slab of rows that are the gradients of weight and bias, a unit a column.
#[cube(launch, address_type = "dynamic")]
fn columns_kernel(
    input: &Array<f32>,
    gradient: &Array<f32>,
    kept: &Array<f32>,
    of_weight: &mut Array<f32>,
    of_bias: &mut Array<f32>,
    width: u32,
    rows: u32,
    slab: u32,
) {
    let column = CUBE_POS_X * UNITS + UNIT_POS;
    if column < width {
        let first = CUBE_POS_Y * slab;
        let last = min(first + slab, rows);
        let mut weight = 0.0f32;
        let mut bias = 0.0f32;
        let mut row = first;
        while row < last {
            let index = row as usize * width as usize + column as usize;
            let mean = kept[2 * row as usize];
            let factor = kept[2 * row as usize + 1];
            weight += gradient[index] * (input[index] - mean) * factor;
            bias += gradient[index];
            row += 1;
        }
        let place = CUBE_POS_Y as usize * width as usize + column as usize;
        of_weight[place] = weight;
        of_bias[place] = bias;
    }
}

/// The gradients of input, weight and bias, the last two as `[S, W]` for S slabs of rows that are
/// yet to be added up.
pub fn backward<R: CubeRuntime>(
    input: CubeTensor<R>,
    weight: Option<CubeTensor<R>>,
    gradient: CubeTensor<R>,
    scaling: Scaling,
) -> [CubeTensor<R>; 3] {
    let (input, gradient) = (into_contiguous(input), into_contiguous(gradient));
    let ([rows, width], client) = (rows(&input), input.client.clone());
    let weighted = weight.is_some();
    let weight = weight.map_or_else(|| input.clone(), into_contiguous);
    let of_input = empty(&input, input.meta.shape().clone());
    let kept = empty(&input, [rows, 2]);
    backward_kernel::launch(
        &client,
        cubes(rows),
        CubeDim::new_1d(ROW_UNITS),
        address(&[&input]),
        input.clone().into_array_arg(),
        weight.into_array_arg(),
        gradient.clone().into_array_arg(),
        of_input.clone().into_array_arg(),
        kept.clone().into_array_arg(),
        width as u32,
        rows as u32,
        scaling.epsilon,
        scaling.centered,
        weighted,
    );
    let slab = slab(rows);
    let slabs = rows.div_ceil(slab);
    let [of_weight, of_bias] = [(); 2].map(|()| empty(&input, [slabs, width]));
    columns_kernel::launch(
        &client,
        CubeCount::Static((width as u32).div_ceil(UNITS), slabs as u32, 1),
        CubeDim::new_1d(UNITS),
        address(&[&input]),
        input.into_array_arg(),
        gradient.into_array_arg(),
        kept.into_array_arg(),
        of_weight.clone().into_array_arg(),
        of_bias.clone().into_array_arg(),
        width as u32,
        rows as u32,
        slab as u32,
    );
    [of_input, of_weight, of_bias]
}
