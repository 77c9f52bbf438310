//! `emberlm sweep` from outside: what it trains, how it ends, and how it goes on.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

#[cfg(unix)]
use crate::command_line::signal;
use crate::command_line::{command, emberlm, json_lines, refused, succeed};

/// Settings that keep a run of the built-in corpus short.
fn short() -> Value {
    json!({
        "model.d_model": 16, "model.n_layers": 1, "model.context_length": 32,
        "train.steps": 6, "train.evaluate_every": 3, "train.batch_size": 2,
        "data.train_stories": 50, "data.validation_stories": 5, "sample.max_tokens": 20,
        "train.schedule.warmup_steps": 2,
    })
}

/// A folder with a sweep in `mine.json`; what is said lies on `short`.
fn folder(search: &Value, method: &Value, more: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), search, method, more);
    folder
}

fn write(folder: &Path, search: &Value, method: &Value, more: &Value) {
    let mut set = short();
    for (key, value) in more.as_object().unwrap() {
        set[key] = value.clone();
    }
    for key in search.as_object().unwrap().keys() {
        set.as_object_mut().unwrap().remove(key);
    }
    let document = json!({ "name": "mine", "set": set, "search": search, "method": method });
    fs::write(folder.join("mine.json"), document.to_string()).unwrap();
}

/// What is said in lines of JSON.
fn events(folder: &Path, args: &[&str]) -> Vec<Value> {
    let text = succeed(&emberlm(folder, &[&["sweep", "mine.json", "--json"], args].concat()));
    json_lines(text.as_bytes())
}

/// The runs that an event is about.
fn runs(events: &[Value], event: &str) -> Vec<String> {
    let of = events.iter().filter(|it| it["event"] == event);
    of.map(|it| it["run"].as_str().unwrap().to_string()).collect()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn summary(folder: &Path, run: &str) -> Value {
    read(&folder.join("artifacts").join(run).join("summary.json"))
}

/// The leaderboard's file by columns, a line a trial.
fn table(folder: &Path) -> Vec<Vec<(String, String)>> {
    let text = fs::read_to_string(folder.join("artifacts/sweeps/mine/leaderboard.csv")).unwrap();
    let mut table = csv::Reader::from_reader(text.as_bytes());
    let head = table.headers().unwrap().clone();
    let line = |line: csv::Result<csv::StringRecord>| {
        let named = head.iter().zip(line.unwrap().iter().map(String::from).collect::<Vec<_>>());
        named.map(|(name, cell)| (name.to_string(), cell)).collect()
    };
    table.records().map(line).collect()
}

fn cell<'a>(line: &'a [(String, String)], name: &str) -> &'a str {
    &line.iter().find(|(column, _)| column == name).unwrap().1
}

/// The loss of a run that is trained by hand.
fn trained(folder: &Path, name: &str, settings: &[(&str, String)]) -> f64 {
    let mut set: Vec<String> = Vec::new();
    let mut all = short();
    for (key, value) in settings {
        all[*key] = serde_json::from_str(value).unwrap();
    }
    for (key, value) in all.as_object().unwrap() {
        set.extend(["--set".into(), format!("{key}={value}")]);
    }
    let mut args = vec!["train", "--plain", "--run", name];
    args.extend(set.iter().map(String::as_str));
    succeed(&emberlm(folder, &args));
    summary(folder, name)["final_val_loss"].as_f64().unwrap()
}

#[test]
fn a_grid_is_trained_and_ranked_and_what_cannot_be_is_left_out() {
    let search = json!({
        "model.d_model": [16, 18, 8192],
        "train.schedule.learning_rate": [1e-3, 3e-2],
    });
    let folder = folder(&search, &json!({ "kind": "grid" }), &json!({}));
    let path = folder.path();
    let listed = events(path, &["--dry-run", "--memory", "1GiB"]);
    assert!(!path.join("artifacts").exists(), "nothing is written");
    assert_eq!(runs(&listed, "trial"), ["mine-001", "mine-002"]);
    let output = succeed(&emberlm(path, &["sweep", "mine.json", "--memory", "1GiB"]));
    let (_, board) = output.split_once("\n\n").unwrap();
    assert!(board.lines().all(|line| line.chars().count() <= 80), "{output}");
    assert!(output.contains("mine-003  skipped: model.d_model = 18 is not divisible"), "{output}");
    assert!(output.contains("mine-005  skipped: training takes "), "{output}");
    assert!(output.contains("the best: emberlm generate mine-00"), "{output}");
    for run in ["mine-003", "mine-004", "mine-005", "mine-006"] {
        assert!(!path.join("artifacts").join(run).exists());
    }
    // As `train` by itself does it, to the last bit.
    let losses = [("1e-3", "first"), ("3e-2", "second")]
        .map(|(rate, name)| trained(path, name, &[("train.schedule.learning_rate", rate.into())]));
    let found = ["mine-001", "mine-002"].map(|run| summary(path, run)["final_val_loss"].clone());
    assert_eq!(found, losses.map(Value::from));
    let best = usize::from(losses[1] < losses[0]);
    let table = table(path);
    assert_eq!(table.len(), 6);
    for (place, number) in [best, 1 - best].into_iter().enumerate() {
        let line = &table[place];
        assert_eq!(cell(line, "rank"), (place + 1).to_string());
        assert_eq!(cell(line, "run"), format!("mine-00{}", number + 1));
        assert_eq!(cell(line, "loss").parse::<f64>().unwrap(), losses[number]);
        assert_eq!((cell(line, "status"), cell(line, "steps")), ("finished", "6"));
        let rate: f64 = cell(line, "train.schedule.learning_rate").parse().unwrap();
        assert_eq!(rate, [1e-3, 3e-2][number]);
    }
    for line in &table[2..] {
        assert_eq!((cell(line, "rank"), cell(line, "status")), ("", "skipped"));
        assert!(!cell(line, "reason").is_empty());
    }
    // A trial is a run like any other.
    let text = succeed(&emberlm(path, &["generate", "mine-002", "--max-tokens", "3"]));
    assert!(!text.is_empty());
    succeed(&emberlm(path, &["eval", "mine-001"]));
    // Once more there is nothing to do.
    let metrics = path.join("artifacts/mine-001/metrics.jsonl");
    let before = fs::metadata(&metrics).unwrap().modified().unwrap();
    let again = events(path, &["--memory", "1GiB"]);
    assert!(runs(&again, "started").is_empty());
    assert_eq!(fs::metadata(&metrics).unwrap().modified().unwrap(), before);
    let rows = again.last().unwrap()["rows"].as_array().unwrap();
    assert_eq!(rows[0]["run"], cell(&table[0], "run"));
    assert_eq!(rows[0]["measured"]["loss"], losses[best]);
    // With more memory there is more to train; only that is.
    let quiet = succeed(&emberlm(path, &["sweep", "mine.json", "--quiet", "--dry-run"]));
    assert_eq!(quiet, "");
    write(path, &json!({ "train.z_loss": [0.1] }), &json!({ "kind": "grid" }), &json!({}));
    let output = emberlm(path, &["sweep", "mine.json"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("artifacts/sweeps/mine was begun as another one"), "{message}");
}

/// Who goes on is computed from runs that are trained by hand, each from its beginning: those that
/// are trained in parts must come out the same.
#[test]
fn of_halved_trials_the_best_go_on_from_their_checkpoints() {
    let search = json!({
        "train.schedule.learning_rate": { "kind": "log-uniform", "low": 1e-4, "high": 0.1 },
        "model.n_layers": [1, 2],
    });
    let method = json!({ "kind": "successive-halving", "trials": 4, "steps": 5, "factor": 2 });
    let folder = folder(&search, &method, &json!({}));
    let path = folder.path();
    let told = events(path, &["--parallel", "2"]);
    let settings = |run: &str| {
        let started = told.iter().find(|it| it["event"] == "started" && it["run"] == run).unwrap();
        let of = |key: &str| started["settings"][key].to_string();
        (of("train.schedule.learning_rate"), of("model.n_layers"))
    };
    let mut left: Vec<String> = (1..=4).map(|number| format!("mine-00{number}")).collect();
    for (rung, (steps, trials)) in [(5, 4), (10, 2), (20, 1)].into_iter().enumerate() {
        let of_rung = |event: &str| -> Vec<&Value> {
            let of = |it: &&Value| it["event"] == event && it["rung"] == rung + 1;
            told.iter().filter(of).collect()
        };
        assert_eq!(of_rung("started").len(), trials);
        let mut losses: Vec<(f64, String)> = Vec::new();
        for run in &left {
            let (rate, layers) = settings(run);
            let settings = [
                ("train.schedule.learning_rate", rate),
                ("model.n_layers", layers),
                ("train.steps", steps.to_string()),
                // Of the longest, so that the rates are those of a run that goes on.
                ("train.schedule.decay_steps", "20".into()),
            ];
            let loss = trained(path, &format!("{run}-by-hand-{steps}"), &settings);
            let finished = of_rung("finished").into_iter().find(|it| it["run"] == **run).unwrap();
            assert_eq!(finished["measured"]["loss"], loss, "{run} after {steps} steps");
            assert_eq!(finished["measured"]["steps"], steps);
            losses.push((loss, run.clone()));
        }
        losses.sort_by(|a, b| a.0.total_cmp(&b.0));
        left = losses.into_iter().take(trials / 2).map(|(_, run)| run).collect();
        left.sort();
    }
    let table = table(path);
    let rungs: Vec<&str> = table.iter().map(|line| cell(line, "rung")).collect();
    assert_eq!(rungs, ["3", "2", "1", "1"]);
    // The winner's checkpoints were gone on from.
    let winner = cell(&table[0], "run");
    let log = path.join("artifacts/sweeps/mine/logs").join(format!("{winner}.log"));
    let log = fs::read_to_string(log).unwrap();
    for step in [5, 10] {
        assert!(log.contains(&format!("{winner} goes on after step {step}")), "{log}");
    }
    assert_eq!(summary(path, winner)["steps"], 20);
}

/// A sweep whose trials have so many steps: those that are ended from outside must have many left
/// when their first checkpoint is seen.
fn long(trials: usize, steps: u64) -> TempDir {
    let search = json!({ "train.schedule.learning_rate": { "kind": "log-uniform", "low": 1e-3, "high": 0.1 } });
    let method = json!({ "kind": "random", "trials": trials });
    let more = json!({
        "train.steps": steps, "train.checkpoint_every": 20, "train.evaluate_every": steps / 2,
    });
    folder(&search, &method, &more)
}

fn start(folder: &Path, args: &[&str]) -> Child {
    command(folder, &[&["sweep", "mine.json", "--json"], args].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Until a run has a checkpoint.
fn has_checkpoint(folder: &Path, run: &str) {
    let started = Instant::now();
    let checkpoints = folder.join("artifacts").join(run).join("checkpoints");
    let is_there = || {
        let names = fs::read_dir(&checkpoints).into_iter().flatten().flatten();
        names.into_iter().any(|name| name.file_name().to_string_lossy().starts_with("step-"))
    };
    while !is_there() {
        assert!(started.elapsed() < Duration::from_secs(60), "no checkpoint of {run}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The lines of the leaderboard's file without times.
fn ranks(folder: &Path) -> Vec<Vec<(String, String)>> {
    let mut table = table(folder);
    table.iter_mut().for_each(|line| line.retain(|(name, _)| name != "seconds"));
    table
}

#[test]
fn a_killed_sweep_goes_on_where_it_was() {
    let [whole, killed] = [long(3, 1000), long(3, 1000)];
    succeed(&emberlm(whole.path(), &["sweep", "mine.json", "--quiet"]));
    let path = killed.path();
    let mut child = start(path, &[]);
    has_checkpoint(path, "mine-002");
    child.kill().unwrap();
    child.wait().unwrap();
    let told = events(path, &[]);
    let started = runs(&told, "started");
    assert!(!started.contains(&"mine-001".into()), "it was finished: {started:?}");
    assert_eq!(runs(&told, "finished").last().unwrap(), "mine-003");
    assert_eq!(ranks(path), ranks(whole.path()));
    let log = fs::read_to_string(path.join("artifacts/sweeps/mine/logs/mine-002.log")).unwrap();
    assert!(log.contains("mine-002 goes on after step "), "{log}");
    for run in ["mine-001", "mine-002", "mine-003"] {
        let lines = |path: &Path| {
            let text =
                fs::read_to_string(path.join("artifacts").join(run).join("metrics.jsonl")).unwrap();
            let loss = |line: &str| {
                let line: Value = serde_json::from_str(line).unwrap();
                (line["split"].clone(), line["step"].clone(), line["loss"].clone())
            };
            text.lines().map(loss).collect::<Vec<_>>()
        };
        assert_eq!(lines(path), lines(whole.path()), "every step of {run}");
    }
    // More of the same can be asked for.
    let document = fs::read_to_string(path.join("mine.json")).unwrap();
    let more = document.replace("\"trials\":3", "\"trials\":4");
    fs::write(path.join("mine.json"), more).unwrap();
    assert_eq!(runs(&events(path, &[]), "started"), ["mine-004"]);
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_sweep_with_the_checkpoints_of_its_trials() {
    // The first may be far ahead when the other has a checkpoint.
    let [whole, stopped] = [long(2, 2000), long(2, 2000)];
    succeed(&emberlm(whole.path(), &["sweep", "mine.json", "--quiet"]));
    let path = stopped.path();
    let child = start(path, &["--parallel", "2"]);
    has_checkpoint(path, "mine-001");
    has_checkpoint(path, "mine-002");
    signal(child.id(), "-INT");
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{message}");
    assert!(message.ends_with("stopped; the same command goes on from here\n"), "{message}");
    // None of them is trained by anybody any more, and each has what came last.
    let told = json_lines(&output.stdout);
    assert!(runs(&told, "finished").is_empty(), "{told:?}");
    for run in ["mine-001", "mine-002"] {
        let steps = summary(path, run)["steps"].as_u64().unwrap();
        let checkpoint = format!("artifacts/{run}/checkpoints/step-{steps:08}");
        assert!((1..2000).contains(&steps) && path.join(checkpoint).exists());
    }
    events(path, &["--parallel", "2"]);
    assert_eq!(ranks(path), ranks(whole.path()));
}

/// As where the same Ctrl-C ends the program that the output is piped to.
#[cfg(unix)]
#[test]
fn a_signal_ends_a_sweep_in_order_where_nobody_reads_what_it_says() {
    let folder = long(1, 1_000_000);
    let mut child = start(folder.path(), &[]);
    has_checkpoint(folder.path(), "mine-001");
    drop((child.stdout.take(), child.stderr.take()));
    signal(child.id(), "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(summary(folder.path(), "mine-001")["steps"].as_u64().unwrap() < 1_000_000);
}

/// Somebody has ended one of the trials, and not the sweep: nobody knows yet what it is worth.
#[cfg(target_os = "linux")]
#[test]
fn a_trial_that_is_stopped_from_outside_is_gone_on_with() {
    let [whole, stopped] = [long(2, 1000), long(2, 1000)];
    succeed(&emberlm(whole.path(), &["sweep", "mine.json", "--quiet"]));
    let path = stopped.path();
    let child = start(path, &[]);
    has_checkpoint(path, "mine-001");
    // The second word after the name in brackets is the parent's id (proc(5)).
    let is_trial = |stat: &str| {
        let words = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
        words.and_then(|mut words| words.nth(1)) == Some(&child.id().to_string())
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let trial = processes
        .filter(|it| fs::read_to_string(it.path().join("stat")).is_ok_and(|stat| is_trial(&stat)))
        .find_map(|it| it.file_name().to_string_lossy().parse().ok())
        .unwrap();
    signal(trial, "-TERM");
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("1 of the trials broke off"), "{message}");
    let told = json_lines(&output.stdout);
    assert_eq!(runs(&told, "broken_off"), ["mine-001"]);
    assert!(told.iter().any(|it| it["reason"] == "it was stopped from outside"), "{told:?}");
    assert_eq!(runs(&told, "finished"), ["mine-002"]);
    assert_eq!(runs(&events(path, &[]), "started"), ["mine-001"]);
    assert_eq!(ranks(path), ranks(whole.path()));
}

/// One that fails by itself is not tried again, and the others are what they are.
#[test]
fn a_trial_that_fails_is_told_and_ranked_last() {
    let search = json!({ "train.schedule.learning_rate": [1e-3, 1e30] });
    let folder = folder(&search, &json!({ "kind": "grid" }), &json!({}));
    let path = folder.path();
    let output = succeed(&emberlm(path, &["sweep", "mine.json"]));
    assert!(output.contains("mine-002  failed: "), "{output}");
    let (_, board) = output.split_once("\n\n").unwrap();
    assert!(board.lines().all(|line| line.chars().count() <= 80), "{output}");
    let table = table(path);
    assert_eq!(cell(&table[0], "run"), "mine-001");
    assert_eq!((cell(&table[1], "status"), cell(&table[1], "rank")), ("failed", ""));
    assert!(runs(&events(path, &[]), "started").is_empty());
    assert_eq!(runs(&events(path, &["--retry"]), "failed"), ["mine-002"]);

    // A run that has come to its end with a loss that is no number, of which the sweep knows nothing
    // yet, is no other.
    let file = path.join("artifacts/mine-001/summary.json");
    let mut summary = summary(path, "mine-001");
    summary["final_val_loss"] = Value::Null;
    fs::write(file, summary.to_string()).unwrap();
    let file = path.join("artifacts/sweeps/mine/sweep.json");
    let mut kept = read(&file);
    kept["results"] = json!([]);
    fs::write(&file, kept.to_string()).unwrap();
    let output = emberlm(path, &["sweep", "mine.json", "--json"]);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("its loss over the validation split is not a number"), "{told}");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("no trial could be ranked by its loss"), "{message}");

    // A summary that cannot be read is not one that was never written, and what is no run of the
    // sweep stays as it is.
    let refused = |expected: &str| {
        fs::write(&file, kept.to_string()).unwrap();
        let output = emberlm(path, &["sweep", "mine.json", "--json"]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
    };
    let run = path.join("artifacts/mine-001");
    fs::write(run.join("summary.json"), "{").unwrap();
    refused("mine-001/summary.json is damaged");
    fs::remove_dir_all(&run).unwrap();
    fs::create_dir(&run).unwrap();
    fs::write(run.join("notes.txt"), "mine").unwrap();
    refused("there is no run `mine-001`");
    assert_eq!(fs::read_to_string(run.join("notes.txt")).unwrap(), "mine");
}

/// As on a disk that is full: what the others have learned is worth waiting for.
#[test]
fn a_sweep_that_fails_waits_for_the_trials_at_work() {
    let search = json!({ "train.steps": [2000, 100_000] });
    let more = json!({ "train.checkpoint_every": 20, "train.evaluate_every": 1000 });
    let folder = folder(&search, &json!({ "kind": "grid" }), &more);
    let path = folder.path();
    let child = start(path, &["--parallel", "2"]);
    has_checkpoint(path, "mine-001");
    has_checkpoint(path, "mine-002");
    // A folder has no file written over it.
    let file = path.join("artifacts/sweeps/mine/sweep.json");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("sweep.json"), "{message}");
    assert_eq!(summary(path, "mine-001")["steps"], 2000);
    let steps = summary(path, "mine-002")["steps"].as_u64().unwrap();
    let checkpoint = format!("artifacts/mine-002/checkpoints/step-{steps:08}");
    assert!(steps < 100_000 && path.join(checkpoint).exists());
}

#[test]
fn what_is_said_of_the_best_fits_its_architecture() {
    for (architecture, command) in [
        ("encoder", "emberlm fill-mask mine-001 TEXT"),
        ("encoder-decoder", "emberlm generate mine-001 --prompt TEXT"),
    ] {
        let search = json!({ "model.architecture": [architecture] });
        let folder = folder(&search, &json!({ "kind": "grid" }), &json!({}));
        let artifacts = ["--artifacts", "elsewhere"];
        let said =
            succeed(&emberlm(folder.path(), &[&["sweep", "mine.json"], &artifacts[..]].concat()));
        assert!(said.ends_with(&format!("the best: {command} --artifacts elsewhere\n")), "{said}");
    }
}

#[test]
fn sweeps_that_cannot_be_are_one_line() {
    let grid = json!({ "kind": "grid" });
    let folder = folder(&json!({ "model.n_heads": [3, 5] }), &grid, &json!({}));
    let path = folder.path();
    let none =
        "none of the 2 trials can be trained; the first: model.d_model = 16 is not divisible";
    refused(path, &["sweep", "mine.json"], none);
    write(path, &json!({ "model.n_layer": [1] }), &grid, &json!({}));
    let misspelt = "`model.n_layer` is not a known key; did you mean `n_layers`?";
    refused(path, &["sweep", "mine.json"], misspelt);
    refused(path, &["sweep", "mine"], "no sweep `mine`; built in are ");
    write(path, &json!({ "model.n_layers": [1] }), &grid, &json!({}));
    refused(path, &["sweep", "mine.json", "--memory", "lots"], "`lots` is no size");
    let mut encoders: Value = read(&path.join("mine.json"));
    encoders["metric"] = "bits-per-byte".into();
    encoders["set"]["model.architecture"] = "encoder".into();
    fs::write(path.join("encoders.json"), encoders.to_string()).unwrap();
    refused(path, &["sweep", "encoders.json"], "it has no bits a byte, only a `loss`");
    refused(path, &["sweep", "mine.json", "--data", "missing.txt"], "missing.txt");
    trained(path, "mine-001", &[]);
    let output = emberlm(path, &["sweep", "mine.json"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("there is a run mine-001 that is not of this sweep"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

/// A run whose starter goes away keeps what it has learned.
#[test]
fn training_stops_with_its_standard_input_where_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let mut args = vec!["train".to_string(), "--plain".into(), "--stop-at-eof".into()];
    let mut settings = short();
    settings["train.steps"] = 1_000_000.into();
    settings["train.checkpoint_every"] = 10.into();
    for (key, value) in settings.as_object().unwrap() {
        args.extend(["--set".into(), format!("{key}={value}")]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut child =
        command(folder.path(), &args).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    has_checkpoint(folder.path(), "stories");
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let steps = summary(folder.path(), "stories")["steps"].as_u64().unwrap();
    assert!((1..1_000_000).contains(&steps));
    let checkpoint = format!("artifacts/stories/checkpoints/step-{steps:08}");
    assert!(folder.path().join(checkpoint).exists());
}
