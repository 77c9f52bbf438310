//! The gradient of an embedding, always summed in one order.
//!
//! N positions, V vocabulary, D width

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::tensors::{
    UNITS, address, count, cubes, cubes_of_elements, empty, empty_of, rows, zeroed,
};

/// Positions that are added up by one unit: what a token that is everywhere is divided into.
const SEGMENT: u32 = 32;

/// Links the positions of each token: `next` is the following one, or N, and `rank` counts those
/// before. A unit a position; that they all look through all others is quicker than to sort.
#[cube(launch, address_type = "dynamic")]
fn link_kernel(tokens: &Array<i32>, next: &mut Array<u32>, rank: &mut Array<u32>, count: u32) {
    if ABSOLUTE_POS < count as usize {
        let own = tokens[ABSOLUTE_POS];
        let place = ABSOLUTE_POS as u32;
        let mut before = 0u32;
        let mut other = 0u32;
        while other < place {
            before += select(tokens[other as usize] == own, 1u32, 0u32);
            other += 1;
        }
        let mut following = place + 1;
        let mut searching = following < count;
        while searching {
            if tokens[following as usize] == own {
                searching = false;
            } else {
                following += 1;
                searching = following < count;
            }
        }
        next[ABSOLUTE_POS] = following;
        rank[ABSOLUTE_POS] = before;
    }
}

/// Sums each segment of the positions of a token into the row of its first. A cube a position,
/// of which those within a segment have nothing to do.
#[cube(launch, address_type = "dynamic")]
fn segment_kernel(
    next: &Array<u32>,
    rank: &Array<u32>,
    gradient: &Array<f32>,
    sums: &mut Array<f32>,
    segments: &mut Array<u32>,
    count: u32,
    width: u32,
) {
    if CUBE_POS >= count as usize {
        terminate!();
    }
    let first = CUBE_POS as u32;
    if rank[first as usize] % SEGMENT != 0 {
        terminate!();
    }
    let mut column = UNIT_POS;
    while column < width {
        let mut sum = 0.0f32;
        let mut place = first;
        let mut number = 0u32;
        while number < SEGMENT && place < count {
            sum += gradient[place as usize * width as usize + column as usize];
            place = next[place as usize];
            number += 1;
        }
        sums[CUBE_POS * width as usize + column as usize] = sum;
        if column == 0 {
            segments[first as usize] = place;
        }
        column += UNITS;
    }
}

/// Sums the segments of each token into its row.
#[cube(launch, address_type = "dynamic")]
fn total_kernel(
    tokens: &Array<i32>,
    rank: &Array<u32>,
    segments: &Array<u32>,
    sums: &Array<f32>,
    output: &mut Array<f32>,
    count: u32,
    width: u32,
) {
    if CUBE_POS >= count as usize {
        terminate!();
    }
    let first = CUBE_POS as u32;
    if rank[first as usize] != 0 {
        terminate!();
    }
    let row = tokens[CUBE_POS] as u32 as usize;
    let mut column = UNIT_POS;
    while column < width {
        let mut sum = 0.0f32;
        let mut place = first;
        while place < count {
            sum += sums[place as usize * width as usize + column as usize];
            place = segments[place as usize];
        }
        output[row * width as usize + column as usize] = sum;
        column += UNITS;
    }
}

/// [`Kernels::embed_backward`](crate::backend::Kernels::embed_backward).
pub fn backward<R: CubeRuntime>(
    tokens: CubeTensor<R>,
    gradient: CubeTensor<R>,
    vocab_size: usize,
) -> CubeTensor<R> {
    let (tokens, gradient) = (into_contiguous(tokens), into_contiguous(gradient));
    let (n, [_, width], client) = (count(&tokens), rows(&gradient), gradient.client.clone());
    let [next, rank, segments] = [(); 3].map(|()| empty_of(&gradient, [n], DType::U32));
    link_kernel::launch(
        &client,
        cubes_of_elements(n),
        CubeDim::new_1d(UNITS),
        address(&[&tokens]),
        tokens.clone().into_array_arg(),
        next.clone().into_array_arg(),
        rank.clone().into_array_arg(),
        n as u32,
    );
    let sums = empty(&gradient, [n, width]);
    segment_kernel::launch(
        &client,
        cubes(n),
        CubeDim::new_1d(UNITS),
        address(&[&gradient]),
        next.into_array_arg(),
        rank.clone().into_array_arg(),
        gradient.clone().into_array_arg(),
        sums.clone().into_array_arg(),
        segments.clone().into_array_arg(),
        n as u32,
        width as u32,
    );
    let output = zeroed(&gradient, [vocab_size, width]);
    total_kernel::launch(
        &client,
        cubes(n),
        CubeDim::new_1d(UNITS),
        address(&[&gradient, &output]),
        tokens.into_array_arg(),
        rank.into_array_arg(),
        segments.into_array_arg(),
        sums.into_array_arg(),
        output.clone().into_array_arg(),
        n as u32,
        width as u32,
    );
    output
}
