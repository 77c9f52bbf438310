//! Runs that evaluate and keep an average of their weights.

use emberlm::artifact::{Run, read_tensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::command_line::{emberlm, stdout, train};

const AVERAGED: [&str; 6] = [
    "--set",
    "train.average={\"decay\":0.5}",
    "--set",
    "train.checkpoint_every=1",
    "--set",
    "train.keep_checkpoints=10",
];

fn values(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let tensors = read_tensors(path).unwrap().into_iter();
    tensors.map(|(name, data)| (name, data.iter::<f64>().collect())).collect()
}

fn state(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("state.json")).unwrap()).unwrap()
}

#[test]
fn the_model_of_a_run_is_the_average_of_its_steps() {
    let folder = tempfile::tempdir().unwrap();
    let output = train(folder.path(), &AVERAGED);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = Run::open(&folder.path().join("artifacts"), "stories").unwrap();
    let mut average: Option<BTreeMap<String, Vec<f64>>> = None;
    for step in 1..=6 {
        let path = run.checkpoints().path(step);
        let weights = values(&path.join("weights.safetensors"));
        let decay = 0.5f64.min(step as f64 / (9.0 + step as f64));
        let expected = match average.take() {
            None => weights.clone(),
            Some(mut average) => {
                for (name, values) in &mut average {
                    for (mean, weight) in values.iter_mut().zip(&weights[name]) {
                        *mean = decay * *mean + (1.0 - decay) * weight;
                    }
                }
                average
            }
        };
        for (name, found) in values(&path.join("model.safetensors")) {
            for (found, expected) in found.iter().zip(&expected[&name]) {
                // Six roundings of numbers of at most about one.
                assert!(
                    (found - expected).abs() < 1e-6,
                    "step {step}, {name}: {found}, {expected}"
                );
            }
            if step == 6 {
                assert!(found != weights[&name], "{name} is averaged");
            }
        }
        assert_eq!(state(&path)["averaged"], step);
        average = Some(expected);
    }

    // The average is what is evaluated in training, and by all that takes the model of a run.
    let summary = run.history().summary().unwrap();
    let final_loss = format!("{:.4}", summary.final_val_loss.unwrap());
    let text = stdout(&train(folder.path(), &["--run", "again", "--set", "seed=1"]));
    assert!(!text.contains(&final_loss), "another run has another loss");
    assert_eq!(summary.best_step, Some(6), "so eval reads the last checkpoint");
    let text = stdout(&emberlm(folder.path(), &["eval", "stories"]));
    assert!(text.contains(&final_loss), "{text} has no {final_loss}");

    // Without its weights a checkpoint is damaged; without an average a run goes on with weights.
    let weights = |step: usize| run.checkpoints().path(step).join("weights.safetensors");
    fs::remove_file(weights(6)).unwrap();
    let more = ["train", "--plain", "--resume", "stories", "--set", "train.average=null"];
    let output = emberlm(folder.path(), &[&more[..], &["--set", "train.steps=7"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout(&output).contains("stories goes on after step 5"), "{}", stdout(&output));
    let last = run.checkpoints().path(7);
    assert_eq!(state(&last)["averaged"], Value::Null);
    assert!(!last.join("weights.safetensors").exists());
    let (before, after) = (values(&weights(5)), values(&last.join("model.safetensors")));
    // AdamW moves no weight further than its learning rate, 1e-3 at most, and decay.
    for (name, after) in after {
        let far = before[&name].iter().zip(&after).any(|(a, b)| (a - b).abs() > 3e-3);
        assert!(!far, "{name} goes on from the weights");
    }
}

/// Where no step has been taken in yet, the first one that is begins the average, resumed or not.
#[test]
fn an_average_of_nothing_begins_with_the_first_step_that_counts() {
    let folder = tempfile::tempdir().unwrap();
    let output = train(folder.path(), &[&AVERAGED[..], &["--set", "train.steps=1"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = Run::open(&folder.path().join("artifacts"), "stories").unwrap();
    let path = run.checkpoints().path(1);
    // As a checkpoint is after steps that were all left out.
    let mut left_out = state(&path);
    left_out["averaged"] = 0.into();
    fs::write(path.join("state.json"), left_out.to_string()).unwrap();
    emberlm::files::write_checksums(
        &path,
        &["model.safetensors", "optimizer.safetensors", "state.json", "weights.safetensors"],
    )
    .unwrap();
    let more = ["train", "--plain", "--resume", "stories", "--set", "train.steps=2"];
    let output = emberlm(folder.path(), &more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = run.checkpoints().path(2);
    assert_eq!(state(&path)["averaged"], 1);
    let [average, weights] =
        ["model.safetensors", "weights.safetensors"].map(|name| values(&path.join(name)));
    assert_eq!(average, weights);
}

/// What is evaluated is what is kept, also where the average was switched off in between.
#[test]
fn a_pending_evaluation_is_of_the_model_that_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let output = train(folder.path(), &AVERAGED);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = Run::open(&folder.path().join("artifacts"), "stories").unwrap();
    let (before, path) = (values(&run.checkpoints().path(6).join("weights.safetensors")), 6);
    // The evaluation at the end is made anew.
    let off = ["train", "--plain", "--resume", "stories", "--set", "train.average=null"];
    let output = emberlm(folder.path(), &off);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    assert!(!message.contains("metrics are not all there"), "{message}");
    let path = run.checkpoints().path(path);
    assert_eq!(values(&path.join("model.safetensors")), before);
    let final_loss = run.history().summary().unwrap().final_val_loss.unwrap();
    let text = stdout(&emberlm(folder.path(), &["eval", "stories"]));
    assert!(text.contains(&format!("{final_loss:.4}")), "{text} has no {final_loss}");
}
