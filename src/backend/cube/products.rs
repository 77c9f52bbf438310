//! Matrix products with sums in f32.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::tensor::CubeTensor;

use crate::config::Precision;

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

/// The same memory with its last two dimensions the other way round.
pub fn transposed<R: CubeRuntime>(mut tensor: CubeTensor<R>) -> CubeTensor<R> {
    let rank = tensor.meta.rank();
    tensor.meta.swap(rank - 2, rank - 1);
    tensor
}
