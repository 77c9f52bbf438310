//! Layers that are computed twice give what layers that are kept give, to the last bit.

use burn::optim::GradientsParams;
use burn_train::TrainStep;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

use emberlm::backend::{BackendKind, TrainBackend};
use emberlm::config::{self, RunConfig};
use emberlm::data::{Example, Pair, Split, Task, TokenBatch};
use emberlm::model::{Initializer, Model, parameters};
use emberlm::train::LanguageModel;

use crate::command_line::train;
use crate::on_each_backend;
use crate::support::{floats, relative_error};

/// Three small layers, as the settings say.
fn config(model: Value) -> RunConfig {
    let mut all = json!({ "d_model": 16, "n_layers": 3, "n_heads": 2, "context_length": 12,
        "vocab_size": 20 });
    all.as_object_mut().unwrap().extend(model.as_object().unwrap().clone());
    config::resolve(json!({ "name": "small", "model": all })).unwrap()
}

fn batch(config: &RunConfig) -> TokenBatch {
    let task = Task::new(config.model.architecture, 16, 3);
    let token = |i: usize| (i * i % 13 + i % 3) as u32;
    let split = match task {
        Task::Translation { .. } => {
            let pair = |i: usize| Pair {
                source: (0..3 + i).map(token).collect(),
                target: (2..7 - i).map(token).collect(),
            };
            Split::pairs((0..4).map(pair).collect::<Vec<_>>(), 40)
        }
        _ => Split::text((0..60).map(token).collect::<Vec<u32>>(), 60),
    };
    let places = split.all(config.model.context_length).into_iter().take(4);
    let examples: Vec<Example> = places.map(|place| Example::read(&split, task, place)).collect();
    TokenBatch::new(&examples, 0.5)
}

/// Of every parameter that has one.
fn gradients<B: TrainBackend>(
    model: &LanguageModel<B>,
    gradients: &GradientsParams,
) -> Vec<(String, Option<Vec<f32>>)> {
    let read = |id, rank| match rank {
        1 => gradients.get::<B::InnerBackend, 1>(id).map(|it| floats(it.into_data())),
        _ => gradients.get::<B::InnerBackend, 2>(id).map(|it| floats(it.into_data())),
    };
    parameters(model).into_iter().map(|p| (p.name, read(p.id, p.shape.len()))).collect()
}

/// flex gives the same bits for the same step every time. ndarray's own sums depend on where in
/// memory its arrays lie, by 2e-5: one step done twice differs, with or without checkpointing.
fn assert_same<B: TrainBackend>(
    found: &[(String, Option<Vec<f32>>)],
    expected: &[(String, Option<Vec<f32>>)],
    settings: &Value,
    device: &B::Device,
) {
    if B::name(device).contains("flex") {
        for (found, expected) in found.iter().zip(expected) {
            assert!(found == expected, "{settings}: {} differs", found.0);
        }
    }
    let all = |gradients: &[(String, Option<Vec<f32>>)]| -> Vec<f32> {
        gradients.iter().filter_map(|(_, gradient)| gradient.clone()).flatten().collect()
    };
    let (found, expected) = (all(found), all(expected));
    if found == expected {
        return; // that of zeros is no number
    }
    let error = relative_error(&found, &expected);
    assert!(error < 1e-4, "{settings}: {error:e}");
}

#[test]
fn losses_and_gradients_are_the_same() {
    on_each_backend!(|device: B| {
        for settings in [
            json!({}),
            json!({ "tied_head": false, "position": { "kind": "rotary" },
                "residual": "parallel" }),
            json!({ "norm_placement": "post", "attention": { "window": 5 } }),
            json!({ "feed_forward": { "experts": { "count": 3, "per_token": 2 } } }),
            json!({ "lora": { "rank": 2 } }),
            json!({ "architecture": "encoder" }),
            json!({ "architecture": "encoder-decoder" }),
        ] {
            let mut config = config(settings.clone());
            let batch = batch(&config);
            // With values that are not made before they are asked for, and with those that are.
            for initializer in [Initializer::seeded(4), Initializer::Zeros] {
                let built = Model::new("small", &config.model, 20, initializer, &device);
                let built = match &config.model.lora {
                    Some(lora) => built.with_adapters(lora, 5),
                    None => built,
                };
                // With adapters all else is frozen, embeddings included.
                let model = LanguageModel::<B>::for_training(built, &config).unwrap();
                config.train.gradient_checkpointing = true;
                let model = model.trained_as(&config.train);
                let twice = TrainStep::step(&model, batch.clone());
                config.train.gradient_checkpointing = false;
                let model = model.trained_as(&config.train);
                let once = TrainStep::step(&model, batch.clone());

                let [loss, expected] = [&twice, &once].map(|step| step.item.loss.clone().read());
                assert_eq!(loss.to_bits(), expected.to_bits(), "{settings}");
                assert_eq!(twice.item.expert_tokens, once.item.expert_tokens, "{settings}");
                let expected = gradients(&model, &once.grads);
                assert!(expected.iter().filter(|(_, it)| it.is_some()).count() > 20);
                let found = gradients(&model, &twice.grads);
                assert_same::<B>(&found, &expected, &settings, &device);
            }
        }
    });
}

/// Losses, gradient norms and the last weights of a run through the program, which draws from the
/// generator that all tests of this process share.
fn run(folder: &Path, name: &str, extra: &[&str]) -> (Vec<Value>, Vec<u8>) {
    let output = train(folder, &[extra, &["--set", "model.n_layers=3", "--run", name]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = folder.join("artifacts").join(name);
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        json!([line["loss"], line["gradient_norm"]])
    };
    let weights = fs::read(run.join("checkpoints/step-00000006/model.safetensors")).unwrap();
    (metrics.lines().map(line).collect(), weights)
}

#[test]
fn the_same_is_dropped_when_a_layer_is_computed_again() {
    let folder = tempfile::tempdir().unwrap();
    for kind in crate::support::cpu_backends() {
        for architecture in ["decoder", "encoder-decoder"] {
            let architecture = format!("model.architecture={architecture}");
            // The second micro-batch of a step draws what it would have drawn.
            let common = [
                "--backend",
                kind.name(),
                "--set",
                &architecture,
                "--set",
                "train.accumulation=2",
                "--set",
            ];
            let run = |name: &str, extra: &[&str]| {
                let name = format!("{kind}-{}-{name}", architecture.len());
                run(folder.path(), &name, &[&common, extra].concat())
            };
            let checkpointing = ["--set", "train.gradient_checkpointing=true"];
            let kept = run("kept", &["model.dropout=0.3"]);
            let twice = run("twice", &[&["model.dropout=0.3"], &checkpointing[..]].concat());
            let none = run("none", &["model.dropout=0"]);
            if kind == BackendKind::Flex {
                assert_eq!(kept.0, twice.0, "{architecture}");
                assert!(kept.1 == twice.1, "{architecture}: other weights");
            }
            for (kept, twice) in kept.0.iter().zip(&twice.0) {
                let [kept, twice] = [kept, twice].map(|it| it[0].as_f64().unwrap());
                // Other masks change a loss of four by some hundredths.
                assert!((kept - twice).abs() < 1e-4, "{kind}, {architecture}: {kept}, {twice}");
            }
            assert_ne!(kept.0, none.0, "dropout does something");
        }
    }
}

/// `peak_mib` of a few steps of twelve layers.
#[cfg(all(target_os = "linux", feature = "flex"))]
fn peak_mib(folder: &Path, checkpointing: bool) -> f64 {
    let config = json!({
        "name": "twelve",
        "model": { "d_model": 96, "n_layers": 12, "n_heads": 4, "context_length": 256 },
        "train": { "batch_size": 8, "gradient_checkpointing": checkpointing },
    });
    fs::write(folder.join("twelve.json"), config.to_string()).unwrap();
    let args =
        ["bench", "train", "--shape", "twelve.json", "--steps", "1", "--backend", "flex", "--json"];
    let output = crate::command_line::emberlm(folder, &args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    result["peak_mib"].as_f64().unwrap()
}

#[cfg(all(target_os = "linux", feature = "flex"))]
#[test]
fn twelve_layers_need_much_less_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (kept, twice) = (peak_mib(folder.path(), false), peak_mib(folder.path(), true));
    // One layer instead of twelve, beside some 80 MiB that have nothing to do with activations; it
    // was 121 of 258.
    assert!(twice < 0.6 * kept, "{twice} MiB of {kept}");
}
