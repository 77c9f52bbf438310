//! Decoding: one new position in each of many rows, which one launch takes all together.
//!
//! B rows, C rows that there is room for, R positions that there is room for, T new positions,
//! H heads, G key heads, K head width, W width of a value

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use std::ops::Range;

use super::attention::{alibi_slope, score as score_of};
use super::products::element;
use super::rows::{LOWEST, ROW_UNITS, max_of_units, sum_of_units};
use super::tensors::{MOST_CUBES, UNITS, address, dims, empty, memory, writable};
use crate::backend::Sight;
use crate::backend::alibi::alibi_sequence;

/// Rows of a launch, and what fewer of them are rounded up to: what is known of each row is handed
/// to the kernel with its arguments, of which it has a fixed number, instead of in memory that
/// would have to be copied to the device first.
const ROWS: [usize; 3] = [1, 8, 64];

/// Rows that share a launch, and how many the kernel is made for.
fn launches(rows: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
    let most = ROWS[ROWS.len() - 1];
    (0..rows).step_by(most).map(move |first| {
        let range = first..(first + most).min(rows);
        let made_for = ROWS.into_iter().find(|rows| range.len() <= *rows);
        (range, made_for.expect("no launch has more than the most rows"))
    })
}

/// A tensor whose last dimension lies side by side, and the strides of the others.
fn heads<R: CubeRuntime>(tensor: CubeTensor<R>) -> (CubeTensor<R>, [usize; 3]) {
    let is_dense = tensor.meta.strides()[3] == 1 || tensor.meta.shape()[3] == 1;
    let tensor = if is_dense { tensor } else { into_contiguous(tensor) };
    let strides = [0, 1, 2].map(|axis| tensor.meta.strides()[axis]);
    (tensor, strides)
}

/// Where new positions of a row go.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Place {
    row: u32,
    position: u32,
}

/// New positions, which strides lead to, and the room for them.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct New {
    /// The first row's, of this launch.
    start: usize,
    of_row: usize,
    of_head: usize,
    of_position: usize,
    heads: usize,
    positions: usize,
    width: usize,
    /// R
    room: usize,
}

/// Copies new positions to their places: along x the numbers of a row, along y the rows.
#[cube(launch, address_type = "dynamic")]
fn put_kernel(new: &Array<f32>, room: &mut Array<f32>, places: &Sequence<Place>, shape: New) {
    let entry = CUBE_POS_Y;
    let mut row = 0u32;
    let mut position = 0u32;
    #[unroll]
    for number in 0..comptime!(places.len()) {
        let place = places.index(number);
        if entry == number as u32 {
            row = place.row;
            position = place.position;
        }
    }
    let count = shape.heads * shape.positions * shape.width;
    let step = (CUBE_COUNT_X * UNITS) as usize;
    let mut index = CUBE_POS_X as usize * UNITS as usize + UNIT_POS as usize;
    while index < count {
        let number = index % shape.width;
        let time = index / shape.width % shape.positions;
        let head = index / (shape.width * shape.positions);
        let from = shape.start
            + entry as usize * shape.of_row
            + head * shape.of_head
            + time * shape.of_position;
        let to = (row as usize * shape.heads + head) * shape.room + position as usize + time;
        room[to * shape.width + number] = new[from + number];
        index += step;
    }
}

/// [`Kernels::put`](crate::backend::Kernels::put).
pub fn put<R: CubeRuntime>(
    room: CubeTensor<R>,
    new: CubeTensor<R>,
    places: &[[usize; 2]],
) -> CubeTensor<R> {
    let [_, _, positions, _] = dims(&room);
    let [_, g, t, width] = dims(&new);
    let room = writable(room);
    let (new, [of_row, of_head, of_position]) = heads(new);
    let client = room.client.clone();
    let cubes = (g * t * width).div_ceil(UNITS as usize).min(MOST_CUBES as usize);
    for (rows, made_for) in launches(places.len()) {
        let start = rows.start * of_row;
        let count = rows.len();
        let mut all = SequenceArg::new();
        for number in 0..made_for {
            // Nobody has the number of those beyond.
            let [row, position] = places.get(rows.start + number).copied().unwrap_or_default();
            all.push(PlaceLaunch::new(row as u32, position as u32));
        }
        put_kernel::launch(
            &client,
            CubeCount::Static(cubes as u32, count as u32, 1),
            CubeDim::new_1d(UNITS),
            address(&[&room, &new]),
            memory(new.clone()),
            room.clone().into_array_arg(),
            all,
            NewLaunch::new(start, of_row, of_head, of_position, g, t, width, positions),
        );
    }
    room
}

/// Units that a score is divided among.
const LANES: u32 = 8;
/// From one lane's numbers to the next one's: not a multiple of 32, which is what memory is divided
/// into.
const PITCH: u32 = ROW_UNITS + 4;

/// What queries, keys and values there are, and what strides lead to them.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Rows {
    /// The first row of this launch.
    first: usize,
    query_row: usize,
    query_head: usize,
    key_row: usize,
    key_head: usize,
    key_position: usize,
    value_row: usize,
    value_head: usize,
    value_position: usize,
    /// H
    heads: usize,
    /// H / G
    group: usize,
    /// K
    width: usize,
    /// W
    value_width: usize,
    /// Units side by side that make the output of as many columns, a power of two.
    columns: u32,
    /// Keys that a row sees at most.
    longest: u32,
    window: u32,
    /// Heads whose slopes are a sequence of their own.
    sequence: u32,
    scale: f32,
    cap: f32,
}

/// Attention of one query in each row: a cube a head of a row, and for each [`ROW_UNITS`] columns of
/// its output. Keys are taken in blocks of one a unit; what the blocks before have come to is scaled
/// down where a block has a higher score (Milakov and Gimelshein 2018, algorithm 3).
#[cube(launch, address_type = "dynamic")]
fn attend_rows_kernel<E: Float>(
    query: &Array<f32>,
    key: &Array<f32>,
    value: &Array<f32>,
    output: &mut Array<f32>,
    lengths: &Sequence<u32>,
    rows: Rows,
    #[comptime] is_capped: bool,
    #[comptime] has_alibi: bool,
    // Of the factors of both products.
    #[define(E)] _element: StorageType,
) {
    let mut length = 0u32;
    #[unroll]
    for number in 0..comptime!(lengths.len()) {
        if CUBE_POS_Y == number as u32 {
            length = *lengths.index(number);
        }
    }
    let first = length - min(length, rows.window);
    let seen = length - first;
    let (row, head) = (rows.first + CUBE_POS_Y as usize, CUBE_POS_X as usize);
    let of_query = row * rows.query_row + head * rows.query_head;
    let of_keys =
        row * rows.key_row + head / rows.group * rows.key_head + first as usize * rows.key_position;
    let of_values = row * rows.value_row
        + head / rows.group * rows.value_head
        + first as usize * rows.value_position;
    let column = CUBE_POS_Z * ROW_UNITS + UNIT_POS % rows.columns;
    let (part, parts) = (UNIT_POS / rows.columns, ROW_UNITS / rows.columns);
    let (lane, line) = (UNIT_POS % LANES, UNIT_POS / LANES);

    let mut products = SharedMemory::<f32>::new((LANES * PITCH) as usize);
    let mut probabilities = SharedMemory::<f32>::new(ROW_UNITS as usize);
    let mut of_place = 0.0f32;
    if comptime!(has_alibi) {
        of_place = alibi_slope(head as u32, rows.sequence);
    }
    let mut highest = f32::new(LOWEST);
    let mut sum = 0.0f32;
    let mut total = 0.0f32;
    let mut block = 0u32;
    while block < rows.longest {
        // Lanes add up every eighth product of a key's.
        let mut number = line;
        while number < ROW_UNITS {
            let mut product = 0.0f32;
            if block + number < seen {
                let start = of_keys + (block + number) as usize * rows.key_position;
                let mut place = lane as usize;
                while place < rows.width {
                    product +=
                        rounded::<E>(query[of_query + place]) * rounded::<E>(key[start + place]);
                    place += LANES as usize;
                }
            }
            products[(lane * PITCH + number) as usize] = product;
            number += ROW_UNITS / LANES;
        }
        sync_cube();
        let is_seen = block + UNIT_POS < seen;
        let mut score = f32::new(LOWEST);
        if is_seen {
            let mut product = 0.0f32;
            #[unroll]
            for lane in 0..LANES {
                product += products[(lane * PITCH + UNIT_POS) as usize];
            }
            score = score_of(product, rows.scale, rows.cap, is_capped);
            if comptime!(has_alibi) {
                let distance = seen - 1 - (block + UNIT_POS);
                score -= of_place * f32::cast_from(distance);
            }
        }
        let before = highest;
        highest = max(before, max_of_units(score, ROW_UNITS));
        // Less than this is nothing, and shaders promise nothing of the exponential of an infinity.
        let fading = f32::exp(max(before - highest, -100.0f32));
        let mut probability = 0.0f32;
        if is_seen {
            probability = f32::exp(score - highest);
        }
        sum = sum * fading + probability;
        probabilities[UNIT_POS as usize] = rounded::<E>(probability);
        sync_cube();
        total *= fading;
        if column < rows.value_width as u32 {
            let end = min(seen - min(seen, block), ROW_UNITS);
            let mut number = part;
            while number < end {
                let start = of_values + (block + number) as usize * rows.value_position;
                let value = value[start + column as usize];
                total += probabilities[number as usize] * rounded::<E>(value);
                number += parts;
            }
        }
        block += ROW_UNITS;
    }
    let sum = sum_of_units(sum, ROW_UNITS);
    products[UNIT_POS as usize] = total;
    sync_cube();
    if part == 0 && column < rows.value_width as u32 {
        let mut total = 0.0f32;
        let mut number = UNIT_POS;
        while number < ROW_UNITS {
            total += products[number as usize];
            number += rows.columns;
        }
        output[(row * rows.heads + head) * rows.value_width + column as usize] = total / sum;
    }
}

/// To the precision of a product's factors.
#[cube]
fn rounded<E: Float>(number: f32) -> f32 {
    f32::cast_from(E::cast_from(number))
}

/// [`Kernels::attend_rows`](crate::backend::Kernels::attend_rows).
pub fn attend_rows<R: CubeRuntime>(
    inputs: [CubeTensor<R>; 3],
    lengths: &[usize],
    sight: &Sight,
) -> CubeTensor<R> {
    let [[b, h, _, width], [_, g, _, _], [_, _, _, value_width]] = inputs.each_ref().map(dims);
    let [query, key, value] = inputs.map(heads);
    let output = empty(&query.0, [b, h, 1, value_width]);
    let client = output.client.clone();
    let address = address(&[&query.0, &key.0, &value.0, &output]);
    let element: DType = element(sight.precision);
    let window = sight.window.unwrap_or(usize::MAX);
    let columns = value_width.next_power_of_two().min(ROW_UNITS as usize);
    let tiles = value_width.div_ceil(ROW_UNITS as usize);
    for (rows, made_for) in launches(b) {
        let longest = lengths[rows.clone()].iter().map(|length| (*length).min(window)).max();
        let mut all = SequenceArg::new();
        for number in 0..made_for {
            all.push(lengths.get(rows.start + number).copied().unwrap_or(0) as u32);
        }
        attend_rows_kernel::launch(
            &client,
            CubeCount::Static(h as u32, rows.len() as u32, tiles as u32),
            CubeDim::new_1d(ROW_UNITS),
            address,
            memory(query.0.clone()),
            memory(key.0.clone()),
            memory(value.0.clone()),
            output.clone().into_array_arg(),
            all,
            RowsLaunch::new(
                rows.start,
                query.1[0],
                query.1[1],
                key.1[0],
                key.1[1],
                key.1[2],
                value.1[0],
                value.1[1],
                value.1[2],
                h,
                h / g,
                width,
                value_width,
                columns as u32,
                longest.unwrap_or(0) as u32,
                window.min(u32::MAX as usize) as u32,
                alibi_sequence(h) as u32,
                sight.scale,
                sight.soft_cap.unwrap_or_default(),
            ),
            sight.soft_cap.is_some(),
            sight.alibi,
            element.into(),
        );
    }
    output
}
