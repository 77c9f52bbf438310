//! Training with matrix products in bf16.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::Optimizer;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use burn_train::TrainStep;
use serde_json::json;

use emberlm::backend::{AttentionOptions, TrainBackend, factor};
use emberlm::config::{self, Activation, OptimizerConfig, Precision, RunConfig};
use emberlm::data::Window;
use emberlm::model::{Initializer, Model, parameters, tensors};
use emberlm::report::inside;
use emberlm::train::{LanguageModel, ModelOptimizer};

use crate::command_line::{TINY, refused};
use crate::on_each_backend;
use crate::support::{assert_close, floats, is_cuda_on_cpu, numbers, relative_error, window_batch};

/// What rounding to bf16, with 8 bits of mantissa, may change relative to a number.
const ROUNDING: f64 = 1.0 / 512.0;

fn computes_in_bf16<B: Backend>(device: &B::Device) -> bool {
    B::supports_dtype(device, DType::BF16)
}

/// That there was a backend to test, given which of them compute in bf16.
#[track_caller]
fn was_computed(backends: Vec<(String, bool)>) {
    let (computed, others): (Vec<_>, Vec<_>) = backends.into_iter().partition(|(_, is)| *is);
    for (backend, _) in others {
        println!("skipped: {backend} does not compute in bf16");
    }
    assert!(!computed.is_empty() || !cfg!(feature = "flex"), "no backend computes in bf16");
}

/// A sum of products, and the sum of their absolute values.
fn sum(products: impl Iterator<Item = (f32, f32)>) -> (f64, f64) {
    products.fold((0.0, 0.0), |(sum, size), (a, b)| {
        let product = f64::from(a) * f64::from(b);
        (sum + product, size + product.abs())
    })
}

/// Both factors and the result are rounded once; sums are in f32.
#[track_caller]
fn assert_rounded(found: &[f32], expected: &[(f64, f64)], what: &str) {
    assert_eq!(found.len(), expected.len());
    let mut largest = 0.0f64;
    for (found, (expected, size)) in found.iter().zip(expected) {
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= 3.01 * ROUNDING * size, "{what}: {found}, expected {expected}");
        largest = largest.max(error);
    }
    // In f32 it would be a thousand times less.
    assert!(largest > 1e-5, "{what} is not in bf16: {largest:e}");
}

#[test]
fn a_dense_layer_and_its_gradients_are_rounded_to_bf16() {
    let computed = on_each_backend!(|device: B| -> bool {
        if !computes_in_bf16::<B>(&device) {
            return false;
        }
        // Of the second, several slabs of rows of whole vectors are added up.
        for (n, i, o) in [(33, 17, 19), (150, 7, 20)] {
            let (x, w, b, g) =
                (numbers(n * i, 1), numbers(i * o, 2), numbers(o, 3), numbers(n * o, 4));
            let matrix = |values: &[f32], shape: [usize; 2]| {
                Tensor::<B, 2>::from_data(TensorData::new(values.to_vec(), shape), &device)
            };
            let input = matrix(&x, [n, i]).require_grad();
            let weight = matrix(&w, [i, o]).require_grad();
            let bias = Tensor::<B, 1>::from_data(TensorData::new(b.clone(), [o]), &device);
            let bias = bias.require_grad();
            let lower = |tensor: &Tensor<B, 2>| factor(tensor.clone(), Precision::Bf16);
            let output = B::dense(lower(&input), lower(&weight), Some(bias.clone()));
            assert_eq!(output.dtype(), DType::F32);
            let gradients = (output.clone() * matrix(&g, [n, o])).sum().backward();

            let expected: Vec<(f64, f64)> = (0..n * o)
                .map(|at| {
                    let (row, column) = (at / o, at % o);
                    let (product, size) = sum((0..i).map(|k| (x[row * i + k], w[k * o + column])));
                    (product + f64::from(b[column]), size)
                })
                .collect();
            assert_rounded(&floats(output.into_data()), &expected, "output");

            let of_input = input.grad(&gradients).unwrap();
            assert_eq!(of_input.dtype(), DType::F32);
            let expected: Vec<(f64, f64)> = (0..n * i)
                .map(|at| sum((0..o).map(|k| (g[at / i * o + k], w[at % i * o + k]))))
                .collect();
            assert_rounded(&floats(of_input.into_data()), &expected, "gradient of the input");

            let of_weight = weight.grad(&gradients).unwrap();
            assert_eq!(of_weight.dtype(), DType::F32);
            let expected: Vec<(f64, f64)> = (0..i * o)
                .map(|at| sum((0..n).map(|k| (x[k * i + at / o], g[k * o + at % o]))))
                .collect();
            assert_rounded(&floats(of_weight.into_data()), &expected, "gradient of the weight");

            // The bias never meets bf16: sums of up to 150 numbers below one.
            let expected: Vec<f64> = (0..o)
                .map(|column| (0..n).map(|row| f64::from(g[row * o + column])).sum())
                .collect();
            let of_bias = floats(bias.grad(&gradients).unwrap().into_data());
            assert_close(&of_bias, &expected, 1e-5, "gradient of the bias");
        }
        true
    });
    was_computed(computed);
}

/// Eighths between -1 and 1, so that bf16 holds each of them, and the sum of two of their products.
fn eighths(count: usize, seed: u64) -> Vec<f32> {
    numbers(count, seed).into_iter().map(|number| (number * 8.0).round() / 8.0).collect()
}

#[test]
fn an_activated_layer_and_its_gradients_are_rounded_to_bf16() {
    let computed = on_each_backend!(|device: B| -> bool {
        if !computes_in_bf16::<B>(&device) {
            return false;
        }
        // Several slabs of rows, the last of them shorter; a width of whole vectors, and others.
        for ([n, o], has_bias) in [([150, 20], true), ([150, 19], false), ([9, 18], true)] {
            let i = 2;
            let [x, w, g] = [(n * i, 1), (i * o, 2), (n * o, 4)].map(|it| eighths(it.0, it.1));
            let b = if has_bias { numbers(o, 3) } else { vec![0.0; o] };
            let matrix = |values: &[f32], shape: [usize; 2]| {
                Tensor::<B, 2>::from_data(TensorData::new(values.to_vec(), shape), &device)
            };
            let input = matrix(&x, [n, i]).require_grad();
            let weight = matrix(&w, [i, o]).require_grad();
            let bias = Tensor::<B, 1>::from_data(TensorData::new(b.clone(), [o]), &device);
            let bias = has_bias.then(|| bias.require_grad());
            let lower = |tensor: &Tensor<B, 2>| factor(tensor.clone(), Precision::Bf16);
            let (kind, factors) = (Activation::Silu, [&input, &weight].map(lower));
            let [lower_input, lower_weight] = factors;
            let output = B::dense_activated(lower_input, lower_weight, bias.clone(), kind);
            assert_eq!(output.dtype(), DType::BF16);
            let output = output.cast(DType::F32);
            let gradients = (output.clone() * matrix(&g, [n, o])).sum().backward();

            // The product is exact, and what it is added to is in f32.
            let sums: Vec<f64> = (0..n * o)
                .map(|at| {
                    let (row, column) = (at / o, at % o);
                    let (product, _) = sum((0..i).map(|k| (x[row * i + k], w[k * o + column])));
                    product + f64::from(b[column])
                })
                .collect();
            let gate = |x: &f64| 1.0 / (1.0 + (-x).exp());
            let values = sums.iter().map(|x| x * gate(x));
            let expected: Vec<(f64, f64)> = values.map(|value| (value, value.abs())).collect();
            assert_rounded(&floats(output.into_data()), &expected, "output");

            let slopes = sums.iter().map(|x| gate(x) * (1.0 + x * (1.0 - gate(x))));
            let of_sums: Vec<f32> =
                slopes.zip(&g).map(|(slope, g)| (slope * f64::from(*g)) as f32).collect();
            let of_input = input.grad(&gradients).unwrap();
            assert_eq!(of_input.dtype(), DType::F32);
            let expected: Vec<(f64, f64)> = (0..n * i)
                .map(|at| sum((0..o).map(|k| (of_sums[at / i * o + k], w[at % i * o + k]))))
                .collect();
            assert_rounded(&floats(of_input.into_data()), &expected, "gradient of the input");

            let of_weight = weight.grad(&gradients).unwrap();
            assert_eq!(of_weight.dtype(), DType::F32);
            let expected: Vec<(f64, f64)> = (0..i * o)
                .map(|at| sum((0..n).map(|k| (x[k * i + at / o], of_sums[k * o + at % o]))))
                .collect();
            assert_rounded(&floats(of_weight.into_data()), &expected, "gradient of the weight");

            if let Some(bias) = bias {
                // The bias never meets bf16: sums of up to 150 numbers below 1.1.
                let column = |column| (0..n).map(move |row| row * o + column);
                let expected: Vec<f64> =
                    (0..o).map(|it| column(it).map(|at| f64::from(of_sums[at])).sum()).collect();
                let of_bias = floats(bias.grad(&gradients).unwrap().into_data());
                assert_close(&of_bias, &expected, 2e-5, "gradient of the bias");
            }
        }
        true
    });
    was_computed(computed);
}

#[test]
fn a_gate_and_its_gradients_are_rounded_to_bf16() {
    let computed = on_each_backend!(|device: B| -> bool {
        if !computes_in_bf16::<B>(&device) {
            return false;
        }
        // Of whole vectors, and of others.
        for [n, o] in [[33, 20], [33, 19]] {
            let [x, y, g] = [1, 2, 4].map(|seed| eighths(n * o, seed));
            let matrix = |values: &[f32]| {
                Tensor::<B, 2>::from_data(TensorData::new(values.to_vec(), [n, o]), &device)
            };
            let (gate, up) = (matrix(&x).require_grad(), matrix(&y).require_grad());
            let [lower_gate, lower_up] =
                [&gate, &up].map(|tensor| factor(tensor.clone(), Precision::Bf16));
            let output = B::gated(lower_gate, lower_up, Activation::Silu);
            assert_eq!(output.dtype(), DType::BF16);
            let output = output.cast(DType::F32);
            let gradients = (output.clone() * matrix(&g)).sum().backward();
            let check = |found: Tensor<B::InnerBackend, 2>, expected: Vec<f64>, what| {
                let expected: Vec<_> = expected.into_iter().map(|it| (it, it.abs())).collect();
                assert_rounded(&floats(found.into_data()), &expected, what);
            };
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            let of_each = |formula: fn(f64, f64, f64, f64) -> f64| -> Vec<f64> {
                let numbers = x.iter().zip(&y).zip(&g);
                let wide = numbers.map(|((x, y), g)| [x, y, g].map(|number| f64::from(*number)));
                wide.map(|[x, y, g]| formula(x, y, g, sigmoid(x))).collect()
            };
            check(output.inner(), of_each(|x, y, _, gate| x * gate * y), "output");
            let of_gate = gate.grad(&gradients).unwrap();
            let slope = |x, y, g, gate| g * y * gate * (1.0 + x * (1.0 - gate));
            check(of_gate, of_each(slope), "gradient of the gate");
            let of_up = up.grad(&gradients).unwrap();
            check(of_up, of_each(|x, _, g, gate| g * x * gate), "gradient of what is gated");
        }
        true
    });
    was_computed(computed);
}

#[test]
fn attention_is_close_to_that_in_f32() {
    let computed = on_each_backend!(|device: B| -> bool {
        if !computes_in_bf16::<B>(&device) {
            return false;
        }
        let shape = [2, 4, 9, 8];
        let tensor = |seed| {
            let data = TensorData::new(numbers(shape.iter().product(), seed), shape);
            Tensor::<B, 4>::from_data(data, &device)
        };
        let attend = |precision| {
            let options = AttentionOptions { precision, ..AttentionOptions::causal(0.35) };
            let output = B::attend(tensor(1), tensor(2), tensor(3), &options);
            assert_eq!(output.dtype(), DType::F32);
            floats(output.into_data())
        };
        let error = relative_error(&attend(Precision::Bf16), &attend(Precision::F32));
        // Values, weights and their product are rounded once each, scores of about one thrice.
        assert!((1e-5..6.0 * ROUNDING).contains(&error), "{error:e}");
        true
    });
    was_computed(computed);
}

#[test]
fn adapters_take_factors_in_bf16() {
    let computed = on_each_backend!(|device: B| -> bool {
        if !computes_in_bf16::<B>(&device) {
            return false;
        }
        // Of one layer on either side of an activation, and of one of two that are multiplied.
        for (gated, target) in [(false, "up"), (false, "down"), (true, "up"), (true, "down")] {
            let loss = |precision: Precision| {
                let model = json!({ "d_model": 32, "n_layers": 1, "n_heads": 2, "vocab_size": 11,
                    "context_length": 16, "feed_forward": { "gated": gated },
                    "lora": { "rank": 2, "targets": [target] } });
                let train = json!({ "precision": precision });
                let config = json!({ "name": "small", "model": model, "train": train });
                let config = config::resolve(config).unwrap();
                let lora = config.model.lora.as_ref().unwrap();
                let built = Model::new("small", &config.model, 11, Initializer::seeded(2), &device);
                let built = built.with_adapters(lora, 3);
                let model = LanguageModel::<B>::for_training(built, &config).unwrap();
                let batch = window_batch(&[1; 17], &[Window { start: 0, length: 16 }], 1.0);
                TrainStep::step(&model, batch).item.loss.read()
            };
            let [exact, rounded] = [Precision::F32, Precision::Bf16].map(loss);
            // As for losses below.
            assert!((exact - rounded).abs() < 4.0 * ROUNDING * exact, "{exact} and {rounded}");
        }
        true
    });
    was_computed(computed);
}

/// What looks at the inside of a model adds what is in f32.
#[test]
fn gradients_of_gates_can_be_looked_at() {
    let computed = on_each_backend!(|device: B| -> bool {
        if !computes_in_bf16::<B>(&device) {
            return false;
        }
        let model = json!({ "d_model": 32, "n_layers": 1, "n_heads": 2, "context_length": 16,
            "vocab_size": 11, "feed_forward": { "activation": "silu", "gated": true } });
        let config = json!({ "name": "gates", "model": model, "train": { "precision": "bf16" } });
        let config = config::resolve(config).unwrap();
        let blank = Model::new("gates", &config.model, 11, Initializer::seeded(3), &device);
        let model = LanguageModel::<B>::for_training(blank, &config).unwrap();
        let tokens: Vec<u32> = (0..33).map(|place| place * place % 11).collect();
        let windows = [0, 16].map(|start| Window { start, length: 16 });
        let batch = || window_batch(&tokens, &windows, 1.0);
        let report = inside::gradients(&model, &config.model, &batch());
        let loss = TrainStep::step(&model, batch()).item.loss.read();
        // Hidden layers that are looked at are not rounded.
        assert!((report.loss - loss).abs() < 2.0 * ROUNDING * loss, "{} {loss}", report.loss);
        assert!(report.gradient_norm > 0.1, "{}", report.gradient_norm);
        true
    });
    was_computed(computed);
}

fn config(precision: Precision) -> RunConfig {
    let model = json!({ "d_model": 32, "n_layers": 2, "n_heads": 2, "context_length": 16,
        "vocab_size": 11 });
    let train = json!({ "precision": precision });
    config::resolve(json!({ "name": "small", "model": model, "train": train })).unwrap()
}

struct Types(Vec<DType>);

impl<B: Backend> ModuleVisitor<B> for Types {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.0.push(param.val().dtype());
    }
}

/// Losses of so many steps, and the last values.
fn learn<B: TrainBackend>(
    steps: usize,
    precision: Precision,
    device: &B::Device,
) -> (Vec<f64>, Vec<f32>) {
    let config = config(precision);
    let built = Model::new("small", &config.model, 11, Initializer::seeded(2), device);
    let mut model = LanguageModel::<B>::for_training(built, &config).unwrap();
    let mut optimizer = ModelOptimizer::<B>::new(&OptimizerConfig::default(), &model).unwrap();
    let tokens: Vec<u32> = (0..400).map(|i| (i * i + i / 7) % 11).collect();
    let mut losses = Vec::new();
    for step in 0..steps {
        let window = |row: usize| Window { start: (step * 67 + row * 31) % 380, length: 16 };
        let batch = window_batch(&tokens, &(0..8).map(window).collect::<Vec<_>>(), 1.0);
        let output = TrainStep::step(&model, batch);
        losses.push(output.item.loss.read());
        model = optimizer.step(3e-3, model, output.grads);
    }
    let mut types = Types(Vec::new());
    model.visit(&mut types);
    assert!(types.0.iter().all(|it| *it == DType::F32), "{:?}", types.0);
    for parameter in parameters(&model) {
        let moments = optimizer.moments(parameter.id).unwrap();
        for moment in [moments.first, moments.second].into_iter().flatten() {
            assert_eq!(moment.dtype(), DType::F32, "{}", parameter.name);
        }
    }
    (losses, tensors(&model).into_iter().flat_map(|(_, data)| floats(data)).collect())
}

#[test]
fn losses_follow_those_in_f32() {
    let computed = on_each_backend!(|device: B| -> bool {
        if !computes_in_bf16::<B>(&device) {
            return false;
        }
        let steps = if is_cuda_on_cpu::<B>(&device) { 20 } else { 50 };
        let (exact, weights) = learn::<B>(steps, Precision::F32, &device);
        let (rounded, others) = learn::<B>(steps, Precision::Bf16, &device);
        assert!(exact[steps - 1] < 0.9 * exact[0], "{exact:?}");
        assert!(exact.iter().zip(&rounded).all(|(a, b)| a != b), "nothing was rounded");
        for (step, (a, b)) in exact.iter().zip(&rounded).enumerate() {
            // Each product is off by a few times 2^-9, at random; what that does to a mean over
            // 128 tokens is less, and stays so while both learn the same.
            assert!((a - b).abs() < 4.0 * ROUNDING * a, "step {step}: {a} and {b}");
        }
        // Where a gradient's sign is in doubt, Adam takes whole steps either way.
        let error = relative_error(&others, &weights);
        assert!((1e-5..0.2).contains(&error), "{error:e}");
        true
    });
    was_computed(computed);
}

#[cfg(feature = "ndarray")]
#[test]
fn a_backend_without_bf16_refuses_it() {
    let folder = tempfile::tempdir().unwrap();
    let bf16 = ["--set", "train.precision=bf16", "--backend", "ndarray"];
    let expected = "backend `ndarray` computes in f32 only; set train.precision to \"f32\"";
    refused(folder.path(), &[&["train"], &TINY[..], &bf16].concat(), expected);
    let fp8 = ["--set", "train.precision=fp8"];
    refused(folder.path(), &[&["train"], &TINY[..], &fp8].concat(), "expected `f32` or `bf16`");
}

#[cfg(feature = "flex")]
#[test]
fn a_run_in_bf16_can_be_evaluated_in_f32() {
    use crate::command_line::{emberlm, stdout};

    let folder = tempfile::tempdir().unwrap();
    let bf16 = [
        "--set",
        "train.precision=bf16",
        "--backend",
        "flex",
        "--set",
        "train.gradient_checkpointing=true",
    ];
    let output = crate::command_line::train(folder.path(), &bf16);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary = folder.path().join("artifacts/stories/summary.json");
    let summary: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(summary).unwrap()).unwrap();
    let found = stdout(&emberlm(folder.path(), &["eval", "stories"]));
    let loss = found.lines().find_map(|line| line.strip_prefix("loss")).unwrap();
    let loss: f64 = loss.split_whitespace().next().unwrap().parse().unwrap();
    let trained = summary["final_val_loss"].as_f64().unwrap();
    assert!((loss - trained).abs() < 4.0 * ROUNDING * trained, "{loss}, {trained} in bf16");
}
