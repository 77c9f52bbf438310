//! Runs that are stopped, killed and damaged, and go on: they must end as one that was left alone.

use emberlm::artifact::Run;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

#[cfg(unix)]
use crate::command_line::signal;
use crate::command_line::{SHORT, TINY, command, emberlm, succeed, train};

/// Dropout, several micro-batches a step, an average of the weights, and intervals that do not
/// divide each other.
const UNEVEN: [&str; 16] = [
    "--set",
    "model.dropout=0.2",
    "--set",
    "train.accumulation=2",
    "--set",
    "train.checkpoint_every=13",
    "--set",
    "train.evaluate_every=40",
    "--set",
    "train.evaluation_windows=4",
    "--set",
    "train.skip_spikes={\"z_score\":3,\"window\":20}",
    "--set",
    "train.log_every=10000",
    "--set",
    "train.average={\"decay\":0.9}",
];

#[track_caller]
pub fn refuse(output: &Output, expected: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains(expected), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

pub fn resume(folder: &Path, name: &str, extra: &[&str]) -> Output {
    emberlm(folder, &[&["train", "--plain", "--resume", name], extra].concat())
}

pub fn path_of(folder: &Path, run: &str) -> PathBuf {
    folder.join("artifacts").join(run)
}

/// All that must be the same of two runs: the bytes of the newest checkpoint's tensors,
/// its state and the metrics without what the clock has to say, the best checkpoint and the samples.
#[derive(PartialEq)]
pub struct Left {
    average: Vec<u8>,
    /// Where there is an average beside them.
    weights: Option<Vec<u8>>,
    moments: Vec<u8>,
    state: Value,
    metrics: Vec<BTreeMap<String, Value>>,
    best: Value,
    samples: BTreeMap<String, String>,
}

impl Left {
    /// Names what differs, rather than to print it.
    #[track_caller]
    pub fn must_be(&self, expected: &Self, what: &str) {
        assert!(self.average == expected.average, "{what}: another average");
        assert!(self.weights == expected.weights, "{what}: other weights");
        assert!(self.moments == expected.moments, "{what}: other moments");
        assert_eq!(self.state, expected.state, "{what}");
        assert_eq!(self.best, expected.best, "{what}");
        assert_eq!(self.samples, expected.samples, "{what}");
        let pairs = self.metrics.iter().zip(&expected.metrics);
        for (found, expected) in pairs {
            assert_eq!(found, expected, "{what}");
        }
        assert_eq!(self.metrics.len(), expected.metrics.len(), "{what}: other lines of metrics");
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

pub fn left_by(folder: &Path, name: &str) -> Left {
    let path = path_of(folder, name);
    let run = Run::open(&folder.join("artifacts"), name).unwrap();
    let newest = run.checkpoints().path(*run.checkpoints().steps().unwrap().last().unwrap());
    let mut state = json(&newest.join("state.json"));
    state["progress"].as_object_mut().unwrap().remove("seconds").unwrap();
    let metrics = fs::read_to_string(path.join("metrics.jsonl")).unwrap();
    let timeless = [
        "split",
        "step",
        "tokens",
        "loss",
        "perplexity",
        "bits_per_byte",
        "learning_rate",
        "gradient_norm",
    ];
    let metrics = metrics
        .lines()
        .map(|line| {
            let line: BTreeMap<String, Value> = serde_json::from_str(line).unwrap();
            line.into_iter().filter(|(key, _)| timeless.contains(&key.as_str())).collect()
        })
        .collect();
    let samples = fs::read_dir(path.join("samples")).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let text = fs::read_to_string(entry.path()).unwrap();
        (entry.file_name().to_string_lossy().into_owned(), text)
    });
    Left {
        average: fs::read(newest.join("model.safetensors")).unwrap(),
        weights: fs::read(newest.join("weights.safetensors")).ok(),
        moments: fs::read(newest.join("optimizer.safetensors")).unwrap(),
        state,
        metrics,
        best: json(&path.join("best.json")),
        samples: samples.collect(),
    }
}

pub fn start(folder: &Path, args: &[&str]) -> Child {
    // Nobody reads its lines.
    command(folder, args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Starts a training and waits until it evaluates its last model, which must take a while.
pub fn start_to_last_evaluation(folder: &Path, args: &[&str]) -> Child {
    let mut child = command(folder, args);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let is_it = |line: String| line.starts_with("evaluating the last model");
    assert!(lines.map(Result::unwrap).any(is_it), "it ended before");
    child
}

/// Pauses that look random and are the same everywhere.
struct Pauses(u64);

impl Pauses {
    fn next(&mut self, least: u64, most: u64) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        Duration::from_millis(least + (self.0 >> 33) % (most - least))
    }
}

/// The step of a run's newest checkpoint; none where it has not come so far.
fn newest_step(folder: &Path, name: &str) -> Option<usize> {
    let checkpoints = fs::read_dir(path_of(folder, name).join("checkpoints"));
    let names = checkpoints.into_iter().flatten().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.to_str()?.strip_prefix("step-")?.parse().ok()).max()
}

/// What has become of a run that was interrupted.
struct Interrupted {
    times: usize,
    /// The steps that it went on after.
    steps: BTreeSet<usize>,
}

/// Starts a run, ends it by signals in turn whenever it has gone on for a while, and lets it finish
/// after so many of them.
fn interrupt(
    folder: &Path,
    name: &str,
    first: &[&str],
    signals: &[&str],
    times: usize,
) -> Interrupted {
    let mut pauses = Pauses(times as u64);
    let again = ["train", "--plain", "--resume", name];
    let mut taken = 0;
    let mut steps = BTreeSet::new();
    while taken < times {
        let begun = path_of(folder, name).exists();
        let before = newest_step(folder, name);
        steps.extend(before);
        let mut child = start(folder, if begun { &again } else { first });
        // Anywhere after the next checkpoint; but every fifth time anywhere at all, where it may
        // still be starting.
        let began = Instant::now();
        while taken % 5 != 4
            && newest_step(folder, name) <= before
            && child.try_wait().unwrap().is_none()
        {
            assert!(began.elapsed() < Duration::from_secs(60), "no checkpoint after {before:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(pauses.next(0, 80));
        let ended = child.try_wait().unwrap();
        if let Some(status) = ended {
            assert!(
                status.success(),
                "{}",
                std::io::read_to_string(child.stderr.unwrap()).unwrap()
            );
            return Interrupted { times: taken, steps };
        }
        signal(child.id(), signals[taken % signals.len()]);
        child.wait().unwrap();
        taken += 1;
    }
    steps.extend(newest_step(folder, name));
    succeed(&resume(folder, name, &[]));
    Interrupted { times: taken, steps }
}

#[test]
#[cfg(unix)]
fn a_stopped_run_ends_as_one_that_was_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    for kind in crate::support::cpu_backends() {
        let args = |name: &str| -> Vec<String> {
            let own = ["--set", "train.steps=2000", "--backend", kind.name(), "--run", name];
            let args = [&["train"], &TINY[..], &SHORT, &UNEVEN, &own].concat();
            args.into_iter().map(String::from).collect()
        };
        let (whole, stopped) = (format!("{kind}-whole"), format!("{kind}-stopped"));
        let strings = args(&whole);
        let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
        succeed(&emberlm(folder.path(), &strings));
        let expected = left_by(folder.path(), &whole);
        assert_eq!(expected.metrics.len(), 2000 + 2000 / 40);

        let strings = args(&stopped);
        let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
        let mut child = start(folder.path(), &strings);
        let again = ["train", "--plain", "--resume", &stopped, "--backend", kind.name()];
        for step in [30, 300] {
            // In the middle of whatever it does once it is beyond this step.
            let metrics = path_of(folder.path(), &stopped).join("metrics.jsonl");
            let lines = || fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
            while lines() < step {
                assert!(child.try_wait().unwrap().is_none(), "it ended before it was stopped");
                std::thread::sleep(Duration::from_millis(2));
            }
            signal(child.id(), "-INT");
            assert!(child.wait().unwrap().success());
            let run = Run::open(&folder.path().join("artifacts"), &stopped).unwrap();
            let summary = run.history().summary().unwrap();
            assert!(summary.steps >= step - 10 && summary.steps < 2000, "{}", summary.steps);
            assert_eq!(summary.final_val_loss, None);
            assert_eq!(run.checkpoints().steps().unwrap().last(), Some(&summary.steps));
            child = start(folder.path(), &again);
        }
        assert!(child.wait().unwrap().success());
        left_by(folder.path(), &stopped).must_be(&expected, &format!("on {kind}"));
        // A run that has ended says so again, and changes nothing.
        succeed(&emberlm(folder.path(), &again));
        left_by(folder.path(), &stopped).must_be(&expected, &format!("on {kind}"));
    }
}

/// `nohup` lets a program ignore that its terminal goes away.
#[test]
#[cfg(target_os = "linux")]
fn a_run_that_is_to_outlive_its_terminal_does() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let long = ["--set", "train.steps=1000000", "--set", "train.evaluate_every=1000000"];
    let program = [env!("CARGO_BIN_EXE_emberlm"), "train", "--run", "kept"];
    let mut child = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .args([&program[..], &TINY, &SHORT, &long].concat())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let metrics = path_of(folder, "kept").join("metrics.jsonl");
    let lines = || fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
    let id = child.id();
    let mut steps = |count: usize| {
        while lines() < count {
            assert!(child.try_wait().unwrap().is_none(), "it ended after {} steps", lines());
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    steps(5);
    signal(id, "-HUP");
    steps(lines() + 500);
    signal(id, "-TERM");
    assert!(child.wait().unwrap().success());
}

#[test]
#[cfg(unix)]
fn a_run_of_2000_steps_interrupted_ten_times_has_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let own = ["--set", "train.steps=2000", "--set", "train.checkpoint_every=30"];
    let args = |run: &'static str| {
        [&["train"], &TINY[..], &SHORT, &UNEVEN, &own, &["--run", run]].concat()
    };
    succeed(&emberlm(folder.path(), &args("whole")));
    let Interrupted { times, steps } =
        interrupt(folder.path(), "cut", &args("cut"), &["-INT", "-KILL", "-TERM"], 10);
    println!("interrupted {times} times, gone on after {steps:?}");
    assert!(times >= 3, "the run ended after {times} interruptions");
    assert!(steps.len() >= 3, "gone on after {steps:?} only");
    left_by(folder.path(), "cut").must_be(&left_by(folder.path(), "whole"), "interrupted");
}

#[test]
#[cfg(unix)]
fn two_hundred_kills_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let own = ["--set", "train.steps=1500", "--set", "train.checkpoint_every=7"];
    let args = |run: &str| -> Vec<String> {
        let args = [&["train"], &TINY[..], &SHORT, &UNEVEN, &own, &["--run", run]].concat();
        args.into_iter().map(String::from).collect()
    };
    let strings = args("whole");
    succeed(&emberlm(folder.path(), &strings.iter().map(String::as_str).collect::<Vec<_>>()));
    let expected = left_by(folder.path(), "whole");
    let mut kills = 0;
    let mut steps = BTreeSet::new();
    for number in 0.. {
        let name = format!("killed-{number}");
        let strings = args(&name);
        let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
        let killed = interrupt(folder.path(), &name, &strings, &["-KILL"], 200 - kills);
        kills += killed.times;
        steps.extend(killed.steps);
        left_by(folder.path(), &name).must_be(&expected, &format!("{name}, {kills} kills"));
        if kills >= 200 {
            println!("{kills} kills in {} runs, gone on after {steps:?}", number + 1);
            assert!(steps.len() >= 20, "gone on after {steps:?} only");
            break;
        }
    }
}

#[test]
fn an_unreadable_checkpoint_falls_back_to_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let short = ["--set", "train.steps=60"];
    succeed(&train(folder.path(), &[&UNEVEN[..], &short, &["--run", "whole"]].concat()));
    let expected = left_by(folder.path(), "whole");
    let checkpoints = path_of(folder.path(), "whole").join("checkpoints");
    let newest = checkpoints.join("step-00000060");
    for file in ["model.safetensors", "optimizer.safetensors", "state.json", "checksums.json"] {
        let mut bytes = fs::read(newest.join(file)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(newest.join(file), bytes).unwrap();
        let text = succeed(&resume(folder.path(), "whole", &[]));
        assert!(text.contains("a checkpoint cannot be read and is set aside"), "{text}");
        assert!(text.contains("goes on after step 5"), "{text}");
        left_by(folder.path(), "whole").must_be(&expected, file);
        assert!(checkpoints.join("damaged-step-00000060").exists());
    }
    // Where none can be read, the run stays as it is.
    for entry in fs::read_dir(&checkpoints).unwrap() {
        fs::write(entry.unwrap().path().join("model.safetensors"), "nothing").unwrap();
    }
    let before = Run::open(&folder.path().join("artifacts"), "whole").unwrap();
    let before = before.checkpoints().steps().unwrap();
    refuse(&resume(folder.path(), "whole", &[]), "model.safetensors is damaged");
    let after = Run::open(&folder.path().join("artifacts"), "whole").unwrap();
    assert_eq!(after.checkpoints().steps().unwrap(), before);
}

#[test]
fn a_resume_that_is_refused_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    succeed(&train(folder.path(), &["--set", "train.steps=30"]));
    let run = path_of(folder.path(), "stories");
    let left = || {
        let checkpoints = fs::read_dir(run.join("checkpoints")).unwrap();
        let mut names: Vec<_> = checkpoints.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        (fs::read_to_string(run.join("best.json")).unwrap(), names)
    };
    // The newest checkpoint is the best one, which its own state cannot know yet.
    assert_eq!(json(&run.join("best.json"))["step"], 30);
    let state = json(&run.join("checkpoints/step-00000030/state.json"));
    assert_eq!(state["best"]["step"], 27);
    // And there is one that is damaged.
    fs::create_dir(run.join("checkpoints/step-00000031")).unwrap();
    let before = left();
    let refused = [
        (r#"train.freeze=["nothing.*"]"#, "train.freeze"),
        ("model.d_model=32", "the configuration says"),
        ("model.context_length=16", "`model.context_length` cannot be changed"),
    ];
    for (set, expected) in refused {
        let output = resume(folder.path(), "stories", &["--set", set]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{set}: {message}");
        assert!(message.contains(expected), "{set}: {message}");
        assert_eq!(left(), before, "{set}");
    }
    let text = succeed(&resume(folder.path(), "stories", &[]));
    assert!(text.contains("a checkpoint cannot be read and is set aside"), "{text}");
    assert!(run.join("checkpoints/damaged-step-00000031").exists());
    assert_eq!(left().0, before.0, "the last evaluation is made anew");
}

/// The run `own` after 30 steps, with a text of its own for evaluations, and a harder one beside it.
fn trained_on_texts() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    text("own.txt", &"one two three four. ".repeat(60));
    text("easy.txt", &"one two three four. ".repeat(10));
    text("hard.txt", &"rhufo were nothrwe teo. ".repeat(10));
    let data = ["--data", "own.txt", "--eval-data", "easy.txt", "--run", "own"];
    let steps = ["--set", "train.steps=30", "--set", "sample.max_tokens=20"];
    succeed(&emberlm(folder.path(), &[&["train"], &TINY[..], &data, &steps].concat()));
    folder
}

#[test]
fn evaluations_of_other_data_are_not_compared() {
    let folder = trained_on_texts();
    let text = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let run = path_of(folder.path(), "own");
    let old = json(&run.join("best.json"));
    let more = ["--eval-data", "hard.txt", "--set", "train.steps=36"];
    let said = succeed(&resume(folder.path(), "own", &more));
    assert!(said.contains("evaluations are of other data: their best, "), "{said}");
    let new = json(&run.join("best.json"));
    assert!(new["step"].as_u64() >= Some(30), "{new}");
    assert!(new["loss"].as_f64() > old["loss"].as_f64(), "{new} is of harder text than {old}");
    // What is learned from is the same and goes on where it was, two windows a step.
    let state = json(&run.join("checkpoints/step-00000036/state.json"));
    assert_eq!(state["progress"]["cursor"], 72);

    // Killed before its next checkpoint, a run that was given other data still has it.
    text("other.txt", &"two four. three one. ".repeat(60));
    let other = ["--data", "other.txt", "--eval-data", "easy.txt", "--set", "train.steps=39"];
    succeed(&resume(folder.path(), "own", &other));
    fs::remove_dir_all(run.join("checkpoints/step-00000039")).unwrap();
    succeed(&resume(folder.path(), "own", &[]));
    let state = json(&run.join("checkpoints/step-00000039/state.json"));
    assert_eq!(state["progress"]["cursor"], 6);
}

#[test]
fn data_for_training_and_for_evaluations_are_judged_apart() {
    let folder = trained_on_texts();
    let text = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let run = path_of(folder.path(), "own");
    let cursor = |step: &str| {
        json(&run.join("checkpoints").join(step).join("state.json"))["progress"]["cursor"].clone()
    };

    // Another order of what is learned from, and the same evaluations.
    let seed = ["--set", "seed=7", "--set", "train.steps=32"];
    let said = succeed(&resume(folder.path(), "own", &seed));
    assert!(said.contains("the training data is not what it was"), "{said}");
    assert!(!said.contains("counts no more"), "{said}");
    assert_eq!(cursor("step-00000032"), 4);

    // That evaluations get other data does not excuse what was not asked for.
    text("own.txt", &"four three two one. ".repeat(60));
    let other = ["--eval-data", "hard.txt", "--set", "train.steps=34"];
    refuse(&resume(folder.path(), "own", &other), "is not what it was at step 32");
    let set = ["--set", "data.validation_path=hard.txt"];
    refuse(&resume(folder.path(), "own", &set), "is not what it was at step 32");
    // A file of the same name is asked for by that name.
    let named = ["--data", "own.txt", "--set", "train.steps=34"];
    let said = succeed(&resume(folder.path(), "own", &named));
    assert!(said.contains("the training data is not what it was"), "{said}");
    assert!(!said.contains("counts no more"), "{said}");
    assert_eq!(cursor("step-00000034"), 4);
    text("easy.txt", &"four three two one. ".repeat(10));
    refuse(&resume(folder.path(), "own", &[]), "is not what it was at step 34");
    let other = ["--data", "hard.txt"];
    refuse(&resume(folder.path(), "own", &other), "is not what it was at step 34");
    let named = ["--eval-data", "easy.txt", "--set", "train.steps=36"];
    let said = succeed(&resume(folder.path(), "own", &named));
    assert!(said.contains("counts no more"), "{said}");
    assert_eq!(cursor("step-00000036"), 8);
}

#[test]
fn a_run_is_trained_by_one_program_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    succeed(&train(folder.path(), &[]));
    let run = Run::open(&folder.path().join("artifacts"), "stories").unwrap();
    let lock = run.lock().unwrap();
    refuse(&resume(folder.path(), "stories", &[]), "another program is training the run");
    drop(lock);
    succeed(&resume(folder.path(), "stories", &[]));
}

#[test]
fn changed_settings_are_a_new_segment() {
    let folder = tempfile::tempdir().unwrap();
    let text = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    text("own.txt", &"one two three four. ".repeat(60));
    let constant = [
        "--set",
        "train.schedule.final_learning_rate=3e-3",
        "--set",
        "sample.max_tokens=20",
        "--data",
        "own.txt",
    ];
    let names = |run: &'static str| [&constant[..], &["--run", run]].concat();
    let begin = |run: &'static str, extra: &[&str]| {
        let args = [&["train"], &TINY[..], &names(run), extra].concat();
        succeed(&emberlm(folder.path(), &args))
    };
    begin("long", &["--set", "train.steps=12"]);
    begin("own", &[]);
    // A longer run at a rate that does not depend on its length is the one that was longer.
    let output = succeed(&resume(folder.path(), "own", &["--set", "train.steps=12"]));
    assert!(output.contains("changed: train.steps = 12 (was 6)"), "{output}");
    left_by(folder.path(), "own").must_be(&left_by(folder.path(), "long"), "longer");

    let open = || Run::open(&folder.path().join("artifacts"), "own").unwrap();
    let more = ["--set", "train.steps=14", "--set", "train.schedule.learning_rate=0.01"];
    succeed(&resume(folder.path(), "own", &more));
    let segments = open().segments().unwrap();
    assert_eq!(segments.iter().map(|segment| segment.step).collect::<Vec<_>>(), [6, 12]);
    let keys: Vec<&String> = segments[1].changes.keys().collect();
    assert_eq!(keys, ["train.schedule.learning_rate", "train.steps"]);
    assert_eq!(open().config().train.schedule.learning_rate(), 0.01);
    let first = json(&path_of(folder.path(), "own").join("config.json"));
    assert_eq!(first["train"]["steps"], 6, "what it began with stays");

    for (set, expected) in [
        ("tokenizer.kind=byte", "`tokenizer` cannot be changed"),
        ("name=other", "`name` cannot be changed"),
        ("model.d_model=32", "the configuration says"),
        ("train.stesp=3", "did you mean `steps`"),
    ] {
        let output = resume(folder.path(), "own", &["--set", set]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{set}: {message}");
        assert_eq!(open().segments().unwrap().len(), 2, "{set}");
    }

    // Data that has changed behind its back is not gone on with, other data that is named is.
    text("own.txt", &"four three two one. ".repeat(60));
    refuse(&resume(folder.path(), "own", &[]), "is not what it was at step 14");
    text("other.txt", &"two four. three one. ".repeat(60));
    let other = ["--data", "other.txt", "--set", "train.steps=16"];
    succeed(&resume(folder.path(), "own", &other));
    let state = json(&open().checkpoints().path(16).join("state.json"));
    assert_eq!(state["progress"]["cursor"], 4, "other data is read from its beginning");
    assert_eq!(state["progress"]["examples"], 32);
    fs::remove_file(folder.path().join("other.txt")).unwrap();
    refuse(&resume(folder.path(), "own", &[]), "there is no file");
    assert_eq!(open().checkpoints().steps().unwrap().last(), Some(&16));
}

#[test]
#[cfg(unix)]
fn a_disk_that_fills_up_leaves_the_checkpoints_before() {
    let folder = tempfile::tempdir().unwrap();
    let short = ["--set", "train.steps=60", "--set", "train.checkpoint_every=10"];
    succeed(&train(folder.path(), &short));
    let before = left_by(folder.path(), "stories");
    // No file may grow beyond eight blocks of 512 bytes.
    let program = env!("CARGO_BIN_EXE_emberlm");
    let script = format!(
        "ulimit -f 8; trap '' XFSZ; exec {program} train --plain --resume stories --set train.steps=90"
    );
    let output =
        Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("could not be saved") || message.contains("cannot write"),
        "{message}"
    );
    let run = Run::open(&folder.path().join("artifacts"), "stories").unwrap();
    let newest = *run.checkpoints().steps().unwrap().last().unwrap();
    assert_eq!(newest, 60);
    let weights = fs::read(run.checkpoints().path(60).join("model.safetensors")).unwrap();
    assert_eq!(weights, before.average);
    succeed(&resume(folder.path(), "stories", &["--set", "train.steps=70"]));
}
