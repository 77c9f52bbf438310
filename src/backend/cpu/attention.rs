//! Attention without the scores of all pairs: those of a block of queries are made, used and
//! forgotten, and made once more for the gradients, from the logarithms of their sums (Rabe and
//! Staats 2021; Dao et al. 2022).
//!
//! B batch, T queries, S keys, H heads, G key heads, K head width, W width of a value

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use std::cell::RefCell;
use std::ops::Range;

use super::activation::{exp, not_positive, tanh};
use super::banded::{Band, Banded, ROWS, multiply_banded};
use super::dropout::{drop_columns, drop_rows};
use super::heads::{Heads, Room};
use super::matrix::{Base, Matrix, Target, multiply};
use super::rows::{LANES, highest, sum, sum_pairs};
use super::vector::FEW;
use super::{team, written};
use crate::backend::{Sight, alibi_slopes};

/// Queries whose scores are in memory at a time.
const BLOCK: usize = 64;
/// Multiplications below which other threads cost more than they bring.
const SMALL: usize = 1 << 15;
/// Further away than any key, and far from where numbers end.
const FAR: isize = isize::MAX / 4;

thread_local! {
    /// Memory that tasks write before they read it.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Of a block, what it needs at a time.
#[derive(Default)]
struct Scratch {
    /// Scores, then weights.
    scores: Vec<f32>,
    /// Their gradients.
    slopes: Vec<f32>,
    /// Queries, or gradients of what they get, transposed.
    columns: Vec<f32>,
}

/// So many numbers, whatever they are.
fn scratch(room: &mut Vec<f32>, count: usize) -> &mut [f32] {
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

/// A shared place for numbers that tasks write, each its own.
#[derive(Clone, Copy)]
struct Numbers(*mut f32);

// SAFETY: tasks write numbers of their own.
unsafe impl Send for Numbers {}
// SAFETY: as above.
unsafe impl Sync for Numbers {}

impl Numbers {
    /// # Safety
    /// The place is there, and no other task has it.
    unsafe fn put(self, place: usize, number: f32) {
        // SAFETY: of the caller.
        unsafe { self.0.add(place).write(number) }
    }
}

/// Some queries of a head, and the keys that any of them sees. Their scores stand with those of a
/// key side by side, so that a loop over keys has a query in each lane of its vectors; queries
/// are made up to fill the last vector.
struct Block<'a> {
    sight: &'a Sight,
    queries: Range<usize>,
    keys: Range<usize>,
    /// Of each query the keys that it sees; both are counted from the block's first.
    band: Band,
    /// The key at the first query's own place, counted likewise.
    place: isize,
    /// What a score loses for each place between query and key.
    slope: f32,
}

impl<'a> Block<'a> {
    /// Of so many queries and keys in all, and of a head with this slope.
    fn new(sight: &'a Sight, queries: Range<usize>, [t, s]: [usize; 2], slope: f32) -> Self {
        let [first, last] = [queries.start, queries.end - 1].map(|query| sight.keys(query, t, s));
        let keys = first.start..last.end;
        // Where the first query stands among the keys.
        let place = if sight.causal { queries.start + s - t } else { queries.start };
        let place = place as isize - keys.start as isize;
        let window = sight.window.map_or(FAR, |window| window.min(FAR as usize) as isize);
        let ahead = if sight.causal { 1 } else { window };
        let band = Band { low: place + 1 - window, high: place + ahead };
        Self { sight, queries, keys, band, place, slope }
    }

    /// All queries, in blocks.
    fn all(queries: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
        let blocks = 0..queries.div_ceil(BLOCK);
        blocks.map(move |block| block * BLOCK..queries.min((block + 1) * BLOCK))
    }

    /// Queries, with those that are made up.
    fn width(&self) -> usize {
        self.queries.len().next_multiple_of(LANES)
    }

    /// `factor keys queriesᵀ`, where any of a vector of queries sees the key; elsewhere whatever
    /// was there.
    fn scores<'s>(
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

    /// The keys that any query of the vector that begins there sees.
    #[inline(always)]
    fn keys_of_vector(&self, start: usize) -> Range<usize> {
        let queries = start..(start + LANES).min(self.queries.len());
        self.band.of_any(queries, self.keys.len())
    }

    /// The lanes of the vector that begins there whose queries see a key.
    #[inline(always)]
    fn lanes(&self, start: usize, key: usize) -> [bool; LANES] {
        let Band { low, high } = self.band.transposed();
        let [first, end] = [low, high]
            .map(|bound| (key as isize + bound - start as isize).clamp(0, LANES as isize) as i32);
        std::array::from_fn(|lane| (first <= lane as i32) & ((lane as i32) < end))
    }

    /// What the scores of the vector of queries that begins there lose for their distance from a key.
    #[inline(always)]
    fn losses(&self, start: usize, key: usize) -> [f32; LANES] {
        let first = (self.place + start as isize - key as isize) as i32;
        std::array::from_fn(|lane| self.slope * (first + lane as i32).abs() as f32)
    }

    /// Zeros for a vector's next keys, which products read since their rows' neighbours see these.
    #[inline(always)]
    fn clear_beside(&self, numbers: &mut [f32], start: usize) {
        let (width, seen) = (self.width(), self.keys_of_vector(start));
        let before = seen.start.saturating_sub(ROWS - 1)..seen.start;
        let behind = seen.end..(seen.end + ROWS - 1).min(self.keys.len());
        for key in before.chain(behind) {
            *vector(numbers, key * width + start) = [0.0; LANES];
        }
    }
}

/// Of each query head; zero without ALiBi.
fn slopes(sight: &Sight, heads: usize) -> Vec<f32> {
    match sight.alibi {
        true => alibi_slopes(heads).into_iter().map(|slope| slope as f32).collect(),
        false => vec![0.0; heads],
    }
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
fn soften(scores: &mut [f32], block: &Block<'_>) -> [[f32; BLOCK]; 2] {
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
        let mut highest = [f32::NEG_INFINITY; LANES];
        for key in block.keys_of_vector(start) {
            let (row, seen) = (vector(scores, key * width + start), block.lanes(start, key));
            let losses = block.losses(start, key);
            for lane in 0..LANES {
                row[lane] = capped(row[lane]) - losses[lane];
                let is_higher = seen[lane] & (row[lane] > highest[lane]);
                highest[lane] = if is_higher { row[lane] } else { highest[lane] };
            }
        }
        let mut of_vector = [0.0f32; LANES];
        for key in block.keys_of_vector(start) {
            let (row, seen) = (vector(scores, key * width + start), block.lanes(start, key));
            for lane in 0..LANES {
                let power = exp::<FUSED>(not_positive(row[lane] - highest[lane]));
                row[lane] = if seen[lane] { power } else { 0.0 };
                of_vector[lane] += row[lane];
            }
        }
        block.clear_beside(scores, start);
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
fn differentiate(
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
        for key in block.keys_of_vector(start) {
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
        block.clear_beside(scores, start);
        block.clear_beside(slopes, start);
    }
}

/// `[B, T, H, W]`, and the logarithms of the scores' sums, `[B, H, T]`, from the first so many keys
/// of each entry of the batch.
pub(super) fn forward(
    query: Heads,
    key: Heads,
    value: Heads,
    lengths: impl Fn(usize) -> usize + Sync,
    sight: &Sight,
) -> (Vec<f32>, Vec<f32>) {
    let ([b, h, t, _], g) = (query.shape(), key.shape()[1]);
    let width = value.shape()[3];
    let pairs: usize = (0..b).map(|entry| t * lengths(entry)).sum();
    let slopes = slopes(sight, h);
    let mut output = Vec::new();
    let run = |places: Numbers, room: Room| {
        let task = |(entry, head, queries): (usize, usize, Range<usize>)| {
            let (of_key, first) = (head / (h / g), (entry * h + head) * t);
            let block = Block::new(sight, queries.clone(), [t, lengths(entry)], slopes[head]);
            let factors = [
                query.head(entry, head).rows(queries.clone()),
                key.head(entry, of_key).rows(block.keys.clone()),
                value.head(entry, of_key).rows(block.keys.clone()),
            ];
            // SAFETY: these queries of this head are of this task.
            let target = unsafe { room.rows(entry, head, queries.clone()) };
            let log_sums = match queries.len() {
                ..=FEW => attend_one_by_one(&block, factors, target, first),
                _ => attend(&block, factors, target, first),
            };
            for (query, log_sum) in queries.zip(log_sums) {
                // SAFETY: this query of this head is of this task.
                unsafe { places.put(first + query, log_sum) };
            }
        };
        let tasks =
            (0..b * h).flat_map(|head| Block::all(t).map(move |block| (head / h, head % h, block)));
        match pairs * h * (query.shape()[3] + width) {
            ..SMALL => tasks.for_each(task),
            _ => team::for_each(tasks, task),
        }
    };
    // SAFETY: every query of every head is in a block.
    let log_sums = unsafe {
        written(b * h * t, |places| {
            let places = Numbers(places.as_mut_ptr().cast());
            output = written(b * t * h * width, |room| {
                run(places, Room::new(room.as_mut_ptr().cast(), h, [t, width]));
            });
        })
    };
    (output, log_sums)
}

/// Writes what a block's queries get of the values; the logarithms of the scores' sums. The first
/// query of its head is so many rows from the first of all.
///
/// # Shapes
/// - queries `[T, K]`, keys `[S, K]` and values `[S, W]` -> `[T, W]`
fn attend(
    block: &Block,
    [queries, keys, values]: [Matrix; 3],
    mut target: Target,
    first: usize,
) -> [f32; BLOCK] {
    let (sight, width) = (block.sight, block.width());
    SCRATCH.with_borrow_mut(|Scratch { scores, columns, .. }| {
        let scores = block.scores(sight.scale, [keys, queries], scores, columns);
        let [sums, log_sums] = soften(scores, block);
        if let Some(dropout) = sight.dropout {
            let place = [first + block.queries.start, block.keys.start];
            drop_columns(scores, place, width, dropout);
        }
        let weights = Matrix::of_rows(scores, width).columns(0..block.queries.len()).transposed();
        let banded = Banded::Factor(block.band);
        multiply_banded(&mut target, false, 1.0, [weights, values], banded);
        share(&mut target, &sums);
        log_sums
    })
}

/// [`attend`] of few queries, whose products are made row by row.
fn attend_one_by_one(
    block: &Block,
    [queries, keys, values]: [Matrix; 3],
    target: Target,
    first: usize,
) -> [f32; BLOCK] {
    let (sight, all) = (block.sight, keys.shape()[0]);
    let mut scores = vec![0.0; queries.shape()[0] * all];
    let room = Target::of_rows(&mut scores, all);
    multiply(room, Base::Nothing, sight.scale, queries, keys.transposed());
    if let Some(cap) = sight.soft_cap {
        soft_cap(&mut scores, cap);
    }
    let log_sums = soften_rows(&mut scores, block);
    if let Some(dropout) = sight.dropout {
        let place = [first + block.queries.start, block.keys.start];
        drop_rows(&mut scores, place, all, dropout);
    }
    multiply(target, Base::Nothing, 1.0, Matrix::of_rows(&scores, all), values);
    log_sums
}

/// The scores of queries, row by row, become weights; the logarithms of their sums.
#[multiversion(targets = "simd")]
fn soften_rows(scores: &mut [f32], block: &Block<'_>) -> [f32; BLOCK] {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    let mut log_sums = [0.0; BLOCK];
    let all = block.keys.len();
    for (query, row) in scores.chunks_exact_mut(all).enumerate() {
        let seen = block.band.of_any(query..query + 1, all);
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
        let first = block.place + query as isize - seen.start as isize;
        let row = &mut row[seen];
        for (key, x) in row.iter_mut().enumerate() {
            *x -= block.slope * (first - key as isize).unsigned_abs() as f32;
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

/// Divides each row.
#[multiversion(targets = "simd")]
fn share(target: &mut Target<'_>, sums: &[f32]) {
    for (number, sum) in sums.iter().enumerate().take(target.shape()[0]) {
        let share = 1.0 / sum;
        target.row(number).iter_mut().for_each(|x| *x *= share);
    }
}

/// `Σ x y` of each row.
#[multiversion(targets = "simd")]
fn dots(x: Matrix<'_>, y: Matrix<'_>) -> [f32; BLOCK] {
    let mut dots = [0.0; BLOCK];
    for (number, dot) in dots.iter_mut().enumerate().take(x.shape()[0]) {
        *dot = sum_pairs(x.row(number), y.row(number), |x, y| x * y);
    }
    dots
}

/// What the forward pass has left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome<'a> {
    /// `[B, H, T, W]`
    pub(super) output: Heads<'a>,
    /// `[B, H, T]`
    pub(super) log_sums: &'a [f32],
    /// Of the output, `[B, H, T, W]`.
    pub(super) gradient: Heads<'a>,
}

/// The gradients of query, key and value, each written whole.
///
/// # Safety
/// There is room for `[B, T, H, K]`, `[B, S, G, K]` and `[B, S, G, W]`, apart from one another.
pub(super) unsafe fn backward(
    [query, key, value]: [Heads; 3],
    outcome: Outcome,
    sight: &Sight,
    [query_room, key_room, value_room]: [Room; 3],
) {
    let ([b, h, t, _], [_, g, s, _]) = (query.shape(), key.shape());
    let slopes = slopes(sight, h);
    team::for_each(0..b * g, |task| {
        let (entry, of_key) = (task / g, task % g);
        let (keys, values) = (key.head(entry, of_key), value.head(entry, of_key));
        // SAFETY: the keys, the values and the queries of this group are of this task.
        let [of_keys, of_values] = [key_room, value_room]
            .map(|room| move |rows: Range<usize>| unsafe { room.rows(entry, of_key, rows) });
        let heads = of_key * (h / g)..(of_key + 1) * (h / g);
        // From the last on, which sees the most keys.
        let blocks = heads.flat_map(|head| Block::all(t).rev().map(move |block| (head, block)));
        for (number, (head, own)) in blocks.enumerate() {
            let block = Block::new(sight, own.clone(), [t, s], slopes[head]);
            let seen = block.keys.clone();
            let is_first = number == 0 && seen == (0..s);
            if number == 0 && !is_first {
                of_keys(0..s).clear();
                of_values(0..s).clear();
            }
            let [queries, outputs, gradients] = [query, outcome.output, outcome.gradient]
                .map(|it| it.head(entry, head).rows(own.clone()));
            let first = (entry * h + head) * t + own.start;
            let mut log_sums = [0.0; BLOCK];
            log_sums[..own.len()].copy_from_slice(&outcome.log_sums[first..][..own.len()]);
            // SAFETY: the queries of this head are of this task.
            let of_queries = unsafe { query_room.rows(entry, head, own.clone()) };
            let targets = [of_queries, of_keys(seen.clone()), of_values(seen.clone())];
            let inputs = [queries, keys.rows(seen.clone()), values.rows(seen)];
            let levels = dots(outputs, gradients);
            attend_backward(
                &block,
                inputs,
                gradients,
                [&log_sums, &levels],
                first,
                targets,
                !is_first,
            );
        }
    });
}

/// The gradients of a block's queries, keys and values; those of keys and values are added to what
/// is there, if that is to be kept. The first query is so many rows from the first of all.
///
/// # Shapes
/// - queries `[T, K]`, keys `[S, K]`, values `[S, W]` and the gradient `[T, W]`
fn attend_backward(
    block: &Block,
    [queries, keys, values]: [Matrix; 3],
    gradients: Matrix,
    of_queries: [&[f32; BLOCK]; 2],
    first: usize,
    mut targets: [Target; 3],
    keep: bool,
) {
    let (sight, width) = (block.sight, block.width());
    SCRATCH.with_borrow_mut(|Scratch { scores, slopes, columns }| {
        let weights = block.scores(sight.scale, [keys, queries], scores, columns);
        let slopes = block.scores(1.0, [values, gradients], slopes, columns);
        let drop = |numbers: &mut [f32]| {
            if let Some(dropout) = sight.dropout {
                drop_columns(numbers, [first, block.keys.start], width, dropout);
            }
        };
        drop(slopes);
        differentiate(weights, slopes, block, of_queries);
        drop(weights);
        let [weights, slopes] = [weights, slopes]
            .map(|numbers| Matrix::of_rows(numbers, width).columns(0..block.queries.len()));
        let by_key = Banded::Factor(block.band.transposed());
        let [to_queries, to_keys, to_values] = &mut targets;
        multiply_banded(to_values, keep, 1.0, [weights, gradients], by_key);
        multiply_banded(to_keys, keep, 1.0, [slopes, queries], by_key);
        let by_query = Banded::Factor(block.band);
        multiply_banded(to_queries, false, 1.0, [slopes.transposed(), keys], by_query);
    });
}
