//! Optimizers against plain loops in f64, parameter groups, and what a checkpoint needs.

use burn::module::Module;
use burn::optim::{GradientsParams, Optimizer};
use burn::tensor::{Tensor, TensorData};
use emberlm::backend::TrainBackend;
use emberlm::config::{self, AverageConfig, OptimizerConfig};
use emberlm::model::{Initializer, Model, parameters, tensor, tensors};
use emberlm::train::{Average, LanguageModel, ModelOptimizer};
use serde_json::{Value, json};

use crate::on_each_backend;
use crate::support::{assert_close, floats, numbers};

const STEPS: usize = 12;
const RATE: f64 = 0.01;

/// With shared key/value heads, so that queries, keys and values are not equally wide.
fn model<B: TrainBackend>(device: &B::Device) -> LanguageModel<B> {
    let json = json!({"name": "small", "model": {"d_model": 8, "n_layers": 1, "n_heads": 2,
        "n_kv_heads": 1, "context_length": 4, "vocab_size": 5}});
    let config = config::resolve(json).unwrap().model;
    let model = Model::new("small", &config, 5, Initializer::seeded(3), device);
    LanguageModel::new(model, &config)
}

fn optimizer(json: Value) -> OptimizerConfig {
    serde_json::from_value(json).unwrap()
}

fn gradient(index: usize, step: usize, count: usize) -> Vec<f32> {
    numbers(count, (1 + index * 100 + step) as u64)
}

fn step<B: TrainBackend>(
    model: LanguageModel<B>,
    optimizer: &mut ModelOptimizer<B>,
    step: usize,
) -> LanguageModel<B> {
    let device = model.model.device();
    let mut gradients = GradientsParams::new();
    for (index, parameter) in parameters(&model.model).into_iter().enumerate() {
        let values = gradient(index, step, parameter.shape.iter().product());
        let data = TensorData::new(values, parameter.shape.clone());
        match parameter.shape.len() {
            1 => gradients
                .register(parameter.id, Tensor::<B::InnerBackend, 1>::from_data(data, &device)),
            _ => gradients
                .register(parameter.id, Tensor::<B::InnerBackend, 2>::from_data(data, &device)),
        }
    }
    optimizer.step(RATE, model, gradients)
}

type Matrix = Vec<Vec<f64>>;

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let cell = |row: &Vec<f64>, c: usize| row.iter().zip(b).map(|(x, y)| x * y[c]).sum();
    a.iter().map(|row| (0..b[0].len()).map(|c| cell(row, c)).collect()).collect()
}

fn transposed(a: &Matrix) -> Matrix {
    (0..a[0].len()).map(|c| a.iter().map(|row| row[c]).collect()).collect()
}

/// Newton and Schulz from the left, whatever the shape: the same polynomial in exact arithmetic.
fn orthogonal(matrix: &Matrix) -> Matrix {
    let norm = matrix.iter().flatten().map(|x| x * x).sum::<f64>().sqrt();
    let mut x: Matrix =
        matrix.iter().map(|row| row.iter().map(|value| value / norm).collect()).collect();
    for _ in 0..5 {
        let gram = product(&x, &transposed(&x));
        let first = product(&gram, &x);
        let second = product(&gram, &first);
        for (r, row) in x.iter_mut().enumerate() {
            for (c, value) in row.iter_mut().enumerate() {
                *value = 3.4445 * *value - 4.7750 * first[r][c] + 2.0315 * second[r][c];
            }
        }
    }
    x
}

/// Columns `from..to` of a flat matrix.
fn columns(flat: &[f64], width: usize, from: usize, to: usize) -> Matrix {
    flat.chunks(width).map(|row| row[from..to].to_vec()).collect()
}

/// What one parameter has become.
fn expected(kind: &str, name: &str, shape: &[usize], start: &[f32], index: usize) -> Vec<f64> {
    let count = start.len();
    let mut w: Vec<f64> = start.iter().map(|x| f64::from(*x)).collect();
    let (mut m, mut v) = (vec![0.0; count], vec![0.0; count]);
    let decay = if shape.len() == 2 { 0.1 } else { 0.0 };
    let hidden = shape.len() == 2 && !name.starts_with("embedding");
    for t in 0..STEPS {
        let g: Vec<f64> = gradient(index, t, count).into_iter().map(f64::from).collect();
        let mut update = vec![0.0; count];
        match kind {
            "muon" if hidden => {
                let mut direction = vec![0.0; count];
                for i in 0..count {
                    m[i] = 0.95 * m[i] + 0.05 * g[i];
                    direction[i] = 0.95 * m[i] + 0.05 * g[i];
                }
                let width = shape[1];
                // Queries are 8 wide, keys and values 4 each.
                let cuts =
                    if name.ends_with("qkv.weight") { vec![0, 8, 12, 16] } else { vec![0, width] };
                for pair in cuts.windows(2) {
                    let part = orthogonal(&columns(&direction, width, pair[0], pair[1]));
                    let scale = 0.2 * (shape[0].max(pair[1] - pair[0]) as f64).sqrt();
                    for (r, row) in part.iter().enumerate() {
                        for (c, value) in row.iter().enumerate() {
                            update[r * width + pair[0] + c] = scale * value;
                        }
                    }
                }
            }
            "adamw" | "muon" => {
                for i in 0..count {
                    m[i] = 0.9 * m[i] + 0.1 * g[i];
                    v[i] = 0.95 * v[i] + 0.05 * g[i] * g[i];
                    let n = t as i32 + 1;
                    let (m, v) = (m[i] / (1.0 - 0.9f64.powi(n)), v[i] / (1.0 - 0.95f64.powi(n)));
                    update[i] = m / (v.sqrt() + 1e-8);
                }
            }
            "sgd" => {
                for i in 0..count {
                    m[i] = 0.9 * m[i] + g[i];
                    update[i] = g[i] + 0.9 * m[i];
                }
            }
            _ => {
                for i in 0..count {
                    let mixed = 0.9 * m[i] + 0.1 * g[i];
                    update[i] = if mixed > 0.0 { 1.0 } else { -1.0 };
                    m[i] = 0.99 * m[i] + 0.01 * g[i];
                }
            }
        }
        for i in 0..count {
            w[i] -= RATE * decay * w[i] + RATE * update[i];
        }
    }
    w
}

#[test]
fn each_algorithm_follows_plain_loops() {
    on_each_backend!(|device: B| {
        for kind in ["adamw", "muon", "sgd", "lion"] {
            let mut config = json!({"kind": kind, "weight_decay": 0.1});
            if kind == "sgd" {
                config["nesterov"] = json!(true);
            }
            let mut model = model::<B>(&device);
            let start = tensors(&model.model);
            let mut optimizer = ModelOptimizer::new(&optimizer(config), &model).unwrap();
            for t in 0..STEPS {
                model = step(model, &mut optimizer, t);
            }
            for (index, ((name, before), (_, after))) in
                start.into_iter().zip(tensors(&model.model)).enumerate()
            {
                let shape = before.shape.to_vec();
                let expected = expected(kind, &name, &shape, &floats(before), index);
                // Twelve roundings of weights below one; Newton and Schulz makes a rounding up to
                // 3.4445^5 = 485 times as large, before a learning rate of 0.01.
                assert_close(&floats(after), &expected, 2e-5, &format!("{kind} {name}"));
            }
        }
    });
}

#[test]
fn every_algorithm_goes_on_from_its_moments_to_the_last_bit() {
    on_each_backend!(|device: B| {
        for kind in ["adamw", "muon", "sgd", "lion"] {
            let config = optimizer(json!({"kind": kind}));
            let mut model = model::<B>(&device);
            let mut whole = ModelOptimizer::new(&config, &model).unwrap();
            for t in 0..3 {
                model = step(model, &mut whole, t);
            }
            let mut resumed = ModelOptimizer::new(&config, &model).unwrap();
            for parameter in parameters(&model.model) {
                resumed.restore(parameter.id, whole.moments(parameter.id).unwrap());
            }
            let mut fresh = ModelOptimizer::new(&config, &model).unwrap();
            let forgotten = tensors(&step(model.clone(), &mut fresh, 3));
            let again = tensors(&step(model.clone(), &mut resumed, 3));
            let expected = tensors(&step(model, &mut whole, 3));
            assert_eq!(again, expected, "{kind}");
            assert_ne!(forgotten, expected, "{kind}");
        }
    });
}

#[test]
fn a_gradient_of_zero_moves_nothing() {
    on_each_backend!(|device: B| {
        for kind in ["adamw", "muon", "sgd", "lion"] {
            let model = model::<B>(&device);
            let config = optimizer(json!({"kind": kind, "weight_decay": 0.0,
                "groups": [{"parameters": "embedding.*", "weight_decay": 0.0}]}));
            let mut optimizer = ModelOptimizer::new(&config, &model).unwrap();
            let before = tensors(&model.model);
            let mut gradients = GradientsParams::new();
            for parameter in parameters(&model.model) {
                if let [rows, columns] = parameter.shape[..] {
                    let zeros = Tensor::<B::InnerBackend, 2>::zeros([rows, columns], &device);
                    gradients.register(parameter.id, zeros);
                }
            }
            let after = tensors(&optimizer.step(RATE, model, gradients).model);
            assert_eq!(after, before, "{kind}");
        }
    });
}

#[test]
fn the_first_group_that_matches_counts() {
    on_each_backend!(|device: B| {
        let model = model::<B>(&device);
        let before = tensors(&model.model);
        let config =
            optimizer(json!({"kind": "sgd", "momentum": 0, "weight_decay": 0.5, "groups": [
            {"parameters": "embedding.token", "learning_rate": 0},
            {"parameters": "embedding.*", "learning_rate": 0.5, "weight_decay": 0},
            {"parameters": "*.bias", "weight_decay": 2}]}));
        let mut optimizer = ModelOptimizer::new(&config, &model).unwrap();
        let after = tensors(&step(model, &mut optimizer, 0).model);
        for (index, ((name, before), (_, after))) in before.into_iter().zip(after).enumerate() {
            let (rate, decay) = match name.as_str() {
                "embedding.token" => (0.0, 0.5),
                "embedding.position" => (0.5 * RATE, 0.0),
                name if name.ends_with(".bias") => (RATE, 2.0),
                _ if before.shape.len() == 1 => (RATE, 0.0),
                _ => (RATE, 0.5),
            };
            let gradient = gradient(index, 0, before.num_elements());
            let expected: Vec<f64> = floats(before)
                .iter()
                .zip(gradient)
                .map(|(w, g)| f64::from(*w) * (1.0 - rate * decay) - rate * f64::from(g))
                .collect();
            // Two roundings of numbers up to one.
            assert_close(&floats(after), &expected, 3e-7, &name);
        }
    });
}

#[test]
fn a_group_of_nothing_is_refused() {
    on_each_backend!(|device: B| {
        let model = model::<B>(&device);
        let refusal = |groups: Value| {
            let config = optimizer(json!({ "groups": groups }));
            ModelOptimizer::new(&config, &model).unwrap_err().to_string()
        };
        let message = refusal(json!([{"parameters": "embeding.*"}]));
        assert!(message.contains("`embeding.*` matches no parameter"), "{message}");
        assert!(message.contains("decoder.blocks.*.attention.qkv.weight"), "{message}");
        let message = refusal(json!([{"parameters": "*"}, {"parameters": "embedding.*"}]));
        assert!(message.contains("all parameters that `embedding.*` matches"), "{message}");
    });
}

#[test]
fn the_average_has_its_closed_form() {
    on_each_backend!(|device: B| {
        let mut model = model::<B>(&device);
        let config = optimizer(json!({"kind": "sgd"}));
        let mut optimizer = ModelOptimizer::new(&config, &model).unwrap();
        let mut average = Average::new(AverageConfig { decay: 0.5 }, 0);
        let mut seen: Vec<Vec<f32>> = Vec::new();
        use burn::module::AutodiffModule;
        for t in 0..STEPS {
            model = step(model, &mut optimizer, t);
            average.update(&model);
            seen.push(
                tensors(&model.valid().model)
                    .into_iter()
                    .flat_map(|(_, data)| floats(data))
                    .collect(),
            );
        }
        // The weight of the k-th in the mean is (1 - d_k) d_{k+1} .. d_last, with 1 - d_0 = 1.
        let decays: Vec<f64> = (0..STEPS)
            .map(|t| if t == 0 { 0.0 } else { 0.5f64.min((1.0 + t as f64) / (10.0 + t as f64)) })
            .collect();
        let share = |k: usize| (1.0 - decays[k]) * decays[k + 1..].iter().product::<f64>();
        let expected: Vec<f64> = (0..seen[0].len())
            .map(|i| (0..STEPS).map(|k| share(k) * f64::from(seen[k][i])).sum())
            .collect();
        let applied = average.applied(model.valid().model);
        let found: Vec<f32> =
            tensors(&applied).into_iter().flat_map(|(_, data)| floats(data)).collect();
        // A dozen roundings of numbers of about one.
        assert_close(&found, &expected, 2e-6, "average");
        assert_eq!(applied.num_params(), model.num_params());

        let mut restored = Average::new(AverageConfig { decay: 0.5 }, average.updates());
        for parameter in parameters(&model.model) {
            let mean = tensor(&applied, parameter.id).unwrap();
            let count = mean.num_elements();
            let mean = TensorData { shape: [count].into(), ..mean };
            restored.restore(parameter.id, Tensor::from_data(mean, &device));
        }
        let model = step(model, &mut optimizer, STEPS);
        average.update(&model);
        restored.update(&model);
        let model = model.valid().model;
        assert_eq!(tensors(&restored.applied(model.clone())), tensors(&average.applied(model)));
    });
}
