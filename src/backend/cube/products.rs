//! Matrix products with sums in f32.

use burn::tensor::{DType, Tensor};
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeRuntime};
use std::ops::Range;

use super::Cube;
use crate::backend::ops::{from_float, to_float};
use crate::config::Precision;

/// Products that are added up one after the other: all those of a vocabulary of 50,000.
const LONGEST: usize = 1 << 16;

/// The type of the factors of a product.
pub fn element(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
    }
}

/// The product of two factors of one type, in f32. Leading dimensions are those of a batch.
pub fn product<R: CubeRuntime>(left: CubeTensor<R>, right: CubeTensor<R>) -> CubeTensor<R> {
    matmul(left, right, None, MatmulStrategy::default(), DType::F32)
        .expect("the plainest kernel takes every shape")
}

/// The product of two matrices that are longer on the side which is summed over than an f32 can
/// add up one after the other: parts of it, added up.
pub fn long_product<R: CubeRuntime, BT: BoolElement>(
    left: Tensor<Cube<R, BT>, 2>,
    right: Tensor<Cube<R, BT>, 2>,
) -> Tensor<Cube<R, BT>, 2> {
    let ([rows, length], [_, columns]) = (left.dims(), right.dims());
    let of_part = |part: Range<usize>| -> Tensor<Cube<R, BT>, 2> {
        let left = left.clone().slice([0..rows, part.clone()]);
        let right = right.clone().slice([part, 0..columns]);
        from_float(product(to_float(left), to_float(right)))
    };
    if length <= LONGEST {
        return from_float(product(to_float(left), to_float(right)));
    }
    let parts = (0..length).step_by(LONGEST).map(|first| first..(first + LONGEST).min(length));
    parts.map(of_part).reduce(|sum, part| sum + part).expect("there are two at least")
}

/// The same memory with its last two dimensions the other way round.
pub fn transposed<R: CubeRuntime>(mut tensor: CubeTensor<R>) -> CubeTensor<R> {
    let rank = tensor.meta.rank();
    tensor.meta.swap(rank - 2, rank - 1);
    tensor
}
