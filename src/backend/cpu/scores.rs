//! Scores of attention, block by block of a head's queries, and what they become.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use std::ops::Range;

use super::activation::{exp, not_positive, tanh};
use super::banded::{Band, Banded, ROWS, multiply_banded};
use super::dropout::{drop_columns, drop_rows};
use super::matrix::{Base, Matrix, Target, multiply};
use super::rows::{LANES, highest, sum};
use crate::backend::{Sight, alibi_slope};

/// Queries whose scores are in memory at a time.
pub(super) const BLOCK: usize = 64;
/// Further away than any key, and far from where numbers end.
const FAR: isize = isize::MAX / 4;

/// So many numbers, whatever they are.
pub(super) fn scratch(room: &mut Vec<f32>, count: usize) -> &mut [f32] {
    if room.len() < count {
        room.resize(count, 0.0);
    }
    let numbers = &mut room[..count];
    if cfg!(debug_assertions) {
        // Whatever is read before it is written shows.
        numbers.fill(f32::NAN);
    }
    numbers
}

/// A head of queries of an entry of the batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) entry: usize,
    pub(super) number: usize,
    /// Heads of an entry.
    pub(super) heads: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
}

impl Head {
    /// The number of a query among those of all heads.
    pub(super) fn row(self, query: usize) -> usize {
        (self.entry * self.heads + self.number) * self.queries + query
    }
}

/// Some queries of a head, and the keys that any of them sees. Their scores stand with those of a
/// key side by side, so that a loop over keys has a query in each lane of its vectors; queries
/// are made up to fill the last vector.
pub(super) struct Block<'a> {
    pub(super) sight: &'a Sight,
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
    /// Where a query may see a key at all, whatever entry it is of; both are counted from the
    /// block's first.
    pub(super) band: Band,
    /// The first key that each query sees, and the one behind the last, counted likewise. Those that
    /// are made up see none.
    bounds: [[i32; BLOCK]; 2],
    /// The first query's number among those of all heads.
    row: usize,
    /// The key at the first query's own place, counted from the block's first.
    place: isize,
    /// What a score loses for each place between query and key.
    slope: f32,
}

impl<'a> Block<'a> {
    pub(super) fn new(sight: &'a Sight, head: Head, queries: Range<usize>) -> Self {
        let [t, s] = [head.queries, head.keys];
        let seen = queries.clone().map(|query| sight.keys_of(head.entry, query, [t, s]));
        let keys = hull(seen.clone());
        let mut bounds = [[0; BLOCK]; 2];
        for (query, seen) in seen.enumerate().filter(|(_, seen)| !seen.is_empty()) {
            bounds[0][query] = (seen.start - keys.start) as i32;
            bounds[1][query] = (seen.end - keys.start) as i32;
        }
        // Where the first query stands among the keys.
        let place = if sight.causal { queries.start + s - t } else { queries.start };
        let place = place as isize - keys.start as isize;
        let window = sight.window.map_or(FAR, |window| window.min(FAR as usize) as isize);
        let ahead = if sight.causal { 1 } else { window };
        let band = Band { low: place + 1 - window, high: place + ahead };
        let slope = if sight.alibi { alibi_slope(head.number, head.heads) as f32 } else { 0.0 };
        Self { sight, row: head.row(queries.start), queries, keys, band, bounds, place, slope }
    }

    /// All queries, in blocks.
    pub(super) fn all(queries: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
        let blocks = 0..queries.div_ceil(BLOCK);
        blocks.map(move |block| block * BLOCK..queries.min((block + 1) * BLOCK))
    }

    /// Queries, with those that are made up.
    pub(super) fn width(&self) -> usize {
        self.queries.len().next_multiple_of(LANES)
    }

    /// `factor keys queriesᵀ`, where the key is in the band of any of a vector of queries; elsewhere
    /// whatever was there.
    pub(super) fn scores<'s>(
        &self,
        factor: f32,
        [keys, queries]: [Matrix; 2],
        room: &'s mut Vec<f32>,
        columns: &mut Vec<f32>,
    ) -> &'s mut [f32] {
        let (width, depth) = (self.width(), keys.shape()[1]);
        let columns = scratch(columns, depth * width);
        transpose(queries, columns, width);
        let scores = scratch(room, self.keys.len() * width);
        let factors = [keys, Matrix::of_rows(columns, width)];
        let banded = Banded::Product(self.band.transposed());
        multiply_banded(&mut Target::of_rows(scores, width), false, factor, factors, banded);
        scores
    }

    /// Drops weights, or gradients of what was dropped, that stand as scores do.
    pub(super) fn drop_out(&self, numbers: &mut [f32]) {
        if let Some(dropout) = self.sight.dropout {
            drop_columns(numbers, [self.row, self.keys.start], self.width(), dropout);
        }
    }

    /// Scores row by row, of all the keys.
    pub(super) fn scores_of_rows<'s>(
        &self,
        [queries, keys]: [Matrix; 2],
        room: &'s mut Vec<f32>,
    ) -> &'s mut [f32] {
        let all = self.keys.len();
        let scores = scratch(room, self.queries.len() * all);
        let target = Target::of_rows(scores, all);
        multiply(target, Base::Nothing, self.sight.scale, queries, keys.transposed());
        if let Some(cap) = self.sight.soft_cap {
            soft_cap(scores, cap);
        }
        scores
    }

    /// [`Block::drop_out`] of weights that stand row by row.
    pub(super) fn drop_out_rows(&self, numbers: &mut [f32]) {
        if let Some(dropout) = self.sight.dropout {
            drop_rows(numbers, [self.row, self.keys.start], self.keys.len(), dropout);
        }
    }

    /// The keys that a query sees.
    #[inline(always)]
    fn keys_of(&self, query: usize) -> Range<usize> {
        self.bounds[0][query] as usize..self.bounds[1][query] as usize
    }

    /// The keys that any query of the vector that begins there sees.
    #[inline(always)]
    fn keys_of_vector(&self, start: usize) -> Range<usize> {
        hull((start..start + LANES).map(|query| self.keys_of(query)))
    }

    /// The lanes of the vector that begins there whose queries see a key.
    #[inline(always)]
    fn lanes(&self, start: usize, key: usize) -> [bool; LANES] {
        let [first, end] = self.bounds.each_ref().map(|of_all| &of_all[start..][..LANES]);
        let key = key as i32;
        std::array::from_fn(|lane| (first[lane] <= key) & (key < end[lane]))
    }

    /// What the scores of the vector of queries that begins there lose for their distance from a key.
    #[inline(always)]
    fn losses(&self, start: usize, key: usize) -> [f32; LANES] {
        let first = (self.place + start as isize - key as isize) as i32;
        std::array::from_fn(|lane| self.slope * (first + lane as i32).abs() as f32)
    }

    /// Zeros for the keys that a vector does not see, as far as products read them: those in its
    /// band, and next to it, since their rows' neighbours see these.
    #[inline(always)]
    fn clear_beside(&self, numbers: &mut [f32], start: usize, seen: Range<usize>) {
        let (width, all) = (self.width(), self.keys.len());
        let band = self.band.of_any(start..(start + LANES).min(self.queries.len()), all);
        let read = band.start.saturating_sub(ROWS - 1)..(band.end + ROWS - 1).min(all);
        for key in (read.start..seen.start).chain(seen.end.max(read.start)..read.end) {
            *vector(numbers, key * width + start) = [0.0; LANES];
        }
    }
}

/// The smallest range that has all of these in it; an empty one where they are all empty.
#[inline(always)]
fn hull(ranges: impl Iterator<Item = Range<usize>>) -> Range<usize> {
    let join =
        |one: Range<usize>, other: Range<usize>| one.start.min(other.start)..one.end.max(other.end);
    ranges.filter(|range| !range.is_empty()).reduce(join).unwrap_or_default()
}

/// So many numbers from there on.
#[inline(always)]
fn vector(numbers: &mut [f32], place: usize) -> &mut [f32; LANES] {
    &mut numbers[place..].as_chunks_mut().0[0]
}

/// Rows become columns, of rows of this width, the last of which are zero.
fn transpose(rows: Matrix, columns: &mut [f32], width: usize) {
    /// Of squares that compilers keep in registers.
    const SIDE: usize = 4;
    let [count, depth] = rows.shape();
    for first in (0..width).step_by(SIDE) {
        let whole = if first + SIDE <= count { depth / SIDE * SIDE } else { 0 };
        for start in (0..whole).step_by(SIDE) {
            let square: [[f32; SIDE]; SIDE] =
                std::array::from_fn(|number| rows.row(first + number)[start..].as_chunks().0[0]);
            for place in 0..SIDE {
                let column = &mut columns[(start + place) * width + first..][..SIDE];
                column.copy_from_slice(&square.map(|row| row[place]));
            }
        }
        for number in first..first + SIDE {
            for column in whole..depth {
                let x = if number < count { rows.row(number)[column] } else { 0.0 };
                columns[column * width + number] = x;
            }
        }
    }
}

/// Keeps scores within ± the cap.
#[multiversion(targets = "simd")]
fn soft_cap(scores: &mut [f32], cap: f32) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    scores.iter_mut().for_each(|score| *score = cap * tanh::<FUSED>(*score / cap));
}

/// Scores of a block become exponentials, without a common factor of each query's; their sums, and
/// the logarithms of the sums with that factor.
#[multiversion(targets = "simd")]
pub(super) fn soften(scores: &mut [f32], block: &Block<'_>) -> [[f32; BLOCK]; 2] {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    match block.sight.soft_cap {
        Some(cap) => soften_vectors::<FUSED>(scores, block, |x| cap * tanh::<FUSED>(x / cap)),
        None => soften_vectors::<FUSED>(scores, block, |x| x),
    }
}

#[inline(always)]
fn soften_vectors<const FUSED: bool>(
    scores: &mut [f32],
    block: &Block,
    capped: impl Fn(f32) -> f32,
) -> [[f32; BLOCK]; 2] {
    let width = block.width();
    let (mut sums, mut log_sums) = ([0.0; BLOCK], [0.0; BLOCK]);
    for start in (0..width).step_by(LANES) {
        let keys = block.keys_of_vector(start);
        let mut highest = [f32::NEG_INFINITY; LANES];
        for key in keys.clone() {
            let (row, seen) = (vector(scores, key * width + start), block.lanes(start, key));
            let losses = block.losses(start, key);
            for lane in 0..LANES {
                row[lane] = capped(row[lane]) - losses[lane];
                let is_higher = seen[lane] & (row[lane] > highest[lane]);
                highest[lane] = if is_higher { row[lane] } else { highest[lane] };
            }
        }
        let mut of_vector = [0.0f32; LANES];
        for key in keys.clone() {
            let (row, seen) = (vector(scores, key * width + start), block.lanes(start, key));
            for lane in 0..LANES {
                let power = exp::<FUSED>(not_positive(row[lane] - highest[lane]));
                row[lane] = if seen[lane] { power } else { 0.0 };
                of_vector[lane] += row[lane];
            }
        }
        block.clear_beside(scores, start, keys);
        for lane in 0..LANES {
            sums[start + lane] = of_vector[lane];
            log_sums[start + lane] = highest[lane] + of_vector[lane].ln();
        }
    }
    [sums, log_sums]
}

/// The scores of a block become weights, given the logarithms of their sums, and the gradients of
/// weights those of scores, given `Σ weight slope` of each query.
#[multiversion(targets = "simd")]
pub(super) fn differentiate(
    scores: &mut [f32],
    slopes: &mut [f32],
    block: &Block<'_>,
    [log_sums, levels]: [&[f32; BLOCK]; 2],
) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    match block.sight.soft_cap {
        Some(cap) => {
            let capped = |x| {
                let height = tanh::<FUSED>(x / cap);
                (cap * height, 1.0 - height * height)
            };
            differentiate_vectors::<FUSED>(scores, slopes, block, [log_sums, levels], capped);
        }
        None => {
            let capped = |x| (x, 1.0);
            differentiate_vectors::<FUSED>(scores, slopes, block, [log_sums, levels], capped);
        }
    }
}

/// Of scores that are capped, with the slope of that.
#[inline(always)]
fn differentiate_vectors<const FUSED: bool>(
    scores: &mut [f32],
    slopes: &mut [f32],
    block: &Block,
    [log_sums, levels]: [&[f32; BLOCK]; 2],
    capped: impl Fn(f32) -> (f32, f32),
) {
    let (width, scale) = (block.width(), block.sight.scale);
    for start in (0..width).step_by(LANES) {
        let [log_sums, levels] =
            [log_sums, levels].map(|of_all| of_all[start..].as_chunks::<LANES>().0[0]);
        let keys = block.keys_of_vector(start);
        for key in keys.clone() {
            let (seen, place) = (block.lanes(start, key), key * width + start);
            let (score, slope) = (vector(scores, place), vector(slopes, place));
            let losses = block.losses(start, key);
            for lane in 0..LANES {
                let (x, of_cap) = capped(score[lane]);
                let weight = exp::<FUSED>(not_positive(x - losses[lane] - log_sums[lane]));
                score[lane] = if seen[lane] { weight } else { 0.0 };
                slope[lane] = score[lane] * (slope[lane] - levels[lane]) * scale * of_cap;
            }
        }
        block.clear_beside(scores, start, keys.clone());
        block.clear_beside(slopes, start, keys);
    }
}

/// The scores of queries, row by row, become weights; the logarithms of their sums.
#[multiversion(targets = "simd")]
pub(super) fn soften_rows(scores: &mut [f32], block: &Block<'_>) -> [f32; BLOCK] {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    let mut log_sums = [0.0; BLOCK];
    let all = block.keys.len();
    for (query, row) in scores.chunks_exact_mut(all).enumerate() {
        let seen = block.keys_of(query);
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
        let place = block.place + query as isize - seen.start as isize;
        let row = &mut row[seen];
        if block.sight.alibi {
            for (key, x) in row.iter_mut().enumerate() {
                *x -= block.slope * (place - key as isize).unsigned_abs() as f32;
            }
        }
        let highest = highest(row);
        row.iter_mut().for_each(|x| *x = exp::<FUSED>(not_positive(*x - highest)));
        let sum = sum(row, |x| x);
        let share = 1.0 / sum;
        row.iter_mut().for_each(|x| *x *= share);
        log_sums[query] = highest + sum.ln();
    }
    log_sums
}
