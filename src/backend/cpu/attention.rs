//! Attention without the scores of all pairs: those of a block of queries are made, used and
//! forgotten, and made once more for the gradients, from the logarithms of their sums (Rabe and
//! Staats 2021; Dao et al. 2022).
//!
//! B batch, T queries, S keys, H heads, G key heads, K head width, W width of a value

use multiversion::multiversion;
use std::cell::RefCell;
use std::ops::Range;

use super::banded::{Banded, multiply_banded};
use super::heads::{Heads, Room};
use super::matrix::{Base, Matrix, Target, multiply};
use super::rows::sum_pairs;
use super::scores::{BLOCK, Block, Head, differentiate, soften, soften_rows};
use super::vector::FEW;
use super::{team, written};
use crate::backend::Sight;

/// Multiplications below which other threads cost more than they bring.
const SMALL: usize = 1 << 15;

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
        let task = |(entry, number, queries): (usize, usize, Range<usize>)| {
            let head = Head { entry, number, heads: h, queries: t, keys: lengths(entry) };
            let block = Block::new(sight, head, queries.clone());
            let of_key = number / (h / g);
            let factors = [
                query.head(entry, number).rows(queries.clone()),
                key.head(entry, of_key).rows(block.keys.clone()),
                value.head(entry, of_key).rows(block.keys.clone()),
            ];
            // SAFETY: these queries of this head are of this task.
            let mut target = unsafe { room.rows(entry, number, queries.clone()) };
            let log_sums = match queries.len() {
                _ if block.keys.is_empty() => {
                    target.clear();
                    [f32::NEG_INFINITY; BLOCK]
                }
                ..=FEW => attend_one_by_one(&block, factors, target),
                _ => attend(&block, factors, target),
            };
            for (query, log_sum) in queries.zip(log_sums) {
                // SAFETY: this query of this head is of this task.
                unsafe { places.put(head.row(query), log_sum) };
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

/// Writes what a block's queries get of the values; the logarithms of the scores' sums.
///
/// # Shapes
/// - queries `[T, K]`, keys `[S, K]` and values `[S, W]` -> `[T, W]`
fn attend(block: &Block, [queries, keys, values]: [Matrix; 3], mut target: Target) -> [f32; BLOCK] {
    SCRATCH.with_borrow_mut(|Scratch { scores, columns, .. }| {
        let scores = block.scores(block.sight.scale, [keys, queries], scores, columns);
        let [sums, log_sums] = soften(scores, block);
        block.drop_out(scores);
        let weights = Matrix::of_rows(scores, block.width()).columns(0..block.queries.len());
        let banded = Banded::Factor(block.band);
        multiply_banded(&mut target, false, 1.0, [weights.transposed(), values], banded);
        share(&mut target, &sums);
        log_sums
    })
}

/// [`attend`] of few queries, whose products are made row by row.
fn attend_one_by_one(
    block: &Block,
    [queries, keys, values]: [Matrix; 3],
    target: Target,
) -> [f32; BLOCK] {
    SCRATCH.with_borrow_mut(|Scratch { scores, .. }| {
        let scores = block.scores_of_rows([queries, keys], scores);
        let log_sums = soften_rows(scores, block);
        block.drop_out_rows(scores);
        let weights = Matrix::of_rows(scores, block.keys.len());
        multiply(target, Base::Nothing, 1.0, weights, values);
        log_sums
    })
}

/// Divides each row; one of zeros stays so.
#[multiversion(targets = "simd")]
fn share(target: &mut Target<'_>, sums: &[f32]) {
    for (number, sum) in sums.iter().enumerate().take(target.shape()[0]) {
        let share = if *sum == 0.0 { 0.0 } else { 1.0 / sum };
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
    team::for_each(0..b * g, |task| {
        let (entry, of_key) = (task / g, task % g);
        let (keys, values) = (key.head(entry, of_key), value.head(entry, of_key));
        // SAFETY: the keys, the values and the queries of this group are of this task.
        let [of_keys, of_values] = [key_room, value_room]
            .map(|room| move |rows: Range<usize>| unsafe { room.rows(entry, of_key, rows) });
        let heads = of_key * (h / g)..(of_key + 1) * (h / g);
        // From the last on, which a causal mask hides the fewest keys from.
        let blocks = heads.flat_map(|head| Block::all(t).rev().map(move |own| (head, own)));
        for (turn, (number, own)) in blocks.enumerate() {
            let head = Head { entry, number, heads: h, queries: t, keys: s };
            let block = Block::new(sight, head, own.clone());
            let seen = block.keys.clone();
            if turn == 0 {
                // What the first block does not write, others add to.
                let beside = [0..seen.start, seen.end..s];
                for rows in beside.into_iter().filter(|rows| !rows.is_empty()) {
                    of_keys(rows.clone()).clear();
                    of_values(rows).clear();
                }
            }
            let [queries, outputs, gradients] = [query, outcome.output, outcome.gradient]
                .map(|it| it.head(entry, number).rows(own.clone()));
            let mut log_sums = [0.0; BLOCK];
            log_sums[..own.len()]
                .copy_from_slice(&outcome.log_sums[head.row(own.start)..][..own.len()]);
            // SAFETY: the queries of this head are of this task.
            let mut of_queries = unsafe { query_room.rows(entry, number, own) };
            if seen.is_empty() {
                of_queries.clear();
                continue;
            }
            let targets = [of_queries, of_keys(seen.clone()), of_values(seen.clone())];
            let inputs = [queries, keys.rows(seen.clone()), values.rows(seen)];
            let levels = dots(outputs, gradients);
            attend_backward(&block, inputs, gradients, [&log_sums, &levels], targets, turn > 0);
        }
    });
}

/// The gradients of a block's queries, keys and values; those of keys and values are added to what
/// is there, if that is to be kept.
///
/// # Shapes
/// - queries `[T, K]`, keys `[S, K]`, values `[S, W]` and the gradient `[T, W]`
fn attend_backward(
    block: &Block,
    [queries, keys, values]: [Matrix; 3],
    gradients: Matrix,
    of_queries: [&[f32; BLOCK]; 2],
    mut targets: [Target; 3],
    keep: bool,
) {
    SCRATCH.with_borrow_mut(|Scratch { scores, slopes, columns }| {
        let weights = block.scores(block.sight.scale, [keys, queries], scores, columns);
        let slopes = block.scores(1.0, [values, gradients], slopes, columns);
        block.drop_out(slopes);
        differentiate(weights, slopes, block, of_queries);
        block.drop_out(weights);
        let [weights, slopes] = [weights, slopes]
            .map(|numbers| Matrix::of_rows(numbers, block.width()).columns(0..block.queries.len()));
        let by_key = Banded::Factor(block.band.transposed());
        let [to_queries, to_keys, to_values] = &mut targets;
        multiply_banded(to_values, keep, 1.0, [weights, gradients], by_key);
        multiply_banded(to_keys, keep, 1.0, [slopes, queries], by_key);
        let by_query = Banded::Factor(block.band);
        multiply_banded(to_queries, false, 1.0, [slopes.transposed(), keys], by_query);
    });
}
