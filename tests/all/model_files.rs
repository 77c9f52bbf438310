//! Models on their way to a disk: by a signal, without room, beside another, into folders that are
//! there.

#![cfg(target_os = "linux")]

use burn::tensor::TensorData;
use emberlm::artifact::{ArtifactError, Run};
use emberlm::config;
use emberlm::model::parameter_shapes;
use emberlm::tokenizer::SavedTokenizer;
use serde_json::json;
use std::borrow::Cow;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;

use crate::command_line::{command, emberlm, listens, succeed};
use crate::support::golden;

const VOCAB_SIZE: usize = 100;

/// What is in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn tokenizer() -> SavedTokenizer {
    SavedTokenizer::Ids { vocab_size: VOCAB_SIZE }
}

/// A run of 100 MB, with adapters, that takes a while to be written.
fn large(root: &Path) {
    let config = json!({
        "name": "large",
        "model": {
            "d_model": 512, "n_layers": 8, "n_heads": 8, "context_length": 32,
            "vocab_size": VOCAB_SIZE, "lora": { "rank": 4 },
        },
        "tokenizer": { "kind": "ids", "vocab_size": VOCAB_SIZE },
    });
    let config = config::resolve(config).unwrap();
    let shapes = parameter_shapes(&config.model, VOCAB_SIZE);
    let zeros = |index: usize| -> Result<_, ArtifactError> {
        let shape = &shapes[index].1;
        Ok(Cow::Owned(TensorData::zeros::<f32, _>(shape.clone())))
    };
    Run::create_with_model(root, &config, tokenizer(), &shapes, zeros).unwrap();
}

#[test]
fn a_signal_leaves_nothing_of_what_it_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    large(&path.join("artifacts"));
    fs::create_dir(path.join("out")).unwrap();
    succeed(&emberlm(path, &["export", "large", "--to", "huggingface", "exported"]));
    for args in [
        &["export", "large", "--to", "huggingface", "out/model"][..],
        &["export", "large", "--to", "gguf", "out/model.gguf"],
        &["import", "exported", "--run", "again", "--artifacts", "out"],
        &["merge", "large", "--name", "merged"],
    ] {
        let mut child = command(path, args).stderr(Stdio::piped()).spawn().unwrap();
        // It is there already when the moment comes, which is short.
        let mut sender = Command::new("sh")
            .args(["-c", "read line; kill -INT $0", &child.id().to_string()])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        listens(&mut child);
        sender.stdin.take().unwrap().write_all(b"now\n").unwrap();
        assert!(sender.wait().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{args:?}: {message}");
        assert!(message.ends_with("stopped; nothing is kept\n"), "{args:?}: {message}");
        assert_eq!(names(&path.join("out")), [""; 0], "{args:?}");
        assert_eq!(names(&path.join("artifacts")), ["large"], "{args:?}");
    }
}

/// A limit on the size of files stands in for a full disk: what cannot be written is named as it
/// would have been.
#[test]
fn what_has_no_room_is_named_where_it_would_have_been() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let model = golden("gpt2-tiny");
    succeed(&emberlm(path, &["import", model.to_str().unwrap(), "--run", "whole"]));
    let weights = "model.safetensors";
    for (args, place) in [
        (
            &["import", model.to_str().unwrap(), "--run", "new"][..],
            format!("artifacts/new/checkpoints/step-00000000/{weights}"),
        ),
        (&["export", "whole", "--to", "huggingface", "out/new"], format!("out/new/{weights}")),
        (&["export", "whole", "--to", "gguf", "out/new.gguf"], "out/new.gguf".into()),
    ] {
        let program = [env!("CARGO_BIN_EXE_emberlm")];
        let output = Command::new("bash")
            .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$@\"", "bash"])
            .args([&program[..], args].concat())
            .current_dir(path)
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        let expected = message.contains("cannot write ") && message.contains(&place);
        assert!(expected && !message.contains(".part-"), "{args:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert_eq!(names(&path.join("artifacts")), ["whole"]);
    }
    assert_eq!(names(&path.join("out")), [""; 0]);
}

/// As a disk of its own, which nobody can put another folder in the place of.
#[test]
fn an_empty_folder_is_filled_and_stays_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let model = golden("gpt2-tiny");
    succeed(&emberlm(path, &["import", model.to_str().unwrap(), "--run", "small"]));
    fs::create_dir(path.join("real")).unwrap();
    symlink("real", path.join("link")).unwrap();
    for place in ["new", "link"] {
        succeed(&emberlm(path, &["export", "small", "--to", "huggingface", place]));
    }
    assert!(fs::symlink_metadata(path.join("link")).unwrap().is_symlink());
    let files = names(&path.join("new"));
    assert!(files.contains(&"model.safetensors".into()), "{files:?}");
    assert_eq!(names(&path.join("real")), files);
    for file in files {
        let read = |folder: &str| fs::read(path.join(folder).join(&file)).unwrap();
        assert!(read("real") == read("new"), "{file}");
    }
    assert_eq!(names(path), ["artifacts", "link", "new", "real"]);
}

#[test]
fn of_two_runs_of_one_name_one_is_made_and_one_exists() {
    let folder = tempfile::tempdir().unwrap();
    let model = json!({ "d_model": 8, "n_layers": 1, "n_heads": 1, "context_length": 8 });
    let config = config::resolve(json!({ "name": "same", "model": model })).unwrap();
    for round in 0..50 {
        let root = folder.path().join(round.to_string());
        fs::create_dir(&root).unwrap();
        let both = Barrier::new(2);
        let make = || {
            both.wait();
            Run::create(&root, &config, tokenizer())
        };
        let made = std::thread::scope(|scope| {
            let other = scope.spawn(make);
            [make(), other.join().unwrap()]
        });
        let (made, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
        assert_eq!(made.len(), 1);
        let error = refused.into_iter().next().unwrap().unwrap_err();
        assert!(matches!(error, ArtifactError::Exists { .. }), "{error:?}");
        assert_eq!(names(&root), ["same"]);
        Run::open(&root, "same").unwrap();
    }
}
