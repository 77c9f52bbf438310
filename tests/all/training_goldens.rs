//! Optimizers and schedules against those of PyTorch and transformers; tests/golden/training says
//! how its numbers were made.

use burn::module::AutodiffModule;
use burn::optim::{GradientsParams, Optimizer};
use burn::tensor::{Tensor, TensorData};
use emberlm::backend::TrainBackend;
use emberlm::config::{self, OptimizerConfig, ScheduleConfig};
use emberlm::model::{Initializer, Model, load_parameters, parameters, tensors};
use emberlm::train::{LanguageModel, ModelOptimizer, Schedule};
use serde::Deserialize;
use std::collections::BTreeMap;

use crate::on_each_backend;
use crate::support::{assert_close, floats, golden};

/// The parameters of a small model that have the shapes of the golden's matrices.
const MATRICES: [(&str, &str, [usize; 2]); 3] = [
    ("square", "decoder.blocks.0.attention.output.weight", [6, 6]),
    ("wide", "decoder.blocks.0.feed_forward.up.weight", [6, 10]),
    ("tall", "decoder.blocks.0.feed_forward.down.weight", [10, 6]),
];

#[derive(Deserialize)]
struct Optimizers {
    rates: Vec<f64>,
    start: BTreeMap<String, Vec<f32>>,
    gradients: BTreeMap<String, Vec<Vec<f32>>>,
    cases: Vec<OptimizerCase>,
}

#[derive(Deserialize)]
struct OptimizerCase {
    optimizer: OptimizerConfig,
    after: BTreeMap<String, Vec<f64>>,
}

#[derive(Deserialize)]
struct Schedules {
    cases: Vec<ScheduleCase>,
}

#[derive(Deserialize)]
struct ScheduleCase {
    schedule: ScheduleConfig,
    steps: usize,
    rates: Vec<f64>,
}

fn read<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let path = golden("training").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A model in which the golden's matrices are as they begin.
fn begun<B: TrainBackend>(golden: &Optimizers, device: &B::Device) -> LanguageModel<B> {
    let json = serde_json::json!({"name": "small", "model": {"d_model": 6, "n_layers": 1,
        "n_heads": 2, "d_ff": 10, "context_length": 4, "vocab_size": 5}});
    let config = config::resolve(json).unwrap().model;
    let model = Model::new("small", &config, 5, Initializer::seeded(3), device);
    let mut values: BTreeMap<String, TensorData> = tensors(&model).into_iter().collect();
    for (matrix, name, shape) in MATRICES {
        assert_eq!(values[name].shape.to_vec(), shape, "{name}");
        values.insert(name.into(), TensorData::new(golden.start[matrix].clone(), shape));
    }
    let model = load_parameters(model, |name| values.get(name).cloned()).unwrap();
    LanguageModel::new(model, &config)
}

#[test]
fn optimizers_do_what_those_of_pytorch_do() {
    on_each_backend!(|device: B| {
        let golden: Optimizers = read("optimizers.json");
        assert_eq!(golden.cases.len(), 6);
        for case in &golden.cases {
            let mut model = begun::<B>(&golden, &device);
            let mut optimizer = ModelOptimizer::new(&case.optimizer, &model).unwrap();
            for (step, rate) in golden.rates.iter().enumerate() {
                let mut gradients = GradientsParams::new();
                for parameter in parameters(&model.model) {
                    let Some((matrix, ..)) =
                        MATRICES.iter().find(|(_, name, _)| *name == parameter.name)
                    else {
                        continue;
                    };
                    let values = golden.gradients[*matrix][step].clone();
                    let data = TensorData::new(values, parameter.shape);
                    let gradient = Tensor::<B::InnerBackend, 2>::from_data(data, &device);
                    gradients.register(parameter.id, gradient);
                }
                model = optimizer.step(*rate, model, gradients);
            }
            let after: BTreeMap<String, TensorData> =
                tensors(&model.valid().model).into_iter().collect();
            // PyTorch computed in 64 bits, here it is 32. Weights of up to 4 are rounded by up to
            // 2.4e-7 in each of eight steps. Muon's iteration makes a rounding of its input up to
            // 3.4445^5 = 485 times as large, before a rate of 0.01 at most.
            let tolerance = match case.optimizer {
                OptimizerConfig::Muon(_) => 5e-6,
                _ => 2e-6,
            };
            for (matrix, name, _) in MATRICES {
                let what = format!("{:?} {matrix}", case.optimizer);
                assert_close(&floats(after[name].clone()), &case.after[matrix], tolerance, &what);
            }
        }
    });
}

#[test]
fn schedules_are_those_of_pytorch_and_transformers() {
    let golden: Schedules = read("schedules.json");
    assert_eq!(golden.cases.len(), 10);
    for ScheduleCase { schedule: config, steps, rates } in &golden.cases {
        let schedule = Schedule::new(config, Some(*steps), 0);
        assert_eq!(rates.len(), *steps);
        for (step, expected) in rates.iter().enumerate() {
            let found = schedule.learning_rate(step);
            // Both have 16 digits; PyTorch's own come from the rate of the step before, and carry
            // its rounding along.
            assert!(
                (found - expected).abs() <= 1e-12 * config.learning_rate(),
                "{config:?} at step {step}: {found}, not {expected}"
            );
        }
    }
}
