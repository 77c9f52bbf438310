//! Downloads the files of a data set: each whole and checked, or not at all.
//!
//! A file grows as `NAME.part`, beside which `NAME.part.json` says what it is a part of. What
//! stops halfway is resumed: by the next attempt, or by the next run of the program; but not where
//! neither a checksum nor an ETag tells whether the rest is of the same file. Only a file of the
//! right length and checksum gets its name.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::{HeaderMap, StatusCode, Uri};
use ureq::{Agent, Timeout};

use super::DataError;
use super::manifest::{Manifest, ManifestFile, is_loopback};
use crate::files::{self, FileError, LockedFile};

/// The checksums of downloaded files whose manifest gives none, in the data set's folder.
const RECORD: &str = "downloads.json";

/// An attempt that got this much further is no failure, however often the connection breaks off.
const WORTHWHILE: u64 = 1 << 20;

/// Bytes at a time.
const CHUNK: usize = 1 << 16;

/// What [`fetch`] is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress<'a> {
    /// The file is there and right.
    Ready { file: &'a str },
    /// `done` of `total` bytes are there, those of earlier runs included.
    Downloading { file: &'a str, done: u64, total: Option<u64> },
    /// The connection broke off; after the pause it is tried again.
    Retrying { file: &'a str, pause: Duration, reason: &'a str },
    /// The checksum of `done` of `total` bytes is computed.
    Checking { file: &'a str, done: u64, total: u64 },
    /// The manifest has no checksum of this file: from now on this one is expected.
    Recorded { file: &'a str, sha256: &'a str },
}

/// Why a file of a data set is not there. Every message is one line.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    #[error(
        "no connection to {host} ({reason}): fetch {url} elsewhere and put it at {}, or name a copy with --from FILE", .path.display()
    )]
    Unreachable { host: String, reason: String, url: String, path: PathBuf },
    #[error("{url} cannot be downloaded: {reason}")]
    Request { url: String, reason: String },
    #[error("{url} cannot be downloaded: the server answers {status}")]
    Status { url: String, status: StatusCode },
    #[error("{url} is a web page, not the file; open it in a browser to see what it says")]
    WebPage { url: String },
    #[error(
        "{url} keeps breaking off: {reason}; {done} bytes have come, and the next run {next_run}"
    )]
    BrokenOff { url: String, reason: String, done: u64, next_run: &'static str },
    #[error("{from} has {found} bytes, not {expected} as its manifest says")]
    Length { from: String, found: u64, expected: u64 },
    #[error("{from} has the SHA-256 {found}, not {expected} as {source_name} says{remedy}")]
    Checksum {
        from: String,
        found: String,
        expected: String,
        source_name: &'static str,
        remedy: &'static str,
    },
    #[error("the disk is full: {} is unfinished; make room, and the next run {next_run}", .part.display())]
    DiskFull { part: PathBuf, next_run: &'static str },
    #[error("{} is being downloaded by another process; wait for it", .path.display())]
    Busy { path: PathBuf },
    #[error("there is no {}", .path.display())]
    NoSource { path: PathBuf },
    #[error(
        "{} is one file, and the data set also needs {missing}; put all into one folder and name it with --from FOLDER", .from.display()
    )]
    OneOfMany { from: PathBuf, missing: String },
    #[error(transparent)]
    File(#[from] FileError),
}

/// The files of a data set, in the manifest's order, downloaded to `root/NAME` where they are not
/// there yet.
///
/// With `from`, a file or a folder of files by name, nothing is downloaded: what is there is used
/// where it is.
///
/// # Errors
/// A file that cannot be got or that is not the one of the manifest; what has come of it stays, and
/// is resumed where a checksum or an ETag tells that the rest is of the same file.
pub fn fetch(
    manifest: &Manifest,
    root: &Path,
    from: Option<&Path>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<PathBuf>, DataError> {
    Downloader::default().fetch(manifest, root, from, progress)
}

/// How patient [`fetch`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloader {
    /// For a connection to stand.
    pub connect_timeout: Duration,
    /// For a server to send anything.
    pub stall_timeout: Duration,
    /// Before each further attempt; after the last one it gives up.
    pub pauses: Vec<Duration>,
}

impl Default for Downloader {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            pauses: [1, 2, 4, 8, 16].map(Duration::from_secs).into(),
        }
    }
}

impl Downloader {
    /// As the function [`fetch`].
    ///
    /// # Errors
    /// As for the function.
    pub fn fetch(
        &self,
        manifest: &Manifest,
        root: &Path,
        from: Option<&Path>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<PathBuf>, DataError> {
        let folder = manifest.folder(root);
        let paths = manifest.files.iter().map(|file| {
            let expected = Expected::of(file, &folder)?;
            if let Some(from) = from {
                return local(from, manifest, file, &folder, &expected, progress);
            }
            let path = folder.join(&file.name);
            if path.exists() {
                expected.check_there(&path, progress)?;
            } else {
                fs::create_dir_all(&folder).map_err(files::write_error(&folder))?;
                self.download(&path, &expected, progress)?;
            }
            Ok(path)
        });
        Ok(paths.collect::<Result<_, DownloadError>>()?)
    }

    fn download(
        &self,
        path: &Path,
        expected: &Expected,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), DownloadError> {
        let Some(mut part) = Part::open(path, expected)? else {
            return expected.check_there(path, progress);
        };
        match self.fill(&mut part, path, expected, progress) {
            Ok(()) => part.finish(path, expected, progress),
            Err(error) => {
                if part.length == 0 {
                    part.remove()?;
                }
                Err(error)
            }
        }
    }

    /// Requests what is missing until nothing is.
    fn fill(
        &self,
        part: &mut Part,
        path: &Path,
        expected: &Expected,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), DownloadError> {
        let ManifestFile { name, url, .. } = expected.file;
        let agent = self.agent(url);
        let mut furthest = part.length;
        let mut failures = 0;
        let mut connected = false;
        while !part.is_whole() {
            let stop = match attempt(&agent, part, expected, &mut connected, progress)? {
                Attempt::Ended => break,
                Attempt::Stopped(stop) => stop,
            };
            if part.length >= furthest + WORTHWHILE {
                (furthest, failures) = (part.length, 0);
            }
            // Who has never been connected has no network, and waiting does not help.
            let Some(pause) = self.pauses.get(failures).filter(|_| connected) else {
                return Err(stop.error(expected, path, part));
            };
            failures += 1;
            let reason = &stop.to_string();
            progress(Progress::Retrying { file: name, pause: *pause, reason });
            std::thread::sleep(*pause);
        }
        Ok(())
    }

    fn agent(&self, url: &str) -> Agent {
        let uri = url.parse::<Uri>().unwrap_or_default();
        let mut config = Agent::config_builder()
            // Statuses are told apart here.
            .http_status_as_error(false)
            // A redirect to anything else would give up what https promises.
            .https_only(uri.scheme_str() == Some("https"))
            .user_agent(concat!("emberlm/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(self.connect_timeout))
            .timeout_connect(Some(self.connect_timeout))
            .timeout_per_read(Some(self.stall_timeout))
            .timeout_per_write(Some(self.stall_timeout));
        if is_loopback(uri.host().unwrap_or_default()) {
            config = config.proxy(None);
        }
        config.build().new_agent()
    }
}

/// How a request ended that may be repeated.
enum Attempt {
    /// The server says that this was all.
    Ended,
    Stopped(Stop),
}

/// Why a request may be repeated.
enum Stop {
    Unreachable(String),
    BrokenOff(String),
    Status(StatusCode),
}

impl std::fmt::Display for Stop {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Unreachable(reason) | Self::BrokenOff(reason) => out.write_str(reason),
            Self::Status(status) => write!(out, "the server answers {status}"),
        }
    }
}

impl Stop {
    fn error(self, expected: &Expected, path: &Path, part: &Part) -> DownloadError {
        let url = expected.file.url.clone();
        match self {
            Self::Unreachable(reason) => DownloadError::Unreachable {
                host: url
                    .parse::<Uri>()
                    .ok()
                    .and_then(|uri| Some(uri.host()?.into()))
                    .unwrap_or_default(),
                reason,
                url,
                path: path.into(),
            },
            Self::BrokenOff(reason) => {
                let (done, next_run) = (part.length, part.origin.next_run(expected));
                DownloadError::BrokenOff { url, reason, done, next_run }
            }
            Self::Status(status) => DownloadError::Status { url, status },
        }
    }
}

/// One request, for what is missing of a part.
fn attempt(
    agent: &Agent,
    part: &mut Part,
    expected: &Expected,
    connected: &mut bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Attempt, DownloadError> {
    let ManifestFile { name, url, .. } = expected.file;
    let stopped = |reason: &str| Ok(Attempt::Stopped(Stop::BrokenOff(reason.into())));
    let fatal =
        |reason: &str| Err(DownloadError::Request { url: url.clone(), reason: reason.into() });
    // Compressed on the way, it would have another length.
    let mut request = agent.get(url).header("Accept-Encoding", "identity");
    if !part.origin.is_comparable(expected) {
        part.clear()?;
    }
    if part.length > 0 {
        request = request.header("Range", format!("bytes={}-", part.length));
        // With a weak one, a server may not compare it.
        if let Some(etag) = part.origin.etag.as_ref().filter(|etag| !etag.starts_with("W/")) {
            request = request.header("If-Range", etag);
        }
    }
    let response = match request.call() {
        Ok(response) => response,
        Err(error) => {
            return classify(error).map(Attempt::Stopped).or_else(|reason| fatal(&reason));
        }
    };
    *connected = true;
    let headers = response.headers();
    let length = response.body().content_length();
    let origin =
        |bytes| Origin { url: url.clone(), etag: header(headers, "etag").map(Into::into), bytes };
    let (resumed, origin) = match response.status() {
        StatusCode::OK => (false, origin(length)),
        StatusCode::PARTIAL_CONTENT if part.length > 0 => {
            let range = header(headers, "content-range").and_then(content_range);
            let Some((start, total)) = range.filter(|(start, _)| *start == part.length) else {
                part.clear()?;
                return stopped("the server sends another part than was asked for");
            };
            let origin = origin(total.or_else(|| Some(start + length?)));
            let other_length = part.origin.bytes.is_some() && part.origin.bytes != origin.bytes;
            if other_length || origin.etag != part.origin.etag {
                part.clear()?;
                return stopped("the file has changed on the server");
            }
            (true, origin)
        }
        StatusCode::RANGE_NOT_SATISFIABLE if part.length > 0 => {
            part.clear()?;
            return stopped("the file has become shorter on the server");
        }
        status if may_pass(status) => return Ok(Attempt::Stopped(Stop::Status(status))),
        status => return Err(DownloadError::Status { url: url.clone(), status }),
    };
    // Looked at before the part is given up for it: what a captive portal sends is all wrong.
    let kind = header(headers, "content-type").unwrap_or_default().to_ascii_lowercase();
    if kind.starts_with("text/html") && !name.ends_with(".html") {
        return Err(DownloadError::WebPage { url: url.clone() });
    }
    if header(headers, "content-encoding").is_some_and(|encoding| encoding != "identity") {
        return fatal("the server compresses it");
    }
    let limit = expected.file.bytes.or(origin.bytes);
    if let (Some(found), Some(expected)) = (origin.bytes, expected.file.bytes)
        && found != expected
    {
        return Err(DownloadError::Length { from: url.clone(), found, expected });
    }
    let chunked = header(headers, "transfer-encoding").is_some_and(|name| name == "chunked");
    if limit.is_none() && !chunked {
        return fatal("the server does not say how long it is");
    }
    if !resumed {
        part.clear()?;
    }
    part.start(origin)?;
    let mut body = response.into_body().into_reader();
    let mut chunk = vec![0; CHUNK];
    loop {
        progress(Progress::Downloading { file: name, done: part.length, total: limit });
        let read = match body.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return stopped(&one_line(&error)),
        };
        part.append(&chunk[..read], expected)?;
        if let Some(expected) = limit.filter(|limit| part.length > *limit) {
            let found = part.length;
            part.clear()?;
            return Err(DownloadError::Length { from: url.clone(), found, expected });
        }
    }
    match limit {
        Some(limit) if part.length < limit => stopped("the connection ends too early"),
        _ => Ok(Attempt::Ended),
    }
}

/// Whether another attempt may succeed, or else why none will.
fn classify(error: ureq::Error) -> Result<Stop, String> {
    use ureq::Error;
    let reason = one_line(&error);
    match error {
        Error::HostNotFound
        | Error::ConnectionFailed
        | Error::ConnectProxyFailed(_)
        | Error::Tls(_)
        | Error::Rustls(_)
        | Error::Timeout(Timeout::Resolve | Timeout::Connect) => Ok(Stop::Unreachable(reason)),
        Error::Io(error) => Ok(match error.kind() {
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
            | ErrorKind::TimedOut => Stop::BrokenOff(reason),
            _ => Stop::Unreachable(reason),
        }),
        Error::Timeout(_) | Error::Protocol(_) | Error::BodyStalled => Ok(Stop::BrokenOff(reason)),
        _ => Err(reason),
    }
}

fn one_line(error: &dyn std::error::Error) -> String {
    error.to_string().replace('\n', " ")
}

/// Whether a server that answers so may answer otherwise a little later.
fn may_pass(status: StatusCode) -> bool {
    let waits = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    status.is_server_error() || waits.contains(&status)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The first byte and the length of the whole, `bytes 5-9/10` or `bytes 5-9/*` (RFC 9110, 14.4).
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (start.parse().ok()?, end.parse::<u64>().ok()?);
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    (start <= end && total.is_none_or(|total| end < total)).then_some((start, total))
}

/// What a part is a part of.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Origin {
    url: String,
    etag: Option<String>,
    bytes: Option<u64>,
}

impl Origin {
    /// Without a checksum or an ETag nobody would notice if two files were glued together.
    fn is_comparable(&self, expected: &Expected) -> bool {
        self.etag.is_some() || expected.sha256.is_some()
    }

    /// What the next run does with a part, in an error.
    fn next_run(&self, expected: &Expected) -> &'static str {
        match self.is_comparable(expected) {
            true => "goes on from there",
            false => {
                "begins anew, since neither a checksum nor an ETag tells whether the file is still the same"
            }
        }
    }
}

/// The file that grows, ours alone while this lives.
struct Part {
    path: PathBuf,
    file: LockedFile,
    length: u64,
    origin: Origin,
}

impl Part {
    /// The part that an earlier run left, or an empty one; none where the whole file is there.
    fn open(path: &Path, expected: &Expected) -> Result<Option<Self>, DownloadError> {
        let part = beside(path, ".part");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&part)
            .map_err(files::write_error(&part))?;
        let file =
            LockedFile::new(file).ok_or_else(|| DownloadError::Busy { path: path.into() })?;
        // Another process may have finished it between our looking for it and our lock, and then the
        // file that we hold is the whole one.
        if path.exists() {
            return Ok(None);
        }
        let length = file.metadata().map_err(files::read_error(&part))?.len();
        let origin: Option<Origin> = files::read_json(&beside(&part, ".json")).ok();
        let resumable = origin.filter(|origin| {
            let most = expected.file.bytes.or(origin.bytes);
            origin.url == expected.file.url
                && origin.is_comparable(expected)
                && most.is_none_or(|most| length <= most)
        });
        let mut part = Self { path: part, file, length, origin: Origin::default() };
        match resumable {
            Some(origin) => {
                part.origin = origin;
                part.file.seek(SeekFrom::End(0)).map_err(files::read_error(&part.path))?;
            }
            None => part.clear()?,
        }
        Ok(Some(part))
    }

    /// Whether an earlier run got all of it and ended before it was checked.
    fn is_whole(&self) -> bool {
        self.length > 0 && self.origin.bytes == Some(self.length)
    }

    fn clear(&mut self) -> Result<(), DownloadError> {
        if self.length > 0 {
            let cleared = self.file.set_len(0).and_then(|()| self.file.rewind());
            cleared.map_err(files::write_error(&self.path))?;
        }
        self.length = 0;
        Ok(())
    }

    /// Notes where the bytes come from, before the first of them.
    fn start(&mut self, origin: Origin) -> Result<(), DownloadError> {
        if origin != self.origin {
            files::write_json(&beside(&self.path, ".json"), &origin)?;
            self.origin = origin;
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8], expected: &Expected) -> Result<(), DownloadError> {
        let length = bytes.len() as u64;
        self.file.write_all(bytes).map_err(|error| self.write_error(error, expected))?;
        self.length += length;
        Ok(())
    }

    fn remove(&self) -> Result<(), DownloadError> {
        remove(&self.path)?;
        remove(&beside(&self.path, ".json"))
    }

    fn write_error(&self, error: io::Error, expected: &Expected) -> DownloadError {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DownloadError::DiskFull {
                part: self.path.clone(),
                next_run: self.origin.next_run(expected),
            },
            _ => files::write_error(&self.path)(error).into(),
        }
    }

    /// Checks it and gives it its name, or deletes it.
    fn finish(
        mut self,
        path: &Path,
        expected: &Expected,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), DownloadError> {
        self.file.sync_all().map_err(|error| self.write_error(error, expected))?;
        self.file.rewind().map_err(files::read_error(&self.path))?;
        let found = hash(&mut self.file, &self.path, &expected.file.name, self.length, progress)?;
        let url = expected.file.url.clone();
        if let Err(error) = expected.check(&url, self.length, &found, "; it has been deleted") {
            self.remove()?;
            return Err(error);
        }
        fs::rename(&self.path, path).map_err(files::write_error(path))?;
        remove(&beside(&self.path, ".json"))?;
        if let Some(folder) = path.parent() {
            files::sync_folder(folder).map_err(files::write_error(folder))?;
        }
        expected.accept(&found, progress)
    }
}

/// Deletes a file, if there is one.
fn remove(path: &Path) -> Result<(), DownloadError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(files::write_error(path)(error).into())
        }
        _ => Ok(()),
    }
}

/// `path` with more at its end.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The SHA-256 of an open file.
fn hash(
    file: &mut File,
    path: &Path,
    name: &str,
    total: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<String, DownloadError> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut done = 0;
    loop {
        progress(Progress::Checking { file: name, done, total });
        match file.read(&mut chunk) {
            Ok(0) => return Ok(files::hexadecimal(hasher)),
            Ok(read) => {
                hasher.update(&chunk[..read]);
                done += read as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(files::read_error(path)(error).into()),
        }
    }
}

/// What a file must be like.
struct Expected<'a> {
    file: &'a ManifestFile,
    /// The manifest's, or else the one that was recorded on first use.
    sha256: Option<String>,
    source_name: &'static str,
    /// Where the checksum is recorded.
    record: PathBuf,
}

impl<'a> Expected<'a> {
    fn of(file: &'a ManifestFile, folder: &Path) -> Result<Self, DownloadError> {
        let record = folder.join(RECORD);
        let (sha256, source_name) = match &file.sha256 {
            Some(sha256) => (Some(sha256.clone()), "its manifest"),
            None => (read_record(&record)?.remove(&file.name), RECORD),
        };
        Ok(Self { file, sha256, source_name, record })
    }

    fn check(
        &self,
        from: &str,
        length: u64,
        found: &str,
        remedy: &'static str,
    ) -> Result<(), DownloadError> {
        if let Some(expected) = self.file.bytes.filter(|expected| *expected != length) {
            return Err(DownloadError::Length { from: from.into(), found: length, expected });
        }
        match &self.sha256 {
            Some(expected) if expected != found => Err(DownloadError::Checksum {
                from: from.into(),
                found: found.into(),
                expected: expected.clone(),
                source_name: self.source_name,
                remedy,
            }),
            _ => Ok(()),
        }
    }

    /// Checks a file of the user's, or of an earlier run.
    fn check_path(
        &self,
        path: &Path,
        remedy: &'static str,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<String, DownloadError> {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (length, mut file) = opened.map_err(files::read_error(path))?;
        let name = path.display().to_string();
        // Not worth reading it all.
        if let Some(expected) = self.file.bytes.filter(|expected| *expected != length) {
            return Err(DownloadError::Length { from: name, found: length, expected });
        }
        let found = hash(&mut file, path, &self.file.name, length, progress)?;
        self.check(&name, length, &found, remedy)?;
        Ok(found)
    }

    fn check_there(
        &self,
        path: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), DownloadError> {
        let found = self.check_path(path, "; delete it to download it again", progress)?;
        self.accept(&found, progress)
    }

    /// Reports a right file, and records its checksum where none was known.
    fn accept(&self, found: &str, progress: &mut dyn FnMut(Progress)) -> Result<(), DownloadError> {
        let file = &self.file.name;
        if self.sha256.is_none() {
            let mut record = read_record(&self.record)?;
            record.insert(file.clone(), found.into());
            files::write_json(&self.record, &record)?;
            progress(Progress::Recorded { file, sha256: found });
        }
        progress(Progress::Ready { file });
        Ok(())
    }
}

fn read_record(path: &Path) -> Result<BTreeMap<String, String>, DownloadError> {
    if path.exists() { Ok(files::read_json(path)?) } else { Ok(BTreeMap::new()) }
}

/// A file that the user has.
fn local(
    from: &Path,
    manifest: &Manifest,
    file: &ManifestFile,
    folder: &Path,
    expected: &Expected,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, DownloadError> {
    if !from.exists() {
        return Err(DownloadError::NoSource { path: from.into() });
    }
    let there = folder.join(&file.name);
    let copy = if from.is_dir() { from.join(&file.name) } else { from.into() };
    // A single file may have any name, as it is clear what it is for.
    let is_named = manifest.files.len() == 1 || copy.file_name() == Some(file.name.as_ref());
    let path = if is_named && copy.exists() {
        copy
    } else if there.exists() {
        there
    } else if from.is_dir() {
        return Err(DownloadError::NoSource { path: copy });
    } else {
        return Err(DownloadError::OneOfMany { from: from.into(), missing: file.name.clone() });
    };
    expected.check_path(&path, "", progress)?;
    progress(Progress::Ready { file: &file.name });
    Ok(path)
}
