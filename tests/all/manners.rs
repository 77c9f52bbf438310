//! What every command has: silence where it is asked for, JSON for programs, completions, manuals.

use serde_json::Value;
use std::fs;

use crate::command_line::{SHORT, TINY, command, emberlm, succeed};

/// A training, without lines for people.
fn train(folder: &std::path::Path, name: &str, extra: &[&str]) -> std::process::Output {
    // The first of them asks for lines.
    let settings = [&TINY[1..], &SHORT, &["--run", name], extra].concat();
    emberlm(folder, &[&["train"], &settings[..]].concat())
}

#[test]
fn a_quiet_training_says_where_its_run_is() {
    let folder = tempfile::tempdir().unwrap();
    let output = train(folder.path(), "silent", &["--quiet"]);
    assert_eq!(succeed(&output).trim_end(), "artifacts/silent");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(folder.path().join("artifacts/silent/summary.json").exists());
}

#[test]
fn a_training_for_programs_prints_its_metrics_and_its_summary() {
    let folder = tempfile::tempdir().unwrap();
    let printed = succeed(&train(folder.path(), "rows", &["--json"]));
    let run = folder.path().join("artifacts/rows");
    let (rows, summary) = printed.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(rows, fs::read_to_string(run.join("metrics.jsonl")).unwrap().trim_end());
    // Six steps and two evaluations.
    assert_eq!(rows.lines().count(), 8);
    let summary: Value = serde_json::from_str(summary).unwrap();
    let kept: Value = serde_json::from_slice(&fs::read(run.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary, kept);
}

#[test]
fn what_is_prepared_is_told_as_json() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("my.txt"), "some words to learn from. ".repeat(50)).unwrap();
    let args = ["prepare", "my.txt", "--tokenizer", "byte", "--json", "-q"];
    let output = emberlm(folder.path(), &args);
    let told: Value = serde_json::from_str(&succeed(&output)).unwrap();
    let meta = folder.path().join("datasets/my/byte/meta.json");
    assert_eq!(told, serde_json::from_slice::<Value>(&fs::read(meta).unwrap()).unwrap());
    assert!(output.stderr.is_empty());
    // The second time it is there already.
    assert_eq!(
        told,
        serde_json::from_str::<Value>(&succeed(&emberlm(folder.path(), &args))).unwrap()
    );
}

/// As `emberlm .. | head -c 1` does, once with a line of text and once with JSON.
#[test]
#[cfg(unix)]
fn a_reader_that_has_read_enough_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    succeed(&train(folder.path(), "stories", &[]));
    // More than waits in memory until it is written.
    let long = "a ".repeat(50_000);
    let tokens = ["tokenizer", "encode", "gpt2", &long];
    for args in [
        &tokens[..],
        &[&tokens[..], &["--json"]].concat(),
        &["predict", "stories", "--text", "Anna", "--top", "40", "--json"],
        &["logits", "stories", "--tokens", "1,2,3", "--json"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(folder.path(), args).stdout(writer).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{}: {message}", args[0]);
        assert_eq!(message, "", "{}", args[0]);
    }
}

/// What took hours to measure is kept, whoever reads of it.
#[test]
fn results_are_kept_where_a_reader_has_read_enough() {
    let folder = tempfile::tempdir().unwrap();
    succeed(&train(folder.path(), "stories", &[]));
    let kept = folder.path().join("artifacts/stories/evaluations/step-00000006-validation.json");
    for (args, file) in [
        (&["compare", "stories", "--quick", "--html", "page.html"][..], "page.html".as_ref()),
        (
            &["compare", "stories", "--quick", "--json", "--svg", "curves.svg"],
            "curves.svg".as_ref(),
        ),
        (&["eval", "stories"], kept.as_path()),
        (&["eval", "stories", "--json"], &kept),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(folder.path(), args).stdout(writer).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {message}");
        let file = folder.path().join(file);
        assert!(file.is_file(), "{args:?}: {message}");
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn shells_and_manuals_know_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let help = succeed(&emberlm(path, &["--help"]));
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    // A line that goes on is indented more.
    let names: Vec<&str> = commands
        .lines()
        .filter(|line| !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert!(names.len() > 15 && names.contains(&"train"), "{names:?}");
    for shell in ["bash", "zsh", "fish"] {
        let script = succeed(&emberlm(path, &["completions", shell]));
        for name in &names {
            assert!(script.contains(name), "{shell}: {name}");
        }
        assert!(script.contains("quantize"), "{shell}");
    }
    succeed(&emberlm(path, &["man", "pages"]));
    for name in names.iter().filter(|name| **name != "help") {
        let page = fs::read_to_string(path.join(format!("pages/emberlm-{name}.1"))).unwrap();
        assert!(page.starts_with(".ie") && page.contains(".SH OPTIONS"), "{name}: {page}");
    }
    let page = succeed(&emberlm(path, &["man"]));
    assert!(page.contains(".SH NAME") && page.contains("Exit codes: 0"));
    let refused = emberlm(path, &["completions", "cmd"]);
    assert_eq!(refused.status.code(), Some(2));
}
