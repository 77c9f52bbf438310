//! Matrix products with a band, outside which nothing is computed. The matrices are as small as
//! those of attention, which lie in the nearest caches, so that nothing is packed for them.

use pulp::{Arch, Simd, WithSimd};
use std::ops::Range;

use super::matrix::{Base, Matrix, Target, multiply};
use super::rows::LANES;

/// Rows of the target whose sums are in registers at a time.
pub(super) const ROWS: usize = 6;
/// Summands that are added up before the next: as many rows of the second factor, each as wide as
/// the sums in registers, fit into the nearest cache.
const DEPTH: usize = 128;
/// Lanes of the narrowest vectors that are worth it.
const NARROWEST: usize = 4;

/// Where a matrix is not empty: row `r` from column `r + low` up to, but without, `r + high`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Band {
    pub(super) low: isize,
    pub(super) high: isize,
}

impl Band {
    /// The columns of a matrix with so many where any of some rows is not empty.
    #[inline(always)]
    pub(super) fn of_any(self, rows: Range<usize>, columns: usize) -> Range<usize> {
        let (first, last) = (rows.start as isize, rows.end as isize - 1);
        clamped(first.saturating_add(self.low), last.saturating_add(self.high), columns)
    }

    /// That of the transposed matrix.
    #[inline(always)]
    pub(super) fn transposed(self) -> Self {
        let low = 1isize.saturating_sub(self.high);
        Self { low, high: 1isize.saturating_sub(self.low) }
    }
}

#[inline(always)]
fn clamped(low: isize, high: isize, length: usize) -> Range<usize> {
    let low = low.clamp(0, length as isize);
    low as usize..high.clamp(low, length as isize) as usize
}

/// Which matrix of a product has a band.
#[derive(Debug, Clone, Copy)]
pub(super) enum Banded {
    /// The first factor, which is zero outside.
    Factor(Band),
    /// The product, which is wanted within, and in whole vectors of [`LANES`] columns. Elsewhere it
    /// may be left as it was.
    Product(Band),
}

impl Banded {
    /// For some rows of a product of so many summands and columns: the columns that are wanted, and
    /// the summands that are not zero.
    #[inline(always)]
    fn part(self, rows: Range<usize>, [depth, columns]: [usize; 2]) -> [Range<usize>; 2] {
        match self {
            Self::Factor(band) => [0..columns, band.of_any(rows, depth)],
            Self::Product(band) => {
                let wanted = band.of_any(rows, columns);
                let end = wanted.end.next_multiple_of(LANES).min(columns);
                [wanted.start / LANES * LANES..end, 0..depth]
            }
        }
    }
}

/// `target = factor a b`, or with what stands there as a summand, on this thread.
///
/// Of `a` whatever is in the bands of any [`ROWS`] rows that follow each other is read, in all of
/// these rows, and nothing else.
///
/// # Panics
/// Where shapes do not fit, there are no summands, or rows of `b` are not of numbers side by side.
pub(super) fn multiply_banded(
    target: &mut Target,
    keep: bool,
    factor: f32,
    [a, b]: [Matrix; 2],
    banded: Banded,
) {
    let ([rows, depth], [of_b, columns]) = (a.shape(), b.shape());
    assert_eq!(([rows, columns], depth), (target.shape(), of_b));
    assert!(depth > 0 && b.has_rows());
    if Arch::new().dispatch(BandedProduct { target, keep, factor, a, b, banded }) {
        return;
    }
    let base = if keep { Base::Target } else { Base::Nothing };
    for first in (0..rows).step_by(ROWS) {
        let own = first..rows.min(first + ROWS);
        let [columns, summands] = banded.part(own.clone(), [depth, columns]);
        let (a, b) = (a.block(own.clone(), summands.clone()), b.block(summands, columns.clone()));
        // SAFETY: only this looks at the target now.
        multiply(unsafe { target.block(own, columns) }, base, factor, a, b);
    }
}

struct BandedProduct<'a, 'b> {
    target: &'a mut Target<'b>,
    keep: bool,
    factor: f32,
    a: Matrix<'a>,
    b: Matrix<'a>,
    banded: Banded,
}

impl WithSimd for BandedProduct<'_, '_> {
    /// Whether vectors of this processor fit.
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        let fits = S::F32_LANES >= NARROWEST && self.b.shape()[1].is_multiple_of(S::F32_LANES);
        match S::REGISTER_COUNT {
            _ if !fits => {}
            32.. => self.run::<S, 4>(simd),
            _ => self.run::<S, 2>(simd),
        }
        fits
    }
}

impl BandedProduct<'_, '_> {
    /// With this many vectors of sums for each row.
    #[inline(always)]
    fn run<S: Simd, const VECTORS: usize>(self, simd: S) {
        let ([rows, depth], columns) = (self.a.shape(), self.b.shape()[1]);
        for slice in (0..depth).step_by(DEPTH) {
            for panel in (0..columns).step_by(VECTORS * S::F32_LANES) {
                for first in (0..rows).step_by(ROWS) {
                    let own = first..rows.min(first + ROWS);
                    let [wanted, summands] = self.banded.part(own.clone(), [depth, columns]);
                    let start = wanted.start.max(panel);
                    let end = wanted.end.min(panel + VECTORS * S::F32_LANES);
                    // Zeros are written where there are no summands.
                    let begins = match summands.is_empty() {
                        true => slice == 0,
                        false => slice == summands.start / DEPTH * DEPTH,
                    };
                    let here = summands.start.max(slice)..summands.end.min(slice + DEPTH);
                    let here = if here.is_empty() { 0..0 } else { here };
                    if start < end && (begins || !here.is_empty()) {
                        self.block::<S, VECTORS>(simd, own, start..end, here, begins);
                    }
                }
            }
        }
    }

    /// Sums of some rows and columns, the first of them or what is added to those.
    #[inline(always)]
    fn block<S: Simd, const VECTORS: usize>(
        &self,
        simd: S,
        rows: Range<usize>,
        columns: Range<usize>,
        summands: Range<usize>,
        begins: bool,
    ) {
        let tile = Tile {
            a: self.a.block(rows.clone(), summands.clone()),
            b: self.b.block(summands, columns.clone()),
            keep: self.keep || !begins,
            factor: self.factor,
        };
        // SAFETY: only this looks at the target now.
        let target = unsafe { self.target.block(rows.clone(), columns.clone()) };
        macro_rules! of_rows {
            ($vectors:literal) => {
                match rows.len() {
                    1 => tile.write::<S, 1, $vectors>(simd, target),
                    2 => tile.write::<S, 2, $vectors>(simd, target),
                    3 => tile.write::<S, 3, $vectors>(simd, target),
                    4 => tile.write::<S, 4, $vectors>(simd, target),
                    5 => tile.write::<S, 5, $vectors>(simd, target),
                    _ => tile.write::<S, ROWS, $vectors>(simd, target),
                }
            };
        }
        match columns.len() / S::F32_LANES {
            1 => of_rows!(1),
            2 => of_rows!(2),
            3 if VECTORS > 2 => of_rows!(3),
            _ if VECTORS > 2 => of_rows!(4),
            _ => unreachable!("panels are no wider"),
        }
    }
}

/// A product whose sums are in registers.
struct Tile<'a> {
    a: Matrix<'a>,
    b: Matrix<'a>,
    keep: bool,
    factor: f32,
}

impl Tile<'_> {
    #[inline(always)]
    fn write<S: Simd, const N: usize, const VECTORS: usize>(&self, simd: S, target: Target) {
        let ([rows, depth], [of_b, columns]) = (self.a.shape(), self.b.shape());
        // One by one: as pairs they would be compared in memory, each time.
        let [of_target, width] = target.shape();
        assert!(rows == N && of_target == N && of_b == depth);
        assert!(columns == VECTORS * S::F32_LANES && width == columns);
        let (a, [row_stride, column_stride]) = self.a.start_and_strides();
        let (b, [stride, _]) = self.b.start_and_strides();
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; N];
        for summand in 0..depth {
            // SAFETY: a row of `b`, which is of that many vectors side by side.
            let row: [S::f32s; VECTORS] =
                unsafe { b.add(summand * stride).cast::<[S::f32s; VECTORS]>().read_unaligned() };
            for (number, sums) in sums.iter_mut().enumerate() {
                // SAFETY: of the matrix `a`, which is of that shape.
                let x = unsafe { *a.add(number * row_stride + summand * column_stride) };
                let x = simd.splat_f32s(x);
                for (sum, y) in sums.iter_mut().zip(row) {
                    *sum = simd.mul_add_e_f32s(x, y, *sum);
                }
            }
        }
        let factor = simd.splat_f32s(self.factor);
        for (number, sums) in sums.into_iter().enumerate() {
            let row = target.row_start(number).cast::<[S::f32s; VECTORS]>();
            let mut product = sums.map(|sum| simd.mul_f32s(factor, sum));
            if self.keep {
                // SAFETY: a row of that many vectors, which has been written.
                let kept = unsafe { row.read_unaligned() };
                for (sum, kept) in product.iter_mut().zip(kept) {
                    *sum = simd.add_f32s(*sum, kept);
                }
            }
            // SAFETY: as above, or to be written.
            unsafe { row.write_unaligned(product) };
        }
    }
}
