//! What a tracking server is asked to keep, and what becomes of a training whose server is not
//! there. The server here is a stub; `tests/python/check_mlflow.py` asks a real one.

use emberlm::config::{self, MlflowConfig, Source};
use emberlm::train::{Logged, MlflowRun, MlflowTracking, Row, RowLogger, RunStatus};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::command_line::{TINY, emberlm, refused, stdout, train};

/// What the stub does with a request: a status and a body, or nothing and a closed connection.
type Answer = Option<(u16, Value)>;

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(String, Value)>>>);

impl Seen {
    /// The requests of one kind.
    fn of(&self, path: &str) -> Vec<Value> {
        let seen = self.0.lock().unwrap();
        seen.iter().filter(|(found, _)| found == path).map(|(_, body)| body.clone()).collect()
    }

    /// All entries of the batches, which must not be too large.
    fn logged(&self, kind: &str, most: usize) -> Vec<Value> {
        let batches = self.of("runs/log-batch");
        let lists = batches.iter().filter_map(|batch| batch[kind].as_array());
        lists.inspect(|list| assert!(list.len() <= most)).flatten().cloned().collect()
    }
}

/// A tracking server with one run, which `answer` may keep from answering the `n`th request.
struct Stub {
    uri: String,
    seen: Seen,
}

impl Stub {
    fn new(answer: impl Fn(&str, &Value) -> Option<Answer> + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let seen = Seen::default();
        let noted = seen.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let (answer, noted) = (answer.clone(), noted.clone());
                std::thread::spawn(move || serve(connection, &noted, answer));
            }
        });
        Self { uri, seen }
    }

    fn set(&self) -> String {
        format!("train.loggers.mlflow.uri={}", self.uri)
    }
}

fn serve(
    connection: TcpStream,
    seen: &Seen,
    answer: impl Fn(&str, &Value) -> Option<Answer>,
) -> Option<()> {
    let mut reader = BufReader::new(connection.try_clone().ok()?);
    let mut writer = connection;
    loop {
        let (mut line, mut length) = (String::new(), 0);
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let target = line.split(' ').nth(1)?.strip_prefix("/api/2.0/mlflow/")?.to_string();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let Some((name, value)) = header.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| json!(query));
        let (status, answer) = match answer(path, &body) {
            Some(answer) => answer?,
            None => {
                seen.0.lock().unwrap().push((path.into(), body.clone()));
                usual(path, seen)
            }
        };
        let text = answer.to_string();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", text.len());
        writer.write_all(format!("{head}{text}").as_bytes()).ok()?;
    }
}

/// As mlflow 3.17 answers.
fn usual(path: &str, seen: &Seen) -> (u16, Value) {
    let missing = (404, json!({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"}));
    let run = |data: Value| {
        let info = json!({"run_id": "abc", "experiment_id": "7", "lifecycle_stage": "active"});
        (200, json!({"run": {"info": info, "data": data}}))
    };
    match path {
        "experiments/get-by-name" if seen.of("experiments/create").is_empty() => missing,
        "experiments/get-by-name" => (200, json!({"experiment": {"experiment_id": "7"}})),
        "experiments/create" => (200, json!({"experiment_id": "7"})),
        "runs/get" if seen.of("runs/create").is_empty() => missing,
        "runs/get" => run(json!({"params": seen.logged("params", 100)})),
        "runs/create" => run(json!({})),
        _ => (200, json!({})),
    }
}

/// Metrics by their key, split and step, as `metrics.jsonl` has them.
fn expected(run: &Path) -> BTreeMap<(String, u64), f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let mut metrics = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        for (key, value) in line.as_object().unwrap() {
            if key != "split" && key != "step" {
                let key = format!("{}/{key}", line["split"].as_str().unwrap());
                metrics.insert((key, line["step"].as_u64().unwrap()), value.as_f64().unwrap());
            }
        }
    }
    metrics
}

fn found(metrics: &[Value]) -> BTreeMap<(String, u64), f64> {
    let entry = |metric: &Value| {
        let key = metric["key"].as_str().unwrap().to_string();
        assert!(metric["timestamp"].as_u64().unwrap() > 1_700_000_000_000, "in milliseconds");
        ((key, metric["step"].as_u64().unwrap()), metric["value"].as_f64().unwrap())
    };
    metrics.iter().map(entry).collect()
}

fn value<'a>(entries: &'a [Value], key: &str) -> Option<&'a str> {
    entries.iter().rev().find(|entry| entry["key"] == key)?["value"].as_str()
}

#[test]
fn a_server_has_what_the_lines_say_and_a_resumed_run_goes_on_there() {
    let folder = tempfile::tempdir().unwrap();
    let stub = Stub::new(|_, _| None);
    let output = train(folder.path(), &["--set", &stub.set()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let page = format!("mlflow: {}/#/experiments/7/runs/abc\n", stub.uri);
    assert!(stdout(&output).contains(&page), "{}", stdout(&output));

    let run = folder.path().join("artifacts/stories");
    assert_eq!(stub.seen.of("experiments/create"), [json!({"name": "emberlm"})]);
    let created = stub.seen.of("runs/create");
    assert_eq!(created.len(), 1);
    assert_eq!(
        (&created[0]["run_name"], &created[0]["experiment_id"]),
        (&json!("stories"), &json!("7"))
    );
    let first = stub.seen.logged("metrics", 1000);
    assert_eq!(found(&first), expected(&run));
    assert_eq!(first.len(), expected(&run).len(), "nothing twice");
    let params = stub.seen.logged("params", 100);
    let configuration: Value =
        serde_json::from_str(&fs::read_to_string(run.join("config.json")).unwrap()).unwrap();
    assert_eq!(value(&params, "name"), Some("stories"));
    assert_eq!(value(&params, "train.steps"), Some("6"));
    assert_eq!(value(&params, "model.d_model"), Some("16"));
    assert_eq!(value(&params, "train.freeze"), Some("[]"));
    let rate = configuration["train"]["schedule"]["learning_rate"].to_string();
    assert_eq!(value(&params, "train.schedule.learning_rate"), Some(rate.as_str()));
    let tags = stub.seen.logged("tags", 100);
    assert_eq!(value(&tags, "mlflow.source.name"), Some("emberlm"));
    assert_eq!(value(&tags, "emberlm.version"), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(stub.seen.of("runs/update").last().unwrap()["status"], "FINISHED");
    let kept: Value =
        serde_json::from_str(&fs::read_to_string(run.join("mlflow.json")).unwrap()).unwrap();
    assert_eq!(kept, json!({"uri": stub.uri, "experiment": "emberlm", "run_id": "abc"}));

    let resume = ["train", "--resume", "stories", "--set", "train.steps=9"];
    let output = emberlm(folder.path(), &resume);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(stub.seen.of("runs/create").len(), 1, "the same run");
    let statuses: Vec<_> =
        stub.seen.of("runs/update").iter().map(|update| update["status"].clone()).collect();
    assert_eq!(statuses, ["FINISHED", "RUNNING", "FINISHED"]);
    assert_eq!(value(&stub.seen.logged("tags", 100), "train.steps"), Some("9"));
    assert_eq!(stub.seen.logged("params", 100), params, "which never change");
    let all = stub.seen.logged("metrics", 1000);
    assert_eq!(found(&all), expected(&run));
    assert!(all[first.len()..].iter().all(|metric| metric["step"].as_u64().unwrap() >= 6));
    assert_eq!(expected(&run).keys().map(|(_, step)| *step).max(), Some(9));

    // Another server has another run.
    let other = Stub::new(|_, _| None);
    let change = ["--set", "train.steps=10", "--set", &other.set()];
    let output = emberlm(folder.path(), &[&["train", "--resume", "stories"], &change[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(other.seen.of("runs/create").len(), 1);
    assert_eq!(value(&other.seen.logged("params", 100), "train.steps"), Some("10"));
}

#[test]
fn what_got_lost_on_the_way_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    // The connection breaks off at the first metrics.
    let broken = Arc::new(Mutex::new(0));
    let count = broken.clone();
    let stub = Stub::new(move |_, body| {
        let mut count = count.lock().unwrap();
        *count += usize::from(body["metrics"].is_array());
        (body["metrics"].is_array() && *count == 1).then_some(None)
    });
    let output = train(folder.path(), &["--set", &stub.set()]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(*broken.lock().unwrap() > 1);
    let expected = expected(&folder.path().join("artifacts/stories"));
    assert_eq!(found(&stub.seen.logged("metrics", 1000)), expected);
}

#[test]
fn a_training_outlives_its_server() {
    let unavailable = |path: &str, body: &Value| {
        let gone = path == "runs/update" || body["metrics"].is_array();
        gone.then_some(Some((503, json!("<html>"))))
    };
    let refusing = |_: &str, body: &Value| {
        let answer =
            (400, json!({"error_code": "INVALID_PARAMETER_VALUE", "message": "too\nlate"}));
        body["metrics"].is_array().then_some(Some(answer))
    };
    let other = |_: &str, _: &Value| Some(Some((200, json!("a page"))));
    for (stub, reason) in [
        (Stub::new(|_, _| Some(None)), ""),
        (Stub::new(unavailable), "the server answers 503"),
        (Stub::new(refusing), "the server answers 400"),
        (Stub::new(other), "the server does not answer as MLflow does"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = train(folder.path(), &["--set", &stub.set()]);
        assert!(output.status.success());
        let message = String::from_utf8_lossy(&output.stderr);
        let expected = format!("mlflow: 8 steps and evaluations were not logged at {}: ", stub.uri);
        assert!(message.starts_with(&expected), "{message}");
        assert!(message.contains(reason), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        let lines = fs::read_to_string(folder.path().join("artifacts/stories/metrics.jsonl"));
        assert_eq!(lines.unwrap().lines().count(), 8);
    }
}

#[test]
fn a_server_that_never_answers_costs_a_few_seconds() {
    let folder = tempfile::tempdir().unwrap();
    // Connections are made by the system, and nobody takes them.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let started = Instant::now();
    let output = train(folder.path(), &["--set", &format!("train.loggers.mlflow.uri={uri}")]);
    let taken = started.elapsed();
    assert!(output.status.success());
    // 3 s before the first step and 4 s after the last one; the rest is the training, and room.
    assert!(taken < Duration::from_secs(20), "{taken:?}");
    assert!(stdout(&output).contains(&format!("mlflow: not yet at {uri} (no answer)")));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("8 steps and evaluations were not logged"), "{message}");
}

fn tracking(uri: &str, before: Option<MlflowRun>) -> MlflowTracking {
    let config = config::load(&Source::Builtin("stories"), &[]).unwrap();
    let server = MlflowConfig { uri: uri.into(), experiment: "tests".into() };
    MlflowTracking::start(&config, &server, "flex", before, |_| Ok(()))
}

fn row(step: usize, values: &[f64]) -> Row {
    let logged = |(index, value): (usize, &f64)| Logged {
        key: format!("m{index}"),
        value: *value,
        list: None,
    };
    let values = values.iter().enumerate().map(logged).collect();
    Row { split: burn_train::metric::store::Split::Train, step, values }
}

#[test]
fn batches_are_as_large_as_the_interface_allows() {
    let stub = Stub::new(|_, _| None);
    let tracking = tracking(&stub.uri, None);
    let mut logger = tracking.logger();
    // 999 metrics fill a request but for one; a row of 1200 needs two of them.
    for step in 1..=700 {
        logger.log(&row(step, &[step as f64; 3])).unwrap();
    }
    logger.log(&row(701, &[0.5; 1200])).unwrap();
    assert_eq!(tracking.finish(RunStatus::Killed), None);
    let metrics = stub.seen.logged("metrics", 1000);
    assert_eq!(metrics.len(), 700 * 3 + 1200);
    let steps: Vec<_> = metrics.iter().map(|metric| metric["step"].as_u64().unwrap()).collect();
    assert!(steps.is_sorted());
    assert!(found(&metrics[..2100]).iter().all(|((_, step), value)| *value == *step as f64));
    assert_eq!(stub.seen.of("runs/update").last().unwrap()["status"], "KILLED");
}

#[test]
fn what_is_not_a_number_goes_by_its_name() {
    let stub = Stub::new(|_, _| None);
    let tracking = tracking(&stub.uri, None);
    tracking.logger().log(&row(1, &[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.1])).unwrap();
    assert_eq!(tracking.finish(RunStatus::Failed), None);
    let metrics = stub.seen.logged("metrics", 1000);
    let values: Vec<_> = metrics.iter().map(|metric| metric["value"].clone()).collect();
    assert_eq!(values, [json!("NaN"), json!("Infinity"), json!("-Infinity"), json!(0.1)]);
}

#[test]
fn a_run_that_the_server_has_lost_is_made_anew() {
    let stub = Stub::new(|_, _| None);
    let gone =
        MlflowRun { uri: stub.uri.clone(), experiment: "tests".into(), run_id: "gone".into() };
    let tracking = tracking(&stub.uri, Some(gone));
    assert_eq!(tracking.finish(RunStatus::Finished), None);
    assert_eq!(stub.seen.of("runs/get"), [json!("run_id=gone")]);
    assert_eq!(stub.seen.of("runs/create").len(), 1);
}

#[test]
fn rows_that_wait_are_bounded_and_those_left_out_are_counted() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tracking = tracking(&format!("http://{free}"), None);
    let mut logger = tracking.logger();
    let started = Instant::now();
    for step in 1..=50_000 {
        logger.log(&row(step, &[1.0])).unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    let message = tracking.finish(RunStatus::Finished).unwrap();
    assert!(message.contains("50000 steps and evaluations were not logged"), "{message}");
}

#[test]
fn a_bad_address_is_one_line_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let expected = "`train.loggers.mlflow.uri`: expected the address of a tracking server";
    for (uri, expected) in [
        ("ftp://127.0.0.1", expected),
        ("127.0.0.1:5000", expected),
        ("http://", expected),
        ("http://me:secret@127.0.0.1:5000", "leave out user and password"),
        ("http://127.0.0.1:5000/?a=b", "leave out what begins with ? or #"),
        ("http://127.0.0.1:5000/#/experiments/1", "leave out what begins with ? or #"),
    ] {
        let set = format!("train.loggers.mlflow.uri={uri}");
        refused(folder.path(), &[&["train"], &TINY[..], &["--set", &set]].concat(), expected);
    }
    let nameless = r#"train.loggers.mlflow={"uri":"http://127.0.0.1:1","experiment":" "}"#;
    let expected = "`train.loggers.mlflow.experiment`: expected a name";
    refused(folder.path(), &["train", "--plain", "--set", nameless], expected);
}
