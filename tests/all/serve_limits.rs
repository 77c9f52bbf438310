//! What a server refuses, how it ends, and what it makes of clients that misbehave.

use clap::Parser;
use emberlm::artifact::Run;
use emberlm::backend;
use emberlm::cli::Cli;
use emberlm::serve::{Options, Server};
use emberlm::tokenizer::{ByteTokenizer, SavedTokenizer, Tokenizer, TokenizerError};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use ureq::Agent;

use crate::command_line::command;
#[cfg(unix)]
use crate::command_line::signal;
use crate::serve::{RUN, Served, document, generated, options, prompts};

/// A text that is never whole in the time of a test.
fn endless(stream: bool) -> String {
    json!({ "prompt": "a", "max_tokens": 1_000_000, "overflow": "slide", "stream": stream,
        "logit_bias": {}, "temperature": 0 })
    .to_string()
}

/// A request by hand, which can be dropped in the middle.
fn connect(served: &Served, path: &str, body: &str) -> TcpStream {
    let host = served.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    stream
}

fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).build().into()
}

/// Until so many texts are being written.
#[track_caller]
fn active(served: &Served, count: f64) {
    let started = Instant::now();
    while served.metric(r#"emberlm_active_texts{model="stories"}"#) != count {
        assert!(started.elapsed() < Duration::from_secs(20), "never {count} texts");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn what_cannot_be_is_refused_in_the_form_of_the_interface() {
    let served = Served::new(&Options { max_tokens: 100, queue: 4, ..options() });
    let (completions, chat) = ("/v1/completions", "/v1/chat/completions");
    let long = "a".repeat(40);
    for (path, body, status, param, part) in [
        (completions, "{".into(), 400, "", "EOF while parsing"),
        (completions, "[]".into(), 400, "", "must be a JSON object"),
        (completions, "{} {}".into(), 400, "", "trailing characters"),
        (completions, "".into(), 400, "", "must be a JSON object"),
        (
            completions,
            format!("{{\"user\": {}", "[".repeat(9999)),
            400,
            "user",
            "EOF while parsing a list",
        ),
        (completions, r#"{"prompt": "\ud800"}"#.into(), 400, "prompt", ""),
        (completions, "{\"prompt\": \"\u{1}\"}".into(), 400, "prompt", "control character"),
        (completions, r#"{"seed": 1e400}"#.into(), 400, "seed", "out of range"),
        (completions, r#"{"promt": "a"}"#.into(), 400, "promt", "unknown field `promt`"),
        (completions, r#"{"prompt": 5}"#.into(), 400, "prompt", "expected a string, strings"),
        (completions, r#"{"prompt": [-1]}"#.into(), 400, "prompt", "expected a string, strings"),
        (completions, r#"{"prompt": [300]}"#.into(), 400, "prompt", "there is no token 300"),
        (completions, r#"{"prompt": [[]]}"#.into(), 400, "prompt", "the prompt is empty"),
        (completions, json!({ "prompt": long }).to_string(), 400, "prompt", "the prompt has 40"),
        (completions, r#"{"max_tokens": 101}"#.into(), 400, "max_tokens", "more than the 100"),
        (
            completions,
            r#"{"max_completion_tokens": 101, "max_tokens": 5}"#.into(),
            400,
            "max_completion_tokens",
            "more than the 100",
        ),
        (completions, r#"{"max_tokens": -1}"#.into(), 400, "max_tokens", "invalid value"),
        (completions, r#"{"temperature": -1}"#.into(), 400, "temperature", "temperature = -1 is"),
        (completions, r#"{"temperature": "hot"}"#.into(), 400, "temperature", "invalid type"),
        (completions, r#"{"top_p": 0}"#.into(), 400, "top_p", "top_p = 0 is out of"),
        (completions, r#"{"top_k": 0}"#.into(), 400, "top_k", "top_k = 0 is out of"),
        (
            completions,
            r#"{"repetition_penalty": 0}"#.into(),
            400,
            "repetition_penalty",
            "repetition_penalty = 0",
        ),
        (completions, r#"{"logprobs": 21}"#.into(), 400, "logprobs", "at most 20"),
        (
            completions,
            r#"{"logprobs": true, "top_logprobs": 21}"#.into(),
            400,
            "top_logprobs",
            "at most 20",
        ),
        (completions, r#"{"top_logprobs": 2}"#.into(), 400, "top_logprobs", "needs `logprobs`"),
        (
            completions,
            r#"{"logprobs": 1, "top_logprobs": 2}"#.into(),
            400,
            "top_logprobs",
            "needs `logprobs`",
        ),
        (
            chat,
            r#"{"messages": [], "logprobs": false, "top_logprobs": 2}"#.into(),
            400,
            "top_logprobs",
            "needs `logprobs`",
        ),
        (completions, r#"{"n": 0}"#.into(), 400, "n", "at least 1"),
        (completions, r#"{"n": 5}"#.into(), 400, "n", "at most 4 texts"),
        (
            completions,
            json!({ "prompt": vec!["a"; 5] }).to_string(),
            400,
            "prompt",
            "at most 4 texts",
        ),
        (
            completions,
            json!({ "prompt": vec!["a"; 3], "n": 2 }).to_string(),
            400,
            "n",
            "at most 4 texts",
        ),
        (completions, r#"{"best_of": 3}"#.into(), 400, "best_of", "not supported"),
        (completions, r#"{"suffix": "a"}"#.into(), 400, "suffix", "not supported"),
        (completions, r#"{"logit_bias": {"5": 1}}"#.into(), 400, "logit_bias", "not supported"),
        (completions, json!({ "stop": vec!["a"; 17] }).to_string(), 400, "stop", "at most 16"),
        (completions, r#"{"echo": true, "logprobs": 1}"#.into(), 400, "echo", "not computed"),
        (completions, r#"{"messages": []}"#.into(), 400, "messages", "/v1/chat/completions"),
        (
            completions,
            r#"{"model": "gpt-9"}"#.into(),
            404,
            "model",
            "no model `gpt-9`; there are stories",
        ),
        (chat, r#"{"prompt": "a"}"#.into(), 400, "prompt", "/v1/completions"),
        (
            chat,
            r#"{"messages": [{"role": "user", "content": "a"}], "echo": true}"#.into(),
            400,
            "echo",
            "echo is for /v1/completions",
        ),
        (chat, "{}".into(), 400, "messages", "there are no messages"),
        (
            chat,
            r#"{"messages": [{"role": "cat", "content": ""}]}"#.into(),
            400,
            "messages[0].role",
            "unknown variant `cat`",
        ),
        (
            chat,
            r#"{"messages": [{"role": "user"}]}"#.into(),
            400,
            "messages[0].content",
            "has no text",
        ),
        (
            chat,
            r#"{"messages": [{"role": "user", "content": "a"}], "tools": [{}]}"#.into(),
            400,
            "tools",
            "not supported",
        ),
        (
            chat,
            r#"{"messages": [{"role": "user", "content": "a"}], "tool_choice": "required"}"#.into(),
            400,
            "tool_choice",
            "not supported",
        ),
        (
            chat,
            json!({ "messages": [{ "role": "user", "content": long }] }).to_string(),
            400,
            "messages",
            "the prompt has",
        ),
        ("/v1/nothing", "{}".into(), 404, "", "there is nothing at /v1/nothing"),
        ("/v1/models", "{}".into(), 405, "", "/v1/models is not for POST"),
    ] {
        let (found, error) = document(served.post(path, &body));
        let body: String = body.chars().take(80).collect();
        assert_eq!(found, status, "{body}: {error}");
        let error = &error["error"];
        assert!(error["message"].as_str().unwrap().contains(part), "{body}: {error}");
        assert_eq!(error["param"].as_str().unwrap_or_default(), param, "{body}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error.get("code").is_some());
    }
    let plain = agent().post(format!("{}{completions}", served.url));
    let (status, _) = document(plain.header("content-type", "text/plain").send("{}").unwrap());
    assert_eq!(status, 415, "a page of another site can send no more than that");
    let counted = r#"emberlm_http_requests_total{route="/v1/completions",status="400"}"#;
    assert!(served.metric(counted) > 20.0);
    served.becomes_idle();
}

#[test]
fn large_bodies_are_refused() {
    let served = Served::new(&Options { max_body: 1000, ..options() });
    let body = |size: usize| json!({ "prompt": "a", "user": "b".repeat(size) }).to_string();
    for (size, status) in [(900, 200), (1000, 413), (2_000_000, 413)] {
        let (found, answer) = document(served.post("/v1/completions", &body(size)));
        assert_eq!(found, status, "{answer}");
    }
    // Without a length.
    let host = served.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    for _ in 0..100 {
        stream.write_all(format!("64\r\n{}\r\n", "a".repeat(100)).as_bytes()).unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 413 "), "{line}");
}

#[test]
fn a_full_queue_is_refused_and_empties_when_clients_go() {
    let served = Served::new(&Options { max_batch: 2, queue: 3, ..options() });
    let mut clients = Vec::new();
    for count in 1..=2 {
        clients.push(connect(&served, "/v1/completions", &endless(false)));
        active(&served, f64::from(count));
    }
    // Three texts of one request wait.
    let three = json!({ "prompt": ["a", "b", "c"], "max_tokens": 5 }).to_string();
    clients.push(connect(&served, "/v1/completions", &three));
    let started = Instant::now();
    while served.metric(r#"emberlm_queued_texts{model="stories"}"#) < 3.0 {
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    let response = served.post("/v1/completions", &endless(true));
    assert_eq!(response.headers()["retry-after"], "1");
    let (status, error) = document(response);
    assert_eq!(status, 429);
    assert_eq!(error["error"]["type"], "rate_limit_error");
    // Who waits gets in when one of the others hangs up.
    drop(clients.remove(0));
    let mut waiting = clients.pop().unwrap();
    let mut line = String::new();
    BufReader::new(&mut waiting).read_line(&mut line).unwrap();
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    drop(clients);
    served.becomes_idle();
    served.ask("/v1/completions", &json!({ "prompt": "a", "max_tokens": 3 }));
}

#[test]
fn clients_that_go_away_free_their_place() {
    let served = Served::new(&options());
    for stream in [true, false] {
        let client = connect(&served, "/v1/completions", &endless(stream));
        active(&served, 1.0);
        if stream {
            let mut some = [0; 500];
            (&client).read_exact(&mut some).unwrap();
            assert!(some.starts_with(b"HTTP/1.1 200 OK\r\n"));
        }
        drop(client);
        active(&served, 0.0);
        served.becomes_idle();
    }
}

#[test]
fn what_takes_too_long_is_given_up() {
    let options = Options { max_batch: 1, timeout: Duration::from_millis(400), ..options() };
    let served = Served::new(&options);
    let response = served.post("/v1/completions", &endless(false));
    // OpenAI's clients would ask again, and wait as long.
    assert_eq!(response.headers()["x-should-retry"], "false");
    let (status, error) = document(response);
    assert_eq!((status, &error["error"]["code"]), (504, &json!("timeout")), "{error}");
    served.becomes_idle();
    // What has begun to come ends with an event.
    let text = served.post("/v1/completions", &endless(true)).into_body();
    let text = text.into_with_config().limit(1 << 30).read_to_string().unwrap();
    let last = text.lines().rfind(|line| !line.is_empty()).unwrap();
    let last: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "timeout", "{last}");
    served.becomes_idle();
    // A body that does not come.
    let host = served.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 408 "), "{line}");
}

#[test]
fn a_key_is_asked_for_and_other_sites_only_let_in_by_name() {
    let origins = vec!["https://example.org".to_string()];
    let api_key = Some("secret".parse().unwrap());
    let keyed = Options { api_key, cors_origins: origins, ..options() };
    let told = format!("{keyed:?}");
    assert!(told.contains("api_key: Some(Key(..))") && !told.contains("secret"), "{told}");
    let args = ["emberlm", "serve", "stories", "--api-key"];
    let typed = Cli::try_parse_from(args.into_iter().chain(["secret"])).unwrap();
    assert!(!format!("{typed:?}").contains("secret"), "{typed:?}");
    let empty = Cli::try_parse_from(args.into_iter().chain([""])).unwrap_err().to_string();
    assert!(empty.contains("the key is empty"), "{empty}");
    let served = Served::new(&keyed);
    let agent = agent();
    let get = |path: &str, header: Option<&str>| {
        let request = agent.get(format!("{}{path}", served.url));
        match header {
            Some(header) => request.header("authorization", header),
            None => request,
        }
        .call()
        .unwrap()
    };
    for header in [None, Some("Bearer"), Some("Bearer "), Some("Bearer Secret"), Some("secret")] {
        for path in ["/v1/models", "/metrics", "/api/models/stories", "/nothing"] {
            let response = get(path, header);
            assert_eq!(response.headers()["www-authenticate"], "Bearer");
            let (status, error) = document(response);
            assert_eq!((status, &error["error"]["code"]), (401, &json!("invalid_api_key")));
        }
    }
    let (status, _) = document(served.post("/v1/completions", "{}"));
    assert_eq!(status, 401);
    assert_eq!(get("/v1/models", Some("bearer secret")).status(), 200);
    assert_eq!(document(get("/health", None)).1["key_required"], true);
    assert_eq!(get("/", None).status(), 200);

    let allowed = |served: &Served, origin: &str| {
        let request = agent.options(format!("{}/v1/completions", served.url));
        let request = request.header("origin", origin);
        let answer = request.header("access-control-request-method", "POST").call().unwrap();
        let header = answer.headers().get("access-control-allow-origin");
        header.map(|value| value.to_str().unwrap().to_string())
    };
    assert_eq!(allowed(&served, "https://example.org").as_deref(), Some("https://example.org"));
    assert_eq!(allowed(&served, "https://example.com"), None);
    // OpenAI's client in a browser asks for all headers that it sends, and reads when to ask again.
    let asked = "authorization, content-type, x-stainless-lang, x-stainless-retry-count";
    let request = agent.options(format!("{}/v1/completions", served.url));
    let request = request.header("origin", "https://example.org");
    let request = request.header("access-control-request-method", "POST");
    let answer = request.header("access-control-request-headers", asked).call().unwrap();
    assert_eq!(answer.headers()["access-control-allow-headers"], asked);
    let request = agent.get(format!("{}/v1/models", served.url));
    let refused = request.header("origin", "https://example.org").call().unwrap();
    assert_eq!(refused.headers()["access-control-expose-headers"], "retry-after,x-should-retry");
    assert_eq!(allowed(&Served::new(&options()), "https://example.org"), None);
    let any = Options { cors_origins: vec!["*".into()], ..options() };
    assert_eq!(allowed(&Served::new(&any), "https://example.com").as_deref(), Some("*"));
}

/// Bytes, of which none can be written once it is broken.
#[derive(Debug, Default)]
struct Breaking {
    is_broken: AtomicBool,
}

impl Tokenizer for Breaking {
    fn vocab_size(&self) -> usize {
        ByteTokenizer.vocab_size()
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        ByteTokenizer.encode(text)
    }

    fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        assert!(!self.is_broken.load(Ordering::SeqCst), "this is how the model of this test stops");
        ByteTokenizer.token_bytes(id)
    }

    fn end_of_text(&self) -> Option<u32> {
        None
    }

    fn saved(&self) -> SavedTokenizer {
        ByteTokenizer.saved()
    }
}

/// What a bug of ours would do, where no hook ends the whole program.
#[test]
fn a_model_that_has_stopped_is_told_to_all() {
    let tokenizer = Arc::new(Breaking::default());
    let mut served = Served::new(&options());
    let run = Run::open(&RUN.path().join("artifacts"), "stories").unwrap();
    let server = Server::start_with(vec![(run, tokenizer.clone())], &options()).unwrap();
    served.url = format!("http://{}", server.address());
    assert_eq!(document(served.get("/health")).1["status"], "ok");
    let clients = [true, false].map(|it| connect(&served, "/v1/completions", &endless(it)));
    active(&served, 2.0);
    tokenizer.is_broken.store(true, Ordering::SeqCst);
    let answers = clients.map(|mut client| {
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (mut answer, mut some) = (String::new(), [0; 4096]);
        // Until it says so: what is kept open ends by itself only when the server does.
        while !answer.contains("the model has stopped") {
            let read = client.read(&mut some).unwrap();
            assert!(read > 0, "{answer}");
            answer += &String::from_utf8_lossy(&some[..read]);
        }
        answer
    });
    assert!(answers[0].starts_with("HTTP/1.1 200 OK\r\n"), "it had begun to stream");
    assert!(answers[1].starts_with("HTTP/1.1 500 "), "{}", answers[1]);
    let (status, health) = document(served.get("/health"));
    assert_eq!((status, &health["status"]), (503, &json!("failed")));
    for stream in [true, false] {
        let (status, error) = document(served.post("/v1/completions", &endless(stream)));
        assert_eq!((status, &error["error"]["type"]), (500, &json!("server_error")), "{error}");
    }
    served.becomes_idle();
    server.stopper().stop();
    assert!(!server.wait(), "a thread has panicked");
}

#[test]
fn servers_that_cannot_be_are_refused() {
    let run = || Run::open(&RUN.path().join("artifacts"), "stories").unwrap();
    let refused = |runs: Vec<Run>, options: &Options| {
        Server::start(runs, options).map(|_| ()).unwrap_err().to_string()
    };
    assert!(refused(vec![run(), run()], &options()).contains("two of the runs are called"));
    let path = Options { cors_origins: vec!["https://a.org/b".into()], ..options() };
    assert!(refused(vec![run()], &path).contains("is no origin"));
    let seconds = |seconds: f64| Duration::from_secs_f64(seconds);
    for (wrong, message) in [
        (Options { max_batch: 0, ..options() }, "`max_batch` = 0 is out of range; give at least 1"),
        (Options { queue: 0, ..options() }, "`queue` = 0 is out of range; give 1 to "),
        (Options { queue: usize::MAX, ..options() }, "is out of range; give 1 to "),
        (Options { timeout: seconds(0.0), ..options() }, "`timeout` = 0ns is out of range"),
        (Options { timeout: Duration::MAX, ..options() }, "and at most 4294967295s"),
    ] {
        let found = refused(vec![run()], &wrong);
        assert!(found.contains(message), "{found}");
    }
    let served = Served::new(&options());
    let address = served.url.strip_prefix("http://").unwrap().parse().unwrap();
    let taken = refused(vec![run()], &Options { address, ..options() });
    assert!(taken.contains(&format!("nothing can listen at {address}")), "{taken}");
}

#[test]
fn a_server_that_stops_finishes_what_has_begun() {
    let mut served = Served::new(&options());
    let body = json!({ "prompt": "a", "max_tokens": 2000, "overflow": "slide", "temperature": 0 });
    let host = served.url.strip_prefix("http://").unwrap().to_string();
    let client = connect(&served, "/v1/completions", &body.to_string());
    active(&served, 1.0);
    let server = served.server.take().unwrap();
    server.stopper().stop();
    let mut answer = String::new();
    let mut client = BufReader::new(client);
    client.read_to_string(&mut answer).unwrap();
    let (head, answer) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let answer: Value = serde_json::from_str(answer).unwrap();
    assert_eq!(answer["usage"]["completion_tokens"], 2000);
    assert!(server.wait());
    assert!(TcpStream::connect(host).is_err());
}

#[test]
fn a_server_that_nobody_can_stop_any_more_stops() {
    let mut served = Served::new(&options());
    let server = served.server.take().unwrap();
    let (address, stopper) = (server.address(), server.stopper());
    drop(server);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(document(served.get("/health")).0, 200, "a stopper is left");
    drop(stopper);
    let started = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(started.elapsed() < Duration::from_secs(20), "it goes on");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_server_that_stops_does_not_wait_for_ever() {
    let mut served = Served::new(&Options { grace: Duration::from_millis(200), ..options() });
    let clients = [true, false].map(|it| connect(&served, "/v1/completions", &endless(it)));
    active(&served, 2.0);
    let started = Instant::now();
    let server = served.server.take().unwrap();
    server.stopper().stop();
    assert!(server.wait());
    assert!(started.elapsed() < Duration::from_secs(20));
    drop(clients);
}

/// Half of the clients hang up or send rubbish; the others get what each would get alone.
#[test]
fn clients_that_misbehave_do_not_disturb_others() {
    let prompts = prompts(32);
    let args = ["--max-tokens", "30", "--temperature", "0"];
    let expected = generated(backend::choose(None).unwrap(), &prompts, &args);
    let served = Served::new(&Options { queue: 256, ..options() });
    let rubbish: [&[u8]; 4] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 400\r\n\r\n{\"prompt\"",
    ];
    thread::scope(|scope| {
        for (number, (prompt, expected)) in prompts.iter().zip(&expected).enumerate() {
            let served = &served;
            scope.spawn(move || {
                let body = json!({ "prompt": prompt, "max_tokens": 30, "temperature": 0,
                    "overflow": "slide", "stream": number % 2 == 0 });
                if number % 2 == 1 {
                    let answer = served.ask("/v1/completions", &body);
                    assert_eq!(answer["choices"][0]["text"], expected["text"]);
                    return;
                }
                let text: String = served
                    .events("/v1/completions", &body)
                    .iter()
                    .filter(|event| *event != "[DONE]")
                    .map(|event| serde_json::from_str::<Value>(event).unwrap())
                    .map(|chunk| chunk["choices"][0]["text"].as_str().unwrap().to_string())
                    .collect();
                assert_eq!(expected["text"], text);
            });
            scope.spawn(move || match number % 4 {
                0 => {
                    let host = served.url.strip_prefix("http://").unwrap();
                    let mut stream = TcpStream::connect(host).unwrap();
                    stream.write_all(rubbish[number / 4 % 4]).unwrap();
                    thread::sleep(Duration::from_millis(20));
                }
                1 => drop(connect(served, "/v1/completions", &endless(true))),
                kind => {
                    let client = connect(served, "/v1/chat/completions", &{
                        json!({ "messages": [{ "role": "user", "content": "a" }],
                            "max_tokens": 1_000_000, "overflow": "slide", "temperature": 0,
                            "stream": kind == 2 })
                        .to_string()
                    });
                    thread::sleep(Duration::from_millis(10 * number as u64));
                    drop(client);
                }
            });
        }
    });
    served.becomes_idle();
    let answer = served.ask("/v1/completions", &json!({ "prompt": "a", "max_tokens": 3 }));
    assert_eq!(answer["choices"].as_array().unwrap().len(), 1);
}

/// Starts the program, and returns it with where it says that it is.
#[cfg(unix)]
fn serving(command: &mut Command) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim_end().strip_prefix("serving stories at ").unwrap().to_string();
    assert!(url.starts_with("http://127.0.0.1:"), "{line}");
    (child, url)
}

/// The program: its one line, its limits, and its end by a signal.
#[cfg(unix)]
#[test]
fn the_command_prints_where_it_is_and_ends_by_a_signal() {
    let args = ["serve", "stories", "--port", "0", "--max-body", "2KiB"];
    let (child, url) = serving(command(RUN.path(), &args).env("EMBERLM_API_KEY", "secret"));
    let ask = |body: &str| {
        let request = agent().post(format!("{url}/v1/completions"));
        let request = request.header("authorization", "Bearer secret");
        document(request.header("content-type", "application/json").send(body).unwrap()).0
    };
    assert_eq!(ask(r#"{"prompt": "a"}"#), 200);
    assert_eq!(ask(&json!({ "prompt": "a".repeat(2048) }).to_string()), 413);
    assert_eq!(document(agent().get(format!("{url}/v1/models")).call().unwrap()).0, 401);
    signal(child.id(), "-TERM");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// What each of its options does is tested above; here, that it is handed on.
#[cfg(unix)]
#[test]
fn the_command_heeds_its_limits() {
    let serve = ["serve", "stories", "--port", "0", "--max-tokens", "1000000"];
    let limits = ["--max-batch", "1", "--queue", "1", "--grace", "1"];
    let origin = ["--cors-origin", "https://example.org"];
    let args = [&serve[..], &limits, &origin].concat();
    let (child, url) = serving(&mut command(RUN.path(), &args));
    let served = Served::at(url);
    let request = agent().options(format!("{}/v1/completions", served.url));
    let request = request.header("origin", "https://example.org");
    let answer = request.header("access-control-request-method", "POST").call().unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://example.org");
    // One text is written, another waits, and a third is refused.
    let first = connect(&served, "/v1/completions", &endless(false));
    active(&served, 1.0);
    let second = connect(&served, "/v1/completions", &endless(false));
    let started = Instant::now();
    while served.metric(r#"emberlm_queued_texts{model="stories"}"#) < 1.0 {
        assert!(started.elapsed() < Duration::from_secs(20), "the second does not wait");
    }
    active(&served, 1.0);
    let (status, error) = document(served.post("/v1/completions", &endless(false)));
    assert_eq!((status, &error["error"]["type"]), (429, &json!("rate_limit_error")), "{error}");
    // Not the 30 s that it waits where nothing is said.
    let started = Instant::now();
    signal(child.id(), "-TERM");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let seconds = started.elapsed().as_secs();
    assert!((1..20).contains(&seconds), "it has ended after {seconds} s");
    drop((first, second));

    // By itself: what ends a text would disturb the others.
    let args = [&serve[..], &["--timeout", "1"]].concat();
    let (child, url) = serving(&mut command(RUN.path(), &args));
    let (status, error) = document(Served::at(url).post("/v1/completions", &endless(false)));
    assert_eq!((status, &error["error"]["code"]), (504, &json!("timeout")), "{error}");
    signal(child.id(), "-TERM");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}

#[cfg(unix)]
#[test]
fn a_key_that_cannot_be_read_is_not_taken_for_none() {
    use std::os::unix::ffi::OsStrExt;
    let output = command(RUN.path(), &["serve", "stories", "--port", "0"])
        .env("EMBERLM_API_KEY", std::ffi::OsStr::from_bytes(b"caf\xe9"))
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("EMBERLM_API_KEY is not UTF-8"), "{message}");
    assert!(output.stdout.is_empty());
}

/// Where `EMBERLM_PYTHON` is a Python with the package `openai`.
#[test]
fn the_official_client_works() {
    let Some(python) = std::env::var_os("EMBERLM_PYTHON") else {
        println!("skipped: EMBERLM_PYTHON names no Python with the package openai");
        return;
    };
    let served = Served::new(&Options { api_key: Some("secret".parse().unwrap()), ..options() });
    let script = crate::support::repository().join("tests/python/check_openai.py");
    let output = Command::new(python).arg(script).args([&served.url, "secret"]).output().unwrap();
    let (told, wrong) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if wrong.contains("No module named 'openai'") {
        println!("skipped: this Python has no package openai");
        return;
    }
    assert!(output.status.success(), "{told}{wrong}");
}
