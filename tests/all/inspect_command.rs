//! `emberlm inspect` from outside.

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use tempfile::TempDir;

use crate::command_line::{emberlm, succeed, train};

/// Runs of a few steps on the built-in stories: by bytes, and of other architectures.
static RUNS: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let bytes = ["--set", "tokenizer={\"kind\": \"byte\"}", "--set", "train.keep_checkpoints=5"];
    succeed(&train(folder.path(), &[&bytes[..], &["--run", "bytes"]].concat()));
    for architecture in ["encoder", "encoder-decoder"] {
        let architecture_set = format!("model.architecture={architecture}");
        succeed(&train(folder.path(), &["--run", architecture, "--set", &architecture_set]));
    }
    let deep = ["--set", "model.architecture=encoder-decoder", "--set", "model.n_encoder_layers=3"];
    succeed(&train(folder.path(), &[&["--run", "deep-encoder"], &deep[..]].concat()));
    folder
});

fn inspect(args: &[&str]) -> String {
    succeed(&emberlm(RUNS.path(), &[&["inspect"], args].concat()))
}

fn json(args: &[&str]) -> Value {
    let text = inspect(&[args, &["--json"]].concat());
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// One line, exit code 2, and no new file.
#[track_caller]
fn refused(args: &[&str], expected: &str) {
    let before = files(RUNS.path());
    let output = emberlm(RUNS.path(), &[&["inspect"], args].concat());
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains(expected), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(output.stdout.is_empty());
    assert_eq!(files(RUNS.path()), before);
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Other tests look into runs at the same time.
        match path.is_dir() {
            true if path.ends_with("inspections") => {}
            true => found.extend(files(&path)),
            false => found.push(path.display().to_string()),
        }
    }
    found.sort();
    found
}

const TEXT: &str = "Anna had a red ball.";

#[test]
fn shapes_are_the_default_and_need_no_weights() {
    let text = inspect(&["bytes"]);
    assert_eq!(text, inspect(&["bytes", "--shapes"]));
    assert!(text.starts_with("bytes, step 6: a decoder of "), "{text}");
    for expected in ["[B 2, T 32] -> [B 2, T 32, V 257]", "(H+2G)K 48", "F 64", "weight 16"] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(
        text.lines().all(|line| line.chars().count() <= 80 && !line.contains('\x1b')),
        "{text}"
    );
    let config = inspect(&["llama3", "--set", "model.n_layers=2", "--batch", "3", "--length", "5"]);
    assert!(config.starts_with("llama3, untrained: a decoder of "), "{config}");
    assert!(config.contains("[B 3, H+2G 12, T 5, K 64]") && config.contains("V 50257"), "{config}");

    let document = json(&["bytes"]);
    assert_eq!(document["step"], 6);
    assert_eq!(document["shapes"]["parameter_count"], document["parameters"]);
    assert_eq!(document["shapes"]["modules"][0]["path"], "embedding");
    assert_eq!(document["shapes"]["modules"][0]["output"][2]["symbol"], "D");
    assert!(document.get("weights").is_none());
}

#[test]
fn every_architecture_and_every_view() {
    for (run, target) in
        [("bytes", None), ("encoder", None), ("encoder-decoder", Some("It was red."))]
    {
        let target = target.map_or(vec![], |target| vec!["--target", target]);
        let args = [
            &[run, "--shapes", "--grads", "--weights", "--attention", TEXT, "--tokens", TEXT][..],
            &target[..],
        ];
        let document = json(&args.concat());
        let names = ["shapes", "gradients", "weights", "attention", "tokens"];
        for name in names {
            assert!(!document[name].is_null(), "{run}: {name}");
        }
        let parameters = document["weights"].as_array().unwrap().iter().map(|weight| {
            let shape = weight["shape"].as_array().unwrap();
            shape.iter().map(|side| side.as_u64().unwrap()).product::<u64>()
        });
        assert_eq!(parameters.sum::<u64>(), document["parameters"].as_u64().unwrap(), "{run}");
        assert!(document["gradients"]["gradient_norm"].as_f64().unwrap() > 0.0);
        assert!(document["gradients"]["loss"].as_f64().unwrap() > 1.0);
        let layers = document["attention"]["layers"].as_array().unwrap();
        assert_eq!(layers.len(), if run == "encoder-decoder" { 3 } else { 1 }, "{run}");
        assert!(document["attention"]["page"].is_null());
        assert!(document["tokens"]["loss"].as_f64().unwrap() > 1.0, "{run}");
        let tokens = document["tokens"]["tokens"].as_array().unwrap();
        let expected = target.get(1).map_or(TEXT.len(), |target| target.len() + 1);
        assert_eq!(tokens.len(), expected, "{run}");

        let text = inspect(&args.concat());
        assert!(
            text.lines().all(|line| line.chars().count() <= 80 || line.starts_with("page: ")),
            "{text}"
        );
        assert!(!text.contains('\x1b'));
    }
}

#[test]
fn the_page_is_in_the_run_or_where_it_is_asked_for() {
    let folder = RUNS.path();
    let text = inspect(&["bytes", "--attention", TEXT, "--head", "1", "--place", "3"]);
    let page = folder.join("artifacts/bytes/inspections/step-00000006-attention.html");
    assert!(
        text.contains("page: artifacts/bytes/inspections/step-00000006-attention.html"),
        "{text}"
    );
    assert!(text.contains("head 1: what token 3, \"a\", looks at"), "{text}");
    let html = fs::read_to_string(page).unwrap();
    assert!(html.contains("<title>bytes, step 6: attention</title>"));
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("deep/picture.html");
    inspect(&["bytes", "--attention", TEXT, "--checkpoint", "3", "--out", path.to_str().unwrap()]);
    assert!(fs::read_to_string(&path).unwrap().contains("bytes, step 3"));
    inspect(&["bytes", "--attention", TEXT, "--json", "--out", out.path().to_str().unwrap()]);
    assert!(out.path().join("step-00000006-attention.html").is_file());
    refused(
        &["bytes", "--attention", TEXT, "--out", "artifacts/bytes/config.json/x"],
        "cannot write",
    );
}

#[test]
fn a_translators_encoder_may_have_more_layers_and_other_tokens_than_its_decoder() {
    let args =
        ["deep-encoder", "--attention", "Hi", "--target", "It was a red ball.", "--layer", "2"];
    let text = inspect(&args);
    assert!(text.contains("encoder layer 2, head 0: what token 1, \"i\", looks at"), "{text}");
    let first = inspect(&[&args[..], &["--place", "0"]].concat());
    assert!(first.contains("what token 0, \"H\", looks at"), "{first}");
    // Of the target there would be one.
    refused(&[&args[..], &["--place", "2"]].concat(), "no token 2; the text has 0 to 1");
    inspect(&[&args[..], &["--layer", "0", "--place", "2"]].concat());
}

#[test]
fn gradients_of_a_text_and_of_a_configuration() {
    let of_text = json(&["bytes", "--grads", "--text", TEXT]);
    assert_eq!(of_text["gradients"]["tokens"].as_u64().unwrap(), TEXT.len() as u64 - 1);
    // A text's loss is the mean surprise at its tokens.
    let reading = json(&["bytes", "--tokens", TEXT]);
    let [loss, surprise] = [&of_text["gradients"]["loss"], &reading["tokens"]["loss"]];
    assert!((loss.as_f64().unwrap() - surprise.as_f64().unwrap()).abs() < 1e-4);
    let text = inspect(&["bytes", "--grads"]);
    assert!(text.contains("gradients of 2 examples of the training data"), "{text}");
    let small = ["--set", "data.train_stories=20", "--set", "data.validation_stories=5"];
    let config = ["stories", "--set", "model.n_layers=1", "--grads", "--batch", "1"];
    let text = inspect(&[&config[..], &small].concat());
    assert!(text.contains("gradients of one example of the training data"), "{text}");
}

#[test]
fn what_makes_no_sense_is_one_line() {
    refused(
        &["nothing"],
        "there is no run `nothing` in artifacts, and no configuration of that name",
    );
    refused(&["bytes", "--checkpoint", "5"], "has no checkpoint of step 5");
    refused(&["llama3", "--checkpoint", "5"], "has no checkpoints; leave out --checkpoint");
    refused(
        &["bytes", "--set", "model.n_layers=2"],
        "--set and --vocab-size are for configurations",
    );
    refused(&["bytes", "--length", "33"], "the model sees at most 32 tokens");
    refused(&["bytes", "--tokens", ""], "--tokens is empty");
    refused(
        &["bytes", "--tokens", &"a".repeat(33)],
        "--tokens has 33 tokens, the model sees at most 32",
    );
    refused(&["encoder", "--tokens", "Ж"], "--tokens cannot be encoded");
    refused(
        &["bytes", "--tokens", TEXT, "--target", "x"],
        "does not translate; leave out --target",
    );
    refused(
        &["encoder-decoder", "--tokens", TEXT],
        "give what it should become with --target TEXT",
    );
    refused(
        &["bytes", "--attention", TEXT, "--layer", "1"],
        "there is no layer 1; there are 0 to 0",
    );
    refused(&["bytes", "--attention", TEXT, "--head", "4"], "there is no head 4; there are 0 to 3");
    refused(
        &["bytes", "--attention", TEXT, "--place", "20"],
        "there is no token 20; the text has 0 to 19",
    );
    refused(&["bytes", "--grads", "--target", "x"], "--target goes with a text");
    refused(&["bytes", "--grads", "--text", "a"], "--text has one token");
    refused(&["shakespeare-char", "--shapes"], "give it with --vocab-size N");
    let output = emberlm(RUNS.path(), &["inspect", "bytes", "--layer", "0"]);
    assert_eq!(output.status.code(), Some(2));
}
