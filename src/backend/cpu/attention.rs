//! Attention without the scores of all pairs: those of a block of queries are made, used and
//! forgotten, and made once more for the gradients, from the logarithms of their sums (Rabe and
//! Staats 2021; Dao et al. 2022).
//!
//! B batch, T queries, S keys, H heads, G key heads, K head width, W width of a value

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use std::ops::Range;

use super::activation::{exp, not_positive, tanh};
use super::dropout::drop_rows;
use super::heads::{Heads, Room};
use super::matrix::{Base, Matrix, Target, multiply};
use super::rows::{highest, multiply_part, sum, sum_pairs};
use super::{team, written};
use crate::backend::Sight;

/// Queries whose scores are in memory at a time.
const BLOCK: usize = 64;
/// Multiplications below which other threads cost more than they bring.
const SMALL: usize = 1 << 15;

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

/// Blocks of queries.
fn blocks(queries: usize) -> impl Iterator<Item = Range<usize>> {
    (0..queries).step_by(BLOCK).map(move |start| start..queries.min(start + BLOCK))
}

/// Keys that any query of a block sees.
fn seen(sight: &Sight, block: &Range<usize>, queries: usize, keys: usize) -> Range<usize> {
    let first = sight.keys(block.start, queries, keys).start;
    first..sight.keys(block.end - 1, queries, keys).end
}

/// The scores of a block of queries, and those of no pair that sight keeps apart: `finish` makes
/// something of each row that is left, which is told the query. All else becomes zero.
#[inline(always)]
fn finish_rows(
    scores: &mut [f32],
    sight: &Sight,
    block: &Range<usize>,
    [queries, keys]: [usize; 2],
    mut finish: impl FnMut(usize, &mut [f32]),
) {
    let all = seen(sight, block, queries, keys);
    for (row, query) in scores.chunks_exact_mut(all.len()).zip(block.clone()) {
        let own = sight.keys(query, queries, keys);
        let (first, last) = (own.start - all.start, own.end - all.start);
        row[..first].fill(0.0);
        row[last..].fill(0.0);
        finish(query, &mut row[first..last]);
    }
}

/// `scale a b`, rows one after the other.
fn scores(scale: f32, a: Matrix, b: Matrix) -> Vec<f32> {
    let ([rows, _], [_, columns]) = (a.shape(), b.shape());
    // SAFETY: a product is written everywhere.
    unsafe {
        written(rows * columns, |room| {
            multiply(Target::of_room(room, columns), Base::Nothing, scale, a, b);
        })
    }
}

/// Keeps scores within ± the cap.
#[multiversion(targets = "simd")]
fn soft_cap(scores: &mut [f32], cap: f32) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    scores.iter_mut().for_each(|score| *score = cap * tanh::<FUSED>(*score / cap));
}

/// The derivatives of [`soft_cap`], from what it has made of the scores.
#[multiversion(targets = "simd")]
fn soft_cap_slopes(capped: &[f32], cap: f32) -> Vec<f32> {
    let slope = |height: f32| 1.0 - height * height;
    capped.iter().map(|score| slope(score / cap)).collect()
}

/// Scores become weights, whose sums' logarithms `keep` is told.
#[multiversion(targets = "simd")]
fn soften(
    scores: &mut [f32],
    sight: &Sight,
    block: &Range<usize>,
    lengths: [usize; 2],
    keep: impl Fn(usize, f32),
) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    finish_rows(scores, sight, block, lengths, |query, row| {
        let highest = highest(row);
        row.iter_mut().for_each(|x| *x = exp::<FUSED>(not_positive(*x - highest)));
        let sum = sum(row, |x| x);
        let share = 1.0 / sum;
        row.iter_mut().for_each(|x| *x *= share);
        keep(query, highest + sum.ln());
    });
}

/// [`soften`] of scores whose sums are known.
#[multiversion(targets = "simd")]
fn weigh(
    scores: &mut [f32],
    sight: &Sight,
    block: &Range<usize>,
    lengths: [usize; 2],
    log_sums: &[f32],
) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    finish_rows(scores, sight, block, lengths, |query, row| {
        let log_sum = log_sums[query];
        row.iter_mut().for_each(|x| *x = exp::<FUSED>(not_positive(*x - log_sum)));
    });
}

/// The gradients of weights become those of scores, before they are scaled.
#[multiversion(targets = "simd")]
fn slope(slopes: &mut [f32], weights: &[f32], rows: [Matrix<'_>; 2], scale: f32) {
    let [outputs, gradients] = rows;
    let width = slopes.len() / outputs.shape()[0];
    let all = slopes.chunks_exact_mut(width).zip(weights.chunks_exact(width));
    for (number, (slopes, weights)) in all.enumerate() {
        let level = sum_pairs(outputs.row(number), gradients.row(number), |a, b| a * b);
        for (slope, weight) in slopes.iter_mut().zip(weights) {
            *slope = weight * (*slope - level) * scale;
        }
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
    let mut output = Vec::new();
    let run = |places: Numbers, room: Room| {
        let task = |(entry, head, block): (usize, usize, Range<usize>)| {
            let (of_key, s) = (head / (h / g), lengths(entry));
            let all = seen(sight, &block, t, s);
            let queries = query.head(entry, head).rows(block.clone());
            let keys = key.head(entry, of_key).rows(all.clone()).transposed();
            let mut scores = scores(sight.scale, queries, keys);
            if let Some(cap) = sight.soft_cap {
                soft_cap(&mut scores, cap);
            }
            let first = (entry * h + head) * t;
            soften(&mut scores, sight, &block, [t, s], |query, log_sum| {
                // SAFETY: this query of this head is of this task.
                unsafe { places.put(first + query, log_sum) };
            });
            if let Some(dropout) = sight.dropout {
                drop_rows(&mut scores, [first + block.start, all.start], all.len(), dropout);
            }
            // SAFETY: these queries of this head are of this task.
            let target = unsafe { room.rows(entry, head, block.clone()) };
            let values = value.head(entry, of_key).rows(all.clone());
            multiply(target, Base::Nothing, 1.0, Matrix::of_rows(&scores, all.len()), values);
        };
        let tasks =
            (0..b * h).flat_map(|head| blocks(t).map(move |block| (head / h, head % h, block)));
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
    team::for_each(0..b * g, |task| {
        let (entry, of_key) = (task / g, task % g);
        let (keys, values) = (key.head(entry, of_key), value.head(entry, of_key));
        // SAFETY: the keys, the values and the queries of this group are of this task.
        let [of_keys, of_values] = [key_room, value_room]
            .map(|room| move |rows: Range<usize>| unsafe { room.rows(entry, of_key, rows) });
        of_keys(0..s).clear();
        of_values(0..s).clear();
        for (head, block) in (of_key * (h / g)..(of_key + 1) * (h / g))
            .flat_map(|head| blocks(t).map(move |block| (head, block)))
        {
            let all = seen(sight, &block, t, s);
            let (keys, values) = (keys.rows(all.clone()), values.rows(all.clone()));
            let queries = query.head(entry, head).rows(block.clone());
            let outputs = outcome.output.head(entry, head).rows(block.clone());
            let gradients = outcome.gradient.head(entry, head).rows(block.clone());
            let first = (entry * h + head) * t;
            let log_sums = &outcome.log_sums[first..][..t];
            let mut weights = scores(sight.scale, queries, keys.transposed());
            let mut slopes = scores(1.0, gradients, values.transposed());
            let cap_slopes = sight.soft_cap.map(|cap| {
                soft_cap(&mut weights, cap);
                soft_cap_slopes(&weights, cap)
            });
            weigh(&mut weights, sight, &block, [t, s], log_sums);
            let drop = |numbers: &mut [f32]| {
                if let Some(dropout) = sight.dropout {
                    drop_rows(numbers, [first + block.start, all.start], all.len(), dropout);
                }
            };
            drop(&mut slopes);
            slope(&mut slopes, &weights, [outputs, gradients], sight.scale);
            if let Some(cap_slopes) = &cap_slopes {
                multiply_part(&mut slopes, cap_slopes);
            }
            drop(&mut weights);
            let (weights, slopes) =
                (Matrix::of_rows(&weights, all.len()), Matrix::of_rows(&slopes, all.len()));
            let (keys_seen, values_seen) = (of_keys(all.clone()), of_values(all.clone()));
            multiply(values_seen, Base::Target, 1.0, weights.transposed(), gradients);
            multiply(keys_seen, Base::Target, 1.0, slopes.transposed(), queries);
            // SAFETY: the queries of this head are of this task.
            let of_queries = unsafe { query_room.rows(entry, head, block.clone()) };
            multiply(of_queries, Base::Nothing, 1.0, slopes, keys);
        }
    });
}
