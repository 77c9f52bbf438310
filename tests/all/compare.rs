//! Runs side by side: curves, settings, pages, pictures, and `emberlm compare` from outside.

use emberlm::artifact::{LossPoint, Run};
use emberlm::report::{
    Axis, Compared, Comparison, CurvePoint, Curves, Picture, Written, differences,
};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use tempfile::TempDir;

use crate::command_line::{TINY, emberlm, succeed, train};

/// Two runs of a few steps that differ in width, a translator, and an encoder.
static RUNS: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    succeed(&train(folder.path(), &["--run", "narrow"]));
    succeed(&train(folder.path(), &["--run", "wide", "--set", "model.d_model=32"]));
    for (name, architecture) in [("translator", "encoder-decoder"), ("encoder", "encoder")] {
        let architecture = format!("model.architecture={architecture}");
        succeed(&train(folder.path(), &["--run", name, "--set", &architecture]));
    }
    folder
});

fn compare(args: &[&str]) -> Value {
    let text = succeed(&emberlm(RUNS.path(), &[&["compare", "--json"], args].concat()));
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn point(split: &str, step: u64, loss: f64, spent: Option<(f64, f64)>) -> LossPoint {
    LossPoint {
        split: split.into(),
        step,
        loss: Some(loss),
        tokens: spent.map(|(tokens, _)| tokens),
        step_milliseconds: spent.map(|(_, milliseconds)| milliseconds),
    }
}

/// Three steps and two evaluations.
fn curves() -> Curves {
    let points = [
        point("train", 1, 4.0, Some((100.0, 500.0))),
        point("train", 2, 3.0, Some((200.0, 250.0))),
        point("valid", 2, 3.5, None),
        point("train", 3, 2.0, Some((250.0, 250.0))),
        point("valid", 3, 2.5, None),
    ];
    Curves::new(&points, Some(7.0))
}

#[test]
fn an_evaluation_has_had_the_tokens_and_the_time_of_the_steps_before_it() {
    let curves = curves();
    let on = |axis| curves.valid.iter().map(|it| it.on(axis).unwrap()).collect::<Vec<_>>();
    assert_eq!(on(Axis::Steps), [2.0, 3.0]);
    assert_eq!(on(Axis::Tokens), [200.0, 250.0]);
    assert_eq!(on(Axis::Flops), [1400.0, 1750.0]);
    assert_eq!(on(Axis::Time), [0.75, 1.0]);
    let train: Vec<f64> = curves.train.iter().map(|point| point.seconds).collect();
    assert_eq!(train, [0.5, 0.75, 1.0]);
}

/// As `train.non_finite=skip` leaves them: what a step cost counts, whatever came of it.
#[test]
fn steps_without_a_loss_have_taken_their_time() {
    let lost = LossPoint { loss: None, ..point("train", 2, 0.0, Some((200.0, 250.0))) };
    let first = point("train", 1, 4.0, Some((100.0, 500.0)));
    let points = [first, lost, point("valid", 2, 3.5, None)];
    let curves = Curves::new(&points, Some(7.0));
    let steps = |curve: &[CurvePoint]| curve.iter().map(|it| it.step).collect::<Vec<_>>();
    assert_eq!((steps(&curves.train), steps(&curves.valid)), (vec![1], vec![2]));
    let CurvePoint { tokens, flops, seconds, .. } = curves.valid[0];
    assert_eq!((tokens, flops, seconds), (200.0, Some(1400.0), 0.75));

    let folder = tempfile::tempdir().unwrap();
    succeed(&train(folder.path(), &[]));
    let run = Run::open(&folder.path().join("artifacts"), "stories").unwrap();
    let before = run.history().losses().unwrap();
    let path = run.path().join("metrics.jsonl");
    let lines = fs::read_to_string(&path).unwrap();
    let lines = lines.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        if line["split"] == "train" && line["step"] == 4 {
            line["loss"] = Value::Null;
        }
        format!("{line}\n")
    });
    fs::write(&path, lines.collect::<String>()).unwrap();
    let after = run.history().losses().unwrap();
    let place = |of: &LossPoint| of.split == "train" && of.step == 4;
    let number = before.iter().position(place).unwrap();
    assert_eq!(after.len(), before.len());
    assert_eq!(after[number].loss, None);
    assert_eq!(after[number].step_milliseconds, before[number].step_milliseconds);
    assert!(after[number].step_milliseconds.is_some());
}

#[test]
fn a_thinned_curve_has_means_at_the_last_of_their_points() {
    let points: Vec<LossPoint> =
        (1..=7).map(|step| point("train", step, step as f64, Some((step as f64, 1.0)))).collect();
    let thinned = Curves::new(&points, None).thinned(3);
    let found: Vec<(u64, f64)> = thinned.train.iter().map(|it| (it.step, it.loss)).collect();
    assert_eq!(found, [(3, 2.0), (6, 5.0), (7, 7.0)]);
    assert_eq!(Curves::new(&points, None).thinned(7), Curves::new(&points, None));
}

#[test]
fn settings_differ_by_their_leaves() {
    let first = json!({"name": "a", "seed": 1, "model": {"d": 4, "lora": null, "same": [1, 2]}});
    let second = json!({"name": "b", "seed": 1,
        "model": {"d": 8, "lora": {"rank": 2}, "same": [1, 2]}, "extra": "x"});
    let found = differences(&[first, second]);
    let found: Vec<(&str, &[Value])> =
        found.iter().map(|it| (it.key.as_str(), &it.values[..])).collect();
    assert_eq!(
        found,
        [
            ("extra", &[Value::Null, json!("x")][..]),
            ("model.d", &[json!(4), json!(8)]),
            ("model.lora.rank", &[Value::Null, json!(2)]),
        ]
    );
}

fn comparison() -> Comparison {
    let run = |name: &str| Compared {
        name: name.into(),
        parameters: 10,
        flops_per_token: Some(7.0),
        summary: None,
        step: None,
        measured: None,
        curves: curves(),
    };
    Comparison {
        version: "1".into(),
        date: "2026-01-01T00:00:00Z".into(),
        axis: Axis::Steps,
        same_task: true,
        same_tokenizer: true,
        same_validation: true,
        same_text: true,
        whole: true,
        runs: vec![run("a"), run("b & <i>c</i>")],
        differences: Vec::new(),
        texts: vec![Written {
            prompt: "</script><script>alert(1)</script><!--".into(),
            seed: 1,
            texts: vec![Some("x".into()), None],
        }],
    }
}

/// What the page's own script reads.
fn data_of(page: &str) -> Value {
    let begin = "<script id=\"data\" type=\"application/json\">";
    let data = page.split_once(begin).unwrap().1.split_once("</script>").unwrap().0;
    serde_json::from_str(data).unwrap()
}

#[test]
fn a_page_is_whole_whatever_a_text_says() {
    let comparison = comparison();
    let page = comparison.page().unwrap();
    assert_eq!(data_of(&page), serde_json::to_value(&comparison).unwrap());
    // Data, uPlot, and the page's own.
    assert_eq!(page.matches("</script>").count(), 3);
    assert_eq!(page.matches("<!--").count(), 0);
    assert!(page.contains("<title>a, b &amp; &lt;i&gt;c&lt;/i&gt; · emberlm</title>"));
    for outside in ["src=\"", "@import", "url(", "fetch(", "XMLHttpRequest"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn pictures_have_a_dot_for_each_evaluation_and_the_names() {
    let curves = curves();
    let runs = [("first", &curves), ("second", &curves)];
    let picture = Picture::new(runs, Axis::Time).unwrap();
    let svg = picture.svg().unwrap();
    assert_eq!(svg.matches("<circle").count(), 4);
    for text in ["first", "second", "seconds of training", "loss, nats a token"] {
        assert!(svg.contains(text), "{text} is not in {svg}");
    }
    let file = picture.png().unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height), (960, 600));
    let has = |colour: [u8; 3]| pixels.chunks_exact(3).any(|pixel| pixel == colour);
    assert!(has([0xff, 0xff, 0xff]) && has([0xd5, 0x5e, 0x00]) && has([0x00, 0x72, 0xb2]));
    // Letters are drawn, too: without them the area left of the axis would be white.
    let of_labels = |x: usize, y: usize| pixels[3 * (y * 960 + x)];
    assert!((0..600).any(|y| (0..60).any(|x| of_labels(x, y) < 0x80)));

    let nothing = Curves::new(&[point("train", 1, 1.0, None)], None);
    let error = Picture::new([("a", &nothing)], Axis::Flops).unwrap_err();
    assert_eq!(error.to_string(), "there is no loss to draw over floating-point operations");
}

#[test]
fn what_is_compared_is_what_other_commands_say() {
    let asked = ["--samples", "2", "--max-tokens", "20", "--prompt", "One day", "--seed", "3"];
    let found = compare(&[&["narrow", "wide", "--limit", "10000"], &asked[..]].concat());
    let keys: Vec<&str> = found["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["key"].as_str().unwrap())
        .collect();
    assert_eq!(keys, ["model.d_model"]);
    assert_eq!(found["differences"][0]["values"], json!([16, 32]));
    for (number, name) in ["narrow", "wide"].into_iter().enumerate() {
        let run = &found["runs"][number];
        let folder = RUNS.path().join("artifacts").join(name);
        let summary: Value =
            serde_json::from_slice(&fs::read(folder.join("summary.json")).unwrap()).unwrap();
        assert_eq!(run["summary"], summary);
        assert_eq!(run["parameters"], summary["params"]);
        assert_eq!(run["curves"]["train"].as_array().unwrap().len(), 6);
        assert_eq!(run["curves"]["valid"].as_array().unwrap().len(), 2);
        assert_eq!(run["curves"]["train"][5]["tokens"], json!(summary["tokens"].as_f64()));

        let evaluated = ["eval", name, "--top-k", "1,5", "--json"];
        let evaluated: Value =
            serde_json::from_str(&succeed(&emberlm(RUNS.path(), &evaluated))).unwrap();
        let value = |of: &Value, key: &str| {
            let measures = of["measures"].as_array().unwrap().clone();
            measures.into_iter().find(|it| it["name"] == key).unwrap()["value"].as_f64().unwrap()
        };
        let (measured, expected) = (&run["measured"], &evaluated["results"][0]);
        assert_eq!(measured["protocol"], expected["protocol"]);
        for key in ["loss", "perplexity", "bits a byte", "top-1 accuracy", "top-5 accuracy"] {
            assert_eq!(value(measured, key), value(expected, key), "{name}: {key}");
        }

        let generate = ["generate", name, "--json", "--max-tokens", "20", "--samples", "2"];
        let generate = [&generate[..], &["--seed", "3", "--prompt", "One day"]].concat();
        let lines = succeed(&emberlm(RUNS.path(), &generate));
        for (sample, line) in lines.lines().enumerate() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(found["texts"][sample]["seed"], line["seed"]);
            assert_eq!(found["texts"][sample]["texts"][number], line["text"], "{name} {sample}");
        }
        assert_eq!(lines.lines().count(), 2);
    }
}

/// A page marks the best of what can be compared alone.
#[test]
fn what_runs_have_in_common_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let byte = ["--set", "tokenizer={\"kind\": \"byte\"}"];
    succeed(&train(root, &[&["--run", "one"], &byte[..]].concat()));
    succeed(&train(root, &[&["--run", "other", "--set", "seed=7"], &byte[..]].concat()));
    fs::write(root.join("own.txt"), "one two three. ".repeat(60)).unwrap();
    for (run, seed) in [("own", "seed=1"), ("again", "seed=2")] {
        let own = ["--run", run, "--data", "own.txt", "--set", seed];
        succeed(&emberlm(root, &[&["train"], &TINY[..], &byte, &own].concat()));
    }
    let encoder = ["--run", "encoder", "--set", "model.architecture=encoder"];
    succeed(&train(root, &[&encoder[..], &byte].concat()));
    // Task, tokenizer, validation split, text.
    for (runs, expected) in [
        (&["one", "one", "--quick"][..], [true, true, true, true]),
        // Other seeds have other stories; a text is the same with any.
        (&["one", "other", "--quick"], [true, true, false, false]),
        (&["own", "again", "--quick"], [true, true, true, true]),
        (&["one", "own", "--quick"], [true, true, false, false]),
        (&["one", "own", "--text", "own.txt", "--max-tokens", "1"], [true, true, false, true]),
        (&["one", "encoder", "--quick"], [false, true, true, true]),
    ] {
        let found = succeed(&emberlm(root, &[&["compare", "--json"], runs].concat()));
        let found: Value = serde_json::from_str(&found).unwrap();
        let found = ["same_task", "same_tokenizer", "same_validation", "same_text"]
            .map(|key| found[key].as_bool().unwrap());
        assert_eq!(found, expected, "{runs:?}");
    }
}

/// Of characters that are a byte each nats a token are nats a byte.
#[test]
fn a_part_of_a_text_has_bits_a_byte_and_is_said_to_be_one() {
    let found = compare(&["narrow", "encoder", "--limit", "3", "--max-tokens", "1"]);
    assert_eq!((&found["whole"], &found["same_tokenizer"]), (&json!(false), &json!(true)));
    let value = |run: usize, name: &str| {
        let measures = found["runs"][run]["measured"]["measures"].as_array().unwrap();
        measures.iter().find(|it| it["name"] == name)?["value"].as_f64()
    };
    let bits = value(0, "loss").unwrap() / std::f64::consts::LN_2;
    // Computed twice in f64, of numbers below ten: three operations that round.
    assert!((value(0, "bits a byte").unwrap() - bits).abs() < 1e-12);
    assert_eq!(value(1, "bits a byte"), None);
    // Each is measured, and said to be, as its architecture has learned.
    let protocol = |run: usize| found["runs"][run]["measured"]["protocol"].as_str().unwrap();
    let windows = "windows of 32 that follow each other; the first 3 of them";
    assert!(protocol(0).ends_with(windows), "{found}");
    assert!(protocol(1).starts_with("15% of the tokens, from all others"), "{found}");
    let folder = tempfile::tempdir().unwrap();
    succeed(&train(folder.path(), &["--run", "characters"]));
    let bytes = ["--run", "bytes", "--set", "tokenizer={\"kind\": \"byte\"}"];
    let shorter = ["--set", "model.context_length=16"];
    succeed(&train(folder.path(), &[&bytes[..], &shorter].concat()));
    let args = ["compare", "characters", "bytes", "--json", "--limit", "10000"];
    let found = succeed(&emberlm(folder.path(), &[&args[..], &["--max-tokens", "1"]].concat()));
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!((&found["whole"], &found["same_tokenizer"]), (&json!(true), &json!(false)));
    // What one has read to its end, and the other not, is said of each.
    let windows = found["runs"][0]["measured"]["examples"].as_u64().unwrap().div_ceil(32);
    let args = ["compare", "characters", "bytes", "--limit", &windows.to_string()];
    let shown = succeed(&emberlm(folder.path(), &[&args[..], &["--max-tokens", "1"]].concat()));
    assert_eq!(shown.matches("measured on each run's own").count(), 2, "{shown}");
}

#[test]
fn the_terminal_shows_curves_results_settings_and_texts_in_80_columns() {
    let args = ["compare", "narrow", "wide", "translator", "--max-tokens", "30"];
    let text = succeed(&emberlm(RUNS.path(), &args));
    let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 80, "{widest}: {text}");
    for expected in [
        "validation loss over steps",
        "best validation loss",
        "measured top-5 accuracy",
        "model.d_model",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let alone = succeed(&emberlm(RUNS.path(), &["compare", "narrow", "--quick"]));
    assert!(!alone.contains("setting"), "{alone}");
    // No colours where there is no terminal; then each run has its number.
    assert!(
        !text.contains('\u{1b}') && text.contains("1 narrow   2 wide   3 translator"),
        "{text}"
    );
}

#[test]
fn a_chart_says_of_which_loss_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for run in ["one", "two"] {
        succeed(&train(root, &["--run", run]));
    }
    let unevaluated = |run: &str| {
        let path = root.join("artifacts").join(run).join("metrics.jsonl");
        let lines = fs::read_to_string(&path).unwrap();
        let kept = lines.lines().filter(|line| !line.contains("\"valid\""));
        fs::write(&path, kept.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    };
    let shown = || succeed(&emberlm(root, &["compare", "one", "two", "--quick"]));
    assert!(
        shown().starts_with("validation loss over steps\n") && shown().contains("1 one   2 two\n")
    );
    unevaluated("two");
    let mixed = shown();
    assert!(mixed.starts_with("validation loss over steps\n"), "{mixed}");
    assert!(mixed.contains("1 one   2 two (training)\n"), "{mixed}");
    unevaluated("one");
    let training = shown();
    assert!(training.starts_with("training loss over steps\n"), "{training}");
    assert!(training.contains("1 one   2 two\n"), "{training}");
}

#[test]
fn files_are_written_and_quick_loads_no_model() {
    let path = |name: &str| RUNS.path().join(name);
    let args = ["compare", "narrow", "wide", "--quick", "--over", "tokens"];
    let files = ["--html", "all.html", "--svg", "all.svg", "--png", "all.png"];
    succeed(&emberlm(RUNS.path(), &[&args[..], &files].concat()));
    let data = data_of(&fs::read_to_string(path("all.html")).unwrap());
    assert_eq!(data["axis"], "tokens");
    assert_eq!(data["runs"][0]["measured"], Value::Null);
    assert!(fs::read_to_string(path("all.svg")).unwrap().contains("tokens"));
    assert!(fs::read(path("all.png")).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn what_cannot_be_compared_is_one_line() {
    let refused = |args: &[&str], expected: &str| {
        let output = emberlm(RUNS.path(), &[&["compare"], args].concat());
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(output.stdout.is_empty());
    };
    // Nobody knows an encoder's operations; that is found before any text is read.
    let nothing = "there is no loss to draw over floating-point operations";
    refused(&["encoder", "--over", "flops", "--svg", "e.svg", "--text", "no.txt"], nothing);
    refused(&["narrow", "nothing"], "there is no run `nothing`");
    refused(&["narrow", "--html", "no/such.html"], "there is no folder no");
    refused(&["narrow", "--svg", "artifacts"], "artifacts is a folder; name a file");
    refused(&["narrow", "--text", "no.txt"], "no.txt");
    // Nobody can write there, and that is found before anything is told.
    #[cfg(target_os = "linux")]
    refused(&["narrow", "--quick", "--png", "/proc/e.png"], "cannot write /proc/e.png");
    refused(&["narrow", "--temperature", "-1"], "temperature");
    // Of what is asked, and cannot be, before anything is measured.
    let unmeasured = |args: &[&str], expected: &str| {
        refused(&[args, &["--text", "no.txt"]].concat(), expected);
    };
    unmeasured(&["narrow", "--prompt", "日本"], "the prompt \"日本\" cannot be encoded");
    // Nor is the run before it measured.
    unmeasured(&["encoder", "narrow", "--prompt", ""], "the prompt is empty");
    let long = "a".repeat(33);
    let source = "the run translator: the source has 33 tokens, the run reads at most 32";
    unmeasured(&["narrow", "translator", "--prompt", &long], source);
}

/// It would be ignored: nothing is written.
#[test]
fn quick_takes_no_option_of_what_is_written() {
    for (option, value) in [
        ("--temperature", "0.5"),
        ("--top-k", "3"),
        ("--top-p", "0.5"),
        ("--min-p", "0.5"),
        ("--repetition-penalty", "1.5"),
        ("--frequency-penalty", "0.5"),
        ("--presence-penalty", "0.5"),
        ("--seed", "2"),
        ("--prompt", "a"),
        ("--samples", "2"),
        ("--max-tokens", "5"),
    ] {
        let output = emberlm(RUNS.path(), &["compare", "narrow", "--quick", option, value]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains("cannot be used with") && message.contains(option), "{message}");
    }
}

/// Bytes at random, as a model writes them that has learned nothing.
#[test]
fn no_control_character_of_a_model_gets_to_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    succeed(&train(folder.path(), &["--set", "tokenizer={\"kind\": \"byte\"}"]));
    let args = ["compare", "stories", "--max-tokens", "300", "--temperature", "50"];
    let found = succeed(&emberlm(folder.path(), &[&args[..], &["--json"]].concat()));
    let found: Value = serde_json::from_str(&found).unwrap();
    let text = found["texts"][0]["texts"][0].as_str().unwrap();
    assert!(text.chars().any(|it| it.is_control() && it != '\n'), "{text:?}");
    let shown = succeed(&emberlm(folder.path(), &args));
    assert!(shown.chars().all(|it| !it.is_control() || it == '\n'), "{shown:?}");
    assert!(shown.contains("<0x"), "{shown}");
}

/// What stands after a prompt has been written after it.
#[test]
fn a_run_that_cannot_read_the_first_ones_prompt_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    succeed(&train(root, &["--run", "stories"]));
    fs::write(root.join("own.txt"), "one two three. ".repeat(60)).unwrap();
    let own = [&["train"], &TINY[..], &["--run", "own", "--data", "own.txt"]].concat();
    succeed(&emberlm(root, &own));
    let output = emberlm(root, &["compare", "stories", "own", "--json"]);
    let found: Value = serde_json::from_str(&succeed(&output)).unwrap();
    assert!(found["texts"][0]["texts"][0].is_string(), "{found}");
    assert_eq!(found["texts"][0]["texts"][1], Value::Null);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("own cannot read the prompt of the first run"), "{message}");

    // Nor can a translator whose context it does not fit in; another's older half goes.
    let prompt = format!("sample.prompt={}", "a".repeat(33));
    let long = ["--set", "model.context_length=64", "--set", &prompt, "--run", "long"];
    succeed(&train(root, &long));
    let translator = ["--set", "model.architecture=encoder-decoder", "--run", "translator"];
    succeed(&train(root, &translator));
    let args = ["compare", "long", "stories", "translator", "--json"];
    let output = emberlm(root, &[&args[..], &["--limit", "3", "--max-tokens", "5"]].concat());
    let found: Value = serde_json::from_str(&succeed(&output)).unwrap();
    let texts = found["texts"][0]["texts"].as_array().unwrap();
    let wrote: Vec<bool> = texts.iter().map(Value::is_string).collect();
    assert_eq!(wrote, [true, true, false], "{found}");
    assert!(found["runs"][2]["measured"].is_object(), "{found}");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("translator cannot read the prompt of the first run"), "{message}");
}

/// What has been measured for hours is told, whatever becomes of the files.
#[cfg(target_os = "linux")]
#[test]
fn results_are_told_where_a_page_cannot_be_written() {
    let args = ["compare", "narrow", "--quick", "--json", "--html", "/dev/full"];
    let output = emberlm(RUNS.path(), &args);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("cannot write /dev/full"), "{message}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["runs"][0]["name"], "narrow");
}

/// `runs` and `train --resume` in one moment.
#[test]
fn who_looks_at_a_run_keeps_nobody_from_training_it() {
    let run = Run::open(&RUNS.path().join("artifacts"), "narrow").unwrap();
    drop(run.lock().unwrap());
    let looking = fs::File::open(run.path().join("lock")).unwrap();
    looking.try_lock_shared().unwrap();
    assert!(!run.is_being_trained(), "another one that looks");
    let closed = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        drop(looking);
    });
    let lock = run.lock().unwrap();
    closed.join().unwrap();
    assert!(run.is_being_trained());
    assert!(run.lock().is_err());
    drop(lock);
    assert!(!run.is_being_trained());
}

fn runs(root: &Path, extra: &[&str]) -> Vec<Value> {
    let text = succeed(&emberlm(root, &[&["runs", "--json"], extra].concat()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn runs_are_listed_with_what_has_become_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    assert!(runs(root, &[]).is_empty());
    succeed(&train(root, &["--run", "whole"]));
    succeed(&train(root, &["--run", "broken"]));
    let artifacts = root.join("artifacts");
    fs::write(artifacts.join("broken/config.json"), "{").unwrap();
    succeed(&train(root, &["--run", "halfway"]));
    fs::remove_file(artifacts.join("halfway/summary.json")).unwrap();
    succeed(&train(root, &["--run", "busy"]));
    let busy = emberlm::artifact::Run::open(&artifacts, "busy").unwrap();
    let _lock = busy.lock().unwrap();

    let found = runs(root, &["--sort", "name"]);
    let of = |key: &str| found.iter().map(|row| row[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("name"), ["broken", "busy", "halfway", "whole"]);
    assert_eq!(of("status"), ["damaged", "training", "stopped", "finished"]);
    let summary: Value =
        serde_json::from_slice(&fs::read(artifacts.join("whole/summary.json")).unwrap()).unwrap();
    let whole = &found[3];
    assert_eq!(whole["loss"], summary["best_val_loss"]);
    assert_eq!(whole["parameters"], summary["params"]);
    assert_eq!(whole["step"], 6);
    // The same without a summary, from the metrics.
    assert_eq!(found[2]["loss"], summary["best_val_loss"]);
    let mut bytes = 0;
    let mut folders = vec![artifacts.join("whole")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => bytes += fs::metadata(path).unwrap().len(),
            }
        }
    }
    assert_eq!(whole["bytes"], bytes);

    let table = succeed(&emberlm(root, &["runs"]));
    assert_eq!(table.lines().count(), 5);
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    let by_loss = runs(root, &["--sort", "loss"]);
    assert_eq!(by_loss[3]["name"], "broken");
    fs::write(artifacts.join("broken/notes"), vec![0; 1 << 20]).unwrap();
    let hours = std::time::Duration::from_secs(5 * 3600);
    for entry in fs::read_dir(artifacts.join("halfway")).unwrap() {
        let entry = fs::File::open(entry.unwrap().path()).unwrap();
        entry.set_modified(std::time::SystemTime::now() - hours).unwrap();
    }
    let by_size = runs(root, &["--sort", "size"]);
    assert_eq!(by_size[0]["name"], "broken");
    let bytes: Vec<u64> = by_size.iter().map(|row| row["bytes"].as_u64().unwrap()).collect();
    assert!(bytes.is_sorted_by(|a, b| a >= b), "{bytes:?}");
    let by_age = runs(root, &["--sort", "age"]);
    let ages: Vec<u64> = by_age.iter().map(|row| row["age"].as_u64().unwrap()).collect();
    assert!(ages.is_sorted() && ages[2] < 3600 && ages[3] >= 5 * 3600, "{ages:?}");
    assert_eq!(by_age[3]["name"], "halfway");
    assert!(succeed(&emberlm(root, &["runs"])).contains(" 5h\n"));
    // What was trained elsewhere has a model of no step, and no metrics.
    let imported = artifacts.join("halfway");
    fs::rename(
        imported.join("checkpoints/step-00000006"),
        imported.join("checkpoints/step-00000000"),
    )
    .unwrap();
    for step in fs::read_dir(imported.join("checkpoints")).unwrap() {
        let step = step.unwrap().path();
        if step.is_dir() && !step.ends_with("step-00000000") {
            fs::remove_dir_all(step).unwrap();
        }
    }
    fs::remove_file(imported.join("metrics.jsonl")).unwrap();
    let found = &runs(root, &["--sort", "name"])[2];
    assert_eq!((&found["status"], &found["step"]), (&json!("imported"), &json!(0)));
    assert_eq!(found["loss"], Value::Null);

    // Without its configuration it is still there; other folders are none.
    fs::create_dir(artifacts.join("notes")).unwrap();
    let config = artifacts.join("whole/config.json");
    let kept = fs::read(&config).unwrap();
    fs::remove_file(&config).unwrap();
    let found = runs(root, &["--sort", "name"]);
    assert_eq!((found.len(), &found[3]["status"]), (4, &json!("damaged")));
    let error = found[3]["error"].as_str().unwrap();
    assert!(error.contains("whole/config.json is damaged: it is missing"), "{error}");
    fs::write(&config, kept).unwrap();
    // Why a file cannot be read is told as well: of one that a run is opened by, and of another.
    for name in ["tokenizer.json", "summary.json"] {
        let file = artifacts.join("whole").join(name);
        let kept = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let why = fs::read(&file).unwrap_err().to_string();
        let found = &runs(root, &["--sort", "name"])[3];
        assert_eq!(found["status"], "damaged");
        let error = found["error"].as_str().unwrap();
        let expected = format!("{name}: {why}");
        assert!(error.contains("cannot read ") && error.ends_with(&expected), "{error}");
        assert_eq!(error.matches(&why).count(), 1, "{error}");
        fs::remove_dir(&file).unwrap();
        fs::write(&file, kept).unwrap();
    }
    // Where nothing can be read, nobody knows whether there is a run.
    let output = emberlm(root, &["runs", "--artifacts", "artifacts/whole/config.json"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("cannot read artifacts/whole/config.json"), "{message}");

    // A last loss that is no number is the end of a run; none at all is not.
    let mut diverged = summary.clone();
    diverged["final_val_loss"] = Value::Null;
    fs::write(artifacts.join("whole/summary.json"), diverged.to_string()).unwrap();
    assert_eq!(runs(root, &["--sort", "name"])[3]["status"], "finished");
    diverged.as_object_mut().unwrap().remove("final_val_loss");
    fs::write(artifacts.join("whole/summary.json"), diverged.to_string()).unwrap();
    assert_eq!(runs(root, &["--sort", "name"])[3]["status"], "stopped");

    // A summary that cannot be read is not one that was never written.
    fs::write(artifacts.join("whole/summary.json"), "{").unwrap();
    assert_eq!(runs(root, &["--sort", "name"])[3]["status"], "damaged");
    let output = emberlm(root, &["compare", "halfway", "whole", "--quick"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("whole/summary.json"), "{message}");
}
