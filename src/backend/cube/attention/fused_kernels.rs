//! Attention without scores in memory (Dao 2023, "FlashAttention-2"), by [`tiles`](super::tiles).
//!
//! A cube has so many rows of a head, and goes through as many of the other side at a time: queries
//! through keys, for the output and for the gradient of the queries; keys through queries, for their
//! gradient and that of the values. So each sum has one order.
//!
//! B batch, T queries, S keys, H heads, G key heads; a width is that of a head in vectors of eight

use cubecl::prelude::*;
use std::f32::consts::{LN_2, LOG2_E};

use super::scores::{Rules, alibi_slope, loss, score, sees};
use super::tiles::{
    Eight, LANES, Pair, Place, ROWS, TILES, Tile, add_product, column_of_unit, load, max_of_row,
    products, room, row_of, row_of_unit, start_of, store, sum_of_row, two_of, zeros,
};

/// The product of a query with a key that it does not see, and what the maximum of others begins with,
/// so that the power of the former is zero whatever there is.
const UNSEEN: f32 = -1e30;
const LOWEST: f32 = -1e20;

#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub struct Sizes {
    /// T, S, H, and H / G.
    queries: u32,
    keys: u32,
    heads: u32,
    group: u32,
    /// The place of the first query among the keys.
    ahead: u32,
    window: u32,
    /// Ranges of an entry of the batch, where there are any: of each query, or one.
    ranges: u32,
    /// Heads whose slopes are a sequence of their own.
    sequence: u32,
    scale: f32,
    cap: f32,
}

/// 2 to the power of this, by the function that the device has for it.
#[cube(fast_math = FastMath::all())]
fn power_of_two(x: f32) -> f32 {
    f32::powf(2.0f32.runtime(), x)
}

/// What makes powers of two out of products, or of what [`bend`] makes of them.
#[cube]
fn factor_of_products(sizes: Sizes, #[comptime] rules: Rules) -> f32 {
    if comptime!(rules.is_bent()) { f32::new(LOG2_E) } else { sizes.scale * LOG2_E }
}

/// The first key, at a multiple of [`ROWS`], and the one behind the last that [`ROWS`] queries from one
/// place on may see.
#[cube]
fn keys_seen(query: u32, sizes: Sizes, #[comptime] rules: Rules) -> (u32, u32) {
    let mut from = 0u32;
    if sizes.window <= query {
        from = (query - sizes.window + 1) / ROWS * ROWS;
    }
    let end = if comptime!(rules.causal) {
        query + ROWS
    } else {
        // A window of none is 2³² wide.
        query + (ROWS - 1) + min(sizes.window, sizes.keys)
    };
    (from, min(sizes.keys, end))
}

/// The first query, at a multiple of [`ROWS`], and the one behind the last that may see [`ROWS`] keys
/// from one on.
#[cube]
fn queries_that_see(key: u32, sizes: Sizes, #[comptime] rules: Rules) -> (u32, u32) {
    // Places among the keys.
    let mut from = sizes.ahead;
    if comptime!(rules.causal) {
        from = max(from, key);
    } else if sizes.window <= key {
        from = max(from, key - sizes.window + 1);
    }
    let last = sizes.ahead + sizes.queries;
    let end = min(last, key + (ROWS - 1) + min(sizes.window, last));
    ((from - sizes.ahead) / ROWS * ROWS, max(end, sizes.ahead) - sizes.ahead)
}

/// Whether each of [`ROWS`] queries, from one place on, sees each of as many keys.
#[cube]
fn sees_all(query: u32, key: u32, sizes: Sizes, #[comptime] rules: Rules) -> bool {
    let last_sees_first = sees(query + (ROWS - 1), key, sizes.window, rules.causal);
    let first_sees_last = sees(query, key + (ROWS - 1), sizes.window, rules.causal);
    let all = key + ROWS <= sizes.keys && last_sees_first && first_sees_last;
    if comptime!(rules.ranges) { false.runtime() } else { all }
}

/// Room for the keys that are there for each of [`ROWS`] queries, if that is a question.
#[cube]
fn room_for_ranges(#[comptime] rules: Rules) -> SharedMemory<Pair<u32>> {
    SharedMemory::<Pair<u32>>::new(if rules.ranges { ROWS as usize } else { 1 })
}

/// The first key and the one behind the last, of each query from one on, for all units to see.
#[cube]
fn load_ranges(
    ranges: &Array<i32>,
    batch: u32,
    first: u32,
    to: &mut SharedMemory<Pair<u32>>,
    sizes: Sizes,
    #[comptime] rules: Rules,
) {
    if comptime!(rules.ranges) {
        let query = min(first + UNIT_POS, sizes.queries - 1) % sizes.ranges;
        if UNIT_POS < ROWS {
            let at = 2 * (batch as usize * sizes.ranges as usize + query as usize);
            let mut range = Pair::<u32>::zeroed();
            range[0] = u32::cast_from(ranges[at]);
            range[1] = u32::cast_from(ranges[at + 1]);
            to[UNIT_POS as usize] = range;
        }
        sync_cube();
    }
}

/// The first key that any of the queries sees whose ranges these are, and the one behind the last.
#[cube]
fn keys_in_ranges(ranges: &SharedMemory<Pair<u32>>) -> (u32, u32) {
    let unit = UNIT_POS % LANES;
    // Each plane finds it out for itself.
    let (one, other) = (ranges[unit as usize], ranges[(unit + comptime!(ROWS - LANES)) as usize]);
    (plane_min(min(one[0], other[0])), plane_max(max(one[1], other[1])))
}

/// Of the keys from one to another those that these ranges leave, from a multiple of [`ROWS`] on.
#[cube]
fn keys_left(
    from: u32,
    end: u32,
    ranges: &SharedMemory<Pair<u32>>,
    #[comptime] rules: Rules,
) -> (u32, u32) {
    if comptime!(rules.ranges) {
        let (first, behind) = keys_in_ranges(ranges);
        (max(from, first / ROWS * ROWS), min(end, behind))
    } else {
        (from, end)
    }
}

/// Whether these ranges leave any of [`ROWS`] keys from one on.
#[cube]
fn leave_keys(key: u32, ranges: &SharedMemory<Pair<u32>>, #[comptime] rules: Rules) -> bool {
    if comptime!(rules.ranges) {
        let (first, behind) = keys_in_ranges(ranges);
        first < key + ROWS && key < behind
    } else {
        true.runtime()
    }
}

/// Makes scores of products, where these are not in proportion, and multiplies gradients of scores, if
/// there are any, by the derivative of the soft cap. Rows and columns have places from these on.
#[cube]
fn bend(
    tiles: &mut Sequence<Tile>,
    gradients: &mut Sequence<Tile>,
    rows: u32,
    columns: u32,
    slope: f32,
    sizes: Sizes,
    #[comptime] rules: Rules,
) {
    if comptime!(rules.is_bent()) {
        #[unroll]
        for tile in 0..TILES {
            #[unroll]
            for side in 0..2usize {
                let numbers = tiles.index_mut(tile);
                let mut pair = numbers[side];
                #[unroll]
                for neighbour in 0..2usize {
                    let row = rows + row_of_unit() + comptime!(8 * side as u32);
                    let column =
                        columns + column_of_unit() + comptime!((8 * tile + neighbour) as u32);
                    let score = score(pair[neighbour], sizes.scale, sizes.cap, rules.soft_cap);
                    pair[neighbour] = score - loss(slope, row, column, rules.alibi);
                    if comptime!(rules.soft_cap && gradients.len() == TILES) {
                        let gradients = gradients.index_mut(tile);
                        let mut slopes = gradients[side];
                        let height = score / sizes.cap;
                        slopes[neighbour] *= 1.0f32 - height * height;
                        gradients[side] = slopes;
                    }
                }
                numbers[side] = pair;
            }
        }
    }
}

/// Takes the weight from keys that their queries do not see. Rows are queries and columns keys, or the
/// other way round.
#[cube]
fn hide(
    tiles: &mut Sequence<Tile>,
    first_query: u32,
    first_key: u32,
    ranges: &SharedMemory<Pair<u32>>,
    sizes: Sizes,
    #[comptime] rules: Rules,
    #[comptime] rows_are_queries: bool,
) {
    #[unroll]
    for tile in 0..TILES {
        #[unroll]
        for side in 0..2usize {
            let numbers = tiles.index_mut(tile);
            let mut pair = numbers[side];
            #[unroll]
            for neighbour in 0..2usize {
                let row = row_of_unit() + comptime!(8 * side as u32);
                let column = column_of_unit() + comptime!((8 * tile + neighbour) as u32);
                let (query, key) =
                    if comptime!(rows_are_queries) { (row, column) } else { (column, row) };
                let number = query as usize;
                let (query, key) = (first_query + query, first_key + key);
                let mut seen = key < sizes.keys && sees(query, key, sizes.window, rules.causal);
                if comptime!(rules.ranges) {
                    let range = ranges[number];
                    seen = seen && key >= range[0] && key < range[1];
                }
                pair[neighbour] = select(seen, pair[neighbour], UNSEEN);
            }
            numbers[side] = pair;
        }
    }
}

/// Outputs, as logarithms of sums of exponentials say them, `[B, H, T]`, which are kept for the
/// gradients.
///
/// A cube for each [`ROWS`] queries of each head of each entry. The places are those of queries, keys,
/// values and outputs.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn attend_kernel<E: Float>(
    query: &Array<Eight>,
    key: &Array<Eight>,
    value: &Array<Eight>,
    output: &mut Array<Pair<E>>,
    log_sums: &mut Array<f32>,
    ranges: &Array<i32>,
    places: Sequence<Place>,
    sizes: Sizes,
    #[comptime] rules: Rules,
    #[comptime] key_width: usize,
    #[comptime] value_width: usize,
    #[define(E)] _element: StorageType,
) {
    let (head, batch) = (CUBE_POS_Y, CUBE_POS_Z);
    // Those with most keys come first.
    let first = ((sizes.queries - 1) / ROWS - CUBE_POS_X) * ROWS;
    let first_place = sizes.ahead + first;
    let slope = alibi_slope(head, sizes.sequence);
    let factor = factor_of_products(sizes, rules);
    let (queries, keys) = (*places.index(0usize), *places.index(1usize));
    let (values, outputs) = (*places.index(2usize), *places.index(3usize));
    let key_start = start_of(keys, batch, head / sizes.group);
    let value_start = start_of(values, batch, head / sizes.group);

    let mut own = room(key_width);
    let mut shared_keys = room(key_width);
    let mut shared_values = room(value_width);
    let mut own_ranges = room_for_ranges(rules);
    let start = start_of(queries, batch, head);
    load(query, queries, start, first, sizes.queries, &mut own, key_width);
    load_ranges(ranges, batch, first, &mut own_ranges, sizes, rules);

    let mut highest = Array::<f32>::new(2usize);
    let mut sums = Array::<f32>::new(2usize);
    #[unroll]
    for side in 0..2usize {
        highest[side] = LOWEST.runtime();
        sums[side] = 0.0f32.runtime();
    }
    let mut own_outputs = zeros(value_width);
    let (first_key, end) = keys_seen(first_place, sizes, rules);
    let (mut first_key, end) = keys_left(first_key, end, &own_ranges, rules);
    while first_key < end {
        load(key, keys, key_start, first_key, sizes.keys, &mut shared_keys, key_width);
        load(value, values, value_start, first_key, sizes.keys, &mut shared_values, value_width);
        sync_cube();
        let mut tiles = products(&own, &shared_keys, key_width);
        let mut none = Sequence::<Tile>::new();
        bend(&mut tiles, &mut none, first_place, first_key, slope, sizes, rules);
        if !sees_all(first_place, first_key, sizes, rules) {
            hide(&mut tiles, first_place, first_key, &own_ranges, sizes, rules, true);
        }
        #[unroll]
        for side in 0..2usize {
            let mut largest = UNSEEN.runtime();
            #[unroll]
            for tile in 0..TILES {
                let pair = tiles.index(tile)[side];
                largest = max(largest, max(pair[0], pair[1]));
            }
            let before = highest[side];
            let largest = max(before, max_of_row(largest) * factor);
            let mut sum = 0.0f32;
            #[unroll]
            for tile in 0..TILES {
                let numbers = tiles.index_mut(tile);
                let mut pair = numbers[side];
                pair[0] = power_of_two(pair[0] * factor - largest);
                pair[1] = power_of_two(pair[1] * factor - largest);
                sum += pair[0] + pair[1];
                numbers[side] = pair;
            }
            // What there is so far is in proportion to the maximum before.
            let shrinking = power_of_two(before - largest);
            highest[side] = largest;
            sums[side] = sums[side] * shrinking + sum;
            #[unroll]
            for tile in 0..value_width {
                let numbers = own_outputs.index_mut(tile);
                let mut pair = numbers[side];
                pair[0] *= shrinking;
                pair[1] *= shrinking;
                numbers[side] = pair;
            }
        }
        add_product(&tiles, &shared_values, &mut own_outputs, value_width);
        sync_cube();
        first_key += ROWS;
    }
    let numbers = (batch * sizes.heads + head) as usize * sizes.queries as usize;
    let mut factors = Array::<f32>::new(2usize);
    #[unroll]
    for side in 0..2usize {
        let query = first + row_of_unit() + comptime!(8 * side as u32);
        let sum = sum_of_row(sums[side]);
        // A query that sees nothing gets nothing, and gives no key a probability in the backward pass.
        let is_blind = sum == 0.0f32;
        factors[side] = select(is_blind, 0.0f32, 1.0f32 / sum);
        if query < sizes.queries && column_of_unit() == 0 {
            let log_sum = highest[side] * LN_2 + f32::ln(sum);
            log_sums[numbers + query as usize] = select(is_blind, 0.0f32, log_sum);
        }
    }
    let start = start_of(outputs, batch, head);
    store(&own_outputs, &factors, output, outputs, start, first, sizes.queries);
}

/// Makes probabilities of products, and gradients of scores, but for the scale, of those of
/// probabilities. Of each query the logarithm of its sum, in powers of two, and the sum of its output
/// times its gradient are at its place in `kept`.
#[cube]
fn differentiate(
    tiles: &mut Sequence<Tile>,
    gradients: &mut Sequence<Tile>,
    kept: &SharedMemory<Pair<f32>>,
    ranges: &SharedMemory<Pair<u32>>,
    first_query: u32,
    first_key: u32,
    slope: f32,
    sizes: Sizes,
    #[comptime] rules: Rules,
    #[comptime] rows_are_queries: bool,
) {
    #[unroll]
    for tile in 0..TILES {
        #[unroll]
        for side in 0..2usize {
            let slopes = gradients.index_mut(tile);
            let mut pair = slopes[side];
            #[unroll]
            for neighbour in 0..2usize {
                let row = row_of_unit() + comptime!(8 * side as u32);
                let column = column_of_unit() + comptime!((8 * tile + neighbour) as u32);
                let query = if comptime!(rows_are_queries) { row } else { column };
                pair[neighbour] -= kept[query as usize][1];
            }
            slopes[side] = pair;
        }
    }
    if comptime!(rows_are_queries) {
        bend(tiles, gradients, first_query, first_key, slope, sizes, rules);
    } else {
        bend(tiles, gradients, first_key, first_query, slope, sizes, rules);
    }
    if !sees_all(first_query, first_key, sizes, rules) {
        hide(tiles, first_query, first_key, ranges, sizes, rules, rows_are_queries);
    }
    let factor = factor_of_products(sizes, rules);
    #[unroll]
    for tile in 0..TILES {
        #[unroll]
        for side in 0..2usize {
            let (numbers, slopes) = (tiles.index_mut(tile), gradients.index_mut(tile));
            let (mut probabilities, mut pair) = (numbers[side], slopes[side]);
            #[unroll]
            for neighbour in 0..2usize {
                let row = row_of_unit() + comptime!(8 * side as u32);
                let column = column_of_unit() + comptime!((8 * tile + neighbour) as u32);
                let query = if comptime!(rows_are_queries) { row } else { column };
                let power = probabilities[neighbour] * factor - kept[query as usize][0];
                probabilities[neighbour] = power_of_two(power);
                pair[neighbour] *= probabilities[neighbour];
            }
            numbers[side] = probabilities;
            slopes[side] = pair;
        }
    }
}

/// [`store`] of all rows times one factor.
#[cube]
fn store_times<E: Float>(
    factor: f32,
    tiles: &Sequence<Tile>,
    to: &mut Array<Pair<E>>,
    place: Place,
    start: usize,
    first: u32,
    count: u32,
) {
    let mut factors = Array::<f32>::new(2usize);
    factors[0] = factor;
    factors[1] = factor;
    store(tiles, &factors, to, place, start, first, count);
}

/// The gradient of the queries, and of each query the sum of its output times its gradient,
/// `[B, H, T]`.
///
/// A cube for each [`ROWS`] queries of each head of each entry. The places are those of queries, keys,
/// values, gradients, outputs and of what is written.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn queries_backward_kernel<E: Float>(
    query: &Array<Eight>,
    key: &Array<Eight>,
    value: &Array<Eight>,
    gradient: &Array<Eight>,
    output: &Array<Pair<E>>,
    log_sums: &Array<f32>,
    sums: &mut Array<f32>,
    of_query: &mut Array<Pair<E>>,
    ranges: &Array<i32>,
    places: Sequence<Place>,
    sizes: Sizes,
    #[comptime] rules: Rules,
    #[comptime] key_width: usize,
    #[comptime] value_width: usize,
    #[define(E)] _element: StorageType,
) {
    let (head, batch) = (CUBE_POS_Y, CUBE_POS_Z);
    let first = ((sizes.queries - 1) / ROWS - CUBE_POS_X) * ROWS;
    let first_place = sizes.ahead + first;
    let slope = alibi_slope(head, sizes.sequence);
    let (queries, keys) = (*places.index(0usize), *places.index(1usize));
    let (values, gradients) = (*places.index(2usize), *places.index(3usize));
    let (outputs, of_queries) = (*places.index(4usize), *places.index(5usize));
    let key_start = start_of(keys, batch, head / sizes.group);
    let value_start = start_of(values, batch, head / sizes.group);

    let mut own = room(key_width);
    let mut own_gradient = room(value_width);
    let mut shared_keys = room(key_width);
    let mut shared_values = room(value_width);
    let mut own_ranges = room_for_ranges(rules);
    let mut kept = SharedMemory::<Pair<f32>>::new(ROWS as usize);
    let start = start_of(queries, batch, head);
    load(query, queries, start, first, sizes.queries, &mut own, key_width);
    let start = start_of(gradients, batch, head);
    load(gradient, gradients, start, first, sizes.queries, &mut own_gradient, value_width);
    load_ranges(ranges, batch, first, &mut own_ranges, sizes, rules);
    sync_cube();

    // Two units have a row together.
    let (row, half) = (UNIT_POS / 2, UNIT_POS % 2);
    let is_there = first + row < sizes.queries;
    let mut sum = 0.0f32;
    if is_there {
        let start = row_of(outputs, start_of(outputs, batch, head), first + row);
        #[unroll]
        for step in 0..comptime!(value_width / 2) {
            let column = half as usize * comptime!(value_width / 2) + step;
            let factors = own_gradient[row as usize * comptime!(value_width + 1) + column];
            #[unroll]
            for part in 0..4usize {
                let numbers = Pair::<f32>::cast_from(output[start + 4 * column + part]);
                let (one, next) = two_of(factors, part);
                sum += one * numbers[0] + next * numbers[1];
            }
        }
    }
    let sum = sum + plane_shuffle_xor(sum, 1u32);
    if half == 0 {
        let mut pair = Pair::<f32>::zeroed();
        if is_there {
            let at = (batch * sizes.heads + head) as usize * sizes.queries as usize
                + (first + row) as usize;
            pair[0] = log_sums[at] * LOG2_E;
            pair[1] = sum;
            sums[at] = sum;
        }
        kept[row as usize] = pair;
    }

    let mut tiles = zeros(key_width);
    let (first_key, end) = keys_seen(first_place, sizes, rules);
    let (mut first_key, end) = keys_left(first_key, end, &own_ranges, rules);
    while first_key < end {
        load(key, keys, key_start, first_key, sizes.keys, &mut shared_keys, key_width);
        load(value, values, value_start, first_key, sizes.keys, &mut shared_values, value_width);
        sync_cube();
        let mut scores = products(&own, &shared_keys, key_width);
        let mut slopes = products(&own_gradient, &shared_values, value_width);
        differentiate(
            &mut scores,
            &mut slopes,
            &kept,
            &own_ranges,
            first_place,
            first_key,
            slope,
            sizes,
            rules,
            true,
        );
        add_product(&slopes, &shared_keys, &mut tiles, key_width);
        sync_cube();
        first_key += ROWS;
    }
    let start = start_of(of_queries, batch, head);
    store_times(sizes.scale, &tiles, of_query, of_queries, start, first, sizes.queries);
}

/// The gradients of keys and values, from the sums of [`queries_backward_kernel`].
///
/// A cube for each [`ROWS`] keys of each key head of each entry. The places are those of queries, keys,
/// values, gradients and of what is written.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn keys_backward_kernel<E: Float>(
    query: &Array<Eight>,
    key: &Array<Eight>,
    value: &Array<Eight>,
    gradient: &Array<Eight>,
    log_sums: &Array<f32>,
    sums: &Array<f32>,
    of_key: &mut Array<Pair<E>>,
    of_value: &mut Array<Pair<E>>,
    ranges: &Array<i32>,
    places: Sequence<Place>,
    sizes: Sizes,
    #[comptime] rules: Rules,
    #[comptime] key_width: usize,
    #[comptime] value_width: usize,
    #[define(E)] _element: StorageType,
) {
    let (key_head, batch) = (CUBE_POS_Y, CUBE_POS_Z);
    let first = CUBE_POS_X * ROWS;
    let (queries, keys) = (*places.index(0usize), *places.index(1usize));
    let (values, gradients) = (*places.index(2usize), *places.index(3usize));
    let (of_keys, of_values) = (*places.index(4usize), *places.index(5usize));

    let mut own_keys = room(key_width);
    let mut own_values = room(value_width);
    let mut shared_queries = room(key_width);
    let mut shared_gradients = room(value_width);
    let mut shared_ranges = room_for_ranges(rules);
    let mut kept = SharedMemory::<Pair<f32>>::new(ROWS as usize);
    let start = start_of(keys, batch, key_head);
    load(key, keys, start, first, sizes.keys, &mut own_keys, key_width);
    let start = start_of(values, batch, key_head);
    load(value, values, start, first, sizes.keys, &mut own_values, value_width);

    let mut key_tiles = zeros(key_width);
    let mut value_tiles = zeros(value_width);
    let (first_seeing, end) = queries_that_see(first, sizes, rules);
    let mut head = key_head * sizes.group;
    let last_head = head + sizes.group;
    while head < last_head {
        let slope = alibi_slope(head, sizes.sequence);
        let query_start = start_of(queries, batch, head);
        let gradient_start = start_of(gradients, batch, head);
        let mut from = first_seeing;
        while from < end {
            load_ranges(ranges, batch, from, &mut shared_ranges, sizes, rules);
            if leave_keys(first, &shared_ranges, rules) {
                load(
                    query,
                    queries,
                    query_start,
                    from,
                    sizes.queries,
                    &mut shared_queries,
                    key_width,
                );
                load(
                    gradient,
                    gradients,
                    gradient_start,
                    from,
                    sizes.queries,
                    &mut shared_gradients,
                    value_width,
                );
                if UNIT_POS < ROWS {
                    // Queries that are not there are zero, and so is what they add.
                    let mut pair = Pair::<f32>::zeroed();
                    if from + UNIT_POS < sizes.queries {
                        let at = (batch * sizes.heads + head) as usize * sizes.queries as usize
                            + (from + UNIT_POS) as usize;
                        pair[0] = log_sums[at] * LOG2_E;
                        pair[1] = sums[at];
                    }
                    kept[UNIT_POS as usize] = pair;
                }
                sync_cube();
                let mut scores = products(&own_keys, &shared_queries, key_width);
                let mut slopes = products(&own_values, &shared_gradients, value_width);
                differentiate(
                    &mut scores,
                    &mut slopes,
                    &kept,
                    &shared_ranges,
                    sizes.ahead + from,
                    first,
                    slope,
                    sizes,
                    rules,
                    false,
                );
                add_product(&scores, &shared_gradients, &mut value_tiles, value_width);
                add_product(&slopes, &shared_queries, &mut key_tiles, key_width);
            }
            sync_cube();
            from += ROWS;
        }
        head += 1;
    }
    let start = start_of(of_keys, batch, key_head);
    store_times(sizes.scale, &key_tiles, of_key, of_keys, start, first, sizes.keys);
    let start = start_of(of_values, batch, key_head);
    store_times(1.0f32, &value_tiles, of_value, of_values, start, first, sizes.keys);
}
