//! How many operations a second a device does where nothing but a large matrix product is asked
//! of it.

use burn::tensor::{Distribution, Tensor};
use std::time::{Duration, Instant};

use crate::backend::{GptBackend, factor};
use crate::config::Precision;

/// Rows and columns of the factors: the first of these whose product takes `LONG`, or the last.
const SIDES: [usize; 4] = [1024, 2048, 4096, 8192];
/// Next to this the time to start a product does not count.
const LONG: Duration = Duration::from_millis(10);
/// Of which the fastest counts. The first ones start threads and compile kernels.
const PRODUCTS: usize = 6;

/// Operations a second of a product in this precision, in 10^9. A product of three matrices' sides
/// `n` takes `2 n³` operations.
pub(super) fn peak_gflops<B: GptBackend>(
    precision: Precision,
    device: &B::Device,
) -> anyhow::Result<f64> {
    let mut gflops = 0.0;
    for side in SIDES {
        let time = product_time::<B>(side, precision, device)?;
        gflops = 2.0 * (side as f64).powi(3) / time.as_secs_f64() / 1e9;
        if time >= LONG {
            break;
        }
    }
    Ok(gflops)
}

fn product_time<B: GptBackend>(
    side: usize,
    precision: Precision,
    device: &B::Device,
) -> anyhow::Result<Duration> {
    let random = || {
        let matrix = Tensor::<B, 2>::random([side; 2], Distribution::Uniform(-1.0, 1.0), device);
        factor(matrix, precision)
    };
    let (left, right) = (random(), random());
    let mut best = Duration::MAX;
    for _ in 0..PRODUCTS {
        B::sync(device)?;
        let started = Instant::now();
        let product = B::dense(left.clone(), right.clone(), None);
        B::sync(device)?;
        best = best.min(started.elapsed());
        drop(product);
    }
    Ok(best)
}
