//! Against PyTorch, on a small random GPT-2 and a small random Llama (see tests/golden/README.md):
//! logits, loss, gradients, ten optimizer steps and a greedy continuation.

use burn::optim::{GradientsParams, Optimizer};
use burn::tensor::{ElementConversion, TensorData};
use burn_train::TrainStep;
use std::collections::HashMap;
use std::convert::Infallible;

use emberlm::artifact::read_tensors;
use emberlm::backend::GptBackend;
use emberlm::config::{AdamwConfig, ModelConfig, OptimizerConfig};
use emberlm::generate::{Sampler, Sampling};
use emberlm::interop::Family;
use emberlm::model::{
    Gpt, Initializer, Model, load_parameters, parameter_shapes, parameters, tensors,
};
use emberlm::train::{LanguageModel, ModelOptimizer, clip_factor, gradient_norm};

use crate::on_each_backend;
use crate::support::{assert_close, floats, golden, golden_batch, relative_error};

pub const MODELS: [&str; 2] = ["gpt2-tiny", "llama-tiny"];

pub struct Golden {
    name: &'static str,
    family: &'static Family,
    pub config: ModelConfig,
    vocab_size: usize,
    reference: HashMap<String, TensorData>,
}

impl Golden {
    pub fn open(name: &'static str) -> Self {
        let json = std::fs::read_to_string(golden(name).join("config.json")).unwrap();
        let settings = serde_json::from_str(&json).unwrap();
        let family = Family::find(&settings).unwrap();
        let config = family.model_config(&settings).unwrap();
        Self {
            name,
            family,
            vocab_size: config.vocab_size.unwrap(),
            config,
            reference: read_tensors(&golden(name).join("reference.safetensors")).unwrap(),
        }
    }

    /// What the file has for one of our parameters, under the names that begin with `prefix`.
    fn value(
        &self,
        file: &HashMap<String, TensorData>,
        prefix: &str,
        parameter: &str,
        shape: &[usize],
    ) -> TensorData {
        let read = |name: &str| Ok::<_, Infallible>(file[&format!("{prefix}{name}")].clone());
        self.family.assemble(&self.config, parameter, shape, read).unwrap().unwrap()
    }

    /// The weights under our names.
    pub fn tensors(&self) -> HashMap<String, TensorData> {
        let weights = read_tensors(&golden(self.name).join("model.safetensors")).unwrap();
        parameter_shapes(&self.config, self.vocab_size)
            .into_iter()
            .map(|(name, shape)| (name.clone(), self.value(&weights, "", &name, &shape)))
            .collect()
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Each row of the batch, with its last target.
    pub fn rows(&self) -> Vec<Vec<u32>> {
        let columns = self.reference["input_ids"].shape[1];
        let ids = |name: &str| -> Vec<u32> {
            self.reference[name].iter::<i64>().map(|id| id as u32).collect()
        };
        let (inputs, targets) = (ids("input_ids"), ids("target_ids"));
        let rows = inputs.chunks(columns).zip(targets.chunks(columns));
        rows.map(|(inputs, targets)| [inputs, &targets[columns - 1..]].concat()).collect()
    }

    /// Before each of ten steps on the batch.
    pub fn adamw_losses(&self) -> Vec<f64> {
        self.reference["adamw_losses"].iter::<f64>().collect()
    }

    pub fn whole_model<B: GptBackend>(&self, device: &B::Device) -> Model<B> {
        Model::Gpt(self.model(device))
    }

    pub fn model<B: GptBackend>(&self, device: &B::Device) -> Gpt<B> {
        let mut tensors = self.tensors();
        let blank = Gpt::new(self.name, &self.config, self.vocab_size, Initializer::Zeros, device);
        load_parameters(blank, |name| tensors.remove(name)).unwrap()
    }

    fn trained<B: GptBackend>(&self, device: &B::Device) -> LanguageModel<B> {
        LanguageModel::new(self.whole_model(device), &self.config)
    }
}

#[test]
fn logits_and_loss_are_pytorchs() {
    on_each_backend!(|device: B| {
        for golden in MODELS.map(Golden::open) {
            let model = golden.model::<B::InnerBackend>(&device);
            let batch = golden_batch(&golden.reference);
            let logits = model.forward(batch.inputs(&device));
            let expected: Vec<f64> = golden.reference["logits"].iter::<f64>().collect();
            // 2e-5: f32 sums are added in another order here.
            assert_close(&floats(logits.into_data()), &expected, 2e-5, golden.name);

            let model = golden.trained::<B::InnerBackend>(&device);
            let loss: f64 = model.loss(&batch).into_scalar().elem();
            let expected: f64 = golden.reference["loss"].iter::<f64>().next().unwrap();
            assert!((loss - expected).abs() < 1e-5, "loss {loss}, expected {expected}");
        }
    });
}

#[test]
fn every_gradient_is_pytorchs() {
    on_each_backend!(|device: B| {
        for golden in MODELS.map(Golden::open) {
            let model = golden.trained::<B>(&device);
            let gradients = model.loss(&golden_batch(&golden.reference)).backward();
            let gradients = GradientsParams::from_grads(gradients, &model);
            let (mut found_numbers, mut expected_numbers) = (0, 0);
            for parameter in parameters(&model.model) {
                let name = &parameter.name;
                let found = floats(match parameter.shape.len() {
                    1 => gradients.get::<B::InnerBackend, 1>(parameter.id).unwrap().into_data(),
                    _ => gradients.get::<B::InnerBackend, 2>(parameter.id).unwrap().into_data(),
                });
                let expected = golden.value(&golden.reference, "grad.", name, &parameter.shape);
                // 1e-4: rounding adds up over the layers that a gradient passes.
                let error = relative_error(&found, &floats(expected));
                assert!(error < 1e-4, "{}: gradient of {name}: {error:e}", golden.name);
                found_numbers += found.len();
            }
            for (name, data) in &golden.reference {
                if name.starts_with("grad.") {
                    expected_numbers += data.num_elements();
                }
            }
            assert_eq!(found_numbers, expected_numbers, "every gradient has been compared");
        }
    });
}

#[test]
fn ten_optimizer_steps_follow_pytorch() {
    on_each_backend!(|device: B| {
        for golden in MODELS.map(Golden::open) {
            let batch = golden_batch(&golden.reference);
            let mut model = golden.trained::<B>(&device);
            let adamw = OptimizerConfig::Adamw(AdamwConfig {
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-8,
                weight_decay: 0.1,
                groups: Vec::new(),
            });
            let mut optimizer = ModelOptimizer::<B>::new(&adamw, &model).unwrap();
            for (step, expected) in golden.reference["adamw_losses"].iter::<f64>().enumerate() {
                let output = TrainStep::step(&model, batch.clone());
                let loss = output.item.loss.read();
                // 1e-4: the steps feed rounding back into the weights.
                assert!((loss - expected).abs() < 1e-4, "step {step}: {loss}, not {expected}");
                let norm = gradient_norm::<B, _>(&model, &output.grads);
                optimizer.scale_gradients(clip_factor(norm, Some(1.0)));
                model = optimizer.step(1e-3, model, output.grads);
            }
            for (name, found) in tensors(&model.model) {
                let expected = golden.value(&golden.reference, "after.", &name, &found.shape);
                let (mut found, mut expected) = (floats(found), floats(expected));
                if name.ends_with("qkv.bias") {
                    // A bias on the keys shifts all scores of a query alike, which the softmax
                    // does not see: its gradient is rounding noise, and Adam takes full steps
                    // along it.
                    let width = found.len() / 3;
                    for values in [&mut found, &mut expected] {
                        values.drain(width..2 * width);
                    }
                }
                // 2e-4: Adam's first steps are the gradient's sign times the learning rate, so
                // where a single gradient is near zero, rounding can send that one value the
                // other way.
                let error = relative_error(&found, &expected);
                assert!(error < 2e-4, "{}: {name}: relative error {error:e}", golden.name);
            }
        }
    });
}

#[test]
fn greedy_continuation_is_pytorchs() {
    on_each_backend!(|device: B| {
        for golden in MODELS.map(Golden::open) {
            let ids = &golden.reference["greedy_ids"];
            let expected: Vec<u32> = ids.iter::<i64>().map(|id| id as u32).collect();
            let model = golden.model::<B::InnerBackend>(&device);
            let greedy = Sampling { temperature: 0.0, top_k: None, top_p: None, min_p: None };
            let (prompt, continuation) = expected.split_at(4);
            let sampler = Sampler::new(greedy, 0).unwrap();
            assert_eq!(model.generate(prompt, continuation.len(), sampler), continuation);
        }
    });
}
