//! Whether a device computes what PyTorch does: small models whose loss and gradients are known.

use burn::tensor::TensorData;
use burn_train::TrainStep;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

use super::{LanguageModel, gradient_norm};
use crate::backend::TrainBackend;
use crate::config::ModelConfig;
use crate::data::{Example, TokenBatch};
use crate::model::{Initializer, Model, load_parameters, parameter_shapes};

/// How far a number may be from PyTorch's in 64 bits, as a share of it. Devices that are right are
/// much nearer: sums in f32 differ from it by 1e-7, and products in TF32, which GPUs may be set to
/// use for f32, by 4.4e-4 (tests/golden/generate_doctor.py prints both). A kernel that is wrong is
/// far off.
pub const GOLDEN_TOLERANCE: f64 = 2e-3;

/// A model and its batch, and what one training step computes of them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Golden {
    pub name: String,
    pub model: ModelConfig,
    /// A row each, with its last target.
    pub tokens: Vec<Vec<u32>>,
    #[serde(flatten)]
    pub expected: GoldenNumbers,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GoldenNumbers {
    /// Nats a token.
    pub loss: f64,
    /// Of all parameters together.
    pub gradient_norm: f64,
}

/// Computed by PyTorch in 64-bit floats with Hugging Face's GPT-2 and Llama.
pub fn goldens() -> Vec<Golden> {
    serde_json::from_str(include_str!("golden.json")).expect("a test reads it")
}

impl Golden {
    /// What a device computes.
    pub fn compute<B: TrainBackend>(&self, device: &B::Device) -> GoldenNumbers {
        let vocab_size = self.model.vocab_size.unwrap_or_default();
        let mut values = values(&self.model, vocab_size);
        let model =
            Model::<B>::new(&self.name, &self.model, vocab_size, Initializer::Zeros, device);
        let model = load_parameters(model, |name| values.remove(name))
            .expect("there is a value of its shape for each parameter");
        let model = LanguageModel::new(model, &self.model);
        let examples: Vec<Example> = self.tokens.iter().map(|row| example(row)).collect();
        let output = TrainStep::step(&model, TokenBatch::new(&examples, 1.0));
        let gradient_norm = gradient_norm::<B, _>(&model, &output.grads);
        GoldenNumbers { loss: output.item.loss.read(), gradient_norm }
    }
}

impl GoldenNumbers {
    /// The larger of the two differences from what is expected, as a share of that.
    pub fn error(&self, expected: &Self) -> f64 {
        let error = |found: f64, expected: f64| match (found / expected - 1.0).abs() {
            error if error.is_nan() => f64::INFINITY,
            error => error,
        };
        error(self.loss, expected.loss).max(error(self.gradient_norm, expected.gradient_norm))
    }
}

fn example(row: &[u32]) -> Example {
    Example {
        source: None,
        input: row[..row.len() - 1].to_vec(),
        target: row[1..].to_vec(),
        asked: None,
        documents: None,
    }
}

/// The values of all parameters: numbers from -3/8 to 3/8, and factors of norms around one.
/// Narrower ones would make attention nearly even, and its faults hard to see.
fn values(config: &ModelConfig, vocab_size: usize) -> HashMap<String, TensorData> {
    let mut state = 1u32;
    // A generator of Numerical Recipes, and 24 bits of it, which is what f32 can tell apart.
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1u32 << 23) - 1.0
    };
    let shapes = parameter_shapes(config, vocab_size);
    let value = shapes.into_iter().map(|(name, shape)| {
        let center = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| (center + next() * 3.0 / 8.0) as f32).collect();
        (name, TensorData::new(values, shape))
    });
    value.collect()
}
