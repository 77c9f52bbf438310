//! Products of a few rows with a matrix. They take as long as it takes to read the matrix, so it is
//! read once, in the order in which it lies in memory.

use multiversion::multiversion;

use super::matrix::{Matrix, Target};
use super::rows::{LANES, total};

/// Rows that are few.
pub(super) const FEW: usize = 8;
/// Rows of the matrix that are read side by side.
const SIDE: usize = 8;
/// Of these, those whose sums are made at the same time.
const SUMS: usize = 4;
/// Columns that are read before the next rows: more of them where one row alone is multiplied,
/// since of several each reads them again.
const WIDE: usize = 4096;
const NARROW: usize = 512;
/// A weight as it is stored.
pub(super) trait Weight: Copy + Sync {
    fn number(self) -> f32;
}

impl Weight for f32 {
    #[inline(always)]
    fn number(self) -> f32 {
        self
    }
}

impl Weight for i8 {
    #[inline(always)]
    fn number(self) -> f32 {
        f32::from(self)
    }
}

/// Rows of weights, each of numbers side by side.
#[derive(Debug, Clone, Copy)]
pub(super) struct WeightRows<'a, W> {
    elements: &'a [W],
    width: usize,
    stride: usize,
}

impl<'a, W: Weight> WeightRows<'a, W> {
    pub(super) fn new(elements: &'a [W], width: usize, stride: usize) -> Self {
        Self { elements, width, stride }
    }

    #[inline(always)]
    pub(super) fn row(self, number: usize) -> &'a [W] {
        &self.elements[number * self.stride..][..self.width]
    }

    /// A part of some rows, one after the other.
    #[inline(always)]
    fn part<const N: usize>(self, first: usize, start: usize, width: usize) -> [&'a [W]; N] {
        std::array::from_fn(|number| &self.row(first + number)[start..start + width])
    }
}

/// `target += factor a b`, where the rows of `a` and either those or the columns of `b` are of
/// numbers side by side.
pub(super) fn add_product(target: &mut Target, factor: f32, a: Matrix, b: Matrix) {
    match b.has_columns() {
        true => add_dots(target, factor, a, b.transposed().weights()),
        false => add_sums(target, factor, a, b.weights()),
    }
}

/// `target += factor a rowsᵀ`
#[multiversion(targets = "simd")]
fn add_dots(target: &mut Target<'_>, factor: f32, a: Matrix<'_>, rows: WeightRows<'_, f32>) {
    let [count, columns] = target.shape();
    for first in (0..columns).step_by(SIDE) {
        let side = SIDE.min(columns - first);
        for number in 0..count {
            let (x, y) = (a.row(number), &mut target.row(number)[first..first + side]);
            let (blocks, rest) = y.as_chunks_mut::<SUMS>();
            let mut column = first;
            for block in blocks {
                let dots = dots::<SUMS>(x, rows, column);
                block.iter_mut().zip(dots).for_each(|(y, dot)| *y += factor * dot);
                column += SUMS;
            }
            for y in rest {
                let [dot] = dots::<1>(x, rows, column);
                *y += factor * dot;
                column += 1;
            }
        }
    }
}

/// The products of a vector with some rows.
#[inline(always)]
fn dots<const N: usize>(x: &[f32], rows: WeightRows<f32>, first: usize) -> [f32; N] {
    let rows = rows.part::<N>(first, 0, x.len());
    let (blocks, rest) = x.as_chunks::<LANES>();
    let row_blocks = rows.map(|row| &row.as_chunks::<LANES>().0[..blocks.len()]);
    let mut sums = [[0.0f32; LANES]; N];
    for (place, block) in blocks.iter().enumerate() {
        for (sums, row) in sums.iter_mut().zip(row_blocks) {
            for (sum, (x, weight)) in sums.iter_mut().zip(block.iter().zip(&row[place])) {
                *sum += x * weight;
            }
        }
    }
    let mut dots = sums.map(total);
    let start = x.len() - rest.len();
    for (dot, row) in dots.iter_mut().zip(rows) {
        for (x, weight) in rest.iter().zip(&row[start..]) {
            *dot += x * weight;
        }
    }
    dots
}

/// `target += factor a rows`
#[multiversion(targets = "simd")]
pub(super) fn add_sums<W: Weight>(
    target: &mut Target<'_>,
    factor: f32,
    a: Matrix<'_>,
    rows: WeightRows<'_, W>,
) {
    let [count, columns] = target.shape();
    let inner = a.shape()[1];
    let width = if count == 1 { WIDE } else { NARROW };
    for start in (0..columns).step_by(width) {
        let width = width.min(columns - start);
        for first in (0..inner).step_by(SIDE) {
            let side = SIDE.min(inner - first);
            for number in 0..count {
                let x = &a.row(number)[first..first + side];
                let y = &mut target.row(number)[start..start + width];
                match <[f32; SIDE]>::try_from(x) {
                    Ok(x) => {
                        let x = x.map(|x| x * factor);
                        add_scaled(y, x, rows.part::<SIDE>(first, start, width));
                    }
                    Err(_) => {
                        for (place, x) in x.iter().enumerate() {
                            let row = rows.part::<1>(first + place, start, width);
                            add_scaled(y, [x * factor], row);
                        }
                    }
                }
            }
        }
    }
}

/// `y += Σ x row`
#[inline(always)]
fn add_scaled<W: Weight, const N: usize>(y: &mut [f32], x: [f32; N], rows: [&[W]; N]) {
    let (blocks, rest) = y.as_chunks_mut::<LANES>();
    let start = blocks.len() * LANES;
    let row_blocks = rows.map(|row| &row.as_chunks::<LANES>().0[..blocks.len()]);
    for (place, block) in blocks.iter_mut().enumerate() {
        let mut sums = *block;
        for number in 0..N {
            let row = &row_blocks[number][place];
            for lane in 0..LANES {
                sums[lane] += x[number] * row[lane].number();
            }
        }
        *block = sums;
    }
    for (place, y) in rest.iter_mut().enumerate() {
        for (x, row) in x.iter().zip(rows) {
            *y += x * row[start + place].number();
        }
    }
}
