use burn::tensor::backend::Backend;
use burn::tensor::{Distribution, Tensor};

/// A number from the backend's generator.
pub fn draw_seed<B: Backend>(device: &B::Device) -> u64 {
    /// Integers up to here are exact in f32.
    const EXACT: f64 = (1 << 24) as f64;
    let drawn = Tensor::<B, 1>::random([2], Distribution::Uniform(0.0, EXACT), device);
    drawn.into_data().iter::<f32>().fold(0, |seed, part| (seed << 24) | part as u64)
}
