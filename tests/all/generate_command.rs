//! `emberlm generate` and `emberlm predict` from outside.

use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::LazyLock;
use tempfile::TempDir;

#[cfg(unix)]
use crate::command_line::signal;
use crate::command_line::{command, emberlm, succeed, train};

/// A run of a few steps on the built-in stories.
static RUN: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    succeed(&train(folder.path(), &[]));
    folder
});

fn run(args: &[&str]) -> Output {
    emberlm(RUN.path(), args)
}

fn generate(args: &[&str]) -> String {
    succeed(&run(&[&["generate", "stories", "--max-tokens", "40"], args].concat()))
}

#[track_caller]
fn refused(args: &[&str], expected: &str) {
    let output = run(args);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains(expected), "{message}");
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn texts_of_many_prompts_are_those_of_each() {
    let prompts = ["Anna ", "a", "The old man said", "\"Yes\"", "He went to the", "x"];
    let alone: Vec<String> = prompts
        .iter()
        .flat_map(|prompt| ["7", "8"].map(|seed| generate(&["--prompt", prompt, "--seed", seed])))
        .collect();
    let expected = alone.join("\n---\n");
    let mut args = vec!["--samples", "2", "--seed", "7"];
    args.extend(prompts.iter().flat_map(|prompt| ["--prompt", prompt]));
    for batch in ["1", "3", "8", "100"] {
        assert_eq!(generate(&[&args[..], &["--batch", batch]].concat()), expected, "{batch}");
    }
    let file = RUN.path().join("prompts.txt");
    fs::write(&file, prompts.join("\n") + "\n").unwrap();
    let args = ["--samples", "2", "--seed", "7", "--prompts-file", file.to_str().unwrap()];
    assert_eq!(generate(&args), expected);
    let json = generate(&[&args[..], &["--json"]].concat());
    let texts = lines(&json).into_iter().map(|line| {
        format!("{}{}\n", line["prompt"].as_str().unwrap(), line["text"].as_str().unwrap())
    });
    assert_eq!(texts.collect::<Vec<_>>(), alone);
}

#[test]
fn json_says_how_likely_tokens_were_and_why_a_text_ended() {
    let args = ["--prompt", "Anna ", "--json", "--logprobs", "3"];
    let line = &lines(&generate(&args))[0];
    assert_eq!((&line["finish_reason"], &line["seed"]), (&"length".into(), &1.into()));
    let (tokens, found) = (line["tokens"].as_array().unwrap(), &line["log_probabilities"]);
    assert_eq!((tokens.len(), found.as_array().unwrap().len()), (40, 40));
    // `predict` finds the same in a pass without a cache.
    let text = format!("Anna {}", line["text"].as_str().unwrap());
    // As much of it as the context holds.
    let text: String = text.chars().take(30).collect();
    let predicted = succeed(&run(&["predict", "stories", "--text", &text, "--json"]));
    let predicted: Value = serde_json::from_str(&predicted).unwrap();
    assert_eq!(predicted["tokens"].as_array().unwrap().len(), 30);
    assert!(predicted["tokens"][0]["log_probability"].is_null());
    for (place, expected) in predicted["tokens"].as_array().unwrap().iter().enumerate().skip(5) {
        let found = &found[place - 5];
        assert_eq!((&found["id"], &found["token"]), (&expected["id"], &expected["token"]));
        let difference = found["log_probability"].as_f64().unwrap()
            - expected["log_probability"].as_f64().unwrap();
        assert!(difference.abs() < 1e-4, "{found} {expected}");
        let top = found["top"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        if let Some(rank) = found["rank"].as_u64().filter(|rank| *rank <= 3) {
            assert_eq!(top[rank as usize - 1]["id"], found["id"]);
        }
    }
    let whole = line["text"].as_str().unwrap();
    let stop: String = whole.chars().skip(10).take(3).collect();
    let before = &whole[..whole.find(&stop).unwrap()];
    let args = ["--prompt", "Anna ", "--json", "--stop", &stop];
    let line = &lines(&generate(&args))[0];
    assert_eq!(line["text"], before);
    assert_eq!((&line["finish_reason"], &line["stop"]), (&"stop".into(), &stop.clone().into()));
    assert_eq!(generate(&args[..2]), format!("Anna {whole}\n"));
    assert_eq!(generate(&[&args[..2], &args[3..]].concat()), format!("Anna {before}\n"));
}

#[test]
fn a_text_without_a_token_has_log_probabilities_where_they_were_asked_for() {
    let nothing = |args: &[&str]| {
        let all = ["generate", "stories", "--max-tokens", "0", "--json"];
        lines(&succeed(&run(&[&all[..], args].concat()))).remove(0)
    };
    let unasked = nothing(&[]);
    assert_eq!((&unasked["text"], &unasked["tokens"]), (&"".into(), &json!([])));
    assert!(unasked.get("log_probabilities").is_none(), "{unasked}");
    assert_eq!(nothing(&["--logprobs", "2"])["log_probabilities"], json!([]));
}

#[test]
fn the_least_probability_and_a_file_with_the_prompt_are_options() {
    // At least as likely as the most likely one is that one alone.
    let greedy = generate(&["--prompt", "Anna ", "--temperature", "0"]);
    assert_eq!(generate(&["--prompt", "Anna ", "--min-p", "1"]), greedy);
    assert_ne!(generate(&["--prompt", "Anna "]), greedy);
    refused(&["generate", "stories", "--min-p", "1.5"], "min-p = 1.5 is out of range");
    // All of its lines are one prompt.
    let file = RUN.path().join("prompt.txt");
    fs::write(&file, "Anna\nran").unwrap();
    let found = generate(&["--prompt-file", file.to_str().unwrap()]);
    assert_eq!(found, generate(&["--prompt", "Anna\nran"]));
    let missing = ["generate", "stories", "--prompt-file", "missing.txt"];
    refused(&missing, "missing.txt");
}

#[test]
fn predict_prints_the_text_and_what_may_follow() {
    let text = succeed(&run(&["predict", "stories", "--text", "Anna", "--top", "4"]));
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let (tokens, next) = text.split_once("\n\n").unwrap();
    let tokens: Vec<&str> = tokens.lines().collect();
    assert_eq!(tokens.len(), 1 + 4 + 1, "{text}");
    assert!(tokens[1].starts_with("\"A\"") && tokens[1].trim_end().ends_with('-'), "{text}");
    assert!(tokens[5].starts_with("loss "), "{text}");
    assert_eq!(next.lines().count(), 5, "{text}");
    let all = succeed(&run(&["predict", "stories", "--text", "Anna", "--top", "999", "--json"]));
    let all: Value = serde_json::from_str(&all).unwrap();
    let next = all["next"].as_array().unwrap();
    let sum: f64 = next.iter().map(|it| it["log_probability"].as_f64().unwrap().exp()).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    refused(&["predict", "stories", "--text", ""], "the text is empty");
    refused(&["predict", "stories", "--text", &"a".repeat(400)], "the text has 400 tokens");
    refused(&["predict", "stories", "--text", "£"], "has never seen the character");
}

#[test]
fn beams_and_overflow_are_chosen_by_option() {
    let found = generate(&["--prompt", "Anna ", "--beams", "3", "--json"]);
    let line = &lines(&found)[0];
    assert!(line["score"].as_f64().unwrap() < 0.0 && line["seed"].is_null(), "{found}");
    let text = format!("Anna {}\n", line["text"].as_str().unwrap());
    assert_eq!(generate(&["--prompt", "Anna ", "--beams", "3"]), text);
    let stop = ["--prompt", "Anna ", "--overflow", "stop", "--max-tokens", "5000", "--json"];
    let stop = succeed(&run(&[&["generate", "stories"], &stop[..]].concat()));
    let line = &lines(&stop)[0];
    assert_eq!(line["finish_reason"], "length");
    // The whole context but for the prompt, and the last token, which is not read.
    let context_length = {
        let config = fs::read(RUN.path().join("artifacts/stories/config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        config["model"]["context_length"].as_u64().unwrap() as usize
    };
    assert_eq!(line["tokens"].as_array().unwrap().len(), context_length - 5 + 1);
    let long = "a".repeat(context_length + 1);
    refused(
        &["generate", "stories", "--prompt", &long, "--overflow", "stop"],
        "let its older half go with --overflow slide",
    );
    let slid = run(&["generate", "stories", "--prompt", &long, "--max-tokens", "5"]);
    assert!(succeed(&slid).starts_with(&long));
    let message = String::from_utf8(slid.stderr).unwrap();
    assert!(message.contains("what is before the last of them is not read"), "{message}");
}

#[test]
fn options_that_cannot_be_are_refused() {
    let refused = |args: &[&str], expected| {
        refused(&[&["generate", "stories"], args].concat(), expected);
    };
    refused(&["--prompt", "a", "--prompt", ""], "prompt 2: the prompt is empty");
    refused(&["--prompt", "a", "--prompt", "£"], "prompt 2: the prompt cannot be encoded");
    refused(&["--repetition-penalty", "0"], "repetition-penalty = 0 is out of range");
    refused(&["--frequency-penalty", "nan"], "frequency-penalty = NaN");
    refused(&["--stop-token", "4096"], "there is no token 4096");
    refused(&["--logprobs", "2"], "--json");
    refused(&["--beams", "2", "--top-k", "3"], "cannot be used with");
    refused(&["--beams", "2", "--batch", "3"], "cannot be used with");
    refused(&["--beams", "2", "--length-penalty", "nan"], "length-penalty = NaN is out of range");
    refused(&["--beams", "2", "--length-penalty", "inf"], "length-penalty = inf is out of range");
    refused(&["--interactive", "--prompt", "a"], "cannot be used with");
    let empty = RUN.path().join("empty.txt");
    fs::write(&empty, "\n\n").unwrap();
    refused(&["--prompts-file", empty.to_str().unwrap()], "has no prompt; it needs one a line");
}

/// Answers to prompts from a pipe, with a file of their own that keeps the prompts.
fn interactive(state: &str, max_tokens: &str) -> Child {
    let args = ["generate", "stories", "--interactive", "--max-tokens", max_tokens, "--seed", "5"];
    command(RUN.path(), &args)
        .env("XDG_STATE_HOME", RUN.path().join(state))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Prompts from a pipe are answered like those that are typed.
#[test]
fn a_loop_answers_one_prompt_after_the_other() {
    let mut child = interactive("state", "20");
    child.stdin.take().unwrap().write_all("Anna\n\n£\nThe\n".as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = succeed(&output);
    let alone = |prompt: &str, seed: &str| {
        let args = ["generate", "stories", "--max-tokens", "20", "--seed", seed];
        succeed(&run(&[&args[..], &["--prompt", prompt]].concat()))
    };
    // Seeds go on from one answer to the next, and what cannot be read has none.
    assert_eq!(text, alone("Anna", "5") + &alone("The", "6"));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("has never seen the character"), "{message}");
    let kept = fs::read_to_string(Path::new(RUN.path()).join("state/emberlm/prompts")).unwrap();
    assert!(kept.contains("Anna") && kept.contains("The"), "{kept}");
}

/// Ctrl-C ends an answer, and not the program.
#[test]
#[cfg(unix)]
fn a_signal_ends_an_answer_and_the_next_prompt_is_answered() {
    let mut child = interactive("interrupted", "1000000");
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    // Of an answer that has no end, so much, and all that follows until it has stopped.
    let mut told = Vec::new();
    for (prompt, seed) in [("Anna", "5"), ("The", "6")] {
        writeln!(input, "{prompt}").unwrap();
        let args = ["generate", "stories", "--max-tokens", "20", "--seed", seed];
        let expected = succeed(&run(&[&args[..], &["--prompt", prompt]].concat()));
        let expected = expected.strip_suffix('\n').unwrap().as_bytes();
        // What the one before had to say until it stopped comes first.
        while !told.windows(expected.len()).any(|window| window == expected) {
            let mut part = [0; 256];
            let read = output.read(&mut part).unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&told));
            told.extend_from_slice(&part[..read]);
        }
        signal(child.id(), "-INT");
    }
    drop(input);
    output.read_to_end(&mut told).unwrap();
    let rest = child.wait_with_output().unwrap();
    assert_eq!(rest.status.code(), Some(0), "{}", String::from_utf8_lossy(&rest.stderr));
    assert!(told.ends_with(b"\n"));
}
