//! Dropout.

use multiversion::multiversion;

use super::{TASK, team};
use crate::backend::Dropout;

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
