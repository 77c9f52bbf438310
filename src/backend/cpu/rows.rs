//! Loops over rows, written so that the compiler can vectorise them: sums have a fixed number of
//! partial ones, so that they come out the same on every machine.

use multiversion::multiversion;
use std::mem::MaybeUninit;

use super::team::Work;
use super::{TASK, team, written};

/// Rows whose columns are summed up by a task: the same on every machine.
const ROWS: usize = 128;
/// Partial sums.
pub(super) const LANES: usize = 16;

/// `Σ f(x)`
#[inline(always)]
pub(super) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (blocks, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for block in blocks {
        for (sum, x) in sums.iter_mut().zip(block) {
            *sum += f(*x);
        }
    }
    rest.iter().fold(total(sums), |sum, x| sum + f(*x))
}

/// `Σ f(x, y)`
#[inline(always)]
pub(super) fn sum_pairs(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let y = &y[..x.len()];
    let ((blocks, rest), (y_blocks, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut sums = [0.0f32; LANES];
    for (block, y_block) in blocks.iter().zip(y_blocks) {
        for (sum, (x, y)) in sums.iter_mut().zip(block.iter().zip(y_block)) {
            *sum += f(*x, *y);
        }
    }
    rest.iter().zip(y_rest).fold(total(sums), |sum, (x, y)| sum + f(*x, *y))
}

/// Not a number where one of them is not.
#[inline(always)]
pub(super) fn highest(x: &[f32]) -> f32 {
    let greater = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
    let (blocks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane = greater(*lane, *x);
        }
    }
    let highest = lanes.into_iter().fold(f32::NEG_INFINITY, greater);
    rest.iter().copied().fold(highest, greater)
}

#[inline(always)]
pub(super) fn total(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    sums[0]
}

/// The sum of each column, which is the work of some tasks.
#[derive(Debug)]
pub(super) struct ColumnSums {
    width: usize,
    /// Of [`ROWS`] rows each, one after the other.
    parts: Vec<f32>,
}

impl ColumnSums {
    /// Tasks, which are few beside those of products.
    const TASKS: usize = 8;

    pub(super) fn new(count: usize, width: usize) -> Self {
        Self { width, parts: vec![0.0; count.div_ceil(ROWS * width) * width] }
    }

    /// All of the work.
    pub(super) fn work<'a>(&'a mut self, x: &'a [f32]) -> impl Iterator<Item = Work<'a>> {
        let (width, parts) = (self.width, self.parts.len() / self.width);
        let of_task = parts.div_ceil(Self::TASKS).max(1);
        let parts = self.parts.chunks_mut(of_task * width);
        x.chunks(of_task * ROWS * width).zip(parts).map(move |(rows, parts)| -> Work<'a> {
            Box::new(move || {
                let parts = parts.chunks_mut(width);
                rows.chunks(ROWS * width).zip(parts).for_each(|(rows, part)| add_rows(rows, part));
            })
        })
    }

    /// When the work is done.
    pub(super) fn finish(self) -> Vec<f32> {
        let mut sums = vec![0.0; self.width];
        add_rows(&self.parts, &mut sums);
        sums
    }
}

/// Adds rows to the sums of their columns.
#[multiversion(targets = "simd")]
fn add_rows(rows: &[f32], sums: &mut [f32]) {
    for row in rows.chunks_exact(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
}

/// `x *= y`, number by number, and the sum of each column of that.
pub(super) fn multiply_summing_columns(x: &mut [f32], y: &[f32], width: usize) -> Vec<f32> {
    assert_eq!(x.len(), y.len());
    let mut sums = ColumnSums::new(x.len(), width);
    let parts = x.chunks_mut(ROWS * width).zip(y.chunks(ROWS * width));
    team::for_each(parts.zip(sums.parts.chunks_mut(width)), |((x, y), sums)| {
        multiply_and_add_rows(x, y, sums);
    });
    sums.finish()
}

#[multiversion(targets = "simd")]
fn multiply_and_add_rows(x: &mut [f32], y: &[f32], sums: &mut [f32]) {
    let width = sums.len();
    for (x, y) in x.chunks_exact_mut(width).zip(y.chunks_exact(width)) {
        for ((x, y), sum) in x.iter_mut().zip(y).zip(&mut *sums) {
            *x *= y;
            *sum += *x;
        }
    }
}

/// `x += y`
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len());
    team::for_each(x.chunks_mut(TASK).zip(y.chunks(TASK)), |(x, y)| add_part(x, y));
}

#[multiversion(targets = "simd")]
fn add_part(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `x *= y`, number by number
pub(super) fn multiply(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len());
    team::for_each(x.chunks_mut(TASK).zip(y.chunks(TASK)), |(x, y)| multiply_part(x, y));
}

#[multiversion(targets = "simd")]
pub(super) fn multiply_part(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x *= y);
}

/// `x + y`
pub(super) fn sums(x: &[f32], y: &[f32]) -> Vec<f32> {
    assert_eq!(x.len(), y.len());
    // SAFETY: every part is written.
    unsafe {
        written(x.len(), |output| {
            let inputs = x.chunks(TASK).zip(y.chunks(TASK));
            team::for_each(output.chunks_mut(TASK).zip(inputs), |(output, (x, y))| {
                sum_part(x, y, output);
            });
        })
    }
}

#[multiversion(targets = "simd")]
fn sum_part(x: &[f32], y: &[f32], output: &mut [MaybeUninit<f32>]) {
    for (output, (x, y)) in output.iter_mut().zip(x.iter().zip(y)) {
        output.write(x + y);
    }
}

/// `Σ x²` of all numbers of all slices: of tasks first, then of these in f64.
pub(super) fn sum_of_squares(slices: &[&[f32]]) -> f64 {
    let tasks = slices.iter().flat_map(|slice| slice.chunks(TASK));
    team::map(tasks, squares).into_iter().map(f64::from).sum()
}

#[multiversion(targets = "simd")]
fn squares(x: &[f32]) -> f32 {
    sum(x, |x| x * x)
}
