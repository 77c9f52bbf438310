//! Layer and root-mean-square normalization, a cube a row. What comes out, and the gradient that
//! comes back, may be of another type than the input.
//!
//! N rows, W width

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::rows::{ROW_UNITS, sum_of_lanes, sum_of_units};
use super::sums::slab;
use super::tensors::{UNITS, address, cubes, empty, empty_of, even_rows, lanes, memory, rows};
use crate::backend::Scaling;

/// The mean of a row of so many vectors, and what its distances from it are multiplied by.
#[cube]
fn statistics<N: Size>(
    input: &Array<Vector<f32, N>>,
    start: usize,
    vectors: u32,
    epsilon: f32,
    #[comptime] centered: bool,
) -> (f32, f32) {
    let width = f32::cast_from(vectors) * f32::cast_from(N::value());
    let mut mean = 0.0f32;
    if centered {
        let mut sum = Vector::<f32, N>::new(0.0f32);
        let mut place = UNIT_POS;
        while place < vectors {
            sum += input[start + place as usize];
            place += ROW_UNITS;
        }
        mean = sum_of_units(sum_of_lanes(sum), ROW_UNITS) / width;
    }
    let mut sum = Vector::<f32, N>::new(0.0f32);
    let mut place = UNIT_POS;
    while place < vectors {
        let distance = input[start + place as usize] - Vector::new(mean);
        sum += distance * distance;
        place += ROW_UNITS;
    }
    let variance = sum_of_units(sum_of_lanes(sum), ROW_UNITS) / width;
    (mean, 1.0f32 / f32::sqrt(variance + epsilon))
}

#[cube(launch, address_type = "dynamic")]
fn forward_kernel<E: Float, N: Size>(
    input: &Array<Vector<f32, N>>,
    weight: &Array<Vector<f32, N>>,
    bias: &Array<Vector<f32, N>>,
    output: &mut Array<Vector<E, N>>,
    vectors: u32,
    rows: u32,
    epsilon: f32,
    #[comptime] centered: bool,
    #[comptime] weighted: bool,
    #[comptime] biased: bool,
    #[define(E)] _element: StorageType,
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let start = row * vectors as usize;
    let (mean, factor) = statistics(input, start, vectors, epsilon, centered);
    let mut place = UNIT_POS;
    while place < vectors {
        let mut values = (input[start + place as usize] - Vector::new(mean)) * Vector::new(factor);
        if weighted {
            values *= weight[place as usize];
        }
        if biased {
            values += bias[place as usize];
        }
        output[start + place as usize] = Vector::cast_from(values);
        place += ROW_UNITS;
    }
}

/// [`Kernels::normalization`](crate::backend::Kernels::normalization).
pub fn forward<R: CubeRuntime>(
    input: CubeTensor<R>,
    weight: Option<CubeTensor<R>>,
    bias: Option<CubeTensor<R>>,
    scaling: Scaling,
    element: DType,
) -> CubeTensor<R> {
    let input = into_contiguous(input);
    let output = empty_of(&input, input.meta.shape().clone(), element);
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
        lanes(width),
        input.clone().into_array_arg(),
        stand_in(weight).into_array_arg(),
        stand_in(bias).into_array_arg(),
        output.clone().into_array_arg(),
        (width / lanes(width)) as u32,
        rows as u32,
        scaling.epsilon,
        scaling.centered,
        weighted,
        biased,
        element.into(),
    );
    output
}

/// With n the normalized input and h the gradient times the weight, the gradient of a row is
/// `factor (h - mean(h) - n mean(h n))`, without its second term where rows keep their mean. Gradients
/// have rows that begin `pitch` apart.
#[cube(launch, address_type = "dynamic")]
fn backward_kernel<E: Float, N: Size>(
    input: &Array<Vector<f32, N>>,
    weight: &Array<Vector<f32, N>>,
    gradient: &Array<Vector<E, N>>,
    of_input: &mut Array<Vector<f32, N>>,
    kept: &mut Array<f32>,
    vectors: u32,
    // Of gradients, in vectors.
    pitch: u32,
    rows: u32,
    epsilon: f32,
    #[comptime] centered: bool,
    #[comptime] weighted: bool,
    #[define(E)] _element: StorageType,
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let start = row * vectors as usize;
    let slopes_start = row * pitch as usize;
    let (mean, factor) = statistics(input, start, vectors, epsilon, centered);
    let width = f32::cast_from(vectors) * f32::cast_from(N::value());
    let mut sum = Vector::<f32, N>::new(0.0f32);
    let mut product = Vector::<f32, N>::new(0.0f32);
    let mut place = UNIT_POS;
    while place < vectors {
        let index = start + place as usize;
        let mut slopes = Vector::<f32, N>::cast_from(gradient[slopes_start + place as usize]);
        if weighted {
            slopes *= weight[place as usize];
        }
        sum += slopes;
        product += slopes * (input[index] - Vector::new(mean)) * Vector::new(factor);
        place += ROW_UNITS;
    }
    let product = sum_of_units(sum_of_lanes(product), ROW_UNITS) / width;
    let mut shift = 0.0f32;
    if centered {
        shift = sum_of_units(sum_of_lanes(sum), ROW_UNITS) / width;
    }
    let mut place = UNIT_POS;
    while place < vectors {
        let index = start + place as usize;
        let mut slopes = Vector::<f32, N>::cast_from(gradient[slopes_start + place as usize]);
        if weighted {
            slopes *= weight[place as usize];
        }
        let normalized = (input[index] - Vector::new(mean)) * Vector::new(factor);
        let across = slopes - Vector::new(shift) - normalized * Vector::new(product);
        of_input[index] = Vector::new(factor) * across;
        place += ROW_UNITS;
    }
    if UNIT_POS == 0 {
        kept[2 * row] = mean;
        kept[2 * row + 1] = factor;
    }
}

/// The sums over a slab of rows that are the gradients of weight and bias; a unit has some columns.
#[cube(launch, address_type = "dynamic")]
fn columns_kernel<E: Float, N: Size>(
    input: &Array<Vector<f32, N>>,
    gradient: &Array<Vector<E, N>>,
    kept: &Array<f32>,
    of_weight: &mut Array<Vector<f32, N>>,
    of_bias: &mut Array<Vector<f32, N>>,
    vectors: u32,
    // Of gradients, in vectors.
    pitch: u32,
    rows: u32,
    slab: u32,
    #[define(E)] _element: StorageType,
) {
    let column = CUBE_POS_X * UNITS + UNIT_POS;
    if column < vectors {
        let first = CUBE_POS_Y * slab;
        let last = min(first + slab, rows);
        let mut weight = Vector::<f32, N>::new(0.0f32);
        let mut bias = Vector::<f32, N>::new(0.0f32);
        let mut row = first;
        while row < last {
            let index = row as usize * vectors as usize + column as usize;
            let mean = Vector::new(kept[2 * row as usize]);
            let factor = Vector::new(kept[2 * row as usize + 1]);
            let slopes = gradient[row as usize * pitch as usize + column as usize];
            let slopes = Vector::<f32, N>::cast_from(slopes);
            weight += slopes * (input[index] - mean) * factor;
            bias += slopes;
            row += 1;
        }
        let place = CUBE_POS_Y as usize * vectors as usize + column as usize;
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
    let (input, (gradient, pitch)) = (into_contiguous(input), even_rows(gradient));
    let ([rows, width], client) = (rows(&input), input.client.clone());
    let [vectors, pitch] = [width, pitch].map(|numbers| (numbers / lanes(width)) as u32);
    let element = gradient.dtype;
    let weighted = weight.is_some();
    let weight = weight.map_or_else(|| input.clone(), into_contiguous);
    let of_input = empty(&input, input.meta.shape().clone());
    let kept = empty(&input, [rows, 2]);
    backward_kernel::launch(
        &client,
        cubes(rows),
        CubeDim::new_1d(ROW_UNITS),
        address(&[&input, &gradient]),
        lanes(width),
        input.clone().into_array_arg(),
        weight.into_array_arg(),
        memory(gradient.clone()),
        of_input.clone().into_array_arg(),
        kept.clone().into_array_arg(),
        vectors,
        pitch,
        rows as u32,
        scaling.epsilon,
        scaling.centered,
        weighted,
        element.into(),
    );
    let slab = slab(rows);
    let slabs = rows.div_ceil(slab);
    let [of_weight, of_bias] = [(); 2].map(|()| empty(&input, [slabs, width]));
    columns_kernel::launch(
        &client,
        CubeCount::Static(vectors.div_ceil(UNITS), slabs as u32, 1),
        CubeDim::new_1d(UNITS),
        address(&[&input, &gradient]),
        lanes(width),
        input.into_array_arg(),
        memory(gradient),
        kept.into_array_arg(),
        of_weight.clone().into_array_arg(),
        of_bias.clone().into_array_arg(),
        vectors,
        pitch,
        rows as u32,
        slab as u32,
        element.into(),
    );
    [of_input, of_weight, of_bias]
}
