//! Named data sets: their manifests, and downloads from a server that misbehaves.

use emberlm::data::{DataError, DownloadError, Downloader, Manifest, Progress};
use emberlm::eval::Benchmark;
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::command_line::{emberlm, stdout, succeed};
use crate::support::{repository, shared};

const FILE: &str = "text.txt";

/// Longer than the buffers on the way.
fn content() -> Vec<u8> {
    letters(300_000)
}

fn letters(count: u64) -> Vec<u8> {
    (0..count).map(|n| b'a' + (n * n / 7 % 26) as u8).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a connection is answered with: given the request, the bytes to send.
type Answer = Box<dyn FnOnce(&str) -> Vec<u8> + Send>;

/// A server whose n-th connection gets the n-th answer, and that then is no more.
struct Server {
    url: String,
    heads: Receiver<String>,
}

impl Server {
    fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}/{FILE}", listener.local_addr().unwrap());
        let (sender, heads) = channel();
        std::thread::spawn(move || {
            let end = Instant::now() + Duration::from_secs(20);
            for answer in answers {
                let mut stream = loop {
                    match listener.accept() {
                        Ok((stream, _)) => break stream,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            if Instant::now() > end {
                                return;
                            }
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        Err(_) => return,
                    }
                };
                stream.set_nonblocking(false).unwrap();
                let head = read_head(&mut stream);
                let bytes = answer(&head);
                // Whoever tests has dropped the receiver when no more requests are looked at.
                let _ = sender.send(head);
                let _ = stream.write_all(&bytes);
            }
        });
        Self { url, heads }
    }

    /// The requests so far, each its first line and headers.
    fn heads(&self) -> Vec<String> {
        self.heads.try_iter().collect()
    }
}

fn read_head(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// Where the requested range starts.
fn start(head: &str) -> Option<usize> {
    header(head, "range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// As a server should: a range where one is asked for, unless `If-Range` names another file.
fn honest(head: &str, body: &[u8], etag: &str) -> Vec<u8> {
    let same = header(head, "if-range").is_none_or(|asked| asked == etag);
    match start(head).filter(|_| same) {
        Some(start) if start >= body.len() => {
            answer("416 Range Not Satisfiable", "Content-Length: 0\r\n", b"")
        }
        Some(start) => {
            let (rest, total) = (&body[start..], body.len());
            let headers = format!(
                "Content-Length: {}\r\nContent-Range: bytes {start}-{}/{total}\r\nETag: {etag}\r\n",
                rest.len(),
                total - 1
            );
            answer("206 Partial Content", &headers, rest)
        }
        None => {
            let headers = format!("Content-Length: {}\r\nETag: {etag}\r\n", body.len());
            answer("200 OK", &headers, body)
        }
    }
}

/// The honest answer without its last bytes, `sent` of the body being left.
fn broken(head: &str, body: &[u8], etag: &str, sent: usize) -> Vec<u8> {
    let mut bytes = honest(head, body, etag);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    bytes.truncate(end + sent);
    bytes
}

fn whole() -> Answer {
    Box::new(|head| honest(head, &content(), "\"1\""))
}

fn breaks_off(sent: usize) -> Answer {
    Box::new(move |head| broken(head, &content(), "\"1\"", sent))
}

fn fixed(status: &'static str, headers: String, body: Vec<u8>) -> Answer {
    Box::new(move |_| answer(status, &headers, &body))
}

/// A data set of one file in a folder of its own.
struct Set {
    root: tempfile::TempDir,
    manifest: Manifest,
    /// Far longer than a server of these tests takes, however busy the machine is.
    stall_timeout: Duration,
}

impl Set {
    fn new(url: &str, bytes: Option<usize>, sha256: Option<String>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let manifest = serde_json::json!({
            "name": "some", "description": "", "licence": "",
            "files": [{ "name": FILE, "url": url, "bytes": bytes, "sha256": sha256 }],
            "split": "documents", "validation_fraction": 0.1, "tokenizers": ["gpt2"],
        });
        fs::create_dir(root.path().join("some")).unwrap();
        fs::write(root.path().join("some/manifest.json"), manifest.to_string()).unwrap();
        let manifest = Manifest::find("some", root.path()).unwrap().unwrap();
        Self { root, manifest, stall_timeout: Duration::from_secs(10) }
    }

    fn known(url: &str) -> Self {
        Self::new(url, Some(content().len()), Some(sha256(&content())))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("some").join(name)
    }

    /// Fetches, with the names of what happened.
    fn fetch(&self, from: Option<&Path>) -> (Result<Vec<PathBuf>, DownloadError>, Vec<String>) {
        let mut events: Vec<String> = Vec::new();
        let downloader = Downloader {
            connect_timeout: Duration::from_secs(5),
            stall_timeout: self.stall_timeout,
            pauses: vec![Duration::from_millis(1); 3],
        };
        let mut last = 0;
        let result = downloader.fetch(&self.manifest, self.root.path(), from, &mut |progress| {
            let event = match progress {
                Progress::Ready { file } => format!("ready {file}"),
                Progress::Downloading { done, .. } => {
                    last = done;
                    return;
                }
                Progress::Checking { done, total, .. } => {
                    assert!(done <= total);
                    return;
                }
                Progress::Retrying { reason, .. } => format!("at {last}: {reason}"),
                Progress::Recorded { sha256, .. } => format!("recorded {sha256}"),
            };
            events.push(event);
        });
        let result = result.map_err(|error| match error {
            DataError::Download(error) => error,
            other => panic!("{other}"),
        });
        if let Err(error) = &result {
            let text = error.to_string();
            assert!(!text.contains('\n') && !text.is_empty(), "{text}");
        }
        (result, events)
    }

    #[track_caller]
    fn succeeds(&self) -> Vec<String> {
        let (result, events) = self.fetch(None);
        assert_eq!(result.unwrap(), [self.path(FILE)]);
        assert_eq!(fs::read(self.path(FILE)).unwrap(), content(), "{events:?}");
        let mut left: Vec<_> = fs::read_dir(self.path("")).unwrap().collect();
        left.retain(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name != FILE && name != "manifest.json" && name != "downloads.json"
        });
        assert!(left.is_empty(), "{left:?}");
        events
    }

    #[track_caller]
    fn fails(&self) -> DownloadError {
        let (result, events) = self.fetch(None);
        assert!(!self.path(FILE).exists(), "{events:?}");
        result.unwrap_err()
    }

    /// The bytes that are kept for the next run.
    fn part(&self) -> Option<u64> {
        Some(fs::metadata(self.path("text.txt.part")).ok()?.len())
    }
}

#[test]
fn a_download_is_whole_and_checked_and_not_repeated() {
    let server = Server::start(vec![whole()]);
    let set = Set::known(&server.url);
    assert_eq!(set.succeeds(), ["ready text.txt"]);
    let heads = server.heads();
    assert_eq!(header(&heads[0], "accept-encoding"), Some("identity"));
    assert_eq!(header(&heads[0], "range"), None);
    // There is no server any more.
    assert_eq!(set.succeeds(), ["ready text.txt"]);
    assert!(!set.path("downloads.json").exists());
}

#[test]
fn a_download_that_breaks_off_twice_goes_on_from_there() {
    let server = Server::start(vec![breaks_off(100_000), breaks_off(50_000), whole()]);
    let set = Set::known(&server.url);
    let events = set.succeeds();
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(events[0].starts_with("at 100000: ") && events[1].starts_with("at 150000: "));
    let heads = server.heads();
    let ranges: Vec<_> = heads.iter().map(|head| header(head, "range")).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-"), Some("bytes=150000-")]);
    assert!(heads[1..].iter().all(|head| header(head, "if-range") == Some("\"1\"")));
}

#[test]
fn the_next_run_goes_on_where_one_gave_up() {
    let server = Server::start((0..4).map(|_| breaks_off(10_000)).chain([whole()]).collect());
    let set = Set::known(&server.url);
    let error = set.fails();
    assert!(matches!(error, DownloadError::BrokenOff { done: 40_000, .. }), "{error}");
    assert!(error.to_string().ends_with("the next run goes on from there"), "{error}");
    assert_eq!(set.part(), Some(40_000));
    set.succeeds();
    assert_eq!(start(server.heads().last().unwrap()), Some(40_000));
    // A part of another URL is no part of this one.
    let server = Server::start(vec![whole()]);
    let other = Set::known(&server.url);
    fs::write(other.path("text.txt.part"), &content()[..1000]).unwrap();
    let origin = r#"{"url": "http://127.0.0.1/", "etag": "\"1\"", "bytes": 300000}"#;
    fs::write(other.path("text.txt.part.json"), origin).unwrap();
    other.succeeds();
    assert_eq!(start(&server.heads()[0]), None);
}

#[test]
fn a_finished_part_only_needs_to_be_checked() {
    let set = Set::known("http://127.0.0.1:1/text.txt");
    fs::write(set.path("text.txt.part"), content()).unwrap();
    let origin = r#"{"url": "http://127.0.0.1:1/text.txt", "etag": null, "bytes": 300000}"#;
    fs::write(set.path("text.txt.part.json"), origin).unwrap();
    set.succeeds();
}

#[test]
fn a_server_that_promises_too_much_never_makes_a_short_file() {
    let lie = || fixed("200 OK", "Content-Length: 300001\r\n".into(), content());
    // With the right length known, the lie is seen at once.
    let server = Server::start(vec![lie()]);
    let error = Set::known(&server.url).fails();
    assert!(
        matches!(error, DownloadError::Length { found: 300_001, expected: 300_000, .. }),
        "{error}"
    );
    // Without, it looks like a connection that breaks off.
    let server = Server::start((0..4).map(|_| lie()).collect());
    let error = Set::new(&server.url, None, None).fails();
    assert!(matches!(error, DownloadError::BrokenOff { .. }), "{error}");
}

#[test]
fn a_server_that_promises_too_little_never_makes_a_short_file() {
    let lie = || fixed("200 OK", "Content-Length: 299999\r\n".into(), content());
    let server = Server::start(vec![lie()]);
    let error = Set::known(&server.url).fails();
    assert!(matches!(error, DownloadError::Length { found: 299_999, .. }), "{error}");
    let server = Server::start(vec![lie()]);
    let set = Set::new(&server.url, None, Some(sha256(&content())));
    let error = set.fails();
    let cut = sha256(&content()[..299_999]);
    assert!(matches!(&error, DownloadError::Checksum { found, .. } if *found == cut), "{error}");
    assert_eq!(set.part(), None);
}

#[test]
fn a_server_that_says_no_length_is_only_believed_when_the_length_is_known() {
    let silent = |end| fixed("200 OK", String::new(), content()[..end].to_vec());
    Set::known(&Server::start(vec![silent(300_000)]).url).succeeds();
    let error = Set::new(&Server::start(vec![silent(300_000)]).url, None, None).fails();
    assert!(error.to_string().contains("does not say how long"), "{error}");
    // Its end looks like the end of the file.
    let server = Server::start((0..4).map(|_| silent(200_000)).collect());
    let error = Set::known(&server.url).fails();
    assert!(matches!(error, DownloadError::BrokenOff { .. }), "{error}");
}

#[test]
fn chunks_are_joined_and_too_many_are_refused() {
    let chunks = |count: usize| {
        let mut body = Vec::new();
        for chunk in content().chunks(1000).cycle().take(count) {
            body.extend_from_slice(b"3e8\r\n");
            body.extend_from_slice(chunk);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"0\r\n\r\n");
        fixed("200 OK", "Transfer-Encoding: chunked\r\n".into(), body)
    };
    Set::new(&Server::start(vec![chunks(300)]).url, None, None).succeeds();
    let error = Set::known(&Server::start(vec![chunks(400)]).url).fails();
    assert!(matches!(error, DownloadError::Length { expected: 300_000, .. }), "{error}");
}

#[test]
fn a_server_that_ignores_ranges_starts_over() {
    let server = Server::start(vec![
        breaks_off(100_000),
        Box::new(|head| {
            assert_eq!(start(head), Some(100_000));
            answer("200 OK", "Content-Length: 300000\r\n", &content())
        }),
    ]);
    Set::known(&server.url).succeeds();
}

#[test]
fn a_server_that_sends_another_range_starts_over() {
    let wrong = |range: &str| {
        let headers =
            format!("ETag: \"1\"\r\nContent-Range: {range}\r\nContent-Length: 200000\r\n");
        fixed("206 Partial Content", headers, content()[100_000..].to_vec())
    };
    for range in ["bytes 0-199999/300000", "bytes 100000-299999/300001", "nonsense"] {
        let server = Server::start(vec![breaks_off(100_000), wrong(range), whole()]);
        Set::known(&server.url).succeeds();
        let starts: Vec<_> = server.heads().iter().map(|head| start(head)).collect();
        assert_eq!(starts, [None, Some(100_000), None], "{range}");
    }
}

#[test]
fn a_wrong_file_is_deleted_and_named_with_both_checksums() {
    let other: Vec<u8> = content().iter().rev().copied().collect();
    let found = sha256(&other);
    let server =
        Server::start(vec![fixed("200 OK", "Content-Length: 300000\r\n".into(), other), whole()]);
    let set = Set::known(&server.url);
    let text = set.fails().to_string();
    assert!(text.contains(&found) && text.contains(&sha256(&content())), "{text}");
    assert!(text.contains(&server.url) && text.contains("deleted"), "{text}");
    assert_eq!(set.part(), None);
    set.succeeds();
}

#[test]
fn a_web_page_is_not_the_file_and_costs_no_part() {
    let page = || fixed("200 OK", "Content-Type: text/html\r\n".into(), b"<html>".to_vec());
    let server = Server::start(vec![breaks_off(100_000), page(), whole()]);
    let set = Set::known(&server.url);
    let error = set.fails();
    assert!(matches!(error, DownloadError::WebPage { .. }), "{error}");
    assert_eq!(set.part(), Some(100_000));
    set.succeeds();
    assert_eq!(start(server.heads().last().unwrap()), Some(100_000));
}

#[test]
fn a_refusal_is_final_and_a_failure_is_not() {
    for status in ["404 Not Found", "403 Forbidden"] {
        let server = Server::start(vec![fixed(status, "Content-Length: 0\r\n".into(), vec![])]);
        let set = Set::known(&server.url);
        let text = set.fails().to_string();
        assert!(text.contains(status) && text.contains(&server.url), "{text}");
        assert_eq!(set.part(), None, "nothing is left of nothing");
    }
    let failure = || fixed("500 Internal Server Error", "Content-Length: 0\r\n".into(), vec![]);
    let server = Server::start(vec![failure(), whole()]);
    let events = Set::known(&server.url).succeeds();
    assert!(events[0].contains("500"), "{events:?}");
    let server = Server::start((0..4).map(|_| failure()).collect());
    let error = Set::known(&server.url).fails();
    assert!(matches!(error, DownloadError::Status { .. }), "{error}");
    assert_eq!(server.heads().len(), 4);
}

#[test]
fn a_server_that_stalls_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/{FILE}", listener.local_addr().unwrap());
    let (done, finished) = channel::<()>();
    std::thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        let head = read_head(&mut first);
        first.write_all(&broken(&head, &content(), "\"1\"", 1000)).unwrap();
        // It stays open, and says nothing more, while the second one is served.
        let (mut second, _) = listener.accept().unwrap();
        let head = read_head(&mut second);
        assert_eq!(start(&head), Some(1000));
        second.write_all(&honest(&head, &content(), "\"1\"")).unwrap();
        let _ = finished.recv_timeout(Duration::from_secs(10));
        drop(first);
    });
    let set = Set { stall_timeout: Duration::from_millis(200), ..Set::known(&url) };
    let events = set.succeeds();
    assert!(events[0].starts_with("at 1000: timeout"), "{events:?}");
    drop(done);
}

#[test]
fn redirects_are_followed() {
    let server = Server::start(vec![breaks_off(5000), whole()]);
    let there =
        |url: &str| fixed("302 Found", format!("Location: {url}\r\nContent-Length: 0\r\n"), vec![]);
    let first = Server::start(vec![there(&server.url), there(&server.url)]);
    Set::known(&first.url).succeeds();
    let starts: Vec<_> = server.heads().iter().map(|head| start(head)).collect();
    assert_eq!(starts, [None, Some(5000)]);
}

#[test]
fn a_file_that_changes_halfway_is_not_glued_together() {
    let newer: Vec<u8> = content().iter().map(u8::to_ascii_uppercase).collect();
    let other = newer.clone();
    // An honest server heeds If-Range; the second one sends the new file's end all the same.
    let careless: Answer = Box::new(move |head| {
        let start = start(head).unwrap();
        let headers = format!(
            "ETag: \"2\"\r\nContent-Range: bytes {start}-299999/300000\r\nContent-Length: {}\r\n",
            300_000 - start
        );
        answer("206 Partial Content", &headers, &other[start..])
    });
    let new = |body: Vec<u8>| -> Answer { Box::new(move |head| honest(head, &body, "\"2\"")) };
    for answers in [
        vec![breaks_off(1000), new(newer.clone())],
        vec![breaks_off(1000), careless, new(newer.clone())],
    ] {
        let server = Server::start(answers);
        let set = Set::new(&server.url, None, None);
        let (result, events) = set.fetch(None);
        assert_eq!(fs::read(&result.unwrap()[0]).unwrap(), newer, "{events:?}");
    }
}

#[test]
fn a_part_that_cannot_be_compared_is_not_resumed() {
    let plain = |sent: usize| {
        fixed("200 OK", "Content-Length: 300000\r\n".into(), content()[..sent].to_vec())
    };
    // Within a run: no ETag, and no checksum that would tell two files apart.
    let server = Server::start(vec![plain(1000), plain(300_000)]);
    Set::new(&server.url, None, None).succeeds();
    assert!(server.heads().iter().all(|head| start(head).is_none()));
    // From one run to the next.
    let server = Server::start(vec![plain(300_000)]);
    let set = Set::new(&server.url, None, None);
    fs::write(set.path("text.txt.part"), b"something").unwrap();
    let origin = format!(r#"{{"url": "{}", "etag": null, "bytes": 300000}}"#, server.url);
    fs::write(set.path("text.txt.part.json"), origin).unwrap();
    set.succeeds();
    assert!(server.heads().iter().all(|head| start(head).is_none()));
    // Who is told that it stopped is told so, too.
    let server = Server::start((0..4).map(|_| plain(1000)).chain([plain(300_000)]).collect());
    let set = Set::new(&server.url, None, None);
    let error = set.fails();
    assert!(matches!(error, DownloadError::BrokenOff { done: 1000, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("the next run begins anew") && !text.contains("goes on"), "{text}");
    set.succeeds();
    assert!(server.heads().iter().all(|head| start(head).is_none()));
    // With a checksum it is resumed.
    let server = Server::start(vec![
        plain(1000),
        Box::new(|head| {
            let range = format!("Content-Range: bytes {}-299999/300000\r\n", start(head).unwrap());
            answer(
                "206 Partial Content",
                &format!("{range}Content-Length: 299000\r\n"),
                &content()[1000..],
            )
        }),
    ]);
    Set::known(&server.url).succeeds();
}

#[test]
fn without_a_network_one_sentence_says_what_to_do() {
    let url = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/{FILE}", listener.local_addr().unwrap())
    };
    let set = Set::known(&url);
    let begin = Instant::now();
    let text = set.fails().to_string();
    assert!(text.starts_with("no connection to 127.0.0.1 ("), "{text}");
    assert!(text.contains(&format!("fetch {url} elsewhere")), "{text}");
    assert!(text.contains(&set.path(FILE).display().to_string()), "{text}");
    assert!(text.ends_with("--from FILE"), "{text}");
    assert!(begin.elapsed() < Duration::from_secs(3), "it is of no use to wait");
}

#[test]
fn a_file_that_is_there_is_checked() {
    let set = Set::known("http://127.0.0.1:1/text.txt");
    fs::write(set.path(FILE), content()).unwrap();
    set.succeeds();
    let mut wrong = content();
    wrong[7] ^= 1;
    fs::write(set.path(FILE), &wrong).unwrap();
    let text = set.fetch(None).0.unwrap_err().to_string();
    assert!(text.contains(&sha256(&wrong)) && text.contains("delete it"), "{text}");
    fs::write(set.path(FILE), &wrong[1..]).unwrap();
    let error = set.fetch(None).0.unwrap_err();
    assert!(matches!(error, DownloadError::Length { found: 299_999, .. }), "{error}");
}

#[test]
fn an_unknown_checksum_is_recorded_and_then_expected() {
    let server = Server::start(vec![whole(), Box::new(|head| honest(head, b"other", "\"2\""))]);
    let set = Set::new(&server.url, None, None);
    let recorded = format!("recorded {}", sha256(&content()));
    assert_eq!(set.succeeds(), [recorded.as_str(), "ready text.txt"]);
    assert_eq!(set.succeeds(), ["ready text.txt"]);
    fs::remove_file(set.path(FILE)).unwrap();
    let text = set.fails().to_string();
    assert!(text.contains("as downloads.json says"), "{text}");
    assert!(text.contains(&sha256(&content())) && text.contains(&sha256(b"other")), "{text}");
}

/// Where nobody looks at a terminal, too: what is expected later has to be in the log.
#[test]
fn a_named_data_set_is_downloaded_and_prepared_with_notes_of_what_happened() {
    let server = Server::start(vec![breaks_off(1000), whole()]);
    let set = Set::new(&server.url, None, None);
    let root = set.root.path().to_str().unwrap();
    let args = ["prepare", "some", "--datasets", root, "--tokenizer", "byte", "--json"];
    // Elsewhere, as a folder of that name would be taken for what is meant.
    let folder = tempfile::tempdir().unwrap();
    let output = emberlm(folder.path(), &[&args[..], &["--split", "characters"]].concat());
    let meta: serde_json::Value = serde_json::from_str(&succeed(&output)).unwrap();
    let characters = |split: &str| meta[split]["characters"].as_u64().unwrap();
    assert_eq!((characters("train"), characters("validation")), (270_000, 30_000));
    assert!(set.path("byte/train.bin").exists());
    let message = String::from_utf8_lossy(&output.stderr);
    let [again, recorded] = &message.lines().collect::<Vec<_>>()[..] else { panic!("{message}") };
    assert!(again.starts_with("text.txt: ") && again.ends_with("; again in 1s"), "{again}");
    let sha256 = sha256(&content());
    let expected =
        format!("text.txt: its manifest has no checksum; {sha256} is expected from now on");
    assert_eq!(*recorded, expected);
}

#[test]
fn a_copy_of_ones_own_is_used_where_it_is_if_it_is_right() {
    let set = Set::known("http://127.0.0.1:1/text.txt");
    let folder = tempfile::tempdir().unwrap();
    let (copy, wrong) = (folder.path().join("copy (1).txt"), folder.path().join(FILE));
    fs::write(&copy, content()).unwrap();
    let (result, events) = set.fetch(Some(&copy));
    assert_eq!(result.unwrap(), [copy]);
    assert_eq!(events, ["ready text.txt"]);
    let mut bytes = content();
    bytes[0] ^= 1;
    fs::write(&wrong, &bytes).unwrap();
    for from in [&wrong, folder.path()] {
        let text = set.fetch(Some(from)).0.unwrap_err().to_string();
        assert!(text.contains(&sha256(&bytes)) && text.contains(&sha256(&content())), "{text}");
    }
    assert!(wrong.exists(), "it is the user's");
    fs::write(&wrong, content()).unwrap();
    assert_eq!(set.fetch(Some(folder.path())).0.unwrap(), [wrong]);
    let missing = folder.path().join("missing");
    let error = set.fetch(Some(&missing)).0.unwrap_err();
    assert!(matches!(&error, DownloadError::NoSource { path } if *path == missing), "{error}");
    assert!(!set.path(FILE).exists());
}

#[test]
fn of_several_files_each_is_found_by_its_name() {
    let root = tempfile::tempdir().unwrap();
    let manifest = serde_json::json!({
        "name": "two", "description": "", "licence": "",
        "files": [
            { "name": "a.txt", "url": "https://localhost:1/a", "split": "train" },
            { "name": "b.txt", "url": "https://localhost:1/b", "split": "validation" },
        ],
        "split": "documents", "tokenizers": ["gpt2"],
    });
    fs::create_dir(root.path().join("two")).unwrap();
    fs::write(root.path().join("two/manifest.json"), manifest.to_string()).unwrap();
    let manifest = Manifest::find("two", root.path()).unwrap().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let a = folder.path().join("a.txt");
    fs::write(&a, "a").unwrap();
    let fetch = |from: &Path| {
        emberlm::data::fetch(&manifest, root.path(), Some(from), &mut |_| {})
            .map_err(|error| error.to_string())
    };
    let text = fetch(&a).unwrap_err();
    assert!(text.contains("also needs b.txt") && text.contains("--from FOLDER"), "{text}");
    let text = fetch(folder.path()).unwrap_err();
    assert!(text.contains("there is no ") && text.contains("b.txt"), "{text}");
    let b = root.path().join("two/b.txt");
    fs::write(&b, "b").unwrap();
    assert_eq!(fetch(&a).unwrap(), [a.clone(), b.clone()]);
    assert_eq!(fetch(folder.path()).unwrap(), [a, b]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_one_line() {
    let server = Server::start(vec![whole()]);
    let set = Set::known(&server.url);
    // The device that is always full.
    std::os::unix::fs::symlink("/dev/full", set.path("text.txt.part")).unwrap();
    let error = set.fails();
    assert!(matches!(error, DownloadError::DiskFull { .. }), "{error}");
    assert!(error.to_string().ends_with("the next run goes on from there"), "{error}");
    // Neither a checksum nor an ETag.
    let plain = fixed("200 OK", "Content-Length: 300000\r\n".into(), content());
    let server = Server::start(vec![plain]);
    let set = Set::new(&server.url, None, None);
    std::os::unix::fs::symlink("/dev/full", set.path("text.txt.part")).unwrap();
    let error = set.fails();
    assert!(matches!(error, DownloadError::DiskFull { .. }), "{error}");
    assert!(error.to_string().contains("the next run begins anew"), "{error}");
}

#[test]
fn two_processes_do_not_write_one_file() {
    let set = Set::known("http://127.0.0.1:1/text.txt");
    let held = fs::File::create(set.path("text.txt.part")).unwrap();
    held.lock().unwrap();
    let error = set.fails();
    assert!(matches!(error, DownloadError::Busy { .. }), "{error}");
}

/// What a connection of a random server does; the numbers are bytes of the body.
#[derive(Debug, Clone)]
enum Deed {
    Whole,
    BreakOff(usize),
    IgnoreRange(usize),
    ShiftRange(usize),
    OtherFile,
    OtherEtag(usize),
    Page,
    Status(&'static str),
    Promise(usize),
    NoLength(usize),
    Nothing,
}

fn deed() -> impl Strategy<Value = Deed> {
    let bytes = 0..=5000usize;
    prop_oneof![
        Just(Deed::Whole),
        bytes.clone().prop_map(Deed::BreakOff),
        bytes.clone().prop_map(Deed::IgnoreRange),
        bytes.clone().prop_map(Deed::ShiftRange),
        Just(Deed::OtherFile),
        bytes.clone().prop_map(Deed::OtherEtag),
        Just(Deed::Page),
        prop_oneof![Just("404 Not Found"), Just("503 Service Unavailable"), Just("204 No Content")]
            .prop_map(Deed::Status),
        (4000..=6000usize).prop_map(Deed::Promise),
        bytes.prop_map(Deed::NoLength),
        Just(Deed::Nothing),
    ]
}

/// `body` is the file of the moment, `version` its ETag.
fn misbehave(deed: Deed, head: &str, body: &[u8], version: &str) -> Vec<u8> {
    let other: Vec<u8> = body.iter().rev().copied().collect();
    match deed {
        Deed::Whole => honest(head, body, version),
        Deed::BreakOff(sent) => broken(head, body, version, sent),
        Deed::IgnoreRange(sent) => broken("", body, version, sent),
        Deed::ShiftRange(start) => honest(&format!("Range: bytes={start}-\r\n"), body, version),
        Deed::OtherFile => honest(head, &other, version),
        Deed::OtherEtag(sent) => broken(head, &other, "\"other\"", sent),
        Deed::Page => answer("200 OK", "Content-Type: text/html; charset=utf-8\r\n", b"<p>"),
        Deed::Status(status) => answer(status, "Content-Length: 0\r\n", b""),
        Deed::Promise(length) => answer("200 OK", &format!("Content-Length: {length}\r\n"), body),
        Deed::NoLength(sent) => answer("200 OK", "", &body[..sent]),
        Deed::Nothing => Vec::new(),
    }
}

proptest! {
    // Each case takes some milliseconds.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn whatever_a_server_does_a_file_is_absent_or_right(
        deeds in prop::collection::vec(deed(), 0..8),
        length_is_known in any::<bool>(),
        runs in 1..4usize,
    ) {
        let body = letters(5000);
        let served = body.clone();
        let answers = deeds.into_iter().map(|deed| -> Answer {
            let body = served.clone();
            Box::new(move |head| misbehave(deed, head, &body, "\"1\""))
        });
        let server = Server::start(answers.collect());
        let length = length_is_known.then_some(body.len());
        let mut set = Set::new(&server.url, length, Some(sha256(&body)));
        for _ in 0..runs {
            let (result, events) = set.fetch(None);
            match fs::read(set.path(FILE)) {
                Ok(found) => prop_assert!(found == body, "{events:?}"),
                Err(_) => prop_assert!(result.is_err(), "{events:?}"),
            }
        }
        // And what is left does not stop an honest server, even where the URL is the same one.
        let honest_server = Server::start((0..3).map(|_| -> Answer {
            let body = body.clone();
            Box::new(move |head| honest(head, &body, "\"1\""))
        }).collect());
        let origin = set.path("text.txt.part.json");
        if let Ok(text) = fs::read_to_string(&origin) {
            fs::write(&origin, text.replace(&server.url, &honest_server.url)).unwrap();
        }
        set.manifest.files[0].url = honest_server.url.clone();
        let (mut result, mut events) = set.fetch(None);
        // A part made of two files is found out by its checksum, and is gone then.
        if let Err(DownloadError::Checksum { .. }) = result {
            (result, events) = set.fetch(None);
        }
        prop_assert!(result.is_ok(), "{result:?} {events:?}");
        prop_assert!(fs::read(set.path(FILE)).unwrap() == body);
    }

    #[test]
    fn a_file_that_keeps_changing_is_never_a_mixture(
        cuts in prop::collection::vec((0..3u8, 0..=5000usize), 1..8),
    ) {
        // Nothing is known of the file, but the server is honest about its ETags.
        let version = |number: u8| letters(5002)[number.into()..][..5000].to_vec();
        let answers = cuts.into_iter().map(|(number, sent)| -> Answer {
            Box::new(move |head| broken(head, &version(number), &format!("\"{number}\""), sent))
        });
        let server = Server::start(answers.collect());
        let set = Set::new(&server.url, None, None);
        let (result, events) = set.fetch(None);
        match fs::read(set.path(FILE)) {
            Ok(found) => prop_assert!((0..3).any(|number| found == version(number)), "{events:?}"),
            Err(_) => prop_assert!(result.is_err(), "{events:?}"),
        }
    }
}

#[test]
fn every_manifest_of_the_repository_is_compiled_in_and_right() {
    let root = repository().join("datasets");
    let nowhere = Path::new("no such folder");
    let names = Manifest::names(nowhere).unwrap();
    assert_eq!(names, Manifest::names(&root).unwrap(), "a folder that is not compiled in");
    assert_eq!(names.len(), 11);
    for name in &names {
        let manifest = Manifest::find(name, &root).unwrap().unwrap();
        assert_eq!(manifest.name, *name);
        assert_eq!(manifest, Manifest::find(name, nowhere).unwrap().unwrap(), "{name}");
        assert_eq!(manifest.is_generated(), name == "stories");
        for file in &manifest.files {
            // Those of a branch can change; these name a commit, or what the file must be.
            let commit = file
                .url
                .split('/')
                .any(|part| part.len() == 40 && part.bytes().all(|byte| byte.is_ascii_hexdigit()));
            // PIQA's authors have no such address; the first download's checksum is kept.
            let pinned = commit || file.sha256.is_some() || name == "piqa";
            assert!(pinned && file.url.ends_with(&file.name), "{}", file.url);
        }
    }
    for benchmark in Benchmark::ALL {
        let manifest = Manifest::find(benchmark.name(), nowhere).unwrap().unwrap();
        assert_eq!(manifest.benchmark.as_deref(), Some(benchmark.name()));
    }
    let bytes = |name| Manifest::find(name, nowhere).unwrap().unwrap().bytes();
    assert_eq!(bytes("shakespeare"), Some(1_115_394));
    assert_eq!(bytes("openwebtext"), None);
}

#[test]
fn shakespeare_is_the_text_that_people_have() {
    let Some(path) = shared("datasets/tinyshakespeare.txt") else { return };
    let root = tempfile::tempdir().unwrap();
    let manifest = Manifest::find("shakespeare", root.path()).unwrap().unwrap();
    let found = emberlm::data::fetch(&manifest, root.path(), Some(&path), &mut |_| {}).unwrap();
    assert_eq!(found, [path]);
}

#[test]
fn a_manifest_that_says_something_impossible_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("own");
    fs::create_dir(&folder).unwrap();
    assert_eq!(Manifest::find("own", root.path()).unwrap(), None);
    let find = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut manifest = serde_json::json!({
            "name": "own", "description": "", "licence": "",
            "files": [
                { "name": "a.txt", "url": "https://example.org/a.txt" },
                { "name": "b.txt", "url": "http://[::1]:80/b.txt", "sha256": "0".repeat(64) },
            ],
            "split": "characters", "validation_fraction": 0.5, "tokenizers": ["gpt2"],
        });
        change(&mut manifest);
        fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
        Manifest::find("own", root.path()).map_err(|error| error.to_string())
    };
    assert!(find(&|_| ()).unwrap().is_some());
    assert!(Manifest::names(root.path()).unwrap().contains(&"own".into()));
    let file = |key: &'static str, value: &'static str| {
        find(&move |manifest| manifest["files"][0][key] = value.into()).unwrap_err()
    };
    for name in ["../a", "a/b", "a\\b", ".a", "", "..", "C:a", "manifest.json", "a.part", "b.txt"] {
        let text = file("name", name);
        assert!(text.contains(&format!("`files.name` = `{name}` must be ")), "{text}");
        assert!(text.contains("manifest.json: "), "{text}");
    }
    for url in [
        "http://example.org/a",
        "file:///etc/passwd",
        "ftp://a/b",
        "a",
        "https:///a",
        "",
        "http://127.0.0.1@example.org/",
        "http://localhost.example.org/",
    ] {
        let text = file("url", url);
        assert!(text.contains(&format!("`files.url` = `{url}` must be ")), "{text}");
    }
    assert!(file("sha256", "12").contains("`files.sha256` = `12`"));
    assert!(file("md5", "12").contains("unknown field `md5`"));
    assert!(file("split", "test").contains("unknown variant `test`"));
    assert!(file("split", "train").contains("`files.split`"));
    for (key, value, expected) in [
        ("name", serde_json::json!("other"), "`name` = `other` must be the name of its folder"),
        ("files", serde_json::json!([]), "`files` = []"),
        ("tokenizers", serde_json::json!([]), "`tokenizers` = []"),
        ("split", serde_json::Value::Null, "`split` = null must be"),
        ("validation_fraction", serde_json::json!(1.0), "`validation_fraction` = 1"),
        ("validation_fraction", serde_json::json!(0), "`validation_fraction` = 0"),
        ("license", serde_json::json!("MIT"), "unknown field `license`"),
    ] {
        let text = find(&|manifest| manifest[key] = value.clone()).unwrap_err();
        assert!(text.contains(expected) && !text.contains('\n'), "{text}");
    }
    for name in ["", "..", "own/", "a/b", "no such"] {
        assert_eq!(Manifest::find(name, root.path()).unwrap(), None, "{name}");
    }
}

#[test]
fn the_list_names_every_data_set_and_says_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let list = || stdout(&emberlm(folder.path(), &["datasets"]));
    let text = list();
    for name in Manifest::names(folder.path()).unwrap() {
        assert!(text.lines().any(|line| line.starts_with(&name)), "{text}");
    }
    assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    let line = |text: &str| text.lines().find(|line| line.starts_with("imdb")).unwrap().to_owned();
    assert!(line(&text).contains("not here"), "{text}");
    let imdb = folder.path().join("datasets/imdb");
    fs::create_dir_all(&imdb).unwrap();
    fs::write(imdb.join("test-00000-of-00001.parquet"), "").unwrap();
    assert!(line(&list()).contains("1 of 3 files here"), "{}", list());
}
