//! Whole runs: training, what it leaves on disk, and what can be done with it.

use emberlm::artifact::Run;
use emberlm::config::DataConfig;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

#[cfg(unix)]
use crate::command_line::signal;
use crate::command_line::{SHORT, TINY, command, emberlm, succeed, train};
use crate::support::copy_folder;

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_run_leaves_what_it_should_and_can_be_sampled_and_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let text = succeed(&train(folder.path(), &[]));
    for expected in [
        "validation loss",
        "source entropy",
        "tokens/s",
        " left",
        "finished 6 steps",
        "best validation loss: ",
        "run: artifacts/stories",
        "a sample:",
        "more: emberlm generate stories",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let run = folder.path().join("artifacts/stories");

    let summary = read(&run.join("summary.json"));
    let keys: BTreeSet<&str> = summary.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "name",
        "steps",
        "tokens",
        "params",
        "best_val_loss",
        "best_step",
        "final_val_loss",
        "bits_per_byte",
        "source_entropy",
        "seconds",
        "tokens_per_s",
        "backend",
    ];
    assert_eq!(keys, BTreeSet::from(expected));
    assert_eq!(summary["steps"], 6);
    assert_eq!(summary["tokens"], 6 * 2 * 32);
    let number = |key: &str| summary[key].as_f64().unwrap();
    // Characters are bytes here, so bits a byte are the loss in other units.
    let bits = number("final_val_loss") / 2f64.ln();
    assert!((number("bits_per_byte") - bits).abs() < 1e-9);
    assert!(number("final_val_loss") < 4.0 && number("final_val_loss") > number("source_entropy"));

    let config = read(&run.join("config.json"));
    assert_eq!(config["train"]["steps"], 6);
    assert!(config["model"]["vocab_size"].as_u64().unwrap() > 20);

    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> =
        metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |split: &str| lines.iter().filter(|line| line["split"] == split).collect::<Vec<_>>();
    let steps: Vec<u64> = of("train").iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    assert_eq!(of("valid").iter().map(|l| l["step"].clone()).collect::<Vec<_>>(), [3, 6]);
    for key in ["loss", "perplexity", "learning_rate", "gradient_norm", "tokens_per_second"] {
        assert!(of("train")[0][key].is_number(), "{key}");
    }
    let best = of("valid").iter().map(|l| l["loss"].as_f64().unwrap()).fold(f64::MAX, f64::min);
    assert!((number("best_val_loss") - best).abs() < 1e-9);

    let generate = |extra: &[&str]| {
        succeed(&emberlm(
            folder.path(),
            &[&["generate", "stories", "--prompt", "Anna", "--max-tokens", "60"], extra].concat(),
        ))
    };
    let first = generate(&[]);
    assert!(first.starts_with("Anna") && first.len() >= 64, "{first}");
    assert_eq!(first, generate(&[]));
    assert_ne!(first, generate(&["--seed", "2"]));
    let two = generate(&["--samples", "2"]);
    assert!(two.starts_with(first.trim_end()) && two.contains("\n---\n"), "{two}");

    let evaluated = succeed(&emberlm(folder.path(), &["eval", "stories"]));
    assert!(
        evaluated.contains(&format!("loss            {:.4}", number("final_val_loss"))),
        "{evaluated}"
    );

    // A second run takes the next name; one that is asked for by name does not.
    succeed(&train(folder.path(), &[]));
    assert!(folder.path().join("artifacts/stories-2/summary.json").exists());
    let again = train(folder.path(), &["--run", "stories"]);
    assert_eq!(again.status.code(), Some(2));
    let message = String::from_utf8_lossy(&again.stderr);
    assert!(message.contains("the run artifacts/stories exists already"), "{message}");
}

#[test]
fn a_run_repeats_bit_by_bit() {
    let folder = tempfile::tempdir().unwrap();
    for kind in crate::support::cpu_backends() {
        let run = |name: &str| {
            let dropout = ["--set", "model.dropout=0.2", "--backend", kind.name(), "--run", name];
            succeed(&train(folder.path(), &dropout));
            let run = folder.path().join("artifacts").join(name);
            let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
            let losses: Vec<Value> = metrics
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].clone())
                .collect();
            let weights =
                fs::read(run.join("checkpoints/step-00000006/model.safetensors")).unwrap();
            (losses, weights)
        };
        assert_eq!(run(&format!("{kind}-a")), run(&format!("{kind}-b")));
    }
}

#[test]
fn own_text_trains_and_a_foreign_character_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("own.txt"), "größer, schöner, weiter. ".repeat(40)).unwrap();
    let output = emberlm(
        folder.path(),
        &[
            &["train", "--data", "own.txt", "--artifacts", "elsewhere", "--run", "own"][..],
            &crate::command_line::TINY,
            &["--set", "sample.max_tokens=10"],
        ]
        .concat(),
    );
    let text = succeed(&output);
    assert!(text.contains("more: emberlm generate own --artifacts elsewhere"), "{text}");
    let generate = |prompt: &str| {
        emberlm(
            folder.path(),
            &["generate", "elsewhere/own", "--prompt", prompt, "--max-tokens", "5"],
        )
    };
    assert!(succeed(&generate("schön")).starts_with("schön"));
    let foreign = generate("schön Ω");
    assert_eq!(foreign.status.code(), Some(2));
    let message = String::from_utf8_lossy(&foreign.stderr);
    assert!(
        message.contains("has never seen the character 'Ω' (U+03A9, at character 7)"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1);
    assert_eq!(generate("").status.code(), Some(2));
    // Without a prompt it begins by itself, though this text has no line breaks.
    succeed(&emberlm(folder.path(), &["generate", "elsewhere/own", "--max-tokens", "5"]));
    // Evaluation finds the text again from another folder.
    let other = tempfile::tempdir().unwrap();
    let run = folder.path().join("elsewhere/own");
    let evaluated = succeed(&emberlm(other.path(), &["eval", run.to_str().unwrap()]));
    assert!(evaluated.contains("bits a byte"), "{evaluated}");
}

#[test]
fn a_damaged_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    succeed(&train(folder.path(), &[]));
    let run = folder.path().join("artifacts/stories");
    for (file, change) in [
        ("checkpoints/step-00000006/model.safetensors", "cut"),
        ("checkpoints/step-00000006/model.safetensors", "flip"),
        ("config.json", "cut"),
        ("tokenizer.json", "flip"),
        ("best.json", "cut"),
        ("checksums.json", "cut"),
        ("checkpoints/step-00000006/model.safetensors", "remove"),
        ("tokenizer.json", "remove"),
    ] {
        let path = run.join(file);
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        match change {
            "cut" => damaged.truncate(whole.len() / 2),
            _ => damaged[whole.len() / 2] ^= 1,
        }
        match change {
            "remove" => fs::remove_file(&path).unwrap(),
            _ => fs::write(&path, damaged).unwrap(),
        }
        let output = emberlm(folder.path(), &["generate", "stories", "--max-tokens", "3"]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{file} {change}: {message}");
        let name = Path::new(file).file_name().unwrap().to_str().unwrap();
        assert!(message.contains(name), "{file} {change}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        fs::write(&path, whole).unwrap();
    }
    succeed(&emberlm(folder.path(), &["generate", "stories", "--max-tokens", "3"]));
}

/// A limit on the size of files stands in for a full disk: the same calls fail, with another
/// errno.
#[test]
#[cfg(unix)]
fn a_full_disk_stops_a_run_with_its_last_checkpoint_whole() {
    let folder = tempfile::tempdir().unwrap();
    let limited = |kibibytes: u32, run: &str, set: &str| {
        let script = format!("trap '' XFSZ; ulimit -f {kibibytes}; exec \"$@\"");
        let args = [
            &["-c", &script, "sh", env!("CARGO_BIN_EXE_emberlm"), "train", "--run", run],
            &TINY[..],
            &SHORT[..],
            &["--set", set],
        ]
        .concat();
        Command::new("bash").args(args).current_dir(folder.path()).output().unwrap()
    };
    // No file may have a single byte: the run cannot even begin, and leaves nothing.
    let output = limited(0, "none", "train.log_every=1");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.starts_with("error: cannot write artifacts/none/config.json"), "{message}");
    assert_eq!(message.matches("os error").count(), 1, "the cause is told once: {message}");
    assert!(!folder.path().join("artifacts/none").exists());

    // 16 KiB hold the JSON files but no model: the first checkpoint fails and leaves no part.
    let output = limited(16, "part", "train.log_every=1");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("the checkpoint of step 3 could not be saved: cannot write"),
        "{message}"
    );
    let place = "artifacts/part/checkpoints/step-00000003/model.safetensors";
    assert!(message.contains(place), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert_eq!(message.matches("os error").count(), 1, "the cause is told once: {message}");
    let checkpoints = folder.path().join("artifacts/part/checkpoints");
    assert_eq!(fs::read_dir(checkpoints).unwrap().count(), 0);
}

#[test]
fn only_the_newest_and_the_best_checkpoints_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let every = ["--set", "train.evaluate_every=1", "--set", "train.keep_checkpoints=2"];
    // A learning rate that destroys the model: the first evaluation stays the best.
    let worse =
        ["--set", "train.schedule.learning_rate=5", "--set", "train.schedule.warmup_steps=4"];
    succeed(&train(folder.path(), &[&every[..], &worse].concat()));
    let run = Run::open(&folder.path().join("artifacts"), "stories").unwrap();
    let best = run.checkpoints().best().unwrap().unwrap().step;
    let steps = run.checkpoints().steps().unwrap();
    assert!(best < 5, "the model got better: {best}");
    assert_eq!(steps, [best, 5, 6]);
}

#[test]
fn a_model_comes_back_from_disk_with_the_same_values() {
    use emberlm::backend::{Job, TrainBackend, dispatch};
    let folder = tempfile::tempdir().unwrap();
    succeed(&train(folder.path(), &[]));
    let run = Run::open(&folder.path().join("artifacts"), "stories").unwrap();
    struct Load<'a>(&'a Run);
    impl Job for Load<'_> {
        type Output = Vec<(String, burn::tensor::TensorData)>;
        fn run<B: TrainBackend>(self, device: B::Device) -> Self::Output {
            emberlm::model::tensors(&self.0.load_model::<B::InnerBackend>(&device).unwrap())
        }
    }
    let path = run.checkpoints().path(6).join("model.safetensors");
    let saved = emberlm::artifact::read_tensors(&path).unwrap();
    for kind in crate::support::cpu_backends() {
        for (name, values) in dispatch(kind, Load(&run)).unwrap() {
            assert_eq!(saved.get(&name), Some(&values), "{name}");
        }
    }
}

#[test]
#[cfg(unix)]
fn an_interrupted_run_keeps_what_it_learned() {
    use std::io::{BufRead, BufReader, Read};
    let folder = tempfile::tempdir().unwrap();
    let long = ["--set", "train.steps=1000000", "--set", "train.evaluate_every=1000000"];
    let mut child = command(folder.path(), &[&["train"], &TINY[..], &SHORT, &long].concat())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().starts_with("step")).unwrap().unwrap();
    signal(child.id(), "-INT");
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert!(child.wait().unwrap().success(), "{message}");
    assert!(message.contains("stopping after this step"), "{message}");
    assert!(rest.iter().any(|line| line.starts_with("stopped after ")), "{rest:?}");
    let run = Run::open(&folder.path().join("artifacts"), "stories").unwrap();
    let steps = run.history().summary().unwrap().steps;
    assert_eq!(run.checkpoints().steps().unwrap().last(), Some(&steps));
    succeed(&emberlm(folder.path(), &["generate", "stories", "--max-tokens", "3"]));
}

#[test]
fn a_run_that_diverges_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let too_fast =
        ["--set", "train.schedule.learning_rate=1e30", "--set", "train.schedule.warmup_steps=0"];
    let output = train(folder.path(), &too_fast);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    let named = "at step 2, with the batch of examples 2 to 3 of the data: the gradient norm is";
    assert!(message.contains(named), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(!folder.path().join("artifacts/stories/best.json").exists());

    // Steps are left out, but what the first one has done to the weights stays.
    let skip = ["--set", "train.non_finite=skip", "--set", "train.log_every=100"];
    let text = succeed(&train(folder.path(), &[&too_fast[..], &skip].concat()));
    assert_eq!(text.matches("left out: the gradient norm is").count(), 5, "{text}");
    assert!(text.contains("left out: 5 steps"), "{text}");
}

#[test]
fn a_run_can_begin_with_the_model_of_another() {
    let folder = tempfile::tempdir().unwrap();
    succeed(&train(folder.path(), &[]));
    let first = Run::open(&folder.path().join("artifacts"), "stories").unwrap();
    // Its architecture and tokenizer come along, other text is learned, the context is shorter.
    fs::write(folder.path().join("own.txt"), "Anna was happy. ".repeat(60)).unwrap();
    let args = |run: &str, extra: &[&str]| {
        let fixed = [
            "train",
            "--plain",
            "--config",
            "finetune-shakespeare",
            "--data",
            "own.txt",
            "--run",
            run,
            "--set",
            "init_from=stories",
            "--set",
            "train.steps=4",
            "--set",
            "train.accumulation=2",
            "--set",
            "sample.max_tokens=20",
        ];
        let args = [&fixed[..], extra].concat();
        emberlm(folder.path(), &args)
    };
    let shorter = ["--set", "model.context_length=16", "--set", "model.dropout=0.1"];
    let text = succeed(&args("tuned", &shorter));
    assert!(text.contains("validation loss before training: "), "{text}");
    let tuned = Run::open(&folder.path().join("artifacts"), "tuned").unwrap();
    assert_eq!(tuned.config().model.d_model, first.config().model.d_model);
    assert_eq!((tuned.config().model.context_length, tuned.config().model.dropout), (16, 0.1));
    let saved = |run: &str, step: &str| {
        fs::read(folder.path().join("artifacts").join(run).join(step)).unwrap()
    };
    assert_eq!(saved("tuned", "tokenizer.json"), saved("stories", "tokenizer.json"));
    succeed(&emberlm(folder.path(), &["generate", "tuned", "--max-tokens", "3"]));

    // Without learning anything, the model stays what it was.
    let still = [
        "--set",
        "train.schedule.learning_rate=1e-30",
        "--set",
        "train.schedule.final_learning_rate=0",
        "--set",
        "train.optimizer.weight_decay=0",
        "--set",
        "train.steps=1",
    ];
    succeed(&args("still", &still));
    let weights = |run: &Run, step: usize| {
        let path = run.checkpoints().path(step).join("model.safetensors");
        emberlm::artifact::read_tensors(&path).unwrap()
    };
    let still = Run::open(&folder.path().join("artifacts"), "still").unwrap();
    let best = first.checkpoints().best().unwrap().unwrap().step;
    assert_eq!(weights(&still, 1), weights(&first, best));

    for (set, expected) in [
        ("tokenizer.kind=tiktoken", "a model keeps the tokenizer that it was trained with"),
        ("init_from=nothing", "there is no run `nothing`"),
        ("model.d_model=8", "the configuration says"),
        ("model.tied_head=false", "`head.weight` is missing"),
    ] {
        let output = args("refused", &["--set", set]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains("init_from") && message.contains(expected), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(!folder.path().join("artifacts/refused").exists());
    }
}

#[test]
fn translators_and_encoders_train_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let pairs: String =
        (0..60).map(|i| format!("{i} and {}\t{} and {i}\n", i + 1, i + 1)).collect();
    fs::write(folder.path().join("pairs.tsv"), pairs).unwrap();
    let tiny =
        ["--set", "model.d_ff=32", "--set", "model.n_heads=2", "--set", "tokenizer.kind=character"];
    let run = |config: &str, extra: &[&str]| {
        let name = ["train", "--config", config];
        let args = [&name[..], &crate::command_line::TINY, &tiny, extra].concat();
        emberlm(folder.path(), &args)
    };
    let text = succeed(&run("transformer-base", &["--data", "pairs.tsv"]));
    for expected in ["source: 5", "target: ", "model:  ", "bits a byte", "--prompt TEXT"] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let translate = |prompt: &[&str]| {
        let args = [&["generate", "transformer-base", "--temperature", "0"][..], prompt].concat();
        emberlm(folder.path(), &args)
    };
    succeed(&translate(&["--prompt", "5 and 6"]));
    succeed(&emberlm(folder.path(), &["eval", "transformer-base"]));
    succeed(&emberlm(folder.path(), &["eval", "transformer-base", "--data", "pairs.tsv"]));
    let refused = |output: std::process::Output, expected: &str| {
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    };
    refused(translate(&[]), "give the source with --prompt TEXT");
    refused(translate(&["--prompt", &"1".repeat(40)]), "the source has 40 tokens");

    // A plain text will do for it too, and for an encoder.
    fs::write(folder.path().join("own.txt"), "one two three. ".repeat(60)).unwrap();
    succeed(&run("transformer-base", &["--data", "own.txt"]));
    let text = succeed(&run("bert-small", &["--data", "own.txt"]));
    assert!(text.contains("[MASK]") && text.contains("more: emberlm fill-mask bert-small TEXT"));
    assert!(!text.contains("bits a byte"), "{text}");
    let summary = read(&folder.path().join("artifacts/bert-small/summary.json"));
    assert!(summary.get("bits_per_byte").is_none());
    let fill = |text: &str| emberlm(folder.path(), &["fill-mask", "bert-small", text]);
    let filled = succeed(&fill("one [MASK]wo thr[MASK]e"));
    assert_eq!(filled.lines().filter(|line| line.starts_with("[MASK] ")).count(), 2, "{filled}");
    assert_eq!(filled.lines().filter(|line| line.ends_with('%')).count(), 10, "{filled}");
    refused(fill("one"), "the text has no [MASK]");
    refused(fill("Ω [MASK]"), "has never seen the character");
    refused(fill(&"[MASK]".repeat(33)), "the text has 33 tokens");
    refused(emberlm(folder.path(), &["generate", "bert-small"]), "use emberlm fill-mask");
    refused(
        emberlm(folder.path(), &["fill-mask", "transformer-base", "[MASK]"]),
        "emberlm generate",
    );
    refused(
        run("stories", &["--set", r#"data={"kind":"pairs","path":"pairs.tsv"}"#]),
        "encoder-decoder",
    );
}

#[test]
fn the_use_of_experts_is_a_metric() {
    let folder = tempfile::tempdir().unwrap();
    let experts = ["--set", "model.feed_forward.experts={\"count\":4,\"per_token\":2}"];
    succeed(&train(folder.path(), &experts));
    let metrics =
        fs::read_to_string(folder.path().join("artifacts/stories/metrics.jsonl")).unwrap();
    for line in metrics.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let layers: Vec<Vec<usize>> =
            serde_json::from_value(line["expert_tokens"].clone()).unwrap();
        assert_eq!((layers.len(), layers[0].len()), (1, 4));
        if line["split"] == "train" {
            assert_eq!(layers[0].iter().sum::<usize>(), 2 * 2 * 32, "two experts a token");
        }
    }
}

#[test]
fn a_run_is_called_by_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("artifacts");
    succeed(&train(folder.path(), &[]));
    fs::create_dir(root.join("old")).unwrap();
    fs::rename(root.join("stories"), root.join("old/renamed")).unwrap();
    let path = root.join("old/renamed");
    let path = path.to_str().unwrap();
    for (root, name, expected) in [
        (&root, "old/renamed", "old/renamed"),
        (&root, path, "old/renamed"),
        (&root.join("old"), "renamed", "renamed"),
        (&root.join("old/renamed"), ".", "renamed"),
        (&root, &format!("{path}/../renamed/")[..], "renamed"),
        (&root.join("nothing"), path, "renamed"),
    ] {
        let run = Run::open(root, name).unwrap();
        assert_eq!((run.name(), &run.config().name[..]), (expected, "stories"), "{name}");
    }
    // What it says to type finds it.
    let more = ["train", "--plain", "--resume", "old/renamed", "--set", "train.steps=7"];
    let text = succeed(&emberlm(folder.path(), &more));
    assert!(text.contains("more: emberlm generate old/renamed\n"), "{text}");
    succeed(&emberlm(folder.path(), &["generate", "old/renamed", "--max-tokens", "2"]));
    let inspect = ["inspect", "old/renamed", "--json", "--shapes"];
    let inside = succeed(&emberlm(folder.path(), &inspect));
    let inside: serde_json::Value = serde_json::from_str(&inside).unwrap();
    assert_eq!(inside["name"], "old/renamed");
    // Elsewhere no name finds it, or that of another run.
    let away = folder.path().join("disk/stories");
    fs::create_dir(folder.path().join("disk")).unwrap();
    fs::rename(path, &away).unwrap();
    succeed(&train(folder.path(), &[]));
    let resume = ["train", "--plain", "--resume", away.to_str().unwrap()];
    let text =
        succeed(&emberlm(folder.path(), &[&resume[..], &["--set", "train.steps=8"]].concat()));
    assert!(text.contains(&format!("more: emberlm generate {}\n", away.display())), "{text}");
}

/// Whether there is a run, nobody can say who cannot look.
#[test]
fn a_root_that_cannot_be_read_is_told() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("notes.md"), "").unwrap();
    let output = emberlm(folder.path(), &["generate", "x", "--artifacts", "notes.md"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.starts_with("error: cannot read notes.md: "), "{message}");
    // A configuration is looked into without any.
    let config = ["inspect", "gpt2", "--shapes", "--artifacts", "notes.md"];
    succeed(&emberlm(folder.path(), &config));
    let neither = emberlm(folder.path(), &["inspect", "x", "--artifacts", "notes.md"]);
    assert!(String::from_utf8_lossy(&neither.stderr).contains("cannot read notes.md"));
}

/// What a killed program has left is no run.
#[test]
fn folders_of_runs_are_like_others_and_unfinished_ones_are_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("artifacts");
    succeed(&train(folder.path(), &[]));
    let names: Vec<_> = fs::read_dir(&root).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(names, ["stories"], "nothing is left beside it");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        fs::create_dir(folder.path().join("other")).unwrap();
        let expected = mode(&folder.path().join("other"));
        let run = root.join("stories");
        for path in [&run, &run.join("checkpoints/step-00000006"), &run.join("samples")] {
            assert_eq!(mode(path), expected, "{}", path.display());
        }
    }
    copy_folder(&root.join("stories"), &root.join(".part-x"));
    assert_eq!(emberlm::artifact::run_names(&root).unwrap(), ["stories"]);
    let listed = succeed(&emberlm(folder.path(), &["runs"]));
    assert!(listed.contains("stories") && !listed.contains(".part-x"), "{listed}");
}

/// Of many experts a line is long.
#[test]
fn the_last_step_is_found_behind_lines_of_any_length() {
    let folder = tempfile::tempdir().unwrap();
    succeed(&train(folder.path(), &[]));
    let run = Run::open(&folder.path().join("artifacts"), "stories").unwrap();
    assert_eq!(run.history().last_step(), Some(6));
    let path = run.path().join("metrics.jsonl");
    for length in [100, 60_000, 70_000, 300_000] {
        let line = |step: u64| {
            let long = vec![1; length / 2];
            serde_json::json!({ "split": "valid", "step": step, "expert_tokens": long }).to_string()
        };
        fs::write(&path, format!("{}\n{}\n{}", line(7), line(8), &line(9)[..length / 2])).unwrap();
        assert_eq!(run.history().last_step(), Some(8), "{length}");
    }
    fs::write(&path, "{").unwrap();
    assert_eq!(run.history().last_step(), None);
}

#[test]
fn pairs_are_read_as_pairs_wherever_the_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("pairs.tsv", &"ab\tba\nabc\tcba\nb\tb\nac\tca\n".repeat(5));
    write(
        "further.json",
        r#"{"name": "further", "init_from": "translator", "train": {"steps": 2}}"#,
    );
    let is_of_pairs = |run: &str, args: &[&str]| {
        let data = ["--data", "pairs.tsv", "--run", run, "--set", "sample.max_tokens=5"];
        succeed(&emberlm(folder.path(), &[&["train"], args, &data].concat()));
        let run = Run::open(&folder.path().join("artifacts"), run).unwrap();
        assert!(matches!(run.config().data, DataConfig::Pairs { .. }), "{:?}", run.config().data);
    };
    let named = ["--set", "model.architecture=encoder-decoder"];
    is_of_pairs("translator", &[&TINY[..], &named].concat());
    is_of_pairs("further", &["--plain", "--config", "further.json"]);
}
