//! Runs over HTTP: what is answered, and that it is what the model writes by itself.

use emberlm::artifact::Run;
use emberlm::backend::{self, BackendKind};
use emberlm::serve::{Options, Server};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use ureq::Agent;
use ureq::http::Response;

use crate::command_line::{TINY, emberlm, stdout, succeed, train};
use crate::support::{copy_folder, cpu_backends};

/// A run of a few steps on the built-in stories. Its tokens are bytes, so that what it writes is
/// not always UTF-8.
pub static RUN: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let output = train(folder.path(), &["--set", r#"tokenizer={"kind":"byte"}"#]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
});

pub fn options() -> Options {
    Options {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        target: backend::choose(None).unwrap().into(),
        int8: false,
        api_key: None,
        cors_origins: Vec::new(),
        max_batch: 16,
        queue: 128,
        max_tokens: 1_000_000,
        max_body: 1 << 16,
        timeout: Duration::from_secs(60),
        grace: Duration::from_secs(10),
    }
}

/// A server that is stopped at the end of a test.
pub struct Served {
    pub server: Option<Server>,
    pub url: String,
    agent: Agent,
}

impl Served {
    pub fn new(options: &Options) -> Self {
        let run = Run::open(&RUN.path().join("artifacts"), "stories").unwrap();
        let server = Server::start(vec![run], options).unwrap();
        let url = format!("http://{}", server.address());
        let mut served = Self::at(url);
        served.server = Some(server);
        served
    }

    /// One that somebody else stops.
    pub fn at(url: String) -> Self {
        let config = Agent::config_builder().http_status_as_error(false);
        let config = config.timeout_global(Some(Duration::from_secs(120)));
        Self { server: None, url, agent: config.build().into() }
    }

    pub fn get(&self, path: &str) -> Response<ureq::Body> {
        self.agent.get(format!("{}{path}", self.url)).call().unwrap()
    }

    pub fn post(&self, path: &str, body: &str) -> Response<ureq::Body> {
        let request = self.agent.post(format!("{}{path}", self.url));
        request.header("content-type", "application/json").send(body).unwrap()
    }

    /// A whole answer, which must be a good one.
    #[track_caller]
    pub fn ask(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = document(self.post(path, &body.to_string()));
        assert_eq!(status, 200, "{body}: {answer}");
        answer
    }

    /// The data of the events of a stream.
    #[track_caller]
    pub fn events(&self, path: &str, body: &Value) -> Vec<String> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let response = self.post(path, &body.to_string());
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let lines = BufReader::new(response.into_body().into_reader()).lines();
        let lines = lines.map(Result::unwrap).filter(|line| !line.is_empty());
        lines.map(|line| line.strip_prefix("data: ").unwrap().to_string()).collect()
    }

    /// A number for Prometheus.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").into_body().read_to_string().unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Until nothing is being written and nothing waits.
    #[track_caller]
    pub fn becomes_idle(&self) {
        let started = Instant::now();
        let of = |name: &str| self.metric(&format!(r#"emberlm_{name}{{model="stories"}}"#));
        while of("active_texts") + of("queued_texts") > 0.0 {
            assert!(started.elapsed() < Duration::from_secs(20), "texts are left over");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stopper().stop();
            let all_well = server.wait();
            assert!(all_well || thread::panicking(), "a thread of the server has panicked");
        }
    }
}

pub fn document(response: Response<ureq::Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/json");
    let text = response.into_body().read_to_string().unwrap();
    (status, serde_json::from_str(&text).unwrap())
}

/// What `emberlm generate` writes for each prompt.
pub fn generated(backend: BackendKind, prompts: &[String], args: &[&str]) -> Vec<Value> {
    let mut all = vec!["generate", "stories", "--json", "--backend", backend.name()];
    all.extend(prompts.iter().flat_map(|prompt| ["--prompt", prompt]));
    let output = emberlm(RUN.path(), &[&all[..], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Prompts of different lengths.
pub fn prompts(count: usize) -> Vec<String> {
    (0..count).map(|n| "Once upon a time there was a cat"[..1 + n % 29].to_string()).collect()
}

#[test]
fn answers_at_the_same_time_are_those_that_generate_writes() {
    let prompts = prompts(24);
    for backend in cpu_backends() {
        let greedy = generated(
            backend,
            &prompts,
            &["--max-tokens", "40", "--temperature", "0", "--logprobs", "2"],
        );
        let drawn = generated(
            backend,
            &prompts,
            &["--max-tokens", "40", "--temperature", "1.1", "--top-p", "0.95", "--seed", "9"],
        );
        let served = Served::new(&Options { target: backend.into(), max_batch: 10, ..options() });
        thread::scope(|scope| {
            for (prompt, (greedy, drawn)) in prompts.iter().zip(greedy.iter().zip(&drawn)) {
                let served = &served;
                let mut body = json!({ "model": "stories", "prompt": prompt, "max_tokens": 40,
                    "overflow": "slide" });
                let mut other = body.clone();
                scope.spawn(move || {
                    body["temperature"] = 0.into();
                    body["logprobs"] = 2.into();
                    let answer = served.ask("/v1/completions", &body);
                    let choice = &answer["choices"][0];
                    assert_eq!(choice["text"], greedy["text"], "{prompt}");
                    assert_eq!(choice["finish_reason"], greedy["finish_reason"]);
                    let expected = greedy["log_probabilities"].as_array().unwrap();
                    let found = choice["logprobs"]["token_logprobs"].as_array().unwrap();
                    let ended = usize::from(greedy["finish_reason"] == "stop");
                    assert_eq!(found.len(), expected.len() - ended);
                    for (found, expected) in found.iter().zip(expected) {
                        assert_eq!(*found, expected["log_probability"]);
                    }
                });
                scope.spawn(move || {
                    other["temperature"] = 1.1.into();
                    other["top_p"] = 0.95.into();
                    other["seed"] = 9.into();
                    let answer = served.ask("/v1/completions", &other);
                    assert_eq!(answer["choices"][0]["text"], drawn["text"], "{prompt}");
                    let tokens = drawn["tokens"].as_array().unwrap().len();
                    assert_eq!(answer["usage"]["completion_tokens"], tokens);
                    assert_eq!(answer["usage"]["prompt_tokens"], prompt.len());
                });
            }
        });
        served.becomes_idle();
    }
}

#[test]
fn streams_are_the_whole_answer_in_parts() {
    let served = Served::new(&options());
    for (path, key, part) in
        [("/v1/completions", "text", "text"), ("/v1/chat/completions", "message", "delta")]
    {
        let is_chat = part == "delta";
        let mut body = json!({ "model": "stories", "max_tokens": 60, "n": 3, "seed": 4,
            "temperature": 1.5, "stop": ["e", "xyz"], "overflow": "slide",
            "stream_options": { "include_usage": true } });
        if is_chat {
            body["messages"] = json!([{ "role": "user", "content": "Who?" }]);
            (body["logprobs"], body["top_logprobs"]) = (true.into(), 2.into());
        } else {
            body["prompt"] = json!(["Anna", "The old"]);
            body["logprobs"] = 2.into();
        }
        let whole = served.ask(path, &body);
        let mut events = served.events(path, &body);
        assert_eq!(events.pop().as_deref(), Some("[DONE]"));
        let chunks: Vec<Value> =
            events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        let (last, chunks) = chunks.split_last().unwrap();
        assert_eq!((&last["usage"], &last["choices"]), (&whole["usage"], &json!([])));
        let choices = whole["choices"].as_array().unwrap();
        assert_eq!(choices.len(), if is_chat { 3 } else { 6 });
        for choice in choices {
            let parts: Vec<&Value> = chunks
                .iter()
                .map(|chunk| &chunk["choices"][0])
                .filter(|part| part["index"] == choice["index"])
                .collect();
            let of = |value: &Value| match is_chat {
                true => value["content"].as_str().unwrap_or_default().to_string(),
                false => value.as_str().unwrap().to_string(),
            };
            let text: String = parts.iter().map(|it| of(&it[part])).collect();
            assert_eq!(text, of(&choice[key]));
            assert!(!text.contains('e'));
            let scores = |logprobs: &Value, key: &str| -> Vec<Value> {
                logprobs[key].as_array().cloned().unwrap_or_default()
            };
            let keys: &[&str] = match is_chat {
                true => &["content"],
                false => &["tokens", "token_logprobs", "top_logprobs", "text_offset"],
            };
            for key in keys {
                let found: Vec<Value> =
                    parts.iter().flat_map(|part| scores(&part["logprobs"], key)).collect();
                assert!(!found.is_empty());
                assert_eq!(found, scores(&choice["logprobs"], key), "{key}");
            }
            let reasons: Vec<&Value> = parts.iter().map(|part| &part["finish_reason"]).collect();
            let (last, before) = reasons.split_last().unwrap();
            assert_eq!(**last, choice["finish_reason"]);
            assert!(before.iter().all(|reason| reason.is_null()));
            if is_chat {
                assert_eq!(parts[0]["delta"]["role"], "assistant");
            }
        }
    }
}

#[test]
fn prompts_come_as_texts_or_tokens() {
    let served = Served::new(&options());
    let ask = |body: Value| {
        let mut all = json!({ "max_tokens": 8, "temperature": 0 });
        all.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        served.ask("/v1/completions", &all)
    };
    let texts = |answer: &Value| -> Vec<Value> {
        let choices = answer["choices"].as_array().unwrap();
        choices.iter().map(|choice| choice["text"].clone()).collect()
    };
    let both = ask(json!({ "prompt": ["Anna", "Ben"] }));
    assert_eq!(both["usage"]["prompt_tokens"], 7);
    let ids: Vec<u8> = "Anna".into();
    let of_tokens = ask(json!({ "prompt": [ids, [66, 101, 110]] }));
    assert_eq!(texts(&both), texts(&of_tokens));
    assert_eq!(texts(&ask(json!({ "prompt": "Anna" }))), texts(&both)[..1]);
    assert_eq!(texts(&ask(json!({ "prompt": "Anna".as_bytes() }))), texts(&both)[..1]);
    let echoed = ask(json!({ "prompt": "Anna", "echo": true, "model": "stories" }));
    assert_eq!(texts(&echoed)[0], format!("Anna{}", texts(&both)[0].as_str().unwrap()));
    let only = ask(json!({ "prompt": "Anna", "echo": true, "max_tokens": 0 }));
    assert_eq!(texts(&only)[0], "Anna");
    assert_eq!(only["choices"][0]["finish_reason"], "length");
    // Without a prompt, the end of another text is one.
    let fresh = ask(json!({}));
    assert_eq!(fresh["usage"]["prompt_tokens"], 1);
    assert_eq!(texts(&fresh), texts(&ask(json!({ "prompt": [256] }))));
    // The context holds 32 tokens, of which the last is not read.
    let full = ask(json!({ "prompt": "a".repeat(30), "max_tokens": 10, "logit_bias": {} }));
    assert_eq!(full["choices"][0]["finish_reason"], "length");
    assert_eq!(full["usage"]["completion_tokens"], 3);
    // What changes nothing is taken.
    let quiet = ask(json!({ "prompt": "Anna", "user": "me", "suffix": null, "best_of": 1,
        "stop": null, "tools": [], "top_logprobs": 0, "response_format": { "type": "text" } }));
    assert_eq!(texts(&quiet), texts(&both)[..1]);
}

#[test]
fn a_conversation_becomes_a_text() {
    let served = Served::new(&options());
    let messages = json!([
        { "role": "developer", "content": "Be kind." },
        { "role": "user", "content": [{ "type": "text", "text": "H" }, { "type": "text", "text": "i" }] },
    ]);
    let body = json!({ "messages": messages, "max_completion_tokens": 5, "temperature": 0,
        "overflow": "slide", "tools": [], "tool_choice": "none", "parallel_tool_calls": false });
    let answer = served.ask("/v1/chat/completions", &body);
    let text = "System: Be kind.\nUser: Hi\nAssistant:";
    assert_eq!(answer["usage"]["prompt_tokens"], text.len());
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    let body = json!({ "prompt": text, "max_tokens": 5, "temperature": 0, "overflow": "slide" });
    let plain = served.ask("/v1/completions", &body);
    assert_eq!(plain["choices"][0]["text"], answer["choices"][0]["message"]["content"]);
}

/// A run whose tokenizer has special tokens.
fn run_with_tokens(folder: &Path, specials: &[&str]) -> Run {
    std::fs::write(folder.join("text.txt"), "a cat and a dog and a cat\n".repeat(300)).unwrap();
    let specials: Vec<&str> = specials.iter().flat_map(|token| ["--special", token]).collect();
    let learn = ["tokenizer", "train", "text.txt", "--vocab-size", "280", "--out", "chat"];
    succeed(&emberlm(folder, &[&learn[..], &specials].concat()));
    let vocabulary = r#"tokenizer={"kind":"file","path":"chat"}"#;
    let args = ["--data", "text.txt", "--set", vocabulary, "--set", "model.context_length=128"];
    succeed(&emberlm(folder, &[&["train"], &TINY[..], &args].concat()));
    Run::open(&folder.join("artifacts"), "stories").unwrap()
}

/// The text that a conversation becomes, by what the model makes of it: it is compared with the
/// text that the template's makers publish for it, written by hand.
#[test]
fn a_vocabulary_for_conversations_has_its_own_template() {
    let messages = json!([
        { "role": "system", "content": "Be kind." },
        { "role": "user", "content": " a cat\n" },
        { "role": "assistant", "content": "a dog " },
        { "role": "user", "content": "and?" },
    ]);
    let chatml = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n a cat\n<|im_end|>\n\
        <|im_start|>assistant\na dog <|im_end|>\n<|im_start|>user\nand?<|im_end|>\n\
        <|im_start|>assistant\n";
    let llama = "<|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>\
        <|start_header_id|>user<|end_header_id|>\n\na cat<|eot_id|>\
        <|start_header_id|>assistant<|end_header_id|>\n\na dog<|eot_id|>\
        <|start_header_id|>user<|end_header_id|>\n\nand?<|eot_id|>\
        <|start_header_id|>assistant<|end_header_id|>\n\n";
    let gemma = "<start_of_turn>user\nBe kind.\n\na cat<end_of_turn>\n\
        <start_of_turn>model\na dog<end_of_turn>\n<start_of_turn>user\nand?<end_of_turn>\n\
        <start_of_turn>model\n";
    for (name, text, specials) in [
        ("chatml", chatml, &["<|im_start|>", "<|im_end|>"][..]),
        ("llama-3", llama, &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
        ("gemma", gemma, &["<start_of_turn>", "<end_of_turn>"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let run = run_with_tokens(folder.path(), specials);
        let tokens = run.tokenizer().unwrap().encode(text).unwrap().len();
        let mut served = Served::new(&options());
        let other = Server::start(vec![run], &options()).unwrap();
        served.url = format!("http://{}", other.address());
        let details = document(served.get("/api/models/stories")).1;
        assert_eq!(details["chat_template"], name);
        let body = json!({ "messages": messages, "max_tokens": 3, "temperature": 0,
            "logprobs": true, "overflow": "slide" });
        let answer = served.ask("/v1/chat/completions", &body);
        assert_eq!(answer["usage"]["prompt_tokens"], tokens, "{name}");
        let body = json!({ "prompt": text, "max_tokens": 3, "temperature": 0, "logprobs": 0,
            "overflow": "slide" });
        let plain = served.ask("/v1/completions", &body);
        let found: Vec<&Value> = answer["choices"][0]["logprobs"]["content"]
            .as_array()
            .unwrap()
            .iter()
            .map(|token| &token["logprob"])
            .collect();
        assert!(!found.is_empty());
        let expected = plain["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
        assert!(found.into_iter().eq(expected), "{name}: {answer} {plain}");
        for end in [specials[specials.len() - 1], "<|eos|>"] {
            let content = format!("a{end}b");
            let refused = json!({ "messages": [{ "role": "user", "content": content }] });
            let refused = served.post("/v1/chat/completions", &refused.to_string());
            let (status, refused) = document(refused);
            assert_eq!((status, &refused["error"]["param"]), (400, &json!("messages[0].content")));
            assert!(refused["error"]["message"].as_str().unwrap().ends_with(end), "{refused}");
        }
        other.stopper().stop();
        assert!(other.wait());
    }
}

#[test]
fn weights_in_bytes_write_what_generate_writes_with_them() {
    let prompts = prompts(5);
    for backend in cpu_backends() {
        let args = ["--max-tokens", "30", "--temperature", "0", "--logprobs", "0"];
        let whole = generated(backend, &prompts, &args);
        let expected = generated(backend, &prompts, &[&args[..], &["--quantize", "int8"]].concat());
        let served = Served::new(&Options { target: backend.into(), int8: true, ..options() });
        let details = document(served.get("/api/models/stories")).1;
        assert_eq!(details["weights"], "int8");
        for ((prompt, expected), whole) in prompts.iter().zip(&expected).zip(&whole) {
            let body = json!({ "prompt": prompt, "max_tokens": 30, "temperature": 0, "logprobs": 0,
                "overflow": "slide" });
            let answer = served.ask("/v1/completions", &body);
            assert_eq!(answer["choices"][0]["text"], expected["text"], "{prompt}");
            let first = &answer["choices"][0]["logprobs"]["token_logprobs"][0];
            assert_eq!(*first, expected["log_probabilities"][0]["log_probability"]);
            assert_ne!(*first, whole["log_probabilities"][0]["log_probability"], "not of f32");
        }
    }
}

#[test]
fn translations_are_those_that_generate_writes() {
    let folder = tempfile::tempdir().unwrap();
    let architecture = ["--set", "model.architecture=encoder-decoder"];
    let bytes = ["--set", r#"tokenizer={"kind":"byte"}"#];
    succeed(&train(folder.path(), &[architecture, bytes].concat()));
    let prompts = prompts(12);
    for backend in cpu_backends() {
        let mut args = vec!["generate", "stories", "--json", "--backend", backend.name()];
        args.extend(prompts.iter().flat_map(|prompt| ["--prompt", prompt]));
        args.extend(["--max-tokens", "25", "--temperature", "1.2", "--seed", "4"]);
        let lines = succeed(&emberlm(folder.path(), &args));
        let expected: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let run = Run::open(&folder.path().join("artifacts"), "stories").unwrap();
        let mut served = Served::new(&options());
        let options = Options { target: backend.into(), max_batch: 5, ..options() };
        let translator = Server::start(vec![run], &options).unwrap();
        served.url = format!("http://{}", translator.address());
        assert!(document(served.get("/api/models/stories")).1["chat_template"].is_null());
        thread::scope(|scope| {
            for (prompt, expected) in prompts.iter().zip(&expected) {
                let served = &served;
                scope.spawn(move || {
                    let body = json!({ "prompt": prompt, "max_tokens": 25, "temperature": 1.2,
                        "seed": 4 });
                    let choice = &served.ask("/v1/completions", &body)["choices"][0];
                    assert_eq!(choice["text"], expected["text"], "{prompt}");
                    assert_eq!(choice["finish_reason"], expected["finish_reason"]);
                });
            }
        });
        let completions = "/v1/completions";
        for (path, body, param, message) in [
            (completions, json!({ "prompt": "" }), "prompt", "the prompt is empty"),
            (
                completions,
                json!({ "prompt": "a".repeat(33) }),
                "prompt",
                "the source has 33 tokens",
            ),
            (
                completions,
                json!({ "prompt": "a", "overflow": "slide" }),
                "overflow",
                "a translation cannot slide",
            ),
            (
                "/v1/chat/completions",
                json!({ "messages": [{ "role": "user", "content": "a" }] }),
                "",
                "this model translates; use /v1/completions",
            ),
        ] {
            let (status, error) = document(served.post(path, &body.to_string()));
            let error = &error["error"];
            let found = error["message"].as_str().unwrap();
            assert!(status == 400 && found.contains(message), "{error}");
            assert_eq!(error["param"].as_str().unwrap_or_default(), param, "{error}");
        }
        served.ask(completions, &json!({ "prompt": "a", "overflow": "stop", "max_tokens": 2 }));
        translator.stopper().stop();
        assert!(translator.wait());
    }
}

/// A prompt of several pieces, while another text is being written.
#[test]
fn a_long_prompt_is_answered_as_generate_answers_it() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ["--set", r#"tokenizer={"kind":"byte"}"#, "--set", "model.context_length=500"];
    succeed(&train(folder.path(), &settings));
    let prompt: String = (0..480).map(|at| char::from(b'a' + (at * at / 5 % 26) as u8)).collect();
    for backend in cpu_backends() {
        let args =
            ["generate", "stories", "--json", "--backend", backend.name(), "--prompt", &prompt];
        let asked =
            ["--max-tokens", "40", "--temperature", "0.9", "--seed", "3", "--logprobs", "0"];
        let line = succeed(&emberlm(folder.path(), &[&args[..], &asked].concat()));
        let expected: Value = serde_json::from_str(&line).unwrap();
        let run = Run::open(&folder.path().join("artifacts"), "stories").unwrap();
        let mut served = Served::new(&options());
        let options = Options { target: backend.into(), ..options() };
        let other = Server::start(vec![run], &options).unwrap();
        served.url = format!("http://{}", other.address());
        thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let body = json!({ "prompt": "a", "max_tokens": 300, "temperature": 0,
                    "overflow": "slide" });
                served.ask("/v1/completions", &body)
            });
            let body = json!({ "prompt": prompt, "max_tokens": 40, "temperature": 0.9, "seed": 3,
                "logprobs": 0, "overflow": "slide" });
            let choice = &served.ask("/v1/completions", &body)["choices"][0];
            assert_eq!(choice["text"], expected["text"]);
            let found = choice["logprobs"]["token_logprobs"].as_array().unwrap();
            let tokens = expected["log_probabilities"].as_array().unwrap();
            for (found, expected) in found.iter().zip(tokens) {
                assert_eq!(*found, expected["log_probability"]);
            }
            assert_eq!(writing.join().unwrap()["usage"]["prompt_tokens"], 1);
        });
        other.stopper().stop();
        assert!(other.wait());
    }
}

#[test]
fn models_and_their_curves_are_told() {
    let served = Served::new(&options());
    let (status, models) = document(served.get("/v1/models"));
    assert_eq!((status, &models["object"]), (200, &json!("list")));
    assert_eq!(models["data"].as_array().unwrap().len(), 1);
    let (_, model) = document(served.get("/v1/models/stories"));
    assert_eq!((&model, &model["id"]), (&models["data"][0], &json!("stories")));
    assert!(model["created"].as_u64().unwrap() > 1_700_000_000);
    let (_, details) = document(served.get("/api/models/stories"));
    let run = Run::open(&RUN.path().join("artifacts"), "stories").unwrap();
    let summary = run.history().summary().unwrap();
    assert_eq!(details["parameters"], summary.params);
    assert_eq!(details["summary"]["final_val_loss"], json!(summary.final_val_loss));
    assert_eq!((&details["context_length"], &details["weights"]), (&json!(32), &json!("f32")));
    let (_, losses) = document(served.get("/api/models/stories/losses"));
    let lines = std::fs::read_to_string(run.path().join("metrics.jsonl")).unwrap();
    for split in ["train", "valid"] {
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let of_split = lines.filter(|line| line["split"] == split);
        let expected: Vec<Value> =
            of_split.map(|line| json!([line["step"], line["loss"]])).collect();
        assert!(!expected.is_empty());
        assert_eq!(losses[split], Value::Array(expected), "{split}");
    }
    let (status, health) = document(served.get("/health"));
    assert_eq!((status, health), (200, json!({ "status": "ok", "key_required": false })));
    for missing in ["/v1/models/other", "/api/models/other", "/api/models/other/losses"] {
        let (status, error) = document(served.get(missing));
        assert_eq!((status, &error["error"]["code"]), (404, &json!("model_not_found")));
    }
}

/// A copied run has the name of its folder, so that both can be served.
#[test]
fn a_copy_of_a_run_is_served_beside_it_and_a_damaged_summary_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Run::open(&RUN.path().join("artifacts"), "stories").unwrap();
    std::fs::create_dir(folder.path().join("old")).unwrap();
    copy_folder(whole.path(), &folder.path().join("old/copy"));
    let copy = Run::open(folder.path(), "old/copy").unwrap();
    let summary = copy.path().join("summary.json");
    let mut served = Served::new(&options());
    let both = Server::start(vec![whole, copy], &options()).unwrap();
    served.url = format!("http://{}", both.address());
    let models = document(served.get("/v1/models")).1;
    let ids = models["data"].as_array().unwrap().iter().map(|model| &model["id"]);
    assert_eq!(ids.collect::<Vec<_>>(), ["stories", "old/copy"]);
    for path in ["/v1/models/old/copy", "/v1/models/old%2Fcopy"] {
        assert_eq!(document(served.get(path)), (200, models["data"][1].clone()), "{path}");
    }
    let (status, error) = document(served.post("/v1/completions", r#"{"prompt": "a"}"#));
    let message = &error["error"]["message"];
    assert_eq!((status, message), (400, &json!("`model` is missing; there are stories, old/copy")));
    let body = json!({ "model": "old/copy", "prompt": "a", "max_tokens": 2 });
    assert_eq!(served.ask("/v1/completions", &body)["model"], "old/copy");

    let details = || document(served.get("/api/models/old%2Fcopy"));
    assert!(details().1["summary"]["steps"].is_number());
    std::fs::write(&summary, "{").unwrap();
    let (status, error) = details();
    assert_eq!((status, &error["error"]["type"]), (500, &json!("server_error")));
    assert!(error["error"]["message"].as_str().unwrap().contains("summary.json is damaged"));
    std::fs::remove_file(&summary).unwrap();
    let (status, found) = details();
    assert!(status == 200 && found["summary"].is_null(), "it is being trained, or was imported");
    both.stopper().stop();
    assert!(both.wait());
}

/// The page asks nobody else, and lets nothing in that is not its own.
#[test]
fn the_playground_is_whole_and_closed() {
    let served = Served::new(&options());
    let mut page = served.get("/");
    let header = |name: &str| page.headers()[name].to_str().unwrap().to_string();
    assert_eq!(header("content-type"), "text/html; charset=utf-8");
    let policy = header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert_eq!(nonce.len(), 32);
    let text = page.body_mut().read_to_string().unwrap();
    for tag in ["<style", "<script"] {
        assert_eq!(text.matches(tag).count(), 1);
        assert!(text.contains(&format!("{tag} nonce=\"{nonce}\">")), "{tag}");
    }
    let outside = |scheme: &str| {
        text.match_indices(scheme)
            .filter(|(at, _)| !text[*at..].starts_with("http://www.w3.org/"))
            .count()
    };
    assert_eq!(outside("http://") + outside("https://"), 0, "names of SVG only");
    assert!(!text.contains(" src=") && !text.contains("@import") && !text.contains(" style="));
    let other = served.get("/").headers()["content-security-policy"].clone();
    assert_ne!(other.to_str().unwrap(), policy, "another number each time");
}
