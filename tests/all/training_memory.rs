//! The memory that training is foretold to take, against closed forms and against what a process
//! takes.

use emberlm::backend::{
    BackendKind, GptBackend, Job, TrainBackend, dispatch, gpu_logits_rows, gpu_queries,
};
use emberlm::config::{self, Precision, RunConfig};
use emberlm::train::{Operations, TrainingMemory, largest_batch, training_memory};
use serde_json::{Value, json};
use std::path::Path;

use crate::command_line::{emberlm, refused, stdout};
use crate::support::{Inner, cpu_backends};

const MIB: f64 = (1u64 << 20) as f64;

/// A configuration on token ids, `model` and `train` of which are changed.
fn config(model: Value, train: Value) -> RunConfig {
    let mut value = json!({
        "name": "sized",
        "model": { "d_model": 64, "n_layers": 3, "n_heads": 4, "context_length": 32 },
        "tokenizer": { "kind": "ids", "vocab_size": 100 },
        "train": { "batch_size": 5 },
    });
    for (key, changes) in [("model", model), ("train", train)] {
        for (name, change) in changes.as_object().unwrap() {
            value[key][name] = change.clone();
        }
    }
    let mut config = config::resolve(value).unwrap();
    config.model.vocab_size.get_or_insert(100);
    config
}

fn foretold(config: &RunConfig, operations: impl Into<Operations>) -> TrainingMemory {
    training_memory(config, config.model.vocab_size.unwrap(), operations.into()).unwrap()
}

/// Kernels on a processor.
const KERNELS: BackendKind = BackendKind::Flex;
const COMPOSITIONS: BackendKind = BackendKind::Ndarray;

/// `N D` numbers of f32 in the configuration above, and a number for each head of each row.
const STREAM: u64 = 4 * 5 * 32 * 64;
const LOG_SUMS: u64 = 4 * 5 * 32 * 4;

#[track_caller]
fn assert_layer(memory: &TrainingMemory, expected: u64) {
    let layers: Vec<u64> = memory
        .activations
        .iter()
        .filter(|part| part.name.contains(".blocks."))
        .map(|part| part.bytes)
        .collect();
    assert_eq!(layers, [expected; 3]);
}

#[test]
fn a_layer_keeps_what_its_kernels_need() {
    // Two norms and what they make; queries, keys and values in one; what they attend to; the
    // hidden layer before and after its activation.
    let gpt2 = config(json!({}), json!({}));
    assert_layer(&foretold(&gpt2, KERNELS), (4 + 3 + 1 + 2 * 4) * STREAM + LOG_SUMS);

    // Queries and keys beside the values as they are turned, half as many keys and values as
    // queries, and nothing of before; gate and up and their product.
    let llama = config(
        json!({
            "n_kv_heads": 2, "d_ff": 128, "position": { "kind": "rotary" },
            "norm": { "kind": "rms" }, "feed_forward": { "activation": "silu", "gated": true },
        }),
        json!({}),
    );
    let attention = 2 * STREAM + STREAM;
    let expected = 4 * STREAM + attention + 3 * 2 * STREAM + LOG_SUMS;
    assert_layer(&foretold(&llama, KERNELS), expected);
    // A GPU copies what is attended to, to have the heads of a position side by side.
    let gpu = expected + STREAM;
    assert_layer(&foretold(&llama, BackendKind::Cuda), gpu);
    // In bf16 products keep factors of half as many bytes, weights among them: what is normed, once
    // for queries, keys and values, and twice for gate and up; what is attended to, as attention makes
    // it, and so neither in f32 nor as a copy; what is gated.
    // Gate and up are kept as products make them, and queries, keys and values as they take them.
    let mut bf16 = llama.clone();
    bf16.train.precision = Precision::Bf16;
    let weights = 2 * (64 * 128 + 64 * 64 + 3 * 64 * 128);
    let factors = (1 + 2 + 2 + 1 + 3 * 2) * STREAM / 2;
    let in_f32 = (1 + 1 + 2 + 2 + 3 * 2) * STREAM;
    assert_layer(&foretold(&bf16, BackendKind::Cuda), gpu - in_f32 + factors + weights);
    // So is the hidden layer before its activation.
    let mut bf16 = gpt2.clone();
    bf16.train.precision = Precision::Bf16;
    let weights = 2 * (64 * 3 * 64 + 64 * 64 + 2 * 64 * 256);
    let in_f32 = 2 * STREAM + LOG_SUMS;
    let factors = (2 + 3 + 1 + 2 * 4) * STREAM / 2;
    assert_layer(&foretold(&bf16, BackendKind::Cuda), in_f32 + factors + weights);

    // Nothing but its input.
    let twice = config(json!({}), json!({ "gradient_checkpointing": true }));
    assert_layer(&foretold(&twice, KERNELS), STREAM);

    // What is dropped is drawn again; compositions have a mask for each of the two branches.
    let dropout = config(json!({ "residual_dropout": 0.1 }), json!({}));
    assert_layer(&foretold(&dropout, KERNELS), (4 + 3 + 1 + 2 * 4) * STREAM + LOG_SUMS);
    let [without, with] =
        [&gpt2, &dropout].map(|it| foretold(it, COMPOSITIONS).activations[1].bytes);
    assert_eq!(with - without, 2 * STREAM);
    // Of attention, too, where masks are as large as all scores.
    let dropout = config(json!({ "dropout": 0.1 }), json!({}));
    assert_layer(&foretold(&dropout, KERNELS), (4 + 3 + 1 + 2 * 4) * STREAM + LOG_SUMS);
}

#[test]
fn compositions_keep_all_scores_and_logits() {
    let small = config(json!({}), json!({}));
    let [with, without] = [KERNELS, COMPOSITIONS].map(|it| foretold(&small, it));
    let scores = 4 * 5 * 4 * 32 * 32;
    let layer = |memory: &TrainingMemory| memory.activations[1].bytes;
    // Before, within and after the softmax, and no logarithms of sums.
    assert!(layer(&without) >= layer(&with) - LOG_SUMS + 3 * scores);
    let head = |memory: &TrainingMemory| memory.activations.last().unwrap().bytes;
    assert!(head(&without) >= 4 * 5 * 32 * 100);
    // The gradients of what is hidden and of the weight, made on the way forward.
    assert_eq!(head(&with), STREAM + 4 * 100 * 64);

    // Terms beside the likelihood are part of the kernels.
    let terms = config(json!({}), json!({ "label_smoothing": 0.1, "z_loss": 1e-4 }));
    for backend in [KERNELS, BackendKind::Cuda] {
        assert_eq!(foretold(&terms, backend), foretold(&small, backend));
    }
}

/// A GPU's head, by what its kernels allocate: logits and their gradients in blocks, of a multiple of
/// 128 columns; the weights with as many columns, where they have fewer; in bf16 both factors.
#[test]
fn the_loss_of_a_gpu_takes_logits_and_gradients_at_a_time() {
    let transient = |vocab_size: u64, batch: u64, precision: &str| {
        let config = config(
            json!({ "vocab_size": vocab_size }),
            json!({ "batch_size": batch, "precision": precision }),
        );
        // Beside what is hidden, and the loss.
        foretold(&config, BackendKind::Cuda).peak.transient - 4 * batch * 32 * 64 - 4
    };
    let (v, rows) = (50304, 5 * 32);
    let kept = STREAM + 4 * 64 * v;
    // In one block, before there are gradients of its inputs; with 47 columns more than logits.
    assert_eq!(transient(v, 5, "f32"), 8 * rows * v - kept);
    let widened = 4 * 64 * v;
    assert_eq!(transient(v - 47, 5, "f32"), widened + 8 * rows * v - (kept - 4 * 64 * 47));
    let factors = 2 * 64 * (v + rows);
    assert_eq!(transient(v, 5, "bf16"), factors + 6 * rows * v - kept);
    // In blocks of ten times 128 rows, of which the second finds the gradients of the first.
    assert_eq!((1 << 26) / v, 1334);
    assert_eq!(transient(v, 100, "f32"), 8 * 1280 * v);
    assert_eq!(transient(v, 100, "bf16"), 2 * 64 * (v + 100 * 32) + 6 * 1280 * v);
}

#[test]
fn blocks_on_gpus_are_aligned_where_they_fit() {
    assert_eq!(gpu_logits_rows(1 << 26, 50304), 1280);
    assert_eq!(gpu_logits_rows(12_799, 100), 127);
    assert_eq!(gpu_logits_rows(99, 100), 1);
    // GPT-2's twelve heads on 1024 keys: 682 queries would have as many scores as are preferred.
    let any = usize::MAX;
    assert_eq!(gpu_queries(8 * 12 * 1024, any), 640);
    assert_eq!(gpu_queries(64 * 12 * 1024, any), 128);
    // Where a piece of memory is of 128 MiB.
    assert_eq!(gpu_queries(32 * 16 * 1024, 1 << 25), 64);
    assert_eq!(gpu_queries(1 << 26, 1 << 25), 1);
}

#[test]
fn state_is_that_of_the_optimizer() {
    let of = |model: Value, train: Value| foretold(&config(model, train), KERNELS);
    let adamw = of(json!({}), json!({}));
    let layer = 2 * 2 * 64 + 64 * 192 + 192 + 64 * 64 + 64 + 2 * 64 * 256 + 256 + 64;
    assert_eq!(adamw.weights, 4 * (100 * 64 + 32 * 64 + 3 * layer + 2 * 64));
    assert_eq!((adamw.gradients, adamw.moments), (adamw.weights, 2 * adamw.weights));
    assert_eq!(adamw.average, 0);
    assert_eq!(adamw.peak.state, 3 * adamw.weights);
    let peak = adamw.peak;
    assert_eq!(peak.total, peak.state + peak.gradients + peak.activations + peak.transient);

    let averaged = of(json!({}), json!({ "average": { "decay": 0.9 } }));
    assert_eq!((averaged.average, averaged.peak.state), (adamw.weights, 4 * adamw.weights));

    let sgd = |momentum: f64| {
        let optimizer = json!({ "kind": "sgd", "momentum": momentum });
        of(json!({}), json!({ "optimizer": optimizer })).moments
    };
    assert_eq!((sgd(0.0), sgd(0.9)), (0, adamw.weights));
    // Muon has one moment of each hidden matrix, AdamW two of all else.
    let matrices = 4 * 3 * (64 * 192 + 64 * 64 + 2 * 64 * 256);
    let muon = of(json!({}), json!({ "optimizer": { "kind": "muon" } }));
    assert_eq!(muon.moments, 2 * adamw.weights - matrices);

    // Adapters alone have gradients and moments.
    let lora = of(json!({ "lora": { "rank": 4, "targets": ["*.qkv"] } }), json!({}));
    let adapters = 4 * 3 * (64 * 4 + 4 * 192);
    assert_eq!(lora.weights, adamw.weights + adapters);
    assert_eq!((lora.gradients, lora.moments), (adapters, 2 * adapters));
}

#[test]
fn backends_have_the_kernels_that_they_are_said_to() {
    struct HasKernels;

    impl Job for HasKernels {
        type Output = bool;

        fn run<B: TrainBackend>(self, _device: B::Device) -> bool {
            <Inner<B> as GptBackend>::kernels().is_some()
        }
    }

    for kind in cpu_backends() {
        assert_eq!(dispatch(kind, HasKernels).unwrap(), kind.has_kernels(), "{kind}");
    }
}

/// The most memory of a process that takes a few steps; none where the system does not tell.
fn measured(config: &RunConfig, backend: BackendKind, folder: &Path) -> Option<f64> {
    let file = folder.join("config.json");
    std::fs::write(&file, serde_json::to_string(config).unwrap()).unwrap();
    let file = file.display().to_string();
    let args = ["bench", "train", "--json", "--steps", "1", "--backend", backend.name()];
    let output = emberlm(folder, &[&args[..], &["--shape", &file]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_str(&stdout(&output)).unwrap();
    result["peak_mib"].as_f64()
}

/// Models that differ in what takes their memory: activations, scores, weights, the vocabulary.
#[test]
fn processes_take_what_is_foretold() {
    let gpt2 = json!({ "d_model": 256, "n_layers": 4, "context_length": 128 });
    let llama = json!({
        "d_model": 256, "n_layers": 4, "n_heads": 8, "n_kv_heads": 2, "d_ff": 704,
        "context_length": 128, "bias": false, "tied_head": false, "vocab_size": 4000,
        "position": { "kind": "rotary" }, "norm": { "kind": "rms" },
        "feed_forward": { "activation": "silu", "gated": true },
    });
    let vocabulary =
        json!({ "d_model": 256, "n_layers": 1, "context_length": 16, "vocab_size": 40000 });
    let small = json!({ "d_model": 128, "n_layers": 3, "context_length": 128 });
    let folder = tempfile::tempdir().unwrap();
    let (flex, ndarray) = (BackendKind::Flex, BackendKind::Ndarray);
    for (name, backend, model, train) in [
        ("gpt2", flex, &gpt2, json!({ "batch_size": 8 })),
        ("llama", flex, &llama, json!({ "batch_size": 8 })),
        ("twice", flex, &llama, json!({ "batch_size": 16, "gradient_checkpointing": true })),
        ("vocabulary", flex, &vocabulary, json!({ "batch_size": 1 })),
        (
            "terms",
            flex,
            &vocabulary,
            json!({ "batch_size": 4, "label_smoothing": 0.1, "z_loss": 1e-4 }),
        ),
        (
            "average",
            flex,
            &gpt2,
            json!({ "batch_size": 4, "accumulation": 2, "average": { "decay": 0.9 } }),
        ),
        ("compositions", ndarray, &small, json!({ "batch_size": 4 })),
    ] {
        if !cpu_backends().contains(&backend) {
            continue;
        }
        let config = config(model.clone(), train);
        let Some(measured) = measured(&config, backend, folder.path()) else { return };
        let foretold = foretold(&config, backend).process as f64 / MIB;
        // 15%: what products copy for themselves depends on the processor, and what its allocator
        // keeps on the order in which threads end.
        let error = foretold / measured - 1.0;
        println!(
            "{name}: {foretold:.1} MiB foretold, {measured:.1} measured, {:+.1}%",
            100.0 * error
        );
        assert!(error.abs() < 0.15, "{name}: {foretold:.1} MiB foretold, {measured:.1} measured");
    }
}

#[test]
fn the_largest_batch_is_the_last_that_fits() {
    let small = config(json!({}), json!({}));
    for backend in [BackendKind::Cuda, BackendKind::Flex, BackendKind::Ndarray] {
        let needed = |examples: usize| {
            let config = config(json!({}), json!({ "batch_size": examples }));
            foretold(&config, backend).needed(backend)
        };
        for examples in [1, 7, 100] {
            let found = largest_batch(&small, 100, backend, needed(examples)).unwrap();
            assert_eq!(found, examples, "{backend}");
        }
        assert_eq!(largest_batch(&small, 100, backend, needed(1) - 1).unwrap(), 0);
    }
}

#[test]
fn a_plan_says_what_training_takes() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |args: &[&str]| {
        let output = emberlm(folder.path(), &[&["plan"], args].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        stdout(&output)
    };
    let json = |args: &[&str]| -> Value {
        serde_json::from_str(&plan(&[args, &["--json"]].concat())).unwrap()
    };
    let gpt2 = json(&["gpt2", "--backend", "cuda", "--memory", "80GiB"]);
    assert_eq!(gpt2["parameters"], 124_439_808);
    let components = gpt2["components"].as_array().unwrap();
    let count = |part: &Value| part["parameters"].as_u64().unwrap();
    assert_eq!(components.iter().map(count).sum::<u64>(), 124_439_808);
    // A layer: two norms, attention with four matrices of width 768, a hidden layer of 3072.
    let of = |name: &str| count(components.iter().find(|part| part["name"] == name).unwrap());
    assert_eq!(of("norms"), (2 * 12 + 1) * 2 * 768);
    assert_eq!(of("attention"), 12 * (4 * 768 * 768 + 4 * 768));
    assert_eq!(of("feed-forward"), 12 * (2 * 768 * 3072 + 3072 + 768));
    assert_eq!(of("embeddings"), (50257 + 1024) * 768);
    assert_eq!(gpt2["memory"]["weights"], 4 * 124_439_808);
    assert_eq!(gpt2["checkpoint"], 12 * 124_439_808u64);
    assert_eq!(gpt2["tokens_per_step"], 12 * 40 * 1024);
    assert_eq!(gpt2["tokens"], 600_000u64 * 12 * 40 * 1024);
    assert_eq!(gpt2["chinchilla_tokens"], 20 * 124_439_808u64);
    let largest = gpt2["largest_batch_size"].as_u64().unwrap();
    let at = |examples: u64| {
        let batch = format!("train.batch_size={examples}");
        let plan = json(&["gpt2", "--backend", "cuda", "--memory", "80GiB", "--set", &batch]);
        plan["needed"].as_u64().unwrap()
    };
    assert!(at(largest) <= 80 << 30 && at(largest + 1) > 80 << 30, "{largest}");

    let text = plan(&["gpt2", "--backend", "cuda", "--memory", "1GB"]);
    assert!(text.contains("953.7 MiB: a micro-batch of 12 DOES NOT FIT"), "{text}");
    assert!(text.contains("none: not even a single example fits"), "{text}");
    assert!(text.lines().all(|line| line.len() <= 100), "{text}");

    // The device's own memory, and a rate that was measured.
    let tiny = ["--set", "model.d_model=16", "--set", "model.n_layers=1", "--vocab-size", "48"];
    let measured = json(&[&["stories", "--measure"], &tiny[..]].concat());
    assert!(measured["available"].as_u64().unwrap() > measured["needed"].as_u64().unwrap());
    let rate = measured["tokens_per_second"].as_f64().unwrap();
    let tokens = measured["tokens"].as_f64().unwrap();
    assert!((measured["seconds"].as_f64().unwrap() * rate / tokens - 1.0).abs() < 1e-9);
    for (architecture, special) in [("encoder", "49"), ("encoder-decoder", "50")] {
        let set = format!("model.architecture={architecture}");
        let args = ["stories", "--measure", "--set", &set, "--set", "model.d_model=16"];
        let measured = json(&[&args[..], &["--vocab-size", special]].concat());
        assert!(measured["tokens_per_second"].as_f64().unwrap() > 0.0);
        assert!(measured["flops_per_token"].is_null());
    }

    refused(folder.path(), &["plan", "stories"], "give it with --vocab-size N");
    let huge = ["plan", "gpt2-xl", "--memory", "1GB", "--measure"];
    refused(folder.path(), &huge, "steps cannot be measured: they take more memory than there is");
    for size in ["much", "-1GB", "0", "infGB"] {
        let size = format!("--memory={size}");
        refused(folder.path(), &["plan", "gpt2", &size], "is no size; write it as 24GiB or 800MB");
    }
    refused(folder.path(), &["plan", "gpt2", "--backend", "tpu"], "no backend `tpu`");
    refused(folder.path(), &["plan", "gpt2", "--device", "9"], "has no device 9");
}
