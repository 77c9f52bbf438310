//! Rows of a batch that hold several documents, and rows that are shorter than others: each
//! document must be read, and count, as it would alone.

use burn::tensor::TensorData;
use burn_train::TrainStep;
use serde_json::{Value, json};

use emberlm::backend::TrainBackend;
use emberlm::config::{self, Architecture, ModelConfig};
use emberlm::data::{Example, TokenBatch};
use emberlm::model::{Initializer, Model, Parameter, Rows, load_parameters, parameters, tensors};
use emberlm::train::LanguageModel;

use crate::on_each_backend;
use crate::support::{floats, relative_error};

const VOCAB_SIZE: usize = 13;

fn resolve(change: &Value) -> ModelConfig {
    let mut model = json!({
        "d_model": 16, "n_layers": 2, "n_heads": 4, "context_length": 16, "vocab_size": VOCAB_SIZE,
    });
    for (key, value) in change.as_object().unwrap() {
        model[key] = value.clone();
    }
    config::resolve(json!({ "name": "packing", "model": model })).unwrap().model
}

/// With weights ten times as large as at the start of a training, so that attention chooses.
fn build<B: TrainBackend>(config: &ModelConfig, device: &B::Device) -> LanguageModel<B> {
    let model = Model::new("packing", config, VOCAB_SIZE, Initializer::seeded(4), device);
    let values = tensors(&model);
    let find = |name: &str| {
        let (_, data) = values.iter().find(|(known, _)| known == name)?;
        let factor = if data.shape.len() == 1 { 1.0 } else { 10.0 };
        let larger: Vec<f32> = data.iter::<f32>().map(|value| factor * value).collect();
        Some(TensorData::new(larger, data.shape.clone()))
    };
    LanguageModel::new(load_parameters(model, find).unwrap(), config)
}

/// Models to which only distances matter, so that a document may stand anywhere.
fn models() -> Vec<Value> {
    let rotary = || json!({ "kind": "rotary", "theta": 50.0 });
    let mut models = vec![
        json!({ "position": rotary() }),
        json!({ "position": { "kind": "alibi" } }),
        json!({ "position": { "kind": "none" } }),
        json!({ "position": rotary(), "attention": { "window": 3, "full_every": 2 } }),
        json!({ "position": { "kind": "alibi" }, "attention": { "window": 2 } }),
        json!({ "position": { "kind": "none" }, "attention": { "soft_cap": 0.5 } }),
        json!({ "position": rotary(), "n_kv_heads": 2 }),
        json!({ "position": { "kind": "alibi" }, "n_kv_heads": 1,
            "attention": { "window": 3, "soft_cap": 1.0, "qk_norm": { "kind": "rms" } } }),
    ];
    for mut model in models.clone() {
        model["architecture"] = "encoder".into();
        models.push(model);
    }
    models
}

/// A document of so many tokens, with targets that have nothing to do with its neighbours. An
/// encoder is asked for every other of them only.
fn document(config: &ModelConfig, length: usize, seed: u32) -> Example {
    let ids = |factor: u32| (0..length as u32).map(move |i| (i * i * factor + seed * 7 + i) % 13);
    let some = config.architecture == Architecture::Encoder;
    Example {
        source: None,
        input: ids(3).collect(),
        target: ids(5).collect(),
        asked: some.then(|| (0..length).step_by(2).collect()),
        documents: None,
    }
}

/// Documents in one row.
fn packed(parts: &[Example], masked: bool) -> Example {
    let mut row = Example {
        source: None,
        input: Vec::new(),
        target: Vec::new(),
        asked: parts[0].asked.as_ref().map(|_| Vec::new()),
        documents: masked.then(Vec::new),
    };
    for (number, part) in parts.iter().enumerate() {
        if let (Some(all), Some(asked)) = (&mut row.asked, &part.asked) {
            all.extend(asked.iter().map(|place| place + row.input.len()));
        }
        if let Some(documents) = &mut row.documents {
            documents.extend(vec![number as u32; part.input.len()]);
        }
        row.input.extend(&part.input);
        row.target.extend(&part.target);
    }
    row
}

/// Lengths of the documents of each row; the rows are of different lengths, too, and the last is
/// a single document.
const ROWS: [&[usize]; 4] = [&[5, 1, 6], &[2, 8], &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], &[11]];

fn documents(config: &ModelConfig) -> Vec<Vec<Example>> {
    let mut seed = 0;
    let mut next = |length: &usize| {
        seed += 1;
        document(config, *length, seed)
    };
    ROWS.iter().map(|lengths| lengths.iter().map(&mut next).collect()).collect()
}

fn pack(rows: &[Vec<Example>], masked: bool) -> Vec<Example> {
    rows.iter().map(|row| packed(row, masked)).collect()
}

/// Logits of the tokens of each example, without those of filled up places.
fn logits<B: TrainBackend>(
    model: &LanguageModel<B>,
    examples: &[Example],
    device: &B::Device,
) -> Vec<f32> {
    let batch = TokenBatch::new(examples, 1.0);
    let rows = Rows { lengths: batch.lengths(), documents: batch.documents() };
    let inputs = batch.inputs(device);
    let columns = inputs.dims()[1];
    let (logits, _) = match &model.model {
        Model::Gpt(model) => model.forward_routed(inputs, rows),
        Model::Encoder(model) => model.forward_routed(inputs, rows),
        Model::Seq2Seq(_) => panic!("it has no packed rows"),
    };
    let logits = floats(logits.into_data());
    let of_row =
        |(row, example): (&[f32], &Example)| row[..example.input.len() * VOCAB_SIZE].to_vec();
    logits.chunks(columns * VOCAB_SIZE).zip(examples).flat_map(of_row).collect()
}

/// Loss and gradients of all parameters.
fn step<B: TrainBackend>(
    model: &LanguageModel<B>,
    examples: &[Example],
    share: f64,
) -> (f64, Vec<Vec<f32>>) {
    let output = TrainStep::step(model, TokenBatch::new(examples, share));
    let read = |parameter: Parameter| {
        let gradient = match parameter.shape.len() {
            1 => output.grads.get::<B::InnerBackend, 1>(parameter.id).unwrap().into_data(),
            _ => output.grads.get::<B::InnerBackend, 2>(parameter.id).unwrap().into_data(),
        };
        floats(gradient)
    };
    (output.item.loss.read(), parameters(model).into_iter().map(read).collect())
}

/// What [`step`] should find: the mean over all targets, from a pass for each example.
fn step_alone<B: TrainBackend>(
    model: &LanguageModel<B>,
    examples: &[&Example],
) -> (f64, Vec<Vec<f32>>) {
    let total: usize = examples.iter().map(|example| example.targets()).sum();
    let mut sum = (0.0, Vec::new());
    for example in examples {
        let share = example.targets() as f64 / total as f64;
        let (loss, gradients) = step(model, std::slice::from_ref(*example), share);
        sum.0 += loss * share;
        if sum.1.is_empty() {
            sum.1 = gradients;
        } else {
            for (sum, gradient) in sum.1.iter_mut().flatten().zip(gradients.iter().flatten()) {
                *sum += gradient;
            }
        }
    }
    sum
}

/// A loss is a mean of f32 numbers of about ten at most. Gradients go through the `erf` of GELU, of
/// which ndarray has six digits or so: 7e-4 has been seen in other tests.
#[track_caller]
fn assert_step(found: &(f64, Vec<Vec<f32>>), expected: &(f64, Vec<Vec<f32>>), change: &Value) {
    let apart = (found.0 - expected.0).abs();
    assert!(apart < 1e-5, "{change}: losses are {apart:e} apart");
    let error = gradient_error(&found.1, &expected.1);
    assert!(error < 1e-3, "{change}: gradients are {error:e} apart");
}

/// Relative error of the gradient of each parameter, the largest; of those that are not zero but
/// for rounding.
fn gradient_error(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    let norm = |gradient: &[f32]| gradient.iter().map(|x| x * x).sum::<f32>().sqrt();
    let all = norm(&expected.concat());
    let errors = found.iter().zip(expected).filter(|(_, expected)| norm(expected) > 1e-4 * all);
    errors.map(|(found, expected)| relative_error(found, expected)).fold(0.0, f64::max)
}

#[test]
fn documents_of_a_packed_row_are_read_as_they_would_be_alone() {
    on_each_backend!(|device: B| {
        for change in models() {
            let config = resolve(&change);
            let model = build::<B>(&config, &device);
            let rows = documents(&config);
            let alone: Vec<f32> = rows
                .iter()
                .flatten()
                .flat_map(|part| logits(&model, std::slice::from_ref(part), &device))
                .collect();
            let error =
                |masked| relative_error(&logits(&model, &pack(&rows, masked), &device), &alone);
            // Sums in f32 in another order, and angles that are larger.
            assert!(error(true) < 1e-5, "{change}: {:e}", error(true));
            assert!(error(false) > 1e-2, "{change}: {:e} without a mask", error(false));
        }
    });
}

#[test]
fn losses_and_gradients_of_packed_rows_are_those_of_their_documents() {
    on_each_backend!(|device: B| {
        for change in models() {
            let config = resolve(&change);
            let model = build::<B>(&config, &device);
            let rows = documents(&config);
            let expected = step_alone(&model, &rows.iter().flatten().collect::<Vec<_>>());
            assert_step(&step(&model, &pack(&rows, true), 1.0), &expected, &change);
            let (_, unmasked) = step(&model, &pack(&rows, false), 1.0);
            let error = gradient_error(&unmasked, &expected.1);
            assert!(error > 0.1, "{change}: {error:e} without a mask");
        }
    });
}

#[test]
fn padding_has_no_part_in_losses_and_gradients() {
    on_each_backend!(|device: B| {
        let absolute =
            ["learned", "sinusoidal"].map(|kind| json!({ "position": { "kind": kind } }));
        for change in models().into_iter().chain(absolute) {
            let config = resolve(&change);
            let model = build::<B>(&config, &device);
            let rows = [7, 2, 12, 1].map(|length| document(&config, length, length as u32));
            let expected = step_alone(&model, &rows.iter().collect::<Vec<_>>());
            assert_step(&step(&model, &rows, 1.0), &expected, &change);
        }
    });
}

#[test]
fn batches_know_documents_where_a_row_has_several() {
    let config = resolve(&json!({}));
    let [first, second, third] = [3, 2, 4].map(|length| document(&config, length, 1));
    let single = packed(std::slice::from_ref(&first), true);
    let both = packed(&[first.clone(), second], true);
    let found =
        |examples: &[Example]| TokenBatch::new(examples, 1.0).documents().map(<[Vec<u32>]>::to_vec);
    assert_eq!(found(&[first, single.clone(), third.clone()]), None);
    let numbers = vec![vec![0; 3], vec![0, 0, 0, 1, 1], vec![0; 4]];
    assert_eq!(found(&[single, both, third]), Some(numbers));
}
