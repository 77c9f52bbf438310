//! Adapters and freezing. That adapters compute what they should, with their gradients and in
//! cached decoding, is in `options.rs`.

use burn::optim::Optimizer;
use burn::tensor::{Int, Tensor, TensorData};
use burn_train::TrainStep;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use emberlm::artifact::{Run, read_tensors};
use emberlm::backend::{GptBackend, TrainBackend, seed_draws};
use emberlm::config::{self, RunConfig};
use emberlm::data::{TokenBatch, Window};
use emberlm::model::{
    Initializer, Model, check_adapters, is_adapter, load_parameters, parameter_shapes, parameters,
    tensors,
};
use emberlm::train::{LanguageModel, ModelOptimizer};

use crate::command_line::{emberlm, succeed, train};
use crate::on_each_backend;
use crate::support::{floats, window_batch};

fn config(model: Value, train: Value) -> RunConfig {
    let mut whole = json!({ "d_model": 16, "n_layers": 2, "n_heads": 2, "context_length": 8,
        "vocab_size": 11 });
    for (key, value) in model.as_object().unwrap() {
        whole[key] = value.clone();
    }
    config::resolve(json!({ "name": "small", "model": whole, "train": train })).unwrap()
}

fn model<B: TrainBackend>(config: &RunConfig, device: &B::Device) -> Model<B> {
    Model::new("small", &config.model, 11, Initializer::seeded(2), device)
}

fn batch() -> TokenBatch {
    let tokens: Vec<u32> = (0..100).map(|i| i * i % 11).collect();
    window_batch(&tokens, &[0, 9, 30].map(|start| Window { start, length: 8 }), 1.0)
}

fn logits<B: GptBackend>(model: &Model<B>, device: &B::Device) -> Vec<f32> {
    let Model::Gpt(model) = model else { panic!() };
    let ids = TensorData::new(vec![1, 5, 9, 2, 0, 7], [1, 6]);
    floats(model.forward(Tensor::<B, 2, Int>::from_data(ids, device)).into_data())
}

fn adapted(model: Value) -> Vec<String> {
    let config = config(model, json!({}));
    let names = parameter_shapes(&config.model, 11).into_iter().map(|(name, _)| name);
    names.filter_map(|name| name.strip_suffix(".lora.a").map(String::from)).collect()
}

#[test]
fn targets_are_linear_layers_by_name() {
    let lora = |targets: Value| json!({ "n_layers": 1, "lora": { "targets": targets } });
    let block = |names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("decoder.blocks.0.{name}")).collect()
    };
    let attention = ["attention.qkv", "attention.output"];
    assert_eq!(adapted(lora(json!(["attention.*"]))), block(&attention));
    let all = ["attention.qkv", "attention.output", "feed_forward.up", "feed_forward.down"];
    assert_eq!(adapted(lora(json!(["*"]))), block(&all));
    assert_eq!(adapted(json!({ "n_layers": 1, "lora": {} })), block(&all));
    let second = json!({ "lora": { "targets": ["decoder.blocks.1.*.output", "up"] } });
    assert_eq!(
        adapted(second),
        [
            "decoder.blocks.0.feed_forward.up",
            "decoder.blocks.1.attention.output",
            "decoder.blocks.1.feed_forward.up",
        ]
    );
    let mut translator = lora(json!(["attention.*"]));
    translator["architecture"] = "encoder-decoder".into();
    assert!(adapted(translator).iter().all(|name| !name.contains("cross")));

    let wrong = config(lora(json!(["attention.*", "attn.*"])), json!({}));
    let message = check_adapters(&wrong.model).unwrap_err().to_string();
    assert!(message.contains("`model.lora.targets`: `attn.*` matches nothing"), "{message}");
    assert!(message.contains("decoder.blocks.*.attention.qkv"), "{message}");
    assert_eq!(message.lines().count(), 1);
}

#[test]
fn new_adapters_change_nothing_and_begin_by_their_name_and_seed() {
    on_each_backend!(|device: B| {
        let base = model::<B>(&config(json!({}), json!({})), &device);
        let with = config(json!({ "lora": { "rank": 4 } }), json!({}));
        let fresh = model::<B>(&with, &device);
        assert_eq!(logits(&fresh, &device), logits(&base, &device));
        let added = base.clone().with_adapters(with.model.lora.as_ref().unwrap(), 2);
        assert_eq!(tensors(&added), tensors(&fresh));
        let other = base.with_adapters(with.model.lora.as_ref().unwrap(), 3);
        assert_ne!(tensors(&other), tensors(&fresh));
        let mut seen = BTreeSet::new();
        for (name, data) in tensors(&fresh) {
            let values = floats(data.clone());
            if name.ends_with(".lora.b") {
                assert!(values.iter().all(|value| *value == 0.0));
            } else if name.ends_with(".lora.a") {
                let squares: f64 = values.iter().map(|x| f64::from(*x).powi(2)).sum();
                let expected = 1.0 / (3.0 * data.shape[0] as f64);
                let ratio = squares / values.len() as f64 / expected;
                // Of 64 numbers or more: a deviation of sqrt(2 / 64), four of them.
                assert!((ratio - 1.0).abs() < 0.71, "{name}: {ratio}");
                assert!(seen.insert(values[0].to_bits()), "{name} begins as another");
            }
        }
        assert_eq!(seen.len(), 8);
    });
}

/// Steps, and the model and the optimizer after them.
fn steps<B: TrainBackend>(
    mut model: LanguageModel<B>,
    optimizer: &mut ModelOptimizer<B>,
    count: usize,
) -> LanguageModel<B> {
    for _ in 0..count {
        let output = TrainStep::step(&model, batch());
        model = optimizer.step(1e-2, model, output.grads);
    }
    model
}

#[test]
fn what_is_frozen_has_no_gradient_no_moments_and_stays() {
    on_each_backend!(|device: B| {
        type IsTrained = fn(&str) -> bool;
        let cases: [(Value, Value, IsTrained); 6] = [
            (json!({ "lora": { "rank": 2 } }), json!({}), is_adapter),
            (
                json!({ "lora": { "rank": 2, "dropout": 0.1, "targets": ["attention.*"] } }),
                json!({ "unfreeze": ["*norm.*"] }),
                |name| is_adapter(name) || name.contains("norm."),
            ),
            (
                json!({ "lora": { "rank": 2 } }),
                json!({ "freeze": ["decoder.blocks.0.*"] }),
                |name| is_adapter(name) && name.starts_with("decoder.blocks.1."),
            ),
            (json!({}), json!({ "freeze": ["embedding.*", "decoder.blocks.[0-0].*"] }), |name| {
                !name.starts_with("embedding.") && !name.starts_with("decoder.blocks.0.")
            }),
            (
                json!({ "tied_head": false }),
                json!({ "freeze": ["*"], "unfreeze": ["head.*"] }),
                |name| name == "head.weight",
            ),
            (json!({}), json!({}), |_| true),
        ];
        for (shape, recipe, is_trained) in cases {
            let config = config(shape.clone(), recipe.clone());
            let what = format!("{shape} {recipe}");
            let model = LanguageModel::for_training(model::<B>(&config, &device), &config).unwrap();
            let before = tensors(&model.model);
            let ids = parameters(&model.model);
            let count: usize = ids
                .iter()
                .filter(|p| is_trained(&p.name))
                .map(|p| p.shape.iter().product::<usize>())
                .sum();
            assert_eq!(model.trained_params(), count, "{what}");
            let grads = TrainStep::step(&model, batch()).grads;
            let mut optimizer = ModelOptimizer::<B>::new(&config.train.optimizer, &model).unwrap();
            let model = steps(model, &mut optimizer, 3);
            for (parameter, ((name, before), (_, after))) in
                ids.iter().zip(before.into_iter().zip(tensors(&model.model)))
            {
                let trained = is_trained(&name);
                let has_gradient = match parameter.shape.len() {
                    1 => grads.get::<B::InnerBackend, 1>(parameter.id).is_some(),
                    _ => grads.get::<B::InnerBackend, 2>(parameter.id).is_some(),
                };
                assert_eq!(has_gradient, trained, "{what}: {name}");
                assert_eq!(optimizer.moments(parameter.id).is_some(), trained, "{what}: {name}");
                assert_eq!(before != after, trained, "{what}: {name}");
            }
        }
    });
}

#[test]
fn freezing_that_cannot_be_meant_is_refused() {
    on_each_backend!(|device: B| {
        for (train, expected) in [
            (json!({ "freeze": ["embeding.*"] }), "`train.freeze`: `embeding.*` matches nothing"),
            (json!({ "freeze": ["*"] }), "leaves no parameter to train"),
            (
                json!({ "freeze": ["*"], "unfreeze": ["head.*"] }),
                "`train.unfreeze`: `head.*` matches nothing",
            ),
        ] {
            let config = config(json!({}), train);
            let result = LanguageModel::for_training(model::<B>(&config, &device), &config);
            let message = result.map(|_| ()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            assert_eq!(message.lines().count(), 1);
        }
    });
    let small = json!({ "d_model": 16, "n_layers": 2, "n_heads": 2, "context_length": 8 });
    let resolve = |change: Value| {
        let mut whole = json!({ "name": "small", "model": small });
        for (key, value) in change.as_object().unwrap() {
            for (inner, value) in value.as_object().unwrap() {
                whole[key][inner] = value.clone();
            }
        }
        config::resolve(whole).unwrap_err().to_string()
    };
    for (change, expected) in [
        (json!({ "train": { "unfreeze": ["head.*"] } }), "everything is trained"),
        (json!({ "train": { "freeze": ["[a"] } }), "`[a` is not a pattern"),
        (json!({ "train": { "label_smoothing": 1.0 } }), "`train.label_smoothing` = 1"),
        (json!({ "train": { "z_loss": -1.0 } }), "`train.z_loss` = -1"),
        (json!({ "model": { "lora": { "rank": 0 } } }), "`model.lora.rank` = 0"),
        (json!({ "model": { "lora": { "alpha": 0 } } }), "`model.lora.alpha` = 0"),
        (json!({ "model": { "lora": { "dropout": 1 } } }), "`model.lora.dropout` = 1"),
        (json!({ "model": { "lora": { "targets": [] } } }), "`model.lora.targets` = []"),
        (json!({ "model": { "lora": { "rnk": 2 } } }), "did you mean `rank`?"),
    ] {
        let message = resolve(change);
        assert!(message.contains(expected), "{message}");
    }
}

/// Weights and moments are all that goes on: a model that is made anew of them takes the same
/// steps, bit by bit.
#[test]
fn adapters_go_on_from_weights_and_moments() {
    on_each_backend!(|device: B| {
        let config = config(json!({ "lora": { "rank": 2, "dropout": 0.2 } }), json!({}));
        let start = || LanguageModel::for_training(model::<B>(&config, &device), &config).unwrap();
        let optimizer = |model: &LanguageModel<B>| {
            ModelOptimizer::<B>::new(&config.train.optimizer, model).unwrap()
        };
        let first = start();
        let mut whole = optimizer(&first);
        seed_draws(1);
        let half = steps(first, &mut whole, 2);
        let blank = Model::<B>::new("small", &config.model, 11, Initializer::Zeros, &device);
        let values: std::collections::HashMap<_, _> = tensors(&half.model).into_iter().collect();
        let loaded = load_parameters(blank, |name| values.get(name).cloned()).unwrap();
        let loaded = LanguageModel::for_training(loaded, &config).unwrap();
        let resumed = &mut optimizer(&loaded);
        for (old, new) in parameters(&half.model).into_iter().zip(parameters(&loaded.model)) {
            if let Some(moments) = whole.moments(old.id) {
                resumed.restore(new.id, moments);
            }
        }
        seed_draws(2);
        let expected = tensors(&steps(half, &mut whole, 2).model);
        seed_draws(2);
        assert_eq!(tensors(&steps(loaded, resumed, 2).model), expected);
    });
}

#[track_caller]
fn fail(output: &std::process::Output, expected: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains(expected), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

fn weights(folder: &Path, run: &str, file: &str) -> Vec<(String, TensorData)> {
    let checkpoints = folder.join("artifacts").join(run).join("checkpoints");
    let mut steps: Vec<_> =
        fs::read_dir(checkpoints).unwrap().map(|entry| entry.unwrap().path()).collect();
    steps.sort();
    let read = read_tensors(&steps.last().unwrap().join(file)).unwrap();
    let mut all: Vec<_> = read.into_iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn a_run_is_finetuned_with_adapters_merged_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let set = |run: &'static str, more: &[&'static str]| {
        let mut args = vec!["--run", run, "--set", "train.schedule.learning_rate=0.01"];
        more.iter().for_each(|more| args.extend(["--set", *more]));
        train(path, &args)
    };
    succeed(&set("base", &[]));
    let lora = ["init_from=base", "model.lora.rank=2", "model.lora.alpha=8"];
    let text = succeed(&set("tuned", &lora));
    assert!(text.contains("trained: "), "{text}");
    assert!(text.contains("validation loss before training"), "{text}");

    // Base weights are those of the run that it began with; only adapters have moments.
    let (base, tuned) =
        (weights(path, "base", "model.safetensors"), weights(path, "tuned", "model.safetensors"));
    let frozen: Vec<_> = tuned.iter().filter(|(name, _)| !is_adapter(name)).cloned().collect();
    assert_eq!(frozen, base);
    let learned = |(name, data): &(String, TensorData)| {
        name.ends_with(".lora.b") && data.iter::<f32>().any(|value| value != 0.0)
    };
    assert_eq!(tuned.iter().filter(|tensor| learned(tensor)).count(), 4);
    let moments = weights(path, "tuned", "optimizer.safetensors");
    assert_eq!(moments.len(), 2 * (tuned.len() - base.len()));
    assert!(moments.iter().all(|(name, _)| is_adapter(name)));

    let text = succeed(&emberlm(path, &["merge", "tuned", "--name", "whole"]));
    assert!(text.contains("run: artifacts/whole"), "{text}");
    let run = Run::open(&path.join("artifacts"), "whole").unwrap();
    assert!(run.config().model.lora.is_none());
    let logits = |run: &str| -> Vec<f64> {
        let text = succeed(&emberlm(path, &["logits", run, "--tokens", "1,2,3,4", "--json"]));
        let json: Value = serde_json::from_str(&text).unwrap();
        let rows = json["logits"].as_array().unwrap().clone();
        rows.iter().flat_map(|row| row.as_array().unwrap()).map(|x| x.as_f64().unwrap()).collect()
    };
    let (adapted, merged) = (logits("tuned"), logits("whole"));
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let apart = square(&mut adapted.iter().zip(&merged).map(|(a, b)| a - b));
    let all = square(&mut adapted.iter().copied());
    assert!((apart / all).sqrt() < 1e-5, "{apart} of {all}");
    let plain = logits("base");
    let moved = square(&mut adapted.iter().zip(&plain).map(|(a, b)| a - b));
    assert!(moved > 1e4 * apart, "the adapters have learned something: {moved}");

    for run in ["tuned", "whole"] {
        succeed(&emberlm(path, &["generate", run, "--max-tokens", "5"]));
        succeed(&emberlm(path, &["eval", run]));
        let exported = format!("{run}-hf");
        succeed(&emberlm(path, &["export", run, "--to", "huggingface", &exported]));
    }
    let exported = |run: &str| fs::read(path.join(run).join("model.safetensors")).unwrap();
    assert_eq!(exported("tuned-hf"), exported("whole-hf"));

    // Further training begins where the adapters are.
    let text = succeed(&set("further", &["init_from=tuned"]));
    assert!(text.contains("trained: "), "{text}");
    let rank = set("rank", &["init_from=tuned", "model.lora.rank=3"]);
    fail(&rank, "lora.a` is [16, 2], the configuration says [16, 3]");
    fail(&set("none", &["init_from=tuned", "model.lora=null"]), "merge it first");
    fail(
        &set("odd", &["init_from=base", "model.lora.targets=[\"attn\"]"]),
        "`attn` matches nothing",
    );
    let expected = "the run artifacts/whole was not trained here";
    fail(&emberlm(path, &["train", "--resume", "whole"]), expected);
    fail(&emberlm(path, &["merge", "whole", "--name", "again"]), "nothing to merge");
    fail(&emberlm(path, &["merge", "tuned", "--name", "base"]), "exists already");
    for run in ["rank", "none", "odd", "again"] {
        assert!(!path.join("artifacts").join(run).exists(), "{run}");
    }
    let counted = succeed(&emberlm(path, &["params", "gpt2", "--set", "model.lora.rank=4"]));
    // Of each of 12 layers: (768 + 2304 + 768 + 768 + 768 + 3072 + 3072 + 768) * 4.
    let line = counted.lines().find(|line| line.starts_with("trained")).unwrap();
    assert!(line.trim().ends_with(&(12 * 12288 * 4).to_string()), "{line}");
}
