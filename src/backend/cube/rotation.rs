//! Rotary positions.

use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::products::element;
use super::tensors::{UNITS, address, count, cubes_of_elements, dims, empty_of, memory};
use crate::backend::Turn;
use crate::config::RotaryPairing;

/// From one to the next in `[B, H, T, K]`.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Strides {
    batch: usize,
    head: usize,
    time: usize,
    number: usize,
}

/// A unit an element of `[B, H, T, K]`. The first `2 half` numbers of the first `turned_heads` heads
/// are turned.
#[cube(launch, address_type = "dynamic")]
fn rotate_kernel<I: Float, O: Float>(
    input: &Array<I>,
    cosines: &Array<f32>,
    sines: &Array<f32>,
    output: &mut Array<O>,
    strides: Strides,
    heads: u32,
    turned_heads: u32,
    length: u32,
    width: u32,
    half: u32,
    direction: f32,
    #[comptime] pairing: RotaryPairing,
    #[define(I)] _given: StorageType,
    #[define(O)] _made: StorageType,
) {
    if ABSOLUTE_POS < output.len() {
        let number = (ABSOLUTE_POS % width as usize) as u32;
        let position = ABSOLUTE_POS / width as usize;
        let time = (position % length as usize) as u32;
        let head = (position / length as usize % heads as usize) as u32;
        let batch = position / length as usize / heads as usize;
        let row =
            batch * strides.batch + head as usize * strides.head + time as usize * strides.time;
        let own = f32::cast_from(input[row + number as usize * strides.number]);
        let mut value = own;
        if head < turned_heads && number < 2 * half {
            // Which pair a number belongs to, and whether it is the second of it.
            let mut pair = number % half;
            let mut second = number >= half;
            let mut partner = (number + half) % (2 * half);
            if comptime!(pairing == RotaryPairing::Interleaved) {
                pair = number / 2;
                second = number % 2 == 1;
                partner = number ^ 1;
            }
            let other = f32::cast_from(input[row + partner as usize * strides.number]);
            let angle = (time * half + pair) as usize;
            let sine = sines[angle] * direction;
            value = own * cosines[angle] + select(second, other, -other) * sine;
        }
        output[ABSOLUTE_POS] = O::cast_from(value);
    }
}

/// [`Kernels::rotate`](crate::backend::Kernels::rotate).
pub fn rotate<R: CubeRuntime>(
    input: CubeTensor<R>,
    angles: [CubeTensor<R>; 2],
    turn: Turn,
) -> CubeTensor<R> {
    let [cosines, sines] = angles.map(into_contiguous);
    let [_, heads, length, width] = dims(&input);
    let [_, half] = dims(&cosines);
    let [batch, head, time, number] = [0, 1, 2, 3].map(|axis| input.meta.strides()[axis]);
    let (given, made) = (input.dtype, element(turn.precision));
    let output = empty_of(&input, input.meta.shape().clone(), made);
    let client = input.client.clone();
    rotate_kernel::launch(
        &client,
        cubes_of_elements(count(&input)),
        CubeDim::new_1d(UNITS),
        address(&[&input, &output]),
        memory(input),
        cosines.into_array_arg(),
        sines.into_array_arg(),
        output.clone().into_array_arg(),
        StridesLaunch::new(batch, head, time, number),
        heads as u32,
        turn.heads as u32,
        length as u32,
        width as u32,
        half as u32,
        if turn.back { -1.0 } else { 1.0 },
        turn.pairing,
        given.into(),
        made.into(),
    );
    output
}
