//! Training as a whole: a configuration, a file of tokens, batches, burn-train and its strategy,
//! metrics. Its losses must be those that PyTorch computes by hand.

use burn_train::Interrupter;
use emberlm::backend::TrainBackend;
use emberlm::config::{self, RunConfig};
use emberlm::data::Corpus;
use emberlm::train::{
    Display, Ended, LanguageModel, Loggers, ModelOptimizer, Row, RowLogger, RunState, Training,
    train,
};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::command_line::emberlm;
use crate::golden::{Golden, MODELS};
use crate::on_each_backend;

/// The losses of the steps.
#[derive(Clone, Default)]
pub struct Losses(Arc<Mutex<Vec<f64>>>);

impl Losses {
    pub fn all(&self) -> Vec<f64> {
        self.0.lock().unwrap().clone()
    }
}

impl RowLogger for Losses {
    fn log(&mut self, row: &Row) -> std::io::Result<()> {
        if row.split.to_string() == "train" {
            let loss = row.values.iter().find(|logged| logged.key == "loss").unwrap();
            self.0.lock().unwrap().push(loss.value);
        }
        Ok(())
    }
}

/// A letter for each token id.
fn spell(ids: impl IntoIterator<Item = u32>) -> String {
    ids.into_iter().map(|id| char::from_u32(0x100 + id).unwrap()).collect()
}

/// Token files in which each row of a golden, twice, is a document. The documents for validation
/// have all letters, so that the letters' ids are the golden's.
fn prepare(folder: &Path, golden: &Golden) -> PathBuf {
    let rows: Vec<String> =
        golden.rows().into_iter().map(|row| json!({ "text": spell(row) }).to_string()).collect();
    let alphabet = json!({ "text": spell(0..golden.vocab_size() as u32) }).to_string();
    fs::write(folder.join("train.jsonl"), [&rows[..], &rows].concat().join("\n")).unwrap();
    fs::write(folder.join("valid.jsonl"), alphabet).unwrap();
    let args = ["prepare", "train.jsonl", "--validation", "valid.jsonl", "--tokenizer"];
    let output = emberlm(folder, &[&args[..], &["character", "--out", "rows"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder.join("rows")
}

/// What the goldens were trained with, over batches of all four documents.
fn configuration(golden: &Golden, data: &Path, batch_size: usize) -> RunConfig {
    config::resolve(json!({
        "name": "golden",
        "model": golden.config,
        "tokenizer": { "kind": "file", "path": data.join("tokenizer.json") },
        "data": { "kind": "tokens", "path": data, "packing": "documents" },
        "train": {
            "steps": 10, "batch_size": batch_size, "accumulation": 4 / batch_size,
            "clip_norm": 1.0, "evaluate_every": 10,
            "optimizer": { "kind": "adamw", "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1 },
            "schedule": { "kind": "constant", "learning_rate": 1e-3, "warmup_steps": 0 },
        },
    }))
    .unwrap()
}

fn losses<B: TrainBackend>(golden: &Golden, config: &RunConfig, device: &B::Device) -> Vec<f64> {
    let corpus = Corpus::load(config, None).unwrap();
    let model = LanguageModel::<B>::for_training(golden.whole_model(device), config).unwrap();
    let losses = Losses::default();
    let outcome = train(Training {
        config,
        corpus: &corpus,
        optimizer: ModelOptimizer::new(&config.train.optimizer, &model).unwrap(),
        model,
        average: None,
        state: RunState::default(),
        device: device.clone(),
        further_devices: Vec::new(),
        keeper: Box::new(()),
        loggers: Loggers::new(vec![Box::new(losses.clone())]),
        display: Display::Silent,
        interrupter: Interrupter::new(),
    })
    .unwrap();
    assert_eq!(outcome.ended, Ended::Finished);
    losses.all()
}

#[test]
fn losses_are_pytorchs_whole_and_accumulated() {
    on_each_backend!(|device: B| {
        for golden in MODELS.map(Golden::open) {
            let folder = tempfile::tempdir().unwrap();
            let data = prepare(folder.path(), &golden);
            let run = |batch_size| {
                losses::<B>(&golden, &configuration(&golden, &data, batch_size), &device)
            };
            let (whole, accumulated) = (run(4), run(1));
            let expected = golden.adamw_losses();
            assert_eq!((whole.len(), accumulated.len()), (10, 10));
            for (step, expected) in expected.into_iter().enumerate() {
                let (whole, accumulated) = (whole[step], accumulated[step]);
                // 1e-4: the steps feed rounding back into the weights.
                assert!((whole - expected).abs() < 1e-4, "step {step}: {whole}, not {expected}");
                // 1e-5: the same sums in another order.
                assert!(
                    (whole - accumulated).abs() < 1e-5,
                    "step {step}: {whole}, and {accumulated} in four parts"
                );
            }
        }
    });
}
