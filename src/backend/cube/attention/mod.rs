//! Attention, as one kernel that keeps its scores to itself where a device has what that needs, and as
//! products of matrices by blocks of scores everywhere else.

mod blocks;
mod fused;
mod fused_kernels;
mod quickest;
mod scores;
mod tiles;

pub use scores::{alibi_slope, score};

use burn::tensor::{DType, Int, Tensor, TensorData};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeRuntime};

use super::Cube;
use super::tensors::{dims, empty_of};
use crate::backend::Sight;
use crate::backend::compositions::default_separate;
use crate::backend::ops::{from_float, to_float};

/// Queries, keys and values.
#[derive(Debug, Clone)]
pub enum Inputs<R: CubeRuntime> {
    /// `[B, H, T, K]`, `[B, G, S, K]` and `[B, G, S, W]`
    Apart(Box<[CubeTensor<R>; 3]>),
    /// H query heads, then G key heads, then their values: `[B, H + 2 G, T, K]`, and H and G.
    Joined(Box<CubeTensor<R>>, [usize; 2]),
}

impl<R: CubeRuntime> Inputs<R> {
    fn apart<BT: BoolElement>(self) -> [CubeTensor<R>; 3] {
        match self {
            Self::Apart(inputs) => *inputs,
            Self::Joined(joined, heads) => {
                let joined: Tensor<Cube<R, BT>, 4> = from_float(*joined);
                default_separate(joined, heads).map(to_float)
            }
        }
    }

    /// One of the tensors.
    fn first(&self) -> &CubeTensor<R> {
        match self {
            Self::Apart(inputs) => &inputs[0],
            Self::Joined(joined, _) => joined,
        }
    }

    fn sizes(&self) -> Sizes {
        match self {
            Self::Apart(inputs) => {
                let [query, key, value] = &**inputs;
                let [batch, heads, queries, key_width] = dims(query);
                let [_, key_heads, keys, _] = dims(key);
                let [_, _, _, value_width] = dims(value);
                Sizes { batch, heads, key_heads, queries, keys, key_width, value_width }
            }
            Self::Joined(joined, [heads, key_heads]) => {
                let [batch, _, length, width] = dims(joined);
                Sizes {
                    batch,
                    heads: *heads,
                    key_heads: *key_heads,
                    queries: length,
                    keys: length,
                    key_width: width,
                    value_width: width,
                }
            }
        }
    }
}

/// B, H, G, T, S, K and W.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    heads: usize,
    key_heads: usize,
    queries: usize,
    keys: usize,
    key_width: usize,
    value_width: usize,
}

/// Pairs of numbers, where the sight has ranges.
fn ranges_on_device<R: CubeRuntime, BT: BoolElement>(
    beside: &CubeTensor<R>,
    sight: &Sight,
) -> CubeTensor<R> {
    let copied = |numbers: &[i32]| {
        let data = TensorData::new(numbers.to_vec(), [numbers.len()]);
        let place = (&beside.device, DType::I32);
        Tensor::<Cube<R, BT>, 1, Int>::from_data(data, place).into_primitive()
    };
    match &sight.ranges {
        Some(ranges) => ranges.on_device(&beside.device, copied),
        None => empty_of(beside, [1], DType::I32),
    }
}

/// [`Kernels::attend`](crate::backend::Kernels::attend).
pub fn forward<R: CubeRuntime, BT: BoolElement>(
    inputs: Inputs<R>,
    sight: &Sight,
) -> (CubeTensor<R>, CubeTensor<R>) {
    match fused::is_possible(&inputs, sight) {
        true => quickest::forward::<R, BT>(inputs, sight),
        false => blocks::forward::<R, BT>(inputs, sight),
    }
}

/// The gradients of as many tensors as go in.
pub fn backward<R: CubeRuntime, BT: BoolElement>(
    inputs: Inputs<R>,
    output: CubeTensor<R>,
    log_sums: CubeTensor<R>,
    gradient: CubeTensor<R>,
    sight: &Sight,
) -> Vec<CubeTensor<R>> {
    match fused::is_possible(&inputs, sight) {
        true => quickest::backward::<R, BT>(inputs, output, log_sums, gradient, sight),
        false => blocks::backward::<R, BT>(inputs, output, log_sums, gradient, sight),
    }
}
