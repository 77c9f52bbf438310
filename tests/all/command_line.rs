//! The program from outside: what it prints, how it ends, what it leaves.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A few steps of a tiny model, everything else as the default.
pub const TINY: [&str; 13] = [
    "--plain",
    "--set",
    "model.d_model=16",
    "--set",
    "model.n_layers=1",
    "--set",
    "model.context_length=32",
    "--set",
    "train.steps=6",
    "--set",
    "train.evaluate_every=3",
    "--set",
    "train.batch_size=2",
];

/// Further settings that keep a run of the built-in corpus short.
pub const SHORT: [&str; 6] = [
    "--set",
    "data.train_stories=50",
    "--set",
    "data.validation_stories=5",
    "--set",
    "sample.max_tokens=20",
];

/// The program in a folder, with nobody who types.
pub fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emberlm"));
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command
}

pub fn emberlm(folder: &Path, args: &[&str]) -> Output {
    command(folder, args).output().unwrap()
}

/// Sends a signal, as `-INT`, to a process that nobody has waited for yet.
#[cfg(unix)]
#[track_caller]
pub fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args([name, &process.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Waits until a program has said what it does at SIGINT.
#[cfg(target_os = "linux")]
#[track_caller]
pub fn listens(child: &mut std::process::Child) {
    let is_caught = |status: &str| {
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << 1) != 0
    };
    let status = format!("/proc/{}/status", child.id());
    while !is_caught(&std::fs::read_to_string(&status).unwrap()) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it listened");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// A value of JSON a line.
#[track_caller]
pub fn json_lines(text: &[u8]) -> Vec<serde_json::Value> {
    let lines = serde_json::Deserializer::from_slice(text).into_iter();
    lines.map(Result::unwrap).collect()
}

pub fn train(folder: &Path, extra: &[&str]) -> Output {
    emberlm(folder, &[&["train"], &TINY[..], &SHORT[..], extra].concat())
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What was printed by a command that must exit with 0.
#[track_caller]
pub fn succeed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    stdout(output)
}

/// One line on standard error, exit code 2, and nothing in the folder of the runs.
#[track_caller]
pub fn refused(folder: &Path, args: &[&str], expected: &str) {
    let output = emberlm(folder, args);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
    assert!(message.contains(expected), "{args:?}: {message}");
    assert!(message.starts_with("error: "), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(!message.contains("panicked") && !message.contains("backtrace"), "{message}");
    let runs = folder.join("artifacts");
    assert!(!runs.exists(), "{args:?} left {runs:?}");
}

#[test]
fn bad_input_of_train_is_one_line_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let write = |name: &str, bytes: &[u8]| std::fs::write(path.join(name), bytes).unwrap();
    write("empty.txt", b"");
    write("latin1.txt", b"na\xEFve");
    write("short.txt", b"short");
    write("good.txt", "some words to learn from. ".repeat(50).as_bytes());
    write("bad.json", b"{");
    write("odd.json", br#"{"extends": "stories", "model": {"d_modle": 64}}"#);
    let cpu = "shakespeare-char-cpu";
    for (args, expected) in [
        (&["--data", "missing.txt"][..], "missing.txt; give the path of a UTF-8 text"),
        (&["--data", "."], "holds no prepared data; make some with `emberlm prepare`"),
        (&["--data", "empty.txt"], "empty.txt is empty"),
        (&["--data", "latin1.txt"], "latin1.txt is not UTF-8 (byte 2 and after)"),
        (&["--data", "short.txt"], "the training text has 4 tokens"),
        (&["--data", "good.txt", "--eval-data", "missing.txt"], "missing.txt"),
        (&["--config", cpu], "names no text; give one with --data FILE"),
        (&["--config", "shakespear"], "did you mean `shakespeare-char`?"),
        (&["--config", "bad.json"], "bad.json is not valid JSON"),
        (&["--config", "odd.json"], "`model.d_modle` is not a known key; did you mean `d_model`?"),
        (&["--set", "train.step=1"], "`train.step` is not a known key; did you mean `steps`?"),
        (&["--set", "model.n_heads=5"], "d_model = 144 is not divisible by model.n_heads = 5"),
        (&["--set", "model.vocab_size=3"], "smaller than the tokenizer's 48 tokens"),
        (
            &["--set", r#"tokenizer={"kind": "tiktoken", "encoding": "gpt9"}"#],
            "no tiktoken encoding `gpt9`; there are gpt2",
        ),
        (&["--set", "sample.top_k=0"], "`sample.top_k` = 0 is out of range"),
        (&["--run", "../x"], "`name` = ../x is out of range"),
        (&["--backend", "tpu"], "no backend `tpu`; compiled in: "),
    ] {
        refused(path, &[&["train", "--plain"], args].concat(), expected);
    }
}

#[test]
fn a_backend_that_is_not_compiled_in_is_named_with_those_that_are() {
    use emberlm::backend::{BackendKind, compiled};
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<&str> = compiled().map(BackendKind::name).collect();
    for kind in BackendKind::ALL.into_iter().filter(|kind| !names.contains(&kind.name())) {
        let expected = format!(
            "backend `{kind}` is not compiled in (compiled in: {}); rebuild with --features {kind}",
            names.join(", ")
        );
        refused(folder.path(), &["train", "--backend", kind.name()], &expected);
    }
}

#[test]
fn runs_that_do_not_exist_are_refused_with_those_that_do() {
    let folder = tempfile::tempdir().unwrap();
    refused(
        folder.path(),
        &["generate", "nothing"],
        "there is no run `nothing` in artifacts; train one with `emberlm train`",
    );
    refused(folder.path(), &["eval", "nothing"], "there is no run `nothing`");
}

#[test]
fn usage_errors_end_with_two() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["trian"][..], &["train", "--steps", "5"], &["generate"]] {
        let output = emberlm(folder.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
    assert_eq!(emberlm(folder.path(), &["--help"]).status.code(), Some(0));
}

#[test]
fn configs_lists_every_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let text = stdout(&emberlm(folder.path(), &["configs"]));
    for name in emberlm::config::builtin_names() {
        assert!(text.contains(name), "{text}");
    }
    assert!(text.contains("124439808"), "{text}");
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
}

#[test]
fn params_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let table = |args: &[&str]| {
        let output = emberlm(folder.path(), &[&["params"], args].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        stdout(&output)
    };
    let gpt2 = table(&["gpt2"]);
    assert!(gpt2.lines().any(|line| line.starts_with("total") && line.ends_with("124439808")));
    let sum: usize = gpt2
        .lines()
        .filter(|line| line.ends_with('%'))
        .map(|line| line.split_whitespace().rev().nth(1).unwrap().parse::<usize>().unwrap())
        .sum();
    assert_eq!(sum, 124_439_808);
    assert!(gpt2.contains("decoder.blocks.*.attention.qkv.weight"), "{gpt2}");
    let stories = table(&["stories", "--set", "model.n_layers=1"]);
    assert!(stories.contains("give it with --vocab-size N"), "{stories}");
    assert!(!table(&["stories", "--vocab-size", "48"]).contains("--vocab-size"));
    let huge = ["params", "gpt2", "--vocab-size", "18446744073709551615"];
    refused(folder.path(), &huge, "`model.vocab_size` = 18446744073709551615 is out of range");
    refused(folder.path(), &["params", "gpt3"], "no configuration `gpt3`");
}
