use burn::module::{Param, ParamId};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use sha2::{Digest, Sha256};

/// Standard deviation of the initial weights (Radford et al. 2019).
pub(super) const DEVIATION: f64 = 0.02;

/// Where the first values of the parameters come from.
///
/// Random values are drawn on the host, so a seed gives the same model on every backend.
#[derive(Debug)]
pub enum Initializer {
    Random(Box<ChaCha8Rng>),
    /// For models whose values are about to be loaded.
    Zeros,
}

impl Initializer {
    pub fn seeded(seed: u64) -> Self {
        Self::Random(Box::new(ChaCha8Rng::seed_from_u64(seed)))
    }

    /// Values of an adapter, which take nothing from those of the other parameters.
    pub(super) fn of_adapter(&self, name: &str) -> Self {
        match self {
            Self::Zeros => Self::Zeros,
            Self::Random(rng) => {
                let digest = Sha256::new().chain_update(rng.get_seed()).chain_update(name);
                Self::Random(Box::new(ChaCha8Rng::from_seed(digest.finalize().into())))
            }
        }
    }

    /// A parameter of independent normal values with mean zero.
    pub fn normal<B: Backend, const D: usize>(
        &mut self,
        shape: [usize; D],
        deviation: f64,
        device: &B::Device,
    ) -> Param<Tensor<B, D>> {
        match self {
            // Made when they are asked for, which they are not where other values come first.
            Self::Zeros => Param::uninitialized(
                ParamId::new(),
                move |device, require_grad| {
                    let zeros = Tensor::zeros(shape, device);
                    if require_grad { zeros.require_grad() } else { zeros }
                },
                device.clone(),
                true,
                shape.into(),
            ),
            Self::Random(rng) => {
                let normal = Normal::new(0.0f32, deviation as f32)
                    .expect("deviations come from the code and are finite");
                let count = shape.iter().product();
                let values: Vec<f32> = normal.sample_iter(rng).take(count).collect();
                Param::from_data(TensorData::new(values, shape), device)
            }
        }
    }

    pub fn constant<B: Backend, const D: usize>(
        shape: [usize; D],
        value: f32,
        device: &B::Device,
    ) -> Param<Tensor<B, D>> {
        Param::from_tensor(Tensor::full(shape, value, device))
    }
}
