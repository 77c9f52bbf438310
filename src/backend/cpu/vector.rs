//! Products of a few rows with a matrix. They take as long as it takes to read the matrix, so it is
//! read once, in the order in which it lies in memory.

use multiversion::multiversion;
use std::ops::{Range, RangeInclusive};

use super::matrix::{Matrix, Target};
use super::rows::{LANES, sum_pairs, total};
use super::{team, written};

/// Rows that are few.
pub(super) const FEW: usize = 16;
/// Rows of the matrix that are read side by side.
const SIDE: usize = 8;
/// Partial sums of a product of two vectors.
const SUMS: usize = 4 * LANES;
/// Numbers of a row that are read together where rows are added up: two vectors of the widest kind.
const WIDTH: usize = 2 * LANES;
/// Bytes that are fetched at a time.
const LINE: usize = 64;
/// Columns that are read before the next rows: more of them where one row alone is multiplied,
/// since of several each reads them again.
const WIDE: usize = 4096;
const NARROW: usize = 512;
/// Multiplications below which a second thread costs more than it brings, though it is awake.
const SMALL: usize = 1 << 17;
/// Those of one row that two threads share, each one half: more parts cost more than they bring.
const HALVED: RangeInclusive<usize> = 1 << 15..=SMALL;
/// Rows of the matrix that are a part of the work, at least: each part has sums of its own, which
/// are to be added up then.
const LEAST: usize = 48;
/// Such parts at most.
const PARTS: usize = 16;
/// Columns that are a part of the work: fewer are not read well, and more are not in the nearest
/// cache.
const STRIPE: RangeInclusive<usize> = 192..=WIDE;
/// Such parts for each thread, since not all are awake all the time.
const STRIPES: usize = 4;

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

    /// Some columns of some rows.
    fn block(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        assert!(columns.start <= columns.end && columns.end <= self.width);
        let elements = match rows.is_empty() {
            true => &[],
            false => &self.elements[rows.start * self.stride + columns.start..],
        };
        Self { elements, width: columns.len(), ..self }
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

/// `target += a b` as in [`add_product`], on all threads.
pub(super) fn add_product_on_all(target: &mut Target, a: Matrix, b: Matrix) {
    match b.has_columns() {
        true => share_columns(target, a, |columns, target| {
            add_dots(target, 1.0, a, b.columns(columns).transposed().weights());
        }),
        false => add_sums_on_all(target, a, b.weights(), |_, _| ()),
    }
}

/// `target += a rows`, on all threads, and what `finish` makes of it, which is told the columns.
///
/// Memory is read fastest in long stretches, so a part of the work is some rows from end to end,
/// where their sums are in the nearest cache. The parts depend on the shape alone: sums are the
/// same on any number of threads.
pub(super) fn add_sums_on_all<W: Weight>(
    target: &mut Target,
    a: Matrix,
    rows: WeightRows<W>,
    finish: impl Fn(Range<usize>, &mut Target) + Sync,
) {
    let ([count, columns], [_, inner]) = (target.shape(), a.shape());
    let stripes = columns.div_ceil(WIDE).max(1);
    // Whatever the rows of `a`: each is multiplied as it would be alone.
    let parts = match inner * columns {
        size if HALVED.contains(&size) => 2,
        ..SMALL => 1,
        _ => (inner / LEAST).min(PARTS / stripes),
    };
    if parts < 2 {
        return share_columns(target, a, |columns, target| {
            add_sums(target, 1.0, a, rows.block(0..inner, columns.clone()));
            finish(columns, target);
        });
    }
    // A power of two, as numbers of threads mostly are.
    let parts = 1 << parts.ilog2();
    let height = inner.div_ceil(parts).next_multiple_of(SIDE);
    let width = columns.div_ceil(stripes).next_multiple_of(LANES);
    let part = |number: usize, size: usize, end: usize| {
        end.min(number * size)..end.min((number + 1) * size)
    };
    let run = |sums: Target| {
        team::run(parts * stripes, &|task| {
            let (number, stripe) = (task / stripes, task % stripes);
            let own = number * count..(number + 1) * count;
            let (inner, columns) = (part(number, height, inner), part(stripe, width, columns));
            // SAFETY: this part of this stripe is of this task alone.
            let mut sums = unsafe { sums.block(own, columns.clone()) };
            sums.clear();
            add_sums(&mut sums, 1.0, a.columns(inner.clone()), rows.block(inner, columns));
        });
    };
    let numbers = parts * count * columns;
    // SAFETY: every part of every stripe is written, and these are all there is.
    let sums = unsafe { written(numbers, |room| run(Target::of_room(room, columns))) };
    add_up(target, &sums);
    finish(0..columns, target);
}

/// Has all threads write columns of the product of `a` with something.
fn share_columns(target: &mut Target, a: Matrix, write: impl Fn(Range<usize>, &mut Target) + Sync) {
    let ([count, columns], [_, inner]) = (target.shape(), a.shape());
    let width = match count * inner * columns {
        ..SMALL => return write(0..columns, target),
        _ => columns / (STRIPES * team::size()),
    };
    let width = width.clamp(*STRIPE.start(), *STRIPE.end()).next_multiple_of(LANES);
    team::run(columns.div_ceil(width), &|part| {
        let part = part * width..columns.min((part + 1) * width);
        // SAFETY: every part has columns of its own.
        write(part.clone(), &mut unsafe { target.block(0..count, part) });
    });
}

/// `target += Σ sums`
#[multiversion(targets = "simd")]
fn add_up(target: &mut Target<'_>, sums: &[f32]) {
    let [count, columns] = target.shape();
    for sums in sums.chunks_exact(count * columns) {
        for (number, sums) in sums.chunks_exact(columns).enumerate() {
            target.row(number).iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
        }
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
            for (place, y) in y.iter_mut().enumerate() {
                *y += factor * dot(x, rows.row(first + place));
            }
        }
    }
}

/// `Σ x y`, with partial sums enough for none to wait for the one before.
#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let ((blocks, rest), (y_blocks, y_rest)) = (x.as_chunks::<SUMS>(), y.as_chunks::<SUMS>());
    let of_rest = sum_pairs(rest, y_rest, |x, y| x * y);
    if blocks.is_empty() {
        return of_rest;
    }
    let mut sums = [0.0f32; SUMS];
    for (block, y_block) in blocks.iter().zip(y_blocks) {
        for (sum, (x, y)) in sums.iter_mut().zip(block.iter().zip(y_block)) {
            *sum += x * y;
        }
    }
    let mut lanes = [0.0f32; LANES];
    for sums in sums.as_chunks::<LANES>().0 {
        lanes.iter_mut().zip(sums).for_each(|(lane, sum)| *lane += sum);
    }
    of_rest + total(lanes)
}

/// `target += factor a rows`
#[multiversion(targets = "simd")]
fn add_sums<W: Weight>(
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
                        add_scaled(
                            y,
                            x,
                            rows.part::<SIDE>(first, start, width),
                            SIDE * rows.stride,
                        );
                    }
                    Err(_) => {
                        for (place, x) in x.iter().enumerate() {
                            let [row] = rows.part(first + place, start, width);
                            add_scaled_row(y, x * factor, row);
                        }
                    }
                }
            }
        }
    }
}

/// `y += Σ x row`; the rows that are next are so many weights further on.
#[inline(always)]
fn add_scaled<W: Weight>(y: &mut [f32], x: [f32; SIDE], rows: [&[W]; SIDE], ahead: usize) {
    let (blocks, rest) = y.as_chunks_mut::<WIDTH>();
    let start = blocks.len() * WIDTH;
    // In step, so that nothing has to be checked on the way.
    let [a, b, c, d, e, f, g, h] = rows.map(|row| row.as_chunks::<WIDTH>().0.iter());
    let (first, second) = (a.zip(b).zip(c.zip(d)), e.zip(f).zip(g.zip(h)));
    for (block, (first, second)) in blocks.iter_mut().zip(first.zip(second)) {
        let (((a, b), (c, d)), ((e, f), (g, h))) = (first, second);
        // Side by side, rows are too short for the processor to see by itself what is read next.
        for row in [a, b, c, d, e, f, g, h] {
            for line in (0..WIDTH).step_by(LINE / size_of::<W>()) {
                ask_for(row.as_ptr().wrapping_add(ahead + line));
            }
        }
        let mut sums = *block;
        for (x, row) in x.iter().zip([a, b, c, d, e, f, g, h]) {
            for (sum, weight) in sums.iter_mut().zip(row) {
                *sum += x * weight.number();
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

/// Has the processor fetch what will be read soon.
#[inline(always)]
fn ask_for<W>(place: *const W) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, of which any address may be given.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// `y += x row`
#[inline(always)]
fn add_scaled_row<W: Weight>(y: &mut [f32], x: f32, row: &[W]) {
    y.iter_mut().zip(row).for_each(|(y, weight)| *y += x * weight.number());
}
