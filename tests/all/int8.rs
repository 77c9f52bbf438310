//! Weights of a byte each: how near they are, what is computed with them, and what that costs.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use serde_json::{Value, json};
use std::collections::HashMap;

use emberlm::backend::{BackendKind, GptBackend, TrainBackend, check_int8};
use emberlm::config::{self, ModelConfig};
use emberlm::data::Window;
use emberlm::model::{
    Initializer, Int8Weight, Model, is_adapter, load_parameters, parameters, tensors,
};
use emberlm::train::LanguageModel;

use crate::command_line::{emberlm, stdout, train};
use crate::on_each_backend;
use crate::support::{Inner, assert_close, floats, numbers, window_batch};

const VOCAB_SIZE: usize = 19;

/// The bytes and the scales of a weight `[I, O]`, by hand.
fn by_hand(weight: &[f32], d_output: usize) -> (Vec<f32>, Vec<f32>) {
    let mut scales = vec![0.0f32; d_output];
    for (place, weight) in weight.iter().enumerate() {
        let scale = &mut scales[place % d_output];
        *scale = scale.max(weight.abs() / 127.0);
    }
    let unit = |(place, weight): (usize, &f32)| match scales[place % d_output] {
        0.0 => 0.0,
        scale => (weight / scale).round(),
    };
    (weight.iter().enumerate().map(unit).collect(), scales)
}

/// What a weight is once it has been a byte each.
fn rounded(weight: &[f32], d_output: usize) -> Vec<f32> {
    let (units, scales) = by_hand(weight, d_output);
    units.iter().enumerate().map(|(place, unit)| unit * scales[place % d_output]).collect()
}

#[test]
fn a_byte_is_within_half_a_scale_of_its_weight() {
    on_each_backend!(|device: B| {
        let (i, o) = (37, 11);
        let mut weight = numbers(i * o, 4);
        weight.iter_mut().skip(3).step_by(o).for_each(|x| *x = 0.0); // a column of zeros
        weight.iter_mut().skip(4).step_by(o).for_each(|x| *x *= 1e-30);
        let tensor = Tensor::<B, 2>::from_data(TensorData::new(weight.clone(), [i, o]), &device);
        let int8 = Int8Weight::new(tensor);
        let units = int8.values.into_data().iter::<i64>().collect::<Vec<_>>();
        let scales = floats(int8.scales.into_data());
        for (column, scale) in scales.into_iter().enumerate() {
            let of_column = |place: usize| place * o + column;
            let largest = (0..i).map(|row| weight[of_column(row)].abs()).fold(0.0, f32::max);
            let scale = f64::from(scale);
            // A rounding of f32.
            assert!((scale * 127.0 - f64::from(largest)).abs() <= 1e-7 * f64::from(largest));
            let most = (0..i).map(|row| units[of_column(row)].abs()).max().unwrap();
            assert_eq!(most, if largest == 0.0 { 0 } else { 127 });
            for row in 0..i {
                let (unit, weight) = (units[of_column(row)] as f64, weight[of_column(row)]);
                let error = (unit * scale - f64::from(weight)).abs();
                assert!(error <= 0.5 * scale * (1.0 + 1e-5), "{unit} of {scale} for {weight}");
            }
        }
    });
}

#[test]
fn what_is_no_number_stays_none() {
    on_each_backend!(|device: B| {
        for wrong in [f32::NAN, f32::INFINITY] {
            let weight = TensorData::new(vec![1.0, 1.0, wrong, 1.0, 1.0, 1.0], [3, 2]);
            let int8 = Int8Weight::new(Tensor::<B, 2>::from_data(weight, &device));
            let input = Tensor::<B, 2>::ones([1, 3], &device);
            let output = floats(B::dense_int8(input, int8.values, int8.scales, None).into_data());
            assert!(!output[0].is_finite(), "{output:?}");
            assert!((output[1] - 3.0).abs() < 1e-6, "{output:?}");
        }
    });
}

/// With few rows and many, columns that fill no vector, no block and no task, and more than one
/// thread; with kernels and without.
fn check_products<B: GptBackend>(device: &B::Device) {
    let shapes = [
        [1, 1, 1],
        [1, 7, 19],
        [1, 20, 4100],
        [1, 300, 1025],
        [1, 392, 400],
        [2, 100, 4200],
        [3, 33, 530],
        [8, 129, 70],
        [9, 40, 127],
        [70, 65, 300],
    ];
    for (seed, [n, i, o]) in shapes.into_iter().enumerate() {
        let x = numbers(n * i, seed as u64);
        let units: Vec<i8> =
            numbers(i * o, 30 + seed as u64).iter().map(|x| (x * 127.0).round() as i8).collect();
        let scales: Vec<f32> = numbers(o, 60).iter().map(|x| 0.01 + 0.005 * x).collect();
        let bias = numbers(o, 90);
        for with_bias in [false, true] {
            let input = Tensor::<B, 3>::from_data(TensorData::new(x.clone(), [1, n, i]), device);
            let values = Tensor::<B, 2, Int>::from_data(
                TensorData::new(units.clone(), [i, o]),
                (device, burn::tensor::DType::I8),
            );
            let vector = |values: &[f32]| {
                Tensor::<B, 1>::from_data(TensorData::new(values.to_vec(), [o]), device)
            };
            let of_bias = with_bias.then(|| vector(&bias));
            let output = B::dense_int8(input, values, vector(&scales), of_bias);
            assert_eq!(output.dims(), [1, n, o]);
            let mut sizes = 0.0f64;
            let expected = (0..n * o).map(|place| {
                let (row, column) = (place / o, place % o);
                let products = (0..i).map(|k| {
                    let weight = f64::from(units[k * o + column]) * f64::from(scales[column]);
                    f64::from(x[row * i + k]) * weight
                });
                sizes = sizes.max(products.clone().map(f64::abs).sum());
                products.sum::<f64>() + if with_bias { f64::from(bias[column]) } else { 0.0 }
            });
            let expected: Vec<f64> = expected.collect();
            // Each of the sums loses less than a few units in the last place of what it sums up.
            let what = format!("{} {n} {i} {o} {with_bias}", B::name(device));
            assert_close(&floats(output.into_data()), &expected, 1e-6 * (sizes + 1.0), &what);
        }
    }
}

#[test]
fn products_are_those_of_loops() {
    on_each_backend!(|device: B| {
        check_products::<Inner<B>>(&device);
        check_products::<B>(&device);
    });
}

fn config(change: &Value) -> ModelConfig {
    let mut model = json!({ "d_model": 24, "n_layers": 2, "n_heads": 3, "context_length": 16,
        "vocab_size": VOCAB_SIZE });
    for (key, value) in change.as_object().unwrap() {
        model[key] = value.clone();
    }
    config::resolve(json!({ "name": "int8", "model": model })).unwrap().model
}

fn model<B: Backend>(config: &ModelConfig, device: &B::Device) -> Model<B> {
    Model::new("int8", config, VOCAB_SIZE, Initializer::seeded(5), device)
}

/// Whether a parameter becomes bytes.
fn is_projection(name: &str) -> bool {
    let linear = name.starts_with("decoder.blocks.") || name.starts_with("encoder.blocks.");
    let skipped = name.contains("norm") || name.contains("router") || is_adapter(name);
    name == "head.weight" || linear && name.ends_with(".weight") && !skipped
}

fn logits<B: GptBackend>(model: &Model<B>, device: &B::Device) -> Vec<f32> {
    let rows = |seed: u64, length: usize| {
        let ids = numbers(2 * length, seed).into_iter().map(|x| ((x + 1.0) * 9.49) as i32);
        let data = TensorData::new(ids.collect::<Vec<i32>>(), [2, length]);
        Tensor::<B, 2, Int>::from_data(data, device)
    };
    let tokens = rows(1, 11);
    floats(match model {
        Model::Gpt(model) => model.forward(tokens).into_data(),
        Model::Encoder(model) => model.forward(tokens, None).into_data(),
        Model::Seq2Seq(model) => model.forward(rows(2, 7), &[7, 5], tokens).into_data(),
    })
}

#[test]
fn a_model_computes_with_the_rounded_weights() {
    on_each_backend!(|device: B| {
        for change in [
            json!({}),
            json!({ "tied_head": false, "head_bias": true, "n_kv_heads": 1 }),
            json!({ "feed_forward": { "gated": true, "activation": "silu",
                "experts": { "count": 3, "per_token": 2, "shared_d_ff": 8 } } }),
            json!({ "lora": { "rank": 2, "targets": ["*.qkv", "*.down"] } }),
            json!({ "architecture": "encoder" }),
            json!({ "architecture": "encoder-decoder" }),
        ] {
            let config = config(&change);
            let of_f32 = model::<Inner<B>>(&config, &device);
            let mut values: HashMap<String, TensorData> = tensors(&of_f32).into_iter().collect();
            // Adapters begin at zero.
            for (name, values) in values.iter_mut().filter(|(name, _)| is_adapter(name)) {
                let noise = numbers(values.num_elements(), name.len() as u64);
                *values = TensorData::new(noise, values.shape.clone());
            }
            let of_f32 = load_parameters(of_f32, |name| values.get(name).cloned()).unwrap();
            // A head that shares its weights gets some of its own.
            if config.tied_head {
                let token = &values["embedding.token"];
                let [v, d] = [token.shape[0], token.shape[1]];
                let rows = floats(token.clone());
                let turned = (0..d * v).map(|place| rows[place % v * d + place / v]).collect();
                values.insert("head.weight".into(), TensorData::new::<f32, _>(turned, [d, v]));
            }
            for (_, values) in values.iter_mut().filter(|(name, _)| is_projection(name)) {
                let weight = rounded(&floats(values.clone()), values.shape[1]);
                *values = TensorData::new(weight, values.shape.clone());
            }
            let untied = ModelConfig { tied_head: false, ..config.clone() };
            let expected = model::<Inner<B>>(&untied, &device);
            let expected = load_parameters(expected, |name| values.get(name).cloned()).unwrap();
            let expected: Vec<f64> =
                logits(&expected, &device).into_iter().map(f64::from).collect();

            let before = logits(&of_f32, &device);
            let quantized = of_f32.quantize_int8();
            let found = logits(&quantized, &device);
            // The same weights but for a rounding; logits here are below one.
            assert_close(&found, &expected, 5e-6, &change.to_string());
            assert_ne!(found, before);
            // The floats that it had are gone, and nothing else.
            let left = parameters(&quantized).into_iter().map(|parameter| parameter.name);
            let mut kept: Vec<String> = values.into_keys().collect();
            kept.retain(|name| !is_projection(name));
            kept.sort();
            let mut left: Vec<String> = left.collect();
            left.sort();
            assert_eq!(left, kept, "{change}");
            // Bytes are not rounded again.
            assert_eq!(logits(&quantized.quantize_int8(), &device), found);
        }
    });
}

/// `Σ |g| s / 2` over weights that become bytes, with gradient g and the scale s of their output.
struct Change<'a, B: TrainBackend> {
    gradients: &'a B::Gradients,
    path: Vec<String>,
    sum: f64,
}

impl<B: TrainBackend> ModuleVisitor<B> for Change<'_, B> {
    fn enter_module(&mut self, name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.path.push(name.into());
        }
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.path.pop();
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if is_projection(self.path.join(".").trim_start_matches("model.")) {
            let d_output = param.dims()[1];
            let (_, scales) = by_hand(&floats(param.val().into_data()), d_output);
            let gradient = floats(param.val().grad(self.gradients).unwrap().into_data());
            for (place, gradient) in gradient.into_iter().enumerate() {
                self.sum += f64::from(gradient.abs() * scales[place % d_output]) / 2.0;
            }
        }
    }
}

#[test]
fn the_loss_changes_no_more_than_its_gradient_allows() {
    on_each_backend!(|device: B| {
        let config = config(&json!({ "tied_head": false, "dropout": 0.0 }));
        let text: Vec<u32> =
            numbers(60, 8).into_iter().map(|x| ((x + 1.0) * 9.49) as u32).collect();
        let windows: Vec<Window> = (0..4).map(|i| Window { start: 14 * i, length: 16 }).collect();
        let batch = window_batch(&text, &windows, 1.0);
        let trained = LanguageModel::<B>::new(model(&config, &device), &config);
        let loss = trained.loss(&batch);
        let before = f64::from(floats(loss.clone().into_data())[0]);
        let gradients = loss.backward();
        let mut change = Change::<B> { gradients: &gradients, path: Vec::new(), sum: 0.0 };
        trained.visit(&mut change);
        let quantized = LanguageModel::new(trained.model.quantize_int8(), &config);
        let after = f64::from(floats(quantized.loss(&batch).into_data())[0]);
        // Weights move by half a scale at most, 1/254 of the largest of their output; what is of
        // second order in that is smaller by far. And bytes are not free.
        let bound = change.sum;
        assert!(bound < 0.1 * before, "{bound} of {before}");
        assert!((after - before).abs() <= bound, "{after} after {before}, within {bound}");
        assert!((after - before).abs() > 1e-6, "{after} after {before}");
    });
}

#[test]
fn runs_are_evaluated_and_continued_in_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(train(path, &[]).status.success());
    let plain = stdout(&emberlm(path, &["eval", "stories"]));
    let both = stdout(&emberlm(path, &["eval", "stories", "--quantize", "int8"]));
    let lines = both.strip_prefix(&plain).expect("first what it prints without");
    let number = |text: &str, label: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(label)).expect(label);
        let after = line[label.len()..].trim_start();
        after[..after.find([' ', ',']).unwrap_or(after.len())].parse().unwrap()
    };
    let [before, after] = [number(&plain, "perplexity "), number(lines, "int8 perplexity ")];
    assert!((number(lines, "int8 loss ").exp() - after).abs() < 1e-3 * after, "{lines}");
    let change = lines.split(", ").nth(1).and_then(|text| text.split('%').next()).unwrap();
    let change: f64 = change.parse().unwrap();
    // Both are printed to three digits after the point.
    assert!((100.0 * (after / before - 1.0) - change).abs() < 0.2 / before, "{both}");
    // Six steps leave a model near its beginning, whose logits are small, so that it cannot lose
    // much; some it must.
    assert!(change.abs() < 1.0, "{both}");

    let generate = |extra: &[&str]| {
        let args = ["generate", "stories", "--max-tokens", "40", "--prompt", "the "];
        let output = emberlm(path, &[&args[..], extra].concat());
        assert!(output.status.success());
        stdout(&output)
    };
    let text = generate(&["--quantize", "int8"]);
    assert!(text.starts_with("the ") && text.len() > 40, "{text}");
    assert_eq!(text, generate(&["--quantize", "int8"]));
    let logits = |extra: &[&str]| {
        let args = ["logits", "stories", "--tokens", "1,2,3", "--json"];
        stdout(&emberlm(path, &[&args[..], extra].concat()))
    };
    assert_ne!(logits(&[]), logits(&["--quantize", "int8"]));
    let output =
        emberlm(path, &["bench", "decode", "--steps", "3", "--json", "--quantize", "int8"]);
    let result: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(result["weights"], "int8");
    let args = ["generate", "stories", "--quantize", "int4"];
    let output = emberlm(path, &args);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("int4") && message.contains("int8"), "{message}");
}

#[test]
fn backends_of_the_cpu_have_bytes() {
    on_each_backend!(|device: B| {
        check_int8::<B>(BackendKind::Flex, &device).unwrap();
    });
}
