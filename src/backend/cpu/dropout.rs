//! Dropout.

use multiversion::multiversion;

use super::{TASK, team};
use crate::backend::Dropout;
use crate::backend::dropout::{GROUP, LANES};

/// Drops numbers of rows of this width.
pub(super) fn apply(numbers: &mut [f32], width: usize, dropout: Dropout) {
    let rows = (TASK / width.max(1)).max(1);
    team::for_each(numbers.chunks_mut((rows * width).max(1)).enumerate(), |(task, numbers)| {
        drop_rows(numbers, [task * rows, 0], width, dropout);
    });
}

/// Drops numbers of rows, and of columns, from these on.
#[multiversion(targets = "simd")]
pub(super) fn drop_rows(
    numbers: &mut [f32],
    [first_row, first_column]: [usize; 2],
    width: usize,
    dropout: Dropout,
) {
    for (number, row) in numbers.chunks_exact_mut(width).enumerate() {
        dropout.apply(first_row + number, first_column, row);
    }
}

/// [`drop_rows`] of a tensor that stands transposed: so many of its rows are side by side, in whole
/// vectors, and the rows in memory are its columns.
#[multiversion(targets = "simd")]
pub(super) fn drop_columns(
    numbers: &mut [f32],
    [first_row, first_column]: [usize; 2],
    width: usize,
    dropout: Dropout,
) {
    let columns = first_column..first_column + numbers.len() / width;
    for start in (0..width).step_by(LANES) {
        let rows = std::array::from_fn(|lane| first_row + start + lane);
        for group in columns.start / GROUP..columns.end.div_ceil(GROUP) {
            for place in 0..LANES {
                let factors = dropout.factors_down(rows, group, place);
                for (word, factors) in factors.iter().enumerate() {
                    let column = group * GROUP + word * LANES + place;
                    if columns.contains(&column) {
                        let row = &mut numbers[(column - columns.start) * width..][start..];
                        let vector = &mut row.as_chunks_mut::<LANES>().0[0];
                        vector.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
                    }
                }
            }
        }
    }
}
