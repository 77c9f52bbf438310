//! `emberlm bench` from outside: what it says, never how fast.

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;

use crate::command_line::{emberlm, refused, stdout};
use emberlm::data::Stories;
use emberlm::tokenizer::{TiktokenTokenizer, Tokenizer};

/// One line of JSON; the times in it are numbers that were measured.
#[track_caller]
fn bench(folder: &Path, args: &[&str], measured: &[&str]) -> Value {
    let output = emberlm(folder, &[&["bench"], args, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = stdout(&output);
    assert_eq!(text.lines().count(), 1, "{text}");
    let result: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(result["bench"], args[0]);
    for key in measured {
        assert!(
            result[key].as_f64().is_some_and(|it| it.is_finite() && it >= 0.0),
            "{key}: {text}"
        );
    }
    result
}

fn with_stories() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let text = Stories::new().unwrap().generate(100, 5, 0);
    std::fs::write(folder.path().join("stories.txt"), &text).unwrap();
    (folder, text)
}

/// Nothing but the text is in the folder.
#[track_caller]
fn nothing_is_left(folder: &Path) {
    let left: Vec<_> = std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    assert_eq!(left, [folder.join("stories.txt")]);
}

#[test]
fn a_tokenizer_is_trained() {
    let (folder, text) = with_stories();
    let args = ["tokenizer-train", "stories.txt", "--vocab-size", "300", "--split", "gpt2"];
    let measured = ["counting_seconds", "merging_seconds", "seconds", "mb_per_s"];
    let result = bench(folder.path(), &args, &measured);
    assert_eq!(result["bytes"], text.len());
    assert_eq!(result["vocab_size"], 300);
    assert_eq!(result["split"], "gpt2");
    nothing_is_left(folder.path());
}

#[test]
fn a_text_is_encoded_whole_or_in_documents() {
    let (folder, text) = with_stories();
    let gpt2 = TiktokenTokenizer::new("gpt2").unwrap();
    let checksum = |ids: Vec<u32>| {
        let mut hasher = Sha256::new();
        ids.iter().for_each(|id| hasher.update(id.to_le_bytes()));
        format!("{:x}", hasher.finalize())
    };
    let measured = ["seconds", "mb_per_s", "tokens_per_s"];
    let args = ["encode", "stories.txt", "--threads", "1", "--repeat", "3"];
    let result = bench(folder.path(), &args, &measured);
    let ids = gpt2.encode(&text).unwrap();
    assert_eq!(result["threads"], 1);
    assert_eq!(result["documents"], 1);
    assert_eq!(result["tokens"], ids.len());
    assert_eq!(result["ids_sha256"], checksum(ids));
    assert_eq!(result["runs_seconds"].as_array().unwrap().len(), 3);

    let args = ["encode", "stories.txt", "--threads", "2", "--document-bytes", "1"];
    let result = bench(folder.path(), &args, &measured);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    assert_eq!(result["threads"], 2);
    assert_eq!(result["documents"], lines.len());
    let ids = lines.iter().flat_map(|line| gpt2.encode(line).unwrap()).collect();
    assert_eq!(result["ids_sha256"], checksum(ids));

    let args = ["encode", "stories.txt", "--repeat", "1", "--document-bytes", "1000"];
    let result = bench(folder.path(), &args, &measured);
    let count = result["documents"].as_u64().unwrap() as usize;
    assert!((2..=text.len() / 1000 + 1).contains(&count), "{result}");
}

#[test]
fn a_text_is_prepared_and_nothing_is_left() {
    let (folder, text) = with_stories();
    let measured = ["seconds", "mb_per_s", "tokens_per_s"];
    let result = bench(folder.path(), &["prepare", "stories.txt"], &measured);
    assert_eq!(result["bytes"], text.len());
    assert_eq!(result["documents"], 2, "one on each side of the split");
    // GPT-2's vocabulary alone is some megabytes.
    #[cfg(target_os = "linux")]
    assert!(result["peak_mib"].as_f64().unwrap() > 5.0, "{result}");
    nothing_is_left(folder.path());
}

#[test]
fn stories_are_prepared_where_no_text_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["prepare", "--tokenizer", "byte"];
    let result = bench(folder.path(), &args, &["seconds", "mb_per_s", "tokens_per_s"]);
    let number = |key: &str| result[key].as_u64().unwrap();
    // Up to the end of the story that reaches it.
    assert!((16_000_000..16_100_000).contains(&number("bytes")), "{result}");
    assert!(number("documents") > 1000, "{result}");
    assert_eq!(number("tokens"), number("bytes") + number("documents"), "one more ends each");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn training_steps_are_measured_with_their_data() {
    let (folder, _) = with_stories();
    let measured = [
        "step_ms",
        "tokens_per_s",
        "data_ms",
        "forward_ms",
        "backward_ms",
        "optimizer_ms",
        "wait_ms_mean",
        "wait_percent",
        "read_ms",
        "read_percent",
        "foretold_mib",
    ];
    let result = bench(folder.path(), &["train", "--shape", "s", "--steps", "3"], &measured);
    // 4 layers of width 128: embeddings, head, and 12 matrices of width squared with biases and
    // norms a layer.
    let layer = 12 * 128 * 128 + (3 + 1 + 4 + 1) * 128 + 4 * 128;
    assert_eq!(result["params"], 65 * 128 * 2 + 64 * 128 + 4 * layer + 2 * 128);
    assert_eq!(result["tokens_per_step"], 12 * 64);
    assert_eq!(result["steps"], 3);
    assert!(result["wait_percent"].as_f64().unwrap() <= 100.0, "{result}");
    let number = |key: &str| result[key].as_f64().unwrap();
    // At every step a phase is a part of it, and so their medians are in that order, too.
    for phase in ["data_ms", "forward_ms", "backward_ms", "optimizer_ms"] {
        assert!(number(phase) <= number("step_ms"), "{phase}: {result}");
    }
    // 6 for each weight but those that are looked up, and 12 for each pair of a number of the width
    // and a position in sight; each layer, each token.
    let weights = number("params") - (65.0 + 64.0) * 128.0;
    let flops = 768.0 * (6.0 * weights + 4.0 * 12.0 * 128.0 * 64.0);
    assert_eq!(number("flops_per_step"), flops);
    let close = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-2;
    assert!(close(number("gflops"), flops / number("step_ms") / 1e6), "{result}");
    let share = number("gflops") / number("peak_gflops");
    assert!(close(number("utilisation_percent"), 100.0 * share), "{result}");

    // Configurations of all three tasks, and one with several batches a step.
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
    };
    let model = r#""d_model": 16, "n_heads": 2, "n_layers": 1, "context_length": 16"#;
    for architecture in ["decoder", "encoder", "encoder-decoder"] {
        write(
            "tiny.json",
            &format!(
                r#"{{"name": "tiny", "model": {{"architecture": "{architecture}", {model}}},
                "tokenizer": {{"kind": "byte"}}, "train": {{"batch_size": 2, "accumulation": 3}}}}"#
            ),
        );
        let changes = ["--set", "model.dropout=0.3", "--set", "train.batch_size=4"];
        let args = ["train", "--shape", "tiny.json", "--steps", "2"];
        let result = bench(folder.path(), &[&args[..], &changes].concat(), &measured);
        assert_eq!(result["dropout"], 0.3);
        assert_eq!((&result["batch_size"], &result["precision"]), (&4.into(), &"f32".into()));
        let special =
            ["decoder", "encoder", "encoder-decoder"].iter().position(|it| *it == architecture);
        assert_eq!(result["vocab_size"], 257 + special.unwrap());
        assert_eq!(result["accumulation"], 3);
    }
}

#[test]
fn sizes_are_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let config = r#"{"name": "tiny", "model": {"d_model": 16, "n_heads": 2, "n_layers": 3,
        "context_length": 16, "tied_head": false}, "tokenizer": {"kind": "byte"},
        "train": {"batch_size": 2, "accumulation": 3}}"#;
    std::fs::write(folder.path().join("tiny.json"), config).unwrap();
    let args = ["scaling", "--shape", "tiny.json", "--doublings", "1", "--steps", "1"];
    let result = bench(folder.path(), &args, &[]);
    let rows = result["rows"].as_array().unwrap();
    let sizes: Vec<_> = rows.iter().map(|row| (row["series"].as_str(), &row["value"])).collect();
    let (batch, layers, context) = (Some("batch_size"), Some("n_layers"), Some("context_length"));
    let [one, two, short, long] = [1, 2, 16, 32].map(serde_json::Value::from);
    let expected = [
        (batch, &one),
        (batch, &two),
        (layers, &one),
        (layers, &two),
        (context, &short),
        (context, &long),
    ];
    assert_eq!(sizes, expected);
    // Weights of the head, of the last norm, and of a layer; and what attention takes in each.
    let (head, norm) = (257.0 * 16.0, 2.0 * 16.0);
    let layer = 12.0 * 256.0 + (3.0 + 1.0 + 4.0 + 1.0) * 16.0 + 4.0 * 16.0;
    let flops = |layers: f64, context: f64| {
        context * (6.0 * (head + norm + layers * layer) + layers * 12.0 * 16.0 * context)
    };
    let grown = [2.0, flops(2.0, 16.0) / flops(1.0, 16.0), flops(3.0, 32.0) / flops(3.0, 16.0)];
    for (pair, grown) in rows.chunks(2).zip(grown) {
        let number = |row: usize, key: &str| pair[row][key].as_f64().unwrap();
        assert!(pair[0]["ratio"].is_null() && pair[0]["flops_ratio"].is_null(), "{result}");
        // Rounded to four places, as the times are.
        let ratio = number(1, "step_ms") / number(0, "step_ms");
        assert!((number(1, "ratio") / ratio - 1.0).abs() < 1e-2, "{result}");
        assert!((number(1, "flops_ratio") - grown).abs() < 1e-4, "{result}");
        #[cfg(target_os = "linux")]
        assert!(number(0, "peak_mib") > 5.0 && number(1, "peak_mib") > 5.0, "{result}");
    }

    let args = ["scaling", "--shape", "tiny.json", "--doublings", "1", "--steps", "1"];
    let output = emberlm(folder.path(), &[&["bench"], &args[..]].concat());
    let text = stdout(&output);
    let columns: Vec<usize> = text.lines().map(|line| line.split_whitespace().count()).collect();
    // The first of each has nothing before it to be compared with.
    #[cfg(target_os = "linux")]
    assert_eq!(columns, [6, 4, 6, 4, 6, 4, 6], "{text}");
    assert!(text.starts_with("series "), "{text}");
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "nothing is left but the configuration");
}

#[test]
fn a_whole_training_is_timed_against_its_steps() {
    let folder = tempfile::tempdir().unwrap();
    let measured = ["bare_step_ms", "whole_step_ms", "ratio", "ratio_lowest", "ratio_highest"];
    let args = ["engine", "--shape", "s", "--steps", "2", "--rounds", "3"];
    let result = bench(folder.path(), &args, &measured);
    assert_eq!((&result["rounds"], &result["steps"]), (&3.into(), &2.into()));
    let ratio = |key: &str| result[key].as_f64().unwrap();
    assert!(ratio("ratio_lowest") > 0.0, "{result}");
    assert!(ratio("ratio_lowest") <= ratio("ratio"), "{result}");
    assert!(ratio("ratio") <= ratio("ratio_highest"), "{result}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn a_sequence_is_continued() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["decode", "--shape", "s", "--steps", "5"];
    let result = bench(folder.path(), &args, &["step_ms", "tokens_per_s"]);
    assert_eq!(result["steps"], 5);
    // No further than the context.
    let args = ["decode", "--shape", "s", "--steps", "1000"];
    assert_eq!(bench(folder.path(), &args, &["step_ms"])["steps"], 64);
    let args = ["decode", "--shape", "s", "--steps", "5", "--batch", "3"];
    let result = bench(folder.path(), &args, &["step_ms", "tokens_per_s"]);
    assert_eq!(result["batch_size"], 3);
    let [step, rate] = ["step_ms", "tokens_per_s"].map(|key| result[key].as_f64().unwrap());
    assert!((rate * step / 3e3 - 1.0).abs() < 1e-2, "three tokens a step: {result}");
    refused(folder.path(), &["bench", "decode", "--shape", "bert-small"], "is no decoder");
}

#[test]
fn results_are_lines_for_people() {
    let (folder, _) = with_stories();
    let output = emberlm(folder.path(), &["bench", "encode", "stories.txt", "--repeat", "1"]);
    let text = stdout(&output);
    assert!(text.lines().any(|line| line.starts_with("mb_per_s ")), "{text}");
    assert!(text.lines().any(|line| line == "tokenizer            gpt2"), "{text}");
}

#[test]
fn bad_input_is_one_line() {
    let (folder, _) = with_stories();
    let path = folder.path();
    std::fs::write(path.join("empty.txt"), b"").unwrap();
    std::fs::write(path.join("latin1.txt"), b"na\xEFve").unwrap();
    for (args, expected) in [
        (&["tokenizer-train", "missing.txt", "--vocab-size", "300"][..], "missing.txt"),
        (&["tokenizer-train", "empty.txt", "--vocab-size", "300"], "empty.txt is empty"),
        (&["tokenizer-train", "latin1.txt", "--vocab-size", "300"], "latin1.txt is not UTF-8"),
        (
            &["tokenizer-train", "stories.txt", "--vocab-size", "7"],
            "a vocabulary of 7 tokens cannot be trained",
        ),
        (&["encode", "."], "is a folder"),
        (&["encode", "stories.txt", "--tokenizer", "gpt3"], "there is no tokenizer `gpt3`"),
        (&["prepare", "missing.txt"], "missing.txt"),
        (&["prepare", "stories.txt", "--tokenizer", "gpt3"], "there is no tokenizer `gpt3`"),
        (
            &["train", "--shape", "xxl"],
            "`xxl` is none of the shapes s, m, l, xl: no configuration `xxl`",
        ),
        (&["train", "--shape", "finetune-shakespeare"], "init_from"),
        (&["train", "--set", "model.dropout=1.5"], "`model.dropout` = 1.5 is out of range"),
        (&["train", "--set", "model.dropuot=0"], "did you mean `dropout`"),
        (&["train", "--backend", "tpu"], "no backend `tpu`; compiled in: "),
        (&["scaling", "--shape", "xxl"], "`xxl` is none of the shapes s, m, l, xl"),
        (&["scaling", "--backend", "tpu"], "no backend `tpu`; compiled in: "),
    ] {
        refused(path, &[&["bench"], args].concat(), expected);
    }
    for args in [&["bench"][..], &["bench", "encode"], &["bench", "encode", "x", "--threads", "0"]]
    {
        assert_eq!(emberlm(path, args).status.code(), Some(2), "{args:?}");
    }
}
