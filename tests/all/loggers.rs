//! What loggers write, read back by other means, and how well a device is used.

use emberlm::backend::nvidia_model;
use emberlm::config::{self, RunConfig, Source};
use emberlm::train::{flops_per_token, peak_tflops};
use serde_json::Value;
use std::fs;

use crate::command_line::{emberlm, train};

/// CRC-32C bit by bit, from its polynomial, with TensorFlow's mask.
fn masked_crc(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a protocol buffer by their numbers.
fn fields(mut data: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn varint(data: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = data[0];
            *data = &data[1..];
            value |= u64::from(byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                return value;
            }
        }
    }
    let mut found = Vec::new();
    while !data.is_empty() {
        let key = varint(&mut data);
        let width = match key & 7 {
            0 => {
                found.push((key >> 3, Field::Number(varint(&mut data))));
                continue;
            }
            1 => 8,
            2 => varint(&mut data) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        found.push((key >> 3, Field::Bytes(&data[..width])));
        data = &data[width..];
    }
    found
}

fn bytes<'a>(message: &[(u64, Field<'a>)], number: u64) -> Option<&'a [u8]> {
    message.iter().find_map(|field| match field {
        (found, Field::Bytes(bytes)) if *found == number => Some(*bytes),
        _ => None,
    })
}

fn number(message: &[(u64, Field)], wanted: u64) -> u64 {
    let found = message.iter().find_map(|field| match field {
        (found, Field::Number(value)) if *found == wanted => Some(*value),
        _ => None,
    });
    found.unwrap_or(0)
}

#[test]
fn tables_and_event_files_say_what_the_lines_say() {
    let folder = tempfile::tempdir().unwrap();
    let set = ["--set", r#"train.loggers={"csv":true,"tensorboard":true}"#];
    let output = train(folder.path(), &[&set[..], &["--set", "train.peak_tflops=0.5"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = folder.path().join("artifacts/stories");
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 8, "six steps and two evaluations");

    // By their definitions, from one another. Characters are bytes in this corpus.
    let configuration: Value =
        serde_json::from_str(&fs::read_to_string(run.join("config.json")).unwrap()).unwrap();
    let configuration: RunConfig = serde_json::from_value(configuration).unwrap();
    let flops = flops_per_token(&configuration, configuration.model.vocab_size.unwrap()).unwrap();
    for line in &lines {
        let value = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"));
        // Quotients of the same two f64, in another order of operations.
        let close = |key: &str, expected: f64| {
            assert!((value(key) / expected - 1.0).abs() < 1e-12, "{key} in {line}");
        };
        close("perplexity", value("loss").exp());
        close("bits_per_byte", value("loss") / 2f64.ln());
        if line["split"] == "train" {
            close("tokens_per_second", 64.0 / (value("step_milliseconds") / 1e3));
            close("model_flops_utilisation", value("tokens_per_second") * flops / 0.5e12);
            assert_eq!(value("tokens"), value("step") * 64.0);
            assert!((0.0..value("step_milliseconds")).contains(&value("data_wait_milliseconds")));
            assert!((1.0..10_000.0).contains(&value("memory_mib")));
        }
    }

    let mut table = csv::Reader::from_path(run.join("metrics.csv")).unwrap();
    let columns = table.headers().unwrap().clone();
    assert_eq!(columns.iter().take(4).collect::<Vec<_>>(), ["split", "step", "loss", "perplexity"]);
    let rows: Vec<_> = table.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), lines.len());
    for (row, line) in rows.iter().zip(&lines) {
        for (column, found) in columns.iter().zip(row) {
            match &line[column] {
                Value::String(expected) => assert_eq!(found, expected),
                Value::Null => assert_eq!(found, "", "{column} in {line}"),
                expected => assert_eq!(found.parse::<f64>().ok(), expected.as_f64(), "{column}"),
            }
        }
        assert!(line.as_object().unwrap().keys().all(|key| columns.iter().any(|it| it == key)));
    }

    let is_events = |path: &std::path::PathBuf| path.to_string_lossy().contains(".tfevents.");
    let paths: Vec<_> = fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().path()).collect();
    let file = fs::read(paths.iter().find(|path| is_events(path)).unwrap()).unwrap();
    let (mut rest, mut events) = (&file[..], Vec::new());
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let crc = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
        assert_eq!(crc(8), masked_crc(&rest[..8]));
        assert_eq!(crc(12 + length), masked_crc(&rest[12..12 + length]));
        events.push(fields(&rest[12..12 + length]));
        rest = &rest[16 + length..];
    }
    assert_eq!(bytes(&events[0], 3), Some(&b"brain.Event:2"[..]));
    assert_eq!(number(&fields(bytes(&events[1], 7).unwrap()), 1), 1, "the session starts");
    assert_eq!(number(&events[1], 2), 1, "with the first step");
    let described = bytes(&events[2], 5).unwrap();
    assert!(String::from_utf8_lossy(described).contains("# stories"));
    assert_eq!(events.len(), 3 + lines.len());
    for (event, line) in events[3..].iter().zip(&lines) {
        assert_eq!(number(event, 2), line["step"].as_u64().unwrap());
        let values = fields(bytes(event, 5).unwrap());
        assert_eq!(values.len(), line.as_object().unwrap().len() - 2);
        for (_, value) in &values {
            let Field::Bytes(value) = value else { panic!("a value is a message") };
            let value = fields(value);
            let tag = std::str::from_utf8(bytes(&value, 1).unwrap()).unwrap();
            let scalar = f32::from_le_bytes(bytes(&value, 2).unwrap().try_into().unwrap());
            let (split, key) = tag.split_once('/').unwrap();
            assert_eq!(split, line["split"]);
            assert_eq!(scalar, line[key].as_f64().unwrap() as f32, "{tag}");
        }
    }
}

#[test]
fn a_resumed_run_has_each_row_once_in_event_files_too() {
    let folder = tempfile::tempdir().unwrap();
    let output = train(folder.path(), &["--set", "train.loggers.tensorboard=true"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = folder.path().join("artifacts/stories");
    let files = || {
        let mut paths: Vec<_> =
            fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.to_string_lossy().contains(".tfevents."));
        paths.sort();
        paths
    };
    // Killed while it wrote a record.
    let first = fs::read(&files()[0]).unwrap();
    fs::write(&files()[0], [&first[..], &first[..50]].concat()).unwrap();
    let resume = ["train", "--resume", "stories", "--set", "train.steps=9"];
    let output = emberlm(folder.path(), &resume);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let mut rows = Vec::new();
    assert_eq!(files().len(), 2);
    for path in files() {
        let file = fs::read(path).unwrap();
        let mut rest = &file[..];
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let event = fields(&rest[12..12 + length]);
            rest = &rest[16 + length..];
            let Some(summary) = bytes(&event, 5) else { continue };
            let value = fields(bytes(&fields(summary), 1).unwrap());
            let tag = String::from_utf8_lossy(bytes(&value, 1).unwrap()).into_owned();
            if let Some((split, _)) = tag.split_once('/') {
                rows.push((split.to_string(), number(&event, 2)));
            }
        }
    }
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let row =
        |line: Value| (line["split"].as_str().unwrap().into(), line["step"].as_u64().unwrap());
    assert_eq!(rows, lines.map(row).collect::<Vec<_>>());
    assert_eq!(rows.len(), 9 + 3);
}

#[test]
fn operations_a_token_are_nanogpts() {
    let config = |assignments: &[&str]| {
        let assignments: Vec<String> = assignments.iter().map(ToString::to_string).collect();
        config::load(&Source::Builtin("gpt2"), &assignments).unwrap()
    };
    let flops = |assignments: &[&str]| flops_per_token(&config(assignments), 50257);
    // nanoGPT's estimate_mfu: 6 * (124439808 - 1024 * 768) + 12 * 12 * 12 * 64 * 1024.
    assert_eq!(flops(&["model.vocab_size=50257"]), Some(855_166_464.0));
    // A head of its own is multiplied by, its embedding only looked up.
    assert_eq!(flops(&["model.vocab_size=50257", "model.tied_head=false"]), Some(855_166_464.0));
    // A window shortens what is seen, in every layer but each third.
    let windowed = ["model.vocab_size=50257", "model.attention.window=256"];
    let saved = 12.0 * 768.0 * (1024.0 - 256.0);
    assert_eq!(flops(&windowed), Some(855_166_464.0 - 12.0 * saved));
    let third = ["model.attention.full_every=3"];
    assert_eq!(flops(&[&windowed[..], &third].concat()), Some(855_166_464.0 - 8.0 * saved));
    // Two of eight experts and the router: 12 layers of one more network and 8 rows.
    let experts = r#"model.feed_forward.experts={"count":8,"per_token":2}"#;
    let network = 2.0 * 768.0 * 3072.0 + 3072.0 + 768.0;
    let more = 6.0 * 12.0 * (network + 768.0 * 8.0);
    assert_eq!(flops(&["model.vocab_size=50257", experts]), Some(855_166_464.0 + more));
    // Frozen, a weight of a projection has no gradient of its own: a third of its operations less.
    let frozen = r#"train.freeze=["decoder.blocks.*.attention.output.weight"]"#;
    let less = 2.0 * 12.0 * 768.0 * 768.0;
    assert_eq!(flops(&["model.vocab_size=50257", frozen]), Some(855_166_464.0 - less));
    // All but the last layer: eleven of 7,087,872 parameters have no gradients at all, nor has their
    // attention; the last norm and the tied head pass theirs on.
    let frozen = r#"train.freeze=["*"]"#;
    let last = r#"train.unfreeze=["decoder.blocks.11.*"]"#;
    let less = 11.0 * (4.0 * 7_087_872.0 + 8.0 * 768.0 * 1024.0);
    let rest = 2.0 * (2.0 * 768.0 + 50257.0 * 768.0);
    assert_eq!(flops(&["model.vocab_size=50257", frozen, last]), Some(855_166_464.0 - less - rest));
    let encoder = config::load(&Source::Builtin("bert-small"), &[]).unwrap();
    assert_eq!(flops_per_token(&encoder, 100), None);
    assert_eq!(peak_tflops("NVIDIA H200"), Some(989.4));
    assert_eq!(peak_tflops("NVIDIA GeForce RTX 4090 Laptop GPU"), None);
}

#[test]
fn a_device_is_named_where_all_are_of_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let device = |bus: &str, model: &str| {
        let path = folder.path().join(bus);
        fs::create_dir(&path).unwrap();
        let text = format!("Model: \t\t {model}\nIRQ:   \t\t 10\n");
        fs::write(path.join("information"), text).unwrap();
    };
    assert_eq!(nvidia_model(&folder.path().join("none")), None);
    assert_eq!(nvidia_model(folder.path()), None);
    device("0000:01:00.0", "NVIDIA H200");
    device("0000:02:00.0", "NVIDIA H200");
    assert_eq!(nvidia_model(folder.path()).as_deref(), Some("NVIDIA H200"));
    device("0000:03:00.0", "NVIDIA L40S");
    assert_eq!(nvidia_model(folder.path()), None);
}
