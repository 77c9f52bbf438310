//! Attention by blocks of queries: of the scores of all queries with all keys, no more than a block
//! is in memory at a time, in training, too, where they are made anew for the gradients (Dao et al.
//! 2022, section 3.1). Within a block the products are matrix products.
//!
//! B batch, T queries, S keys, H heads, G key heads, K head width, W width of a value

use burn::tensor::{DType, Tensor};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeRuntime};
use cubecl::prelude::*;
use std::ops::Range;

use super::scores::{Rules, alibi_slope, loss, score, sees};
use super::{Cube, Inputs, ranges_on_device};
use crate::backend::alibi::alibi_sequence;
use crate::backend::cube::dropout::drop_part;
use crate::backend::cube::join_by_tokens;
use crate::backend::cube::products::{element, product, transposed};
use crate::backend::cube::rows::{LOWEST, ROW_UNITS, max_of_units, sum_of_units};
use crate::backend::cube::tensors::{
    UNITS, address, at_most, count, cubes, cubes_of_elements, dims, empty, empty_of, rows,
    writable, zeroed,
};
use crate::backend::ops::{from_float, to_float};
use crate::backend::{Sight, gpu_queries};

/// What a row of scores is a row of.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Block {
    /// Of scores.
    rows: u32,
    /// Keys of the block.
    width: u32,
    /// Queries of the block, which rows count through again and again.
    queries: u32,
    /// The place of the first query among the keys.
    first_query: u32,
    /// The place of the first key.
    first_key: u32,
    /// The number of the first query.
    first_number: u32,
    /// Ranges of an entry of the batch, where there are any: of each query, or one.
    ranges: u32,
    window: u32,
    /// Query heads, and those whose slopes are a sequence of their own.
    heads: u32,
    sequence: u32,
    scale: f32,
    cap: f32,
}

/// What a row's scores lose for each place between query and key.
#[cube]
fn slope_of_row(row: usize, block: Block, #[comptime] has_alibi: bool) -> f32 {
    if comptime!(has_alibi) {
        alibi_slope((row / block.queries as usize) as u32 % block.heads, block.sequence)
    } else {
        f32::new(0.0)
    }
}

/// The keys that are there for a row's query, with the one behind the last.
#[cube]
fn keys_of_row(
    row: usize,
    ranges: &Array<i32>,
    block: Block,
    #[comptime] has_ranges: bool,
) -> (u32, u32) {
    if comptime!(has_ranges) {
        let queries = block.queries as usize;
        let entry = row / queries / block.heads as usize;
        let query = (block.first_number as usize + row % queries) % block.ranges as usize;
        let place = 2 * (entry * block.ranges as usize + query);
        (u32::cast_from(ranges[place]), u32::cast_from(ranges[place + 1]))
    } else {
        (0u32.runtime(), u32::MAX.runtime())
    }
}

/// Softmax of rows of scores, and the logarithms of what it divides by.
#[cube(launch, address_type = "dynamic")]
fn softmax_kernel<E: Float>(
    scores: &Array<f32>,
    probabilities: &mut Array<E>,
    log_sums: &mut Array<f32>,
    ranges: &Array<i32>,
    block: Block,
    #[comptime] rules: Rules,
    #[define(E)] _element: StorageType,
) {
    let row = CUBE_POS;
    if row >= block.rows as usize {
        terminate!();
    }
    let start = row * block.width as usize;
    let query = block.first_query + (row % block.queries as usize) as u32;
    let of_place = slope_of_row(row, block, rules.alibi);
    let (from, to) = keys_of_row(row, ranges, block, rules.ranges);
    let mut highest = f32::new(LOWEST);
    let mut place = UNIT_POS;
    while place < block.width {
        let key = block.first_key + place;
        if key >= from && key < to && sees(query, key, block.window, rules.causal) {
            let score =
                score(scores[start + place as usize], block.scale, block.cap, rules.soft_cap);
            highest = max(highest, score - loss(of_place, query, key, rules.alibi));
        }
        place += ROW_UNITS;
    }
    let highest = max_of_units(highest, ROW_UNITS);
    let mut sum = 0.0f32;
    let mut place = UNIT_POS;
    while place < block.width {
        let key = block.first_key + place;
        if key >= from && key < to && sees(query, key, block.window, rules.causal) {
            let score =
                score(scores[start + place as usize], block.scale, block.cap, rules.soft_cap);
            sum += f32::exp(score - loss(of_place, query, key, rules.alibi) - highest);
        }
        place += ROW_UNITS;
    }
    let sum = sum_of_units(sum, ROW_UNITS);
    // As the fused kernel has it, whose gradients may follow.
    let log_sum = select(sum == 0.0f32, 0.0f32, highest + f32::ln(sum));
    let mut place = UNIT_POS;
    while place < block.width {
        let index = start + place as usize;
        let mut probability = 0.0f32;
        let key = block.first_key + place;
        if key >= from && key < to && sees(query, key, block.window, rules.causal) {
            let score = score(scores[index], block.scale, block.cap, rules.soft_cap);
            let loss = loss(of_place, query, key, rules.alibi);
            probability = f32::exp(score - loss - log_sum);
        }
        probabilities[index] = E::cast_from(probability);
        place += ROW_UNITS;
    }
    if UNIT_POS == 0 {
        log_sums[row] = log_sum;
    }
}

/// With p the probabilities made anew and g their gradients, the gradients of the scores are
/// `scale p (g - d)`, where d is the sum over keys of `p g`, times the derivative of a soft cap.
#[cube(launch, address_type = "dynamic")]
fn scores_backward_kernel<E: Float>(
    scores: &Array<f32>,
    gradients: &Array<f32>,
    log_sums_and_sums: &Array<f32>,
    probabilities: &mut Array<E>,
    of_scores: &mut Array<E>,
    ranges: &Array<i32>,
    block: Block,
    #[comptime] rules: Rules,
    #[define(E)] _element: StorageType,
) {
    if ABSOLUTE_POS < scores.len() {
        let row = ABSOLUTE_POS / block.width as usize;
        let query = block.first_query + (row % block.queries as usize) as u32;
        let key = block.first_key + (ABSOLUTE_POS % block.width as usize) as u32;
        let of_place = slope_of_row(row, block, rules.alibi);
        let (from, to) = keys_of_row(row, ranges, block, rules.ranges);
        let mut probability = 0.0f32;
        let score = score(scores[ABSOLUTE_POS], block.scale, block.cap, rules.soft_cap);
        if key >= from && key < to && sees(query, key, block.window, rules.causal) {
            let loss = loss(of_place, query, key, rules.alibi);
            probability = f32::exp(score - loss - log_sums_and_sums[2 * row]);
        }
        let mut slope = gradients[ABSOLUTE_POS] - log_sums_and_sums[2 * row + 1];
        if comptime!(rules.soft_cap) {
            let height = score / block.cap;
            slope *= 1.0f32 - height * height;
        }
        probabilities[ABSOLUTE_POS] = E::cast_from(probability);
        of_scores[ABSOLUTE_POS] = E::cast_from(block.scale * probability * slope);
    }
}

/// Heads as products take them.
type Heads<R, BT> = Tensor<Cube<R, BT>, 4>;

/// How queries, keys and values are divided into blocks.
struct Plan<'a, R: CubeRuntime> {
    /// B, H, G, T, S
    batch: usize,
    heads: usize,
    key_heads: usize,
    queries: usize,
    keys: usize,
    sight: &'a Sight,
    /// Pairs of numbers, where the sight has ranges.
    ranges: CubeTensor<R>,
    /// That the device's memory takes in one piece.
    most_scores: usize,
    element: DType,
}

impl<'a, R: CubeRuntime> Plan<'a, R> {
    fn new<BT: BoolElement>(query: &CubeTensor<R>, key: &CubeTensor<R>, sight: &'a Sight) -> Self {
        let ([batch, heads, queries, _], [_, key_heads, keys, _]) = (dims(query), dims(key));
        let element = element(sight.precision);
        let ranges = ranges_on_device::<R, BT>(query, sight);
        let most_scores = at_most(usize::MAX, query);
        Self { batch, heads, key_heads, queries, keys, sight, ranges, most_scores, element }
    }

    /// Queries, and all keys that any of them sees.
    fn blocks(&self) -> Vec<[Range<usize>; 2]> {
        let length = gpu_queries(self.batch * self.heads * self.keys, self.most_scores);
        let seen = |query: usize| self.sight.keys(query, self.queries, self.keys);
        let block = |first: usize| {
            let last = (first + length).min(self.queries);
            [first..last, seen(first).start..seen(last - 1).end]
        };
        (0..self.queries).step_by(length).map(block).collect()
    }

    /// What kernels are told of a block of `[B, G, H / G T, S]` scores.
    fn of_rows(
        &self,
        scores: &CubeTensor<R>,
        [queries, keys]: &[Range<usize>; 2],
    ) -> BlockLaunch<R> {
        let [rows, width] = rows(scores);
        let ahead = if self.sight.causal { self.keys - self.queries } else { 0 };
        let window = self.sight.window.map_or(u32::MAX, |window| window as u32);
        BlockLaunch::new(
            rows as u32,
            width as u32,
            queries.len() as u32,
            (queries.start + ahead) as u32,
            keys.start as u32,
            queries.start as u32,
            self.sight.ranges.as_ref().map_or(1, |ranges| ranges.of_entry()) as u32,
            window,
            self.heads as u32,
            alibi_sequence(self.heads) as u32,
            self.sight.scale,
            self.sight.soft_cap.unwrap_or_default(),
        )
    }

    /// Query heads that share their keys one after the other, `[B, H, T, K]` ->
    /// `[B, G, H / G T, K]`.
    fn grouped<BT: BoolElement>(&self, heads: Heads<R, BT>) -> Heads<R, BT> {
        let [b, h, t, width] = heads.dims();
        match h == self.key_heads {
            true => heads,
            false => heads.reshape([b, self.key_heads, h / self.key_heads * t, width]),
        }
    }

    /// And back.
    fn apart<BT: BoolElement>(&self, groups: Heads<R, BT>) -> Heads<R, BT> {
        let [b, g, rows, width] = groups.dims();
        match self.heads == self.key_heads {
            true => groups,
            false => groups.reshape([b, self.heads, rows * g / self.heads, width]),
        }
    }

    /// A block of `[B, G, H / G T, S]` weights or their gradients, some of them dropped.
    fn dropped(
        &self,
        numbers: CubeTensor<R>,
        [queries, keys]: &[Range<usize>; 2],
    ) -> CubeTensor<R> {
        match self.sight.dropout {
            Some(dropout) => drop_part(numbers, dropout, queries.clone(), self.queries, keys.start),
            None => numbers,
        }
    }
}

/// A part of all heads, in memory of its own.
fn part<R: CubeRuntime, BT: BoolElement>(
    heads: &Heads<R, BT>,
    range: &Range<usize>,
) -> Heads<R, BT> {
    let [b, h, length, width] = heads.dims();
    match *range == (0..length) {
        true => heads.clone(),
        false => heads.clone().slice([0..b, 0..h, range.clone(), 0..width]),
    }
}

/// Heads as a factor of products. Where they are a part of a tensor, or tokens one after the other,
/// each product would copy them, or take them by strides that not all of burn's kernels respect.
fn factor<R: CubeRuntime, BT: BoolElement>(heads: CubeTensor<R>, element: DType) -> Heads<R, BT> {
    from_float(into_contiguous(cast(heads, element)))
}

/// The product of two batches of matrices, in f32.
fn multiply<R: CubeRuntime, BT: BoolElement>(
    left: Heads<R, BT>,
    right: Heads<R, BT>,
) -> Heads<R, BT> {
    from_float(product(to_float(left), to_float(right)))
}

/// The product with the transpose of the second.
fn multiply_transposed<R: CubeRuntime, BT: BoolElement>(
    left: Heads<R, BT>,
    right: Heads<R, BT>,
) -> Heads<R, BT> {
    from_float(product(to_float(left), transposed(to_float(right))))
}

/// [`Kernels::attend`](crate::backend::Kernels::attend).
pub fn forward<R: CubeRuntime, BT: BoolElement>(
    inputs: Inputs<R>,
    sight: &Sight,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let inputs = inputs.apart::<BT>();
    let plan = Plan::new::<BT>(&inputs[0], &inputs[1], sight);
    let [query, key, value] = inputs.map(|input| factor::<R, BT>(input, plan.element));
    let (mut outputs, mut log_sums) = (Vec::new(), Vec::new());
    for block in plan.blocks() {
        let [queries, keys] = &block;
        let of_block = plan.grouped(part(&query, queries));
        let scores = multiply_transposed(of_block, part(&key, keys));
        let (probabilities, of_rows) = softmax(&plan, to_float(scores), &block);
        let probabilities = plan.dropped(probabilities, &block);
        let output = multiply(from_float(probabilities), part(&value, keys));
        outputs.push(plan.apart(output).swap_dims(1, 2));
        let of_rows: Tensor<Cube<R, BT>, 1> = from_float(of_rows);
        log_sums.push(of_rows.reshape([plan.batch, plan.heads, queries.len()]));
    }
    // The heads of a token side by side in memory, as the layer behind takes them.
    let output = cast(to_float(Tensor::cat(outputs, 1)), element(sight.given));
    let output: Heads<R, BT> = from_float(output);
    (to_float(output.swap_dims(1, 2)), to_float(joined(log_sums)))
}

/// Blocks of queries, one after the other. Burn copies a single one, too.
fn joined<R: CubeRuntime, BT: BoolElement, const D: usize>(
    mut blocks: Vec<Tensor<Cube<R, BT>, D>>,
) -> Tensor<Cube<R, BT>, D> {
    match blocks.len() {
        1 => blocks.remove(0),
        _ => Tensor::cat(blocks, 2),
    }
}

fn softmax<R: CubeRuntime>(
    plan: &Plan<'_, R>,
    scores: CubeTensor<R>,
    block: &[Range<usize>; 2],
) -> (CubeTensor<R>, CubeTensor<R>) {
    let scores = into_contiguous(scores);
    let ([rows, _], client) = (rows(&scores), scores.client.clone());
    let probabilities = empty_of(&scores, scores.meta.shape().clone(), plan.element);
    let log_sums = empty(&scores, [rows]);
    let of_rows = plan.of_rows(&scores, block);
    softmax_kernel::launch(
        &client,
        cubes(rows),
        CubeDim::new_1d(ROW_UNITS),
        address(&[&scores]),
        scores.into_array_arg(),
        probabilities.clone().into_array_arg(),
        log_sums.clone().into_array_arg(),
        plan.ranges.clone().into_array_arg(),
        of_rows,
        Rules::of(plan.sight),
        plan.element.into(),
    );
    (probabilities, log_sums)
}

/// The gradients of what goes in.
pub fn backward<R: CubeRuntime, BT: BoolElement>(
    inputs: Inputs<R>,
    output: CubeTensor<R>,
    log_sums: CubeTensor<R>,
    gradient: CubeTensor<R>,
    sight: &Sight,
) -> Vec<CubeTensor<R>> {
    let is_joined = matches!(inputs, Inputs::Joined(..));
    let inputs = inputs.apart::<BT>();
    let gradients = backward_apart::<R, BT>(inputs, output, log_sums, gradient, sight)
        .map(|gradient| cast(gradient, element(sight.given)));
    match is_joined {
        true => vec![to_float(join_by_tokens::<Cube<R, BT>>(gradients.map(from_float)))],
        false => gradients.into(),
    }
}

fn backward_apart<R: CubeRuntime, BT: BoolElement>(
    inputs: [CubeTensor<R>; 3],
    output: CubeTensor<R>,
    log_sums: CubeTensor<R>,
    gradient: CubeTensor<R>,
    sight: &Sight,
) -> [CubeTensor<R>; 3] {
    let plan = Plan::new::<BT>(&inputs[0], &inputs[1], sight);
    let heads = |input: CubeTensor<R>| -> Heads<R, BT> { from_float(input) };
    let gradient: Heads<R, BT> = factor(gradient, plan.element);
    // Of the gradient as it is in the products: otherwise that of a query which sees one key were not
    // zero.
    let rounded: Heads<R, BT> = from_float(cast(to_float(gradient.clone()), DType::F32));
    let sums = (heads(cast(output, DType::F32)) * rounded).sum_dim(3); // [B, H, T, 1]
    let log_sums: Tensor<Cube<R, BT>, 3> = from_float(log_sums);
    // As one tensor: of storage buffers WebGPU promises eight.
    let log_sums_and_sums = Tensor::cat(vec![log_sums.unsqueeze_dim(3), sums], 3); // [B, H, T, 2]
    let [query, key, value] = inputs.map(|input| factor::<R, BT>(input, plan.element));
    let mut of_queries = Vec::new();
    let (mut of_key, mut of_value) = (None, None);
    // From the last block on, which sees all keys where there is no window: what the others bring is
    // added to that.
    for block in plan.blocks().into_iter().rev() {
        let [queries, keys] = &block;
        let (of_block, seen) = (plan.grouped(part(&query, queries)), part(&key, keys));
        let slope = plan.grouped(part(&gradient, queries));
        let scores = multiply_transposed(of_block.clone(), seen.clone());
        let of_probabilities = multiply_transposed(slope.clone(), part(&value, keys));
        let kept = plan.grouped(part(&log_sums_and_sums, queries));
        let [probabilities, of_scores] =
            scores_backward(&plan, [scores, of_probabilities], kept, &block);
        let share = multiply(probabilities.swap_dims(2, 3), slope);
        of_value = Some(add(of_value, plan.keys, keys, to_float(share)));
        of_queries.push(plan.apart(multiply(of_scores.clone(), seen)));
        let share = multiply(of_scores.swap_dims(2, 3), of_block);
        of_key = Some(add(of_key, plan.keys, keys, to_float(share)));
    }
    of_queries.reverse();
    let [of_key, of_value] = [of_key, of_value].map(|sum| sum.expect("there is a query"));
    [to_float(joined(of_queries)), of_key, of_value]
}

/// Probabilities, and the gradients of the scores.
fn scores_backward<R: CubeRuntime, BT: BoolElement>(
    plan: &Plan<'_, R>,
    scores_and_gradients: [Heads<R, BT>; 2],
    log_sums_and_sums: Heads<R, BT>,
    block: &[Range<usize>; 2],
) -> [Heads<R, BT>; 2] {
    let contiguous = |heads: Heads<R, BT>| into_contiguous(to_float(heads));
    let [scores, gradients] = scores_and_gradients.map(contiguous);
    let gradients = plan.dropped(gradients, block);
    let log_sums_and_sums = contiguous(log_sums_and_sums);
    let shape = scores.meta.shape().clone();
    let outputs = [(); 2].map(|()| empty_of(&scores, shape.clone(), plan.element));
    let [probabilities, of_scores] = outputs.clone();
    let (of_rows, client) = (plan.of_rows(&scores, block), scores.client.clone());
    scores_backward_kernel::launch(
        &client,
        cubes_of_elements(count(&scores)),
        CubeDim::new_1d(UNITS),
        address(&[&scores]),
        scores.into_array_arg(),
        gradients.into_array_arg(),
        log_sums_and_sums.into_array_arg(),
        probabilities.into_array_arg(),
        of_scores.into_array_arg(),
        plan.ranges.clone().into_array_arg(),
        of_rows,
        Rules::of(plan.sight),
        plan.element.into(),
    );
    let [probabilities, of_scores] = outputs;
    [plan.dropped(probabilities, block), of_scores].map(from_float)
}

/// Adds to a range of the rows of each matrix, `[.., S, W]`.
#[cube(launch, address_type = "dynamic")]
fn add_kernel(share: &Array<f32>, sum: &mut Array<f32>, start: u32, matrix: u32, part: u32) {
    if ABSOLUTE_POS < share.len() {
        let number = ABSOLUTE_POS / part as usize;
        let place = number * matrix as usize + start as usize + ABSOLUTE_POS % part as usize;
        sum[place] += share[ABSOLUTE_POS];
    }
}

/// A sum over so many positions, with a share of some of them, in place.
fn add<R: CubeRuntime>(
    sum: Option<CubeTensor<R>>,
    positions: usize,
    range: &Range<usize>,
    share: CubeTensor<R>,
) -> CubeTensor<R> {
    let [b, h, _, width] = dims(&share);
    let sum = match sum {
        None if *range == (0..positions) => return share,
        None => zeroed(&share, [b, h, positions, width]),
        Some(sum) => writable(sum),
    };
    let (share, client) = (into_contiguous(share), sum.client.clone());
    add_kernel::launch(
        &client,
        cubes_of_elements(count(&share)),
        CubeDim::new_1d(UNITS),
        address(&[&sum]),
        share.into_array_arg(),
        sum.clone().into_array_arg(),
        (range.start * width) as u32,
        (positions * width) as u32,
        (range.len() * width) as u32,
    );
    sum
}
