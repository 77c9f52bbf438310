//! Dropout, in place.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use std::ops::Range;

use super::tensors::{UNITS, address, cubes_of_elements, rows, writable};
use crate::backend::Dropout;
use crate::backend::dropout::{GROUP, LANES};
use crate::backend::random::{PHILOX_FACTORS, PHILOX_INCREMENTS, PHILOX_ROUNDS};

/// Rows that are a part of others.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Rows {
    count: u32,
    width: u32,
    /// Groups of columns that these are in.
    groups: u32,
    first_column: u32,
    /// Of each `whole` rows, so many are there, from the first on.
    part: u32,
    whole: u32,
    first_row: u32,
}

/// [`Dropout`] as kernels are told it.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Rule {
    low_key: u32,
    high_key: u32,
    threshold: u32,
    scale: f32,
}

/// [`philox`](crate::backend::random::philox) of a counter whose upper half is zero.
#[cube]
fn philox(low: u32, high: u32, low_key: u32, high_key: u32) -> (u32, u32, u32, u32) {
    let mut zeroth = low;
    let mut first = high;
    let mut second = 0u32;
    let mut third = 0u32;
    let mut low_key = low_key;
    let mut high_key = high_key;
    #[unroll]
    for _ in 0..comptime!(PHILOX_ROUNDS as u32) {
        let of_zeroth = zeroth * PHILOX_FACTORS[0];
        let of_second = second * PHILOX_FACTORS[1];
        let above_zeroth = u32::mul_hi(zeroth, PHILOX_FACTORS[0].runtime());
        let above_second = u32::mul_hi(second, PHILOX_FACTORS[1].runtime());
        zeroth = above_second ^ first ^ low_key;
        second = above_zeroth ^ third ^ high_key;
        first = of_second;
        third = of_zeroth;
        low_key += PHILOX_INCREMENTS[0];
        high_key += PHILOX_INCREMENTS[1];
    }
    (zeroth, first, second, third)
}

#[cube]
fn drop_one<E: Float>(
    numbers: &mut Array<E>,
    row: usize,
    column: u32,
    word: u32,
    rows: Rows,
    rule: Rule,
) {
    if column >= rows.first_column && column - rows.first_column < rows.width {
        let index = row * rows.width as usize + (column - rows.first_column) as usize;
        let factor = select(word < rule.threshold, 0.0f32, rule.scale);
        numbers[index] = E::cast_from(f32::cast_from(numbers[index]) * factor);
    }
}

/// A unit has the four columns whose words come of one counter.
#[cube(launch, address_type = "dynamic")]
fn dropout_kernel<E: Float>(
    numbers: &mut Array<E>,
    rows: Rows,
    rule: Rule,
    #[define(E)] _element: StorageType,
) {
    let lanes = comptime!(LANES as u32);
    let counters = (rows.groups * lanes) as usize;
    let row = ABSOLUTE_POS / counters;
    if row < rows.count as usize {
        let lane = (ABSOLUTE_POS % counters) as u32 % lanes;
        let group =
            rows.first_column / comptime!(GROUP as u32) + (ABSOLUTE_POS % counters) as u32 / lanes;
        let number = row as u32 / rows.part * rows.whole + rows.first_row + row as u32 % rows.part;
        let (zeroth, first, second, third) =
            philox(group * lanes + lane, number, rule.low_key, rule.high_key);
        let column = group * comptime!(GROUP as u32) + lane;
        drop_one::<E>(numbers, row, column, zeroth, rows, rule);
        drop_one::<E>(numbers, row, column + lanes, first, rows, rule);
        drop_one::<E>(numbers, row, column + 2 * lanes, second, rows, rule);
        drop_one::<E>(numbers, row, column + 3 * lanes, third, rows, rule);
    }
}

/// [`Kernels::apply_dropout`](crate::backend::Kernels::apply_dropout).
pub fn apply<R: CubeRuntime>(numbers: CubeTensor<R>, dropout: Dropout) -> CubeTensor<R> {
    let [count, _] = rows(&numbers);
    drop_part(numbers, dropout, 0..count, count, 0)
}

/// The same of rows that are a part of each `whole` rows, and of columns from one on.
pub fn drop_part<R: CubeRuntime>(
    numbers: CubeTensor<R>,
    dropout: Dropout,
    part: Range<usize>,
    whole: usize,
    first_column: usize,
) -> CubeTensor<R> {
    let numbers = writable(numbers);
    let [count, width] = rows(&numbers);
    let groups = (first_column % GROUP + width).div_ceil(GROUP);
    let client = numbers.client.clone();
    dropout_kernel::launch(
        &client,
        cubes_of_elements(count * groups * LANES),
        CubeDim::new_1d(UNITS),
        address(&[&numbers]),
        numbers.clone().into_array_arg(),
        RowsLaunch::new(
            count as u32,
            width as u32,
            groups as u32,
            first_column as u32,
            part.len() as u32,
            whole as u32,
            part.start as u32,
        ),
        RuleLaunch::new(dropout.key[0], dropout.key[1], dropout.threshold, dropout.scale),
        numbers.dtype.into(),
    );
    numbers
}
