//! `emberlm eval` from outside.

use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::LazyLock;
use std::thread::JoinHandle;
use tempfile::TempDir;

use crate::command_line::{SHORT, TINY, emberlm, succeed, train};
#[cfg(target_os = "linux")]
use crate::command_line::{command, listens, signal};

/// Runs of a few steps on the built-in stories: by bytes, by characters, and of other architectures.
static RUNS: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let bytes = ["--set", "tokenizer={\"kind\": \"byte\"}", "--set", "train.keep_checkpoints=5"];
    succeed(&train(folder.path(), &bytes));
    succeed(&train(folder.path(), &["--run", "characters"]));
    for architecture in ["encoder", "encoder-decoder"] {
        let architecture_set = format!("model.architecture={architecture}");
        succeed(&train(folder.path(), &["--run", architecture, "--set", &architecture_set]));
    }
    folder
});

fn eval(args: &[&str]) -> String {
    succeed(&emberlm(RUNS.path(), &[&["eval", "stories"], args].concat()))
}

#[track_caller]
fn refused(args: &[&str], expected: &str) {
    let output = emberlm(RUNS.path(), &[&["eval"], args].concat());
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    // Drivers of devices that are looked for may say something, too.
    let own: Vec<&str> = message.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(own.len() == 1 && own[0].contains(expected), "{message}");
}

fn json(args: &[&str]) -> Value {
    let text = eval(&[&["--json"], args].concat());
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn measure(outcome: &Value, name: &str) -> f64 {
    let measures = outcome["measures"].as_array().unwrap();
    let found = measures.iter().find(|measure| measure["name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {outcome}"))["value"].as_f64().unwrap()
}

fn write(name: &str, text: &str) -> String {
    let path = RUNS.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().into()
}

const PIQA: &str = r#"{"goal": "Find a lost kite", "sol1": "look in the barn", "sol2": "eat plum cake", "label": 0}
{"goal": "Thank a friend", "sol1": "run away", "sol2": "share an apple pie and a song", "label": 1}
{"goal": "Wake up", "sol1": "go to the old mill", "sol2": "open it", "label": 0}
"#;

#[test]
fn results_are_lines_json_and_files_in_the_run() {
    let text = eval(&["--top-k", "1,5"]);
    let labels: Vec<&str> = text.lines().map(|line| line[..16].trim_end()).collect();
    let expected = ["tokens", "loss", "source entropy", "perplexity", "bits a byte"];
    assert_eq!(labels, [&expected[..], &["top-1 accuracy", "top-5 accuracy"]].concat());
    let report = json(&["--top-k", "1,5"]);
    let folder = RUNS.path().join("artifacts/stories/evaluations");
    let file = folder.join("step-00000006-validation.json");
    let before = fs::read(&file).unwrap();
    let kept: Value = serde_json::from_slice(&before).unwrap();
    assert_eq!(report, kept);
    assert_eq!(report["run"], "stories");
    assert_eq!(report["step"], 6);
    let [outcome] = &report["results"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!(outcome["weights"], "f32");
    let value = |label: &str| -> f64 {
        let line = text.lines().find(|line| line[..16].trim_end() == label).unwrap();
        let number = line[16..].split([' ', ',']).next().unwrap();
        number.parse().unwrap()
    };
    for label in ["loss", "source entropy", "bits a byte", "top-1 accuracy", "top-5 accuracy"] {
        // As many digits as the line has.
        assert!((value(label) - measure(outcome, label)).abs() <= 0.5001e-4, "{label}");
    }
    // Characters are bytes, and all but the first are predicted.
    let bits = measure(outcome, "loss") / 2f64.ln();
    assert!((measure(outcome, "bits a byte") - bits).abs() < 1e-9);
    assert_eq!(value("tokens"), outcome["examples"].as_f64().unwrap());
    let csv = fs::read_to_string(file.with_extension("csv")).unwrap();
    assert_eq!(csv.lines().count(), 7, "{csv}");
    assert!(csv.lines().nth(1).unwrap().contains(",loss,"), "{csv}");

    // Overlapping windows give each token more to go by, and predict the same tokens.
    let with_stride = json(&["--stride", "4", "--name", "my stride"]);
    assert_eq!(with_stride["results"][0]["examples"], outcome["examples"]);
    let protocol = with_stride["results"][0]["protocol"].as_str().unwrap();
    assert!(protocol.contains("windows of 32, 4 apart"), "{protocol}");
    assert!(folder.join("step-00000006-my-stride.csv").exists());
    let limited = json(&["--limit", "2", "--checkpoint", "3", "--output", "elsewhere"]);
    assert_eq!(limited["results"][0]["examples"], 64);
    let of_part = measure(&limited["results"][0], "loss") / 2f64.ln();
    assert!((measure(&limited["results"][0], "bits a byte") - of_part).abs() < 1e-9);
    assert!(RUNS.path().join("elsewhere/step-00000003-validation-limit2.json").exists());
    assert!(!folder.join("step-00000003-validation.json").exists());
    let whole = json(&["--checkpoint", "3"]);
    assert!(measure(&whole["results"][0], "loss") > measure(outcome, "loss"), "it learns");

    // The training side is another text, and a text is its own.
    let train_side = json(&["--split", "train", "--limit", "3"]);
    assert_eq!(train_side["results"][0]["data"], "the run's data, train split");
    let path = write("own.txt", "Once there was a kite.\n");
    let own = json(&["--text", &path]);
    assert_eq!(own["results"][0]["examples"], 22);
    let kept = fs::read(folder.join("step-00000006-own.json")).unwrap();
    assert_eq!(own, serde_json::from_slice::<Value>(&kept).unwrap());

    refused(&["stories", "--stride", "33"], "windows cannot move on by 33 tokens");
    refused(&["stories", "--checkpoint", "4"], "no checkpoint of step 4; there are those of 3, 6");
    refused(&["stories", "--data", &path, "--split", "train"], "own.txt is not split");
    let quantized = json(&["--quantize", "int8"]);
    let weights = [&quantized["results"][0]["weights"], &quantized["results"][1]["weights"]];
    assert_eq!(weights, ["f32", "int8"]);
    assert!(folder.join("step-00000006-validation-int8.json").exists());
    // What is asked in another way does not take the place of the other.
    json(&["--stride", "4", "--limit", "3"]);
    assert!(folder.join("step-00000006-validation-stride4-limit3.json").exists());
    assert_eq!(fs::read(&file).unwrap(), before);
}

/// What texts are prepared to is often called by the tokenizer alone.
#[test]
fn results_of_prepared_data_are_kept_apart() {
    let root = RUNS.path().join("kept");
    let results = RUNS.path().join("artifacts/stories/evaluations");
    let result = |name: &str| {
        let path = results.join(format!("step-00000006-{name}-validation.json"));
        let text = fs::read(&path).unwrap_or_else(|_| panic!("{} is missing", path.display()));
        serde_json::from_slice::<Value>(&text).unwrap()
    };
    for (name, text) in [("kites", "a kite flew. "), ("plums", "plums were eaten, and cake. ")] {
        let path = write(&format!("{name}.txt"), &text.repeat(40));
        let out = root.join(name).join("byte-v1.5");
        let out = out.to_str().unwrap();
        let args = ["prepare", &path, "--tokenizer", "byte", "--out", out];
        succeed(&emberlm(RUNS.path(), &args));
        let found = json(&["--data", out]);
        assert_eq!(found, result(&format!("{name}-byte-v1.5")));
    }
    let data = |name: &str| result(name)["results"][0]["data"].as_str().unwrap().to_owned();
    assert!(data("kites-byte-v1.5").contains("kept/kites/byte-v1.5, validation split"));
    // Wherever it is named from.
    let run = RUNS.path().join("artifacts/stories");
    let args = ["eval", run.to_str().unwrap(), "--data", "."];
    succeed(&emberlm(&root.join("kites/byte-v1.5"), &args));
    assert_eq!(data("kites-byte-v1.5"), "., validation split");
}

#[test]
fn questions_and_stories_are_shown_in_a_table() {
    let piqa = write("piqa.jsonl", PIQA);
    let lambada = write("lambada.txt", "Once there was a brave girl\nThey ran to the river\n");
    let tasks = [&format!("piqa={piqa}"), &format!("lambada={lambada}")];
    let args = ["--task", tasks[0], "--task", tasks[1], "--stories", "4", "--seed", "3"];
    let text = eval(&args);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let measures = ["accuracy", "accuracy by bytes", "chance", "accuracy", "perplexity"];
    let measures = [&measures[..], &["grammatical", "names", "object"]].concat();
    for (line, measure) in text.lines().skip(1).zip(&measures) {
        assert!(line.contains(measure), "{line}");
    }
    assert!(text.contains("\npiqa: no examples; \"Question: GOAL\\nAnswer:\""), "{text}");
    assert!(!text.contains("nats a token"), "the loss was not asked for");
    let report = json(&args);
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    assert_eq!(results[0]["examples"], 3);
    assert_eq!(measure(&results[0], "chance"), 0.5);
    assert_eq!(results[2]["examples"], 4);
    assert_eq!(measure(&results[2], "grammatical"), 0.0, "after six steps");
    // However many go through the model together.
    let alone = json(&[&args[..], &["--batch", "1"]].concat());
    for (found, alone) in results.iter().zip(alone["results"].as_array().unwrap()) {
        for one in found["measures"].as_array().unwrap() {
            let name = one["name"].as_str().unwrap();
            let (found, alone) = (measure(found, name), measure(alone, name));
            assert!((found - alone).abs() <= 1e-4 * alone.abs(), "{name}: {found}, {alone}");
        }
    }
    let folder = RUNS.path().join("artifacts/stories/evaluations");
    assert!(folder.join("step-00000006-piqa-lambada-stories4-seed3.json").exists());
    // Of other stories another file has the results.
    for (asked, name) in [(&["2"][..], "stories2-seed1"), (&["2", "--seed", "9"], "stories2-seed9")]
    {
        json(&[&["--stories"], asked].concat());
        assert!(folder.join(format!("step-00000006-{name}.json")).exists(), "{name}");
    }
    let first = json(&["--task", tasks[0], "--limit", "2", "--stride", "8"]);
    assert_eq!(first["results"].as_array().unwrap().len(), 2, "the loss was asked for");
    assert_eq!(first["results"][1]["examples"], 2);
    assert!(first["results"][1]["protocol"].as_str().unwrap().ends_with("; the first 2 questions"));

    refused(
        &["stories", "--task", "trivia"],
        "there is no benchmark `trivia`; there are hellaswag",
    );
    refused(
        &["characters", "--task", tasks[0]],
        "piqa.jsonl, line 1: the tokenizer has never seen",
    );
    let long = write("long.jsonl", &PIQA.replace("open it", &"so long ".repeat(6)));
    let expected = "long.jsonl, line 3: `so long so long";
    refused(&["stories", "--task", &format!("piqa={long}")], expected);
    for (run, does) in [("encoder", "fills gaps"), ("encoder-decoder", "translates")] {
        for asked in [&["--task", tasks[0]][..], &["--stories", "2"]] {
            refused(&[&[run], asked].concat(), does);
        }
        refused(&[run, "--stride", "4"], "windows that overlap are for models that predict");
        let text = succeed(&emberlm(RUNS.path(), &["eval", run, "--top-k", "2"]));
        assert!(text.contains("top-2 accuracy") && !text.contains("bits a byte"), "{text}");
    }
}

/// By name.
type Files<'a> = &'a [(&'a str, Vec<u8>)];

/// A folder of data sets whose `benchmark` has files at a server, which gives each of them once.
fn on_a_server(benchmark: &str, files: Files) -> (TempDir, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let folder = tempfile::tempdir_in(RUNS.path()).unwrap();
    let listed: Vec<Value> = files
        .iter()
        .map(|(name, _)| json!({ "name": name, "url": format!("http://{address}/some/{name}") }))
        .collect();
    let manifest = json!({
        "name": benchmark, "description": "", "licence": "", "benchmark": benchmark, "files": listed,
    });
    fs::create_dir(folder.path().join(benchmark)).unwrap();
    let path = folder.path().join(benchmark).join("manifest.json");
    fs::write(path, manifest.to_string()).unwrap();
    let files: Vec<(String, Vec<u8>)> =
        files.iter().map(|(name, body)| (format!("GET /some/{name} "), body.clone())).collect();
    let server = std::thread::spawn(move || {
        for (request, body) in files {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4096];
            let read = stream.read(&mut head).unwrap();
            assert!(head[..read].starts_with(request.as_bytes()), "{request}");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", body.len());
            write!(stream, "{head}Connection: close\r\n\r\n").unwrap();
            stream.write_all(&body).unwrap();
        }
    });
    (folder, server)
}

#[test]
fn every_benchmark_is_downloaded_once() {
    let hellaswag = r#"{"activity_label": "Chess", "ctx_a": "Two play.", "ctx_b": "", "endings": ["a", "b"], "label": 1}"#;
    let arc = fs::read(crate::support::golden("arc.parquet")).unwrap();
    let piqa = concat!(
        r#"{"goal": "Wake up", "sol1": "sing", "sol2": "sleep"}"#,
        "\n",
        r#"{"goal": "Sit", "sol1": "run", "sol2": "rest"}"#
    );
    let arc = [("test-00000-of-00001.parquet", arc)];
    let cases: [(&str, Files, u64); 5] = [
        ("lambada", &[("test.jsonl", b"{\"text\": \"They ran to the river\"}\n".into())], 1),
        ("hellaswag", &[("val.jsonl", hellaswag.into())], 1),
        ("arc-easy", &arc, 5),
        ("arc-challenge", &arc, 5),
        ("piqa", &[("valid.jsonl", piqa.into()), ("valid-labels.lst", b"0\n1\n".into())], 2),
    ];
    for (benchmark, files, questions) in cases {
        let (folder, server) = on_a_server(benchmark, files);
        let root = folder.path().to_str().unwrap();
        // The second time there is no server.
        for _ in 0..2 {
            // More context than these runs have is cut off.
            let report = json(&["--task", benchmark, "--datasets", root, "--name", "downloaded"]);
            assert_eq!(report["results"][0]["examples"], questions, "{benchmark}");
        }
        server.join().unwrap();
        for (name, body) in files {
            assert_eq!(fs::read(folder.path().join(benchmark).join(name)).unwrap(), *body);
        }
        let output = emberlm(RUNS.path(), &["prepare", benchmark, "--datasets", root]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        let expected = format!("{benchmark} has questions, and no text to train on");
        assert!(message.contains(&expected), "{message}");
    }
}

fn rows(folder: &Path, run: &str) -> Vec<Value> {
    let path = folder.join("artifacts").join(run).join("metrics.jsonl");
    let text = fs::read_to_string(path).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
    rows.filter(|row: &Value| row["split"] == "valid").collect()
}

#[test]
fn stories_are_judged_during_training() {
    let folder = tempfile::tempdir().unwrap();
    let asked = ["--set", "train.evaluation_stories=3"];
    succeed(&train(folder.path(), &["--run", "plain"]));
    let text = succeed(&train(folder.path(), &[&["--run", "judged"], &asked[..]].concat()));
    assert!(text.contains("grammatical stories 0.0%"), "{text}");
    let (plain, judged) = (rows(folder.path(), "plain"), rows(folder.path(), "judged"));
    assert_eq!(judged.len(), 2);
    for (plain, judged) in plain.iter().zip(&judged) {
        assert_eq!(plain["loss"], judged["loss"], "training is the same");
        for key in ["grammatical_stories", "story_names", "story_object"] {
            assert!(plain.get(key).is_none(), "{plain}");
            assert!((0.0..=1.0).contains(&judged[key].as_f64().unwrap()), "{judged}");
        }
    }
    // What is resumed goes on with the same stories.
    let steps = ["--set", "train.steps=9"];
    succeed(&train(folder.path(), &[&["--run", "whole"], &asked[..], &steps].concat()));
    let resume = ["train", "--plain", "--resume", "judged", "--set", "train.steps=9"];
    let evaluations = folder.path().join("artifacts/judged/evaluations");
    succeed(&emberlm(folder.path(), &["eval", "judged", "--stories", "1", "--name", "kept"]));
    fs::write(evaluations.join("step-00000008-later.json"), "").unwrap();
    succeed(&emberlm(folder.path(), &resume));
    assert_eq!(rows(folder.path(), "judged").len(), 3);
    for (whole, judged) in rows(folder.path(), "whole").iter().zip(rows(folder.path(), "judged")) {
        for key in ["loss", "grammatical_stories", "story_names", "story_object"] {
            assert_eq!(whole[key], judged[key], "{key}");
        }
    }
    // What was found of a step that is taken again is forgotten.
    assert!(evaluations.join("step-00000006-kept.json").exists());
    assert!(!evaluations.join("step-00000008-later.json").exists());
    let args = [&["train"], &TINY[..], &SHORT, &asked].concat();
    for (set, expected) in [
        ("train.evaluation_stories=0", "`train.evaluation_stories` = 0 is out of range"),
        ("model.architecture=encoder", "stories are written by decoders"),
    ] {
        let output = emberlm(folder.path(), &[&args[..], &["--set", set]].concat());
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_signal_ends_an_evaluation_and_nothing_is_kept() {
    let args = ["eval", "stories", "--stories", "1000000", "--name", "stopped"];
    let mut child =
        command(RUNS.path(), &args).stderr(std::process::Stdio::piped()).spawn().unwrap();
    listens(&mut child);
    signal(child.id(), "-INT");
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{message}");
    assert!(message.ends_with("stopped; nothing is kept\n"), "{message}");
    let folder = RUNS.path().join("artifacts/stories/evaluations");
    assert!(!folder.join("step-00000006-stopped.json").exists());
}
