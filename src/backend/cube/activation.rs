//! Activations and gates of feed-forward networks.

use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use super::sums::{self, slab};
use super::tensors::{
    UNITS, address, count, cubes_of_elements, empty, empty_of, lanes, rows, zeroed,
};
use crate::config::Activation;

/// `1 / sqrt(2 π)`
const DENSITY: f32 = 0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
/// `2 sqrt(2 / π)`
const STEEPNESS: f32 = 2.0 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
/// Of the cubic term in the tanh form.
const CUBIC: f32 = 0.044_715;
/// Above, Mish is its argument to the last bit of an f32; and no exponential overflows.
const STRAIGHT: f32 = 20.0;

#[cube]
fn sigmoid(x: f32) -> f32 {
    // An exponential of more would be infinite, of which shaders promise nothing.
    1.0f32 / (1.0f32 + f32::exp(-max(x, -80.0f32)))
}

/// Not the maximum with zero, which is zero of what is not a number.
#[cube]
fn positive(x: f32) -> f32 {
    select(x < 0.0f32, 0.0f32, x)
}

/// `activation(x)` and its derivative.
#[cube]
fn value_and_slope(x: f32, #[comptime] kind: Activation) -> (f32, f32) {
    if comptime!(kind == Activation::Gelu) {
        let cumulative = 0.5f32 * (1.0f32 + Erf::erf(x * FRAC_1_SQRT_2));
        let density = DENSITY * f32::exp(-0.5f32 * min(x * x, 170.0f32));
        (x * cumulative, cumulative + x * density)
    } else if comptime!(kind == Activation::GeluTanh) {
        let gate = sigmoid(STEEPNESS * (x + CUBIC * x * x * x));
        let steepness = STEEPNESS * (1.0f32 + 3.0f32 * CUBIC * x * x);
        (x * gate, gate + x * gate * (1.0f32 - gate) * steepness)
    } else if comptime!(kind == Activation::Relu) {
        (positive(x), select(x <= 0.0f32, 0.0f32, 1.0f32))
    } else if comptime!(kind == Activation::ReluSquared) {
        let positive = positive(x);
        (positive * positive, 2.0f32 * positive)
    } else if comptime!(kind == Activation::Silu) {
        let gate = sigmoid(x);
        (x * gate, gate + x * gate * (1.0f32 - gate))
    } else {
        // Mish: tanh(log(1 + e)) = e (e + 2) / (e (e + 2) + 2)
        let exponential = f32::exp(min(x, STRAIGHT));
        let product = exponential * (exponential + 2.0f32);
        let gate = product / (product + 2.0f32);
        (x * gate, gate + x * (1.0f32 - gate * gate) * sigmoid(x))
    }
}

#[cube(launch, address_type = "dynamic")]
fn forward_kernel(input: &Array<f32>, output: &mut Array<f32>, #[comptime] kind: Activation) {
    if ABSOLUTE_POS < output.len() {
        let (value, _) = value_and_slope(input[ABSOLUTE_POS], kind);
        output[ABSOLUTE_POS] = value;
    }
}

/// [`GptBackend::activation`](crate::backend::GptBackend::activation).
pub fn forward<R: CubeRuntime>(input: CubeTensor<R>, kind: Activation) -> CubeTensor<R> {
    let input = into_contiguous(input);
    let output = empty(&input, input.meta.shape().clone());
    let client = input.client.clone();
    forward_kernel::launch(
        &client,
        cubes_of_elements(count(&input)),
        CubeDim::new_1d(UNITS),
        address(&[&input]),
        input.into_array_arg(),
        output.clone().into_array_arg(),
        kind,
    );
    output
}

#[cube(launch, address_type = "dynamic")]
fn backward_kernel(
    input: &Array<f32>,
    gradient: &Array<f32>,
    output: &mut Array<f32>,
    #[comptime] kind: Activation,
) {
    if ABSOLUTE_POS < output.len() {
        let (_, slope) = value_and_slope(input[ABSOLUTE_POS], kind);
        output[ABSOLUTE_POS] = gradient[ABSOLUTE_POS] * slope;
    }
}

/// [`GptBackend::activation_backward`](crate::backend::GptBackend::activation_backward).
pub fn backward<R: CubeRuntime>(
    input: CubeTensor<R>,
    gradient: CubeTensor<R>,
    kind: Activation,
) -> CubeTensor<R> {
    let [input, gradient] = [input, gradient].map(into_contiguous);
    let output = empty(&input, input.meta.shape().clone());
    let client = input.client.clone();
    backward_kernel::launch(
        &client,
        cubes_of_elements(count(&input)),
        CubeDim::new_1d(UNITS),
        address(&[&input]),
        input.into_array_arg(),
        gradient.into_array_arg(),
        output.clone().into_array_arg(),
        kind,
    );
    output
}

#[cube(launch, address_type = "dynamic")]
fn activated_kernel<E: Float, N: Size>(
    product: &Array<Vector<E, N>>,
    bias: &Array<Vector<f32, N>>,
    output: &mut Array<Vector<E, N>>,
    #[comptime] kind: Activation,
    #[define(E)] _element: StorageType,
) {
    if ABSOLUTE_POS < output.len() {
        let mut values =
            Vector::<f32, N>::cast_from(product[ABSOLUTE_POS]) + bias[ABSOLUTE_POS % bias.len()];
        #[unroll]
        for lane in 0..N::value() {
            let (value, _) = value_and_slope(values[lane], kind);
            values[lane] = value;
        }
        output[ABSOLUTE_POS] = Vector::cast_from(values);
    }
}

/// [`GptBackend::activated`](crate::backend::GptBackend::activated).
pub fn activated<R: CubeRuntime>(
    product: CubeTensor<R>,
    bias: Option<CubeTensor<R>>,
    kind: Activation,
) -> CubeTensor<R> {
    let product = into_contiguous(product);
    let ([_, width], dtype) = (rows(&product), product.dtype);
    let bias = bias.map_or_else(|| zeroed(&product, [width]), into_contiguous);
    let output = empty_of(&product, product.meta.shape().clone(), dtype);
    let client = product.client.clone();
    activated_kernel::launch(
        &client,
        cubes_of_elements(count(&product) / lanes(width)),
        CubeDim::new_1d(UNITS),
        address(&[&product]),
        lanes(width),
        product.into_array_arg(),
        bias.into_array_arg(),
        output.clone().into_array_arg(),
        kind,
        dtype.into(),
    );
    output
}

/// A unit has some columns of a slab of rows, whose gradients it also adds up.
#[cube(launch, address_type = "dynamic")]
fn activated_backward_kernel<E: Float, N: Size>(
    product: &Array<Vector<E, N>>,
    bias: &Array<Vector<f32, N>>,
    gradient: &Array<Vector<E, N>>,
    of_product: &mut Array<Vector<E, N>>,
    sums: &mut Array<Vector<f32, N>>,
    rows: u32,
    slab: u32,
    #[comptime] kind: Activation,
    #[define(E)] _element: StorageType,
) {
    let width = bias.len();
    let column = (CUBE_POS_X * UNITS + UNIT_POS) as usize;
    if column < width {
        let bias = bias[column];
        let first = CUBE_POS_Y * slab;
        let last = min(first + slab, rows);
        let mut sum = Vector::<f32, N>::new(0.0f32);
        let mut row = first;
        while row < last {
            let place = row as usize * width + column;
            let mut slopes = Vector::<f32, N>::cast_from(product[place]) + bias;
            #[unroll]
            for lane in 0..N::value() {
                let (_, slope) = value_and_slope(slopes[lane], kind);
                slopes[lane] = slope;
            }
            let of_sum = Vector::<f32, N>::cast_from(gradient[place]) * slopes;
            of_product[place] = Vector::cast_from(of_sum);
            sum += of_sum;
            row += 1;
        }
        sums[CUBE_POS_Y as usize * width + column] = sum;
    }
}

/// [`GptBackend::activated_backward`](crate::backend::GptBackend::activated_backward).
pub fn activated_backward<R: CubeRuntime>(
    product: CubeTensor<R>,
    bias: Option<CubeTensor<R>>,
    gradient: CubeTensor<R>,
    kind: Activation,
) -> (CubeTensor<R>, Option<CubeTensor<R>>) {
    let (product, gradient) = (into_contiguous(product), into_contiguous(gradient));
    let ([rows, width], dtype) = (rows(&product), product.dtype);
    let (slab, has_bias) = (slab(rows), bias.is_some());
    let slabs = rows.div_ceil(slab);
    let bias = bias.map_or_else(|| zeroed(&product, [width]), into_contiguous);
    let of_product = empty_of(&product, [rows, width], dtype);
    let sums = empty(&product, [slabs, width]);
    let client = product.client.clone();
    activated_backward_kernel::launch(
        &client,
        CubeCount::Static(((width / lanes(width)) as u32).div_ceil(UNITS), slabs as u32, 1),
        CubeDim::new_1d(UNITS),
        address(&[&product]),
        lanes(width),
        product.into_array_arg(),
        bias.into_array_arg(),
        gradient.into_array_arg(),
        of_product.clone().into_array_arg(),
        sums.clone().into_array_arg(),
        rows as u32,
        slab as u32,
        kind,
        dtype.into(),
    );
    (of_product, has_bias.then(|| sums::of_rows(sums)))
}

#[cube(launch, address_type = "dynamic")]
fn gated_kernel<E: Float, N: Size>(
    gate: &Array<Vector<E, N>>,
    up: &Array<Vector<E, N>>,
    output: &mut Array<Vector<E, N>>,
    #[comptime] kind: Activation,
    #[define(E)] _element: StorageType,
) {
    if ABSOLUTE_POS < output.len() {
        let mut values = Vector::<f32, N>::cast_from(gate[ABSOLUTE_POS]);
        #[unroll]
        for lane in 0..N::value() {
            let (value, _) = value_and_slope(values[lane], kind);
            values[lane] = value;
        }
        output[ABSOLUTE_POS] = Vector::cast_from(values * Vector::cast_from(up[ABSOLUTE_POS]));
    }
}

/// [`Kernels::gated`](crate::backend::Kernels::gated).
pub fn gated<R: CubeRuntime>(
    gate: CubeTensor<R>,
    up: CubeTensor<R>,
    kind: Activation,
) -> CubeTensor<R> {
    let (gate, up) = (into_contiguous(gate), into_contiguous(up));
    let (count, dtype) = (count(&gate), gate.dtype);
    let output = empty_of(&gate, gate.meta.shape().clone(), dtype);
    let client = gate.client.clone();
    gated_kernel::launch(
        &client,
        cubes_of_elements(count / lanes(count)),
        CubeDim::new_1d(UNITS),
        address(&[&gate]),
        lanes(count),
        gate.into_array_arg(),
        up.into_array_arg(),
        output.clone().into_array_arg(),
        kind,
        dtype.into(),
    );
    output
}

#[cube(launch, address_type = "dynamic")]
fn gated_backward_kernel<E: Float, N: Size>(
    gate: &Array<Vector<E, N>>,
    up: &Array<Vector<E, N>>,
    gradient: &Array<Vector<E, N>>,
    of_gate: &mut Array<Vector<E, N>>,
    of_up: &mut Array<Vector<E, N>>,
    #[comptime] kind: Activation,
    #[define(E)] _element: StorageType,
) {
    if ABSOLUTE_POS < of_gate.len() {
        let mut values = Vector::<f32, N>::cast_from(gate[ABSOLUTE_POS]);
        let mut slopes = values;
        #[unroll]
        for lane in 0..N::value() {
            let (value, slope) = value_and_slope(values[lane], kind);
            values[lane] = value;
            slopes[lane] = slope;
        }
        let gradient = Vector::<f32, N>::cast_from(gradient[ABSOLUTE_POS]);
        let up = Vector::<f32, N>::cast_from(up[ABSOLUTE_POS]);
        of_gate[ABSOLUTE_POS] = Vector::cast_from(gradient * up * slopes);
        of_up[ABSOLUTE_POS] = Vector::cast_from(gradient * values);
    }
}

/// [`Kernels::gated_backward`](crate::backend::Kernels::gated_backward).
pub fn gated_backward<R: CubeRuntime>(
    gate: CubeTensor<R>,
    up: CubeTensor<R>,
    gradient: CubeTensor<R>,
    kind: Activation,
) -> [CubeTensor<R>; 2] {
    let [gate, up, gradient] = [gate, up, gradient].map(into_contiguous);
    let (count, dtype) = (count(&gate), gate.dtype);
    let [of_gate, of_up] = [(); 2].map(|()| empty_of(&gate, gate.meta.shape().clone(), dtype));
    let client = gate.client.clone();
    gated_backward_kernel::launch(
        &client,
        cubes_of_elements(count / lanes(count)),
        CubeDim::new_1d(UNITS),
        address(&[&gate]),
        lanes(count),
        gate.into_array_arg(),
        up.into_array_arg(),
        gradient.into_array_arg(),
        of_gate.clone().into_array_arg(),
        of_up.clone().into_array_arg(),
        kind,
        dtype.into(),
    );
    [of_gate, of_up]
}
