//! Against PyTorch, on a small random GPT-2 (see tests/golden/README.md).

use burn::module::Module;
use burn::optim::{GradientsParams, Optimizer};
use burn::tensor::{ElementConversion, Int, Tensor, TensorData};
use burn_train::TrainStep;
use std::collections::HashMap;

use emberlm::artifact::read_tensors;
use emberlm::config::{ModelConfig, OptimizerConfig};
use emberlm::data::{TokenBatch, Window};
use emberlm::generate::{Sampler, Sampling};
use emberlm::interop::Family;
use emberlm::interop::gpt2::Gpt2Config;
use emberlm::model::{Gpt, Initializer, load_parameters, parameters, tensors};
use emberlm::train::{AdamW, CausalLanguageModel, clip_gradients};

use crate::on_each_backend;
use crate::support::{floats, golden, relative_error};

fn reference() -> HashMap<String, TensorData> {
    read_tensors(&golden("gpt2-tiny/reference.safetensors")).unwrap()
}

fn tensor_name(ours: &str) -> Option<String> {
    let gpt2 = Family::find(&serde_json::json!({"model_type": "gpt2"})).unwrap();
    let sources = gpt2.sources(&ModelConfig::new(48, 3, 4, 64), ours, &[1])?;
    Some(sources.first()?.name.clone())
}

fn load<B: emberlm::backend::GptBackend>(device: &B::Device) -> Gpt<B> {
    let json = std::fs::read_to_string(golden("gpt2-tiny/config.json")).unwrap();
    let config: Gpt2Config = serde_json::from_str(&json).unwrap();
    let mut weights = read_tensors(&golden("gpt2-tiny/model.safetensors")).unwrap();
    let model = Gpt::new(
        "gpt2-tiny",
        &config.model_config().unwrap(),
        config.vocab_size,
        Initializer::Zeros,
        device,
    );
    let model = load_parameters(model, |name| weights.remove(&tensor_name(name)?)).unwrap();
    assert!(weights.is_empty(), "left over: {:?}", weights.keys());
    model
}

/// The golden batch, rebuilt through our own windows: each row's inputs and its last target.
fn batch(reference: &HashMap<String, TensorData>) -> TokenBatch {
    let inputs = &reference["input_ids"];
    let [rows, columns] = [inputs.shape[0], inputs.shape[1]];
    let read =
        |name: &str| -> Vec<u32> { reference[name].iter::<i64>().map(|id| id as u32).collect() };
    let (inputs, targets) = (read("input_ids"), read("target_ids"));
    let (mut stream, mut windows) = (Vec::new(), Vec::new());
    for row in 0..rows {
        let ids = row * columns..(row + 1) * columns;
        windows.push(Window { start: stream.len(), length: columns });
        stream.extend_from_slice(&inputs[ids.clone()]);
        stream.push(targets[ids.end - 1]);
        assert_eq!(inputs[ids.start + 1..ids.end], targets[ids.start..ids.end - 1]);
    }
    TokenBatch::new(&stream, &windows, 1.0)
}

#[test]
fn logits_and_loss_are_pytorchs() {
    on_each_backend!(|device: B| {
        let reference = reference();
        let model = load::<B::InnerBackend>(&device);
        let batch = batch(&reference);
        let logits = model.forward(batch.inputs(&device));
        let expected: Vec<f64> = reference["logits"].iter::<f64>().collect();
        // 2e-5: f32 sums are added in another order here.
        crate::support::assert_close(&floats(logits.into_data()), &expected, 2e-5, "logits");

        let loss: f64 = CausalLanguageModel { model }.loss(&batch).into_scalar().elem();
        let expected: f64 = reference["loss"].iter::<f64>().next().unwrap();
        assert!((loss - expected).abs() < 1e-5, "loss {loss}, expected {expected}");
    });
}

#[test]
fn every_gradient_is_pytorchs() {
    on_each_backend!(|device: B| {
        let reference = reference();
        let model = CausalLanguageModel { model: load::<B>(&device) };
        let gradients = model.loss(&batch(&reference)).backward();
        let gradients = GradientsParams::from_grads(gradients, &model);
        let parameters = parameters(&model.model);
        assert_eq!(
            parameters.len(),
            reference.keys().filter(|name| name.starts_with("grad.")).count()
        );
        for parameter in parameters {
            let name = tensor_name(&parameter.name).unwrap();
            let found = match parameter.shape.len() {
                1 => gradients.get::<B::InnerBackend, 1>(parameter.id).unwrap().into_data(),
                _ => gradients.get::<B::InnerBackend, 2>(parameter.id).unwrap().into_data(),
            };
            let expected = floats(reference[&format!("grad.{name}")].clone());
            // 1e-4: rounding adds up over the layers that a gradient passes.
            let error = relative_error(&floats(found), &expected);
            assert!(error < 1e-4, "gradient of {name}: relative error {error:e}");
        }
    });
}

#[test]
fn ten_optimizer_steps_follow_pytorch() {
    on_each_backend!(|device: B| {
        let reference = reference();
        let batch = batch(&reference);
        let mut model = CausalLanguageModel { model: load::<B>(&device) };
        let mut optimizer = AdamW::<B>::new(OptimizerConfig {
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
        });
        for (step, expected) in reference["adamw_losses"].iter::<f64>().enumerate() {
            let output = TrainStep::step(&model, batch.clone());
            let loss = output.item.loss;
            // 1e-4: the steps feed rounding back into the weights.
            assert!((loss - expected).abs() < 1e-4, "step {step}: {loss}, expected {expected}");
            let mut gradients = output.grads;
            clip_gradients::<B, _>(&model, &mut gradients, Some(1.0));
            model = optimizer.step(1e-3, model, gradients);
        }
        for (name, found) in tensors(&model.model) {
            let name = format!("after.{}", tensor_name(&name).unwrap());
            let (mut found, mut expected) = (floats(found), floats(reference[&name].clone()));
            if name.ends_with("c_attn.bias") {
                // A bias on the keys shifts all scores of a query alike, which the softmax does
                // not see: its gradient is rounding noise, and Adam takes full steps along it.
                let width = found.len() / 3;
                for values in [&mut found, &mut expected] {
                    values.drain(width..2 * width);
                }
            }
            // 2e-4: Adam's first steps are the gradient's sign times the learning rate, so where a
            // single gradient is near zero, rounding can send that one value the other way.
            let error = relative_error(&found, &expected);
            assert!(error < 2e-4, "{name}: relative error {error:e}");
        }
    });
}

#[test]
fn greedy_continuation_is_pytorchs() {
    on_each_backend!(|device: B| {
        let expected: Vec<u32> =
            reference()["greedy_ids"].iter::<i64>().map(|id| id as u32).collect();
        let model = load::<B::InnerBackend>(&device);
        let greedy = Sampling { temperature: 0.0, top_k: None, top_p: None, min_p: None };
        let (prompt, continuation) = expected.split_at(4);
        let sampler = Sampler::new(greedy, 0).unwrap();
        assert_eq!(model.generate(prompt, continuation.len(), sampler), continuation);
    });
}

#[test]
fn parameter_names_cover_the_model() {
    on_each_backend!(|device: B| {
        let model = load::<B::InnerBackend>(&device);
        let total: usize = parameters(&model)
            .iter()
            .map(|parameter| parameter.shape.iter().product::<usize>())
            .sum();
        assert_eq!(total, model.num_params());
        let tokens = Tensor::<B::InnerBackend, 2, Int>::from_data([[1, 2, 3]], &device);
        assert_eq!(model.forward(tokens).dims(), [1, 3, 199]);
    });
}
