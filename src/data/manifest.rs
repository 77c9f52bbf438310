//! Named data sets: what `datasets/NAME/manifest.json` says of one.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::DataError;

/// Of a data set's folder.
const FILE: &str = "manifest.json";

/// The one data set that is generated and so has no files.
const GENERATED: &str = "stories";

/// The manifests that are compiled in, so that the program works outside its repository.
const BUILTIN: [(&str, &str); 11] = [
    ("stories", include_str!("../../datasets/stories/manifest.json")),
    ("shakespeare", include_str!("../../datasets/shakespeare/manifest.json")),
    ("tinystories", include_str!("../../datasets/tinystories/manifest.json")),
    ("openwebtext", include_str!("../../datasets/openwebtext/manifest.json")),
    ("fineweb-edu", include_str!("../../datasets/fineweb-edu/manifest.json")),
    ("imdb", include_str!("../../datasets/imdb/manifest.json")),
    ("hellaswag", include_str!("../../datasets/hellaswag/manifest.json")),
    ("lambada", include_str!("../../datasets/lambada/manifest.json")),
    ("arc-easy", include_str!("../../datasets/arc-easy/manifest.json")),
    ("arc-challenge", include_str!("../../datasets/arc-challenge/manifest.json")),
    ("piqa", include_str!("../../datasets/piqa/manifest.json")),
];

/// A data set: where its files come from and how they are read. `datasets/README.md` says what
/// each key means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The name of its folder.
    pub name: String,
    /// A line.
    pub description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub homepage: Option<String>,
    pub licence: String,
    /// In the order in which they are read; none for the generated stories.
    pub files: Vec<ManifestFile>,
    /// The benchmark that its files are the questions of; they are nothing to train on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub benchmark: Option<String>,
    /// The column of a table, or the key of a JSON line, that holds the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What stands between two documents of a plain text; without it a file is one document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// How validation is split off where the files do not say; none of a benchmark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitBy>,
    /// The share of that split that is kept for validation; 0 where the files name their split.
    #[serde(default)]
    pub validation_fraction: f64,
    /// Names of tokenizers that suit it; the first is the default. None of a benchmark.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokenizers: Vec<String>,
}

/// One file of a data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// In the data set's folder.
    pub name: String,
    /// `https`, or `http` to this machine.
    pub url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// In lowercase hexadecimal, as `sha256sum` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Which split all of it belongs to; either every file says, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<FileSplit>,
}

/// What the last share of, by count, becomes validation data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitBy {
    /// The end of the whole text, as in nanoGPT's `prepare.py` for Shakespeare.
    Characters,
    /// Whole documents.
    Documents,
}

/// The split that a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileSplit {
    Train,
    Validation,
}

/// What is wrong with a manifest. Every message is one line and says where.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("cannot read {}: {reason}", .path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{} is not a manifest: {reason}", .path.display())]
    Syntax { path: PathBuf, reason: String },
    #[error("{}: `{key}` = {found} must be {expected}", .path.display())]
    Value { path: PathBuf, key: &'static str, found: String, expected: &'static str },
}

impl Manifest {
    /// The data set of a name: from `root/NAME/manifest.json`, or else one that is compiled in.
    ///
    /// # Errors
    /// A manifest that cannot be read or that says something impossible.
    pub fn find(name: &str, root: &Path) -> Result<Option<Self>, DataError> {
        if !is_plain(name) {
            return Ok(None);
        }
        let path = root.join(name).join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error)
                if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) =>
            {
                match BUILTIN.iter().find(|(builtin, _)| *builtin == name) {
                    Some((_, text)) => (*text).into(),
                    None => return Ok(None),
                }
            }
            Err(error) => {
                return Err(ManifestError::Unreadable { path, reason: error.to_string() }.into());
            }
        };
        Ok(Some(Self::parse(&text, name, &path)?))
    }

    /// The names that [`Manifest::find`] knows: those compiled in, then those of the user.
    ///
    /// # Errors
    /// A folder that cannot be read; one that is not there has no data sets.
    pub fn names(root: &Path) -> Result<Vec<String>, DataError> {
        let mut names: Vec<String> = BUILTIN.iter().map(|(name, _)| (*name).into()).collect();
        let unreadable = |error: std::io::Error| ManifestError::Unreadable {
            path: root.into(),
            reason: error.to_string(),
        };
        let mut own = BTreeSet::new();
        match std::fs::read_dir(root) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry.map_err(unreadable)?;
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if is_plain(&name) && entry.path().join(FILE).is_file() {
                        own.insert(name);
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(unreadable(error).into()),
        }
        own.retain(|name| !names.contains(name));
        names.extend(own);
        Ok(names)
    }

    /// Where its files are: `root/NAME`.
    pub fn folder(&self, root: &Path) -> PathBuf {
        root.join(&self.name)
    }

    /// Whether its text is generated, not read from files.
    pub fn is_generated(&self) -> bool {
        self.files.is_empty()
    }

    /// The size of all files, where the manifest knows them all.
    pub fn bytes(&self) -> Option<u64> {
        self.files.iter().map(|file| file.bytes).sum()
    }

    fn parse(text: &str, folder: &str, path: &Path) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_str(text).map_err(|error| ManifestError::Syntax {
            path: path.into(),
            reason: error.to_string(),
        })?;
        manifest.check(folder).map_err(|(key, found, expected)| ManifestError::Value {
            path: path.into(),
            key,
            found,
            expected,
        })?;
        Ok(manifest)
    }

    /// The key, what was found there and what is expected, where it is wrong.
    fn check(&self, folder: &str) -> Result<(), (&'static str, String, &'static str)> {
        let wrong = |key, found: &str, expected| Err((key, format!("`{found}`"), expected));
        if self.name != folder {
            return wrong("name", &self.name, "the name of its folder");
        }
        if self.files.is_empty() && self.name != GENERATED {
            return Err(("files", "[]".into(), "a list of at least one file"));
        }
        let mut names = BTreeSet::new();
        for ManifestFile { name, url, sha256, .. } in &self.files {
            if !is_plain(name) {
                let expected = "the name of a file, without a folder or a leading dot";
                return wrong("files.name", name, expected);
            }
            // What the program itself writes there.
            if name.ends_with(".json") || name.ends_with(".part") {
                return wrong("files.name", name, "another name: .json and .part are taken");
            }
            if !names.insert(name) {
                return wrong("files.name", name, "there once");
            }
            if !is_allowed(url) {
                return wrong("files.url", url, "an https URL, or an http one of this machine");
            }
            let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            if let Some(sha256) = sha256
                && (sha256.len() != 64 || !sha256.bytes().all(digit))
            {
                return wrong("files.sha256", sha256, "64 lowercase hexadecimal digits");
            }
        }
        if self.benchmark.is_some() {
            return Ok(());
        }
        if self.split.is_none() {
            return Err(("split", "null".into(), "`characters` or `documents`"));
        }
        let with_split = self.files.iter().filter(|file| file.split.is_some()).count();
        if with_split > 0 {
            let none_of = |split| !self.files.iter().any(|file| file.split == Some(split));
            if with_split < self.files.len() {
                return Err(("files.split", "null".into(), "there for all files or for none"));
            }
            if none_of(FileSplit::Train) || none_of(FileSplit::Validation) {
                let expected = "`train` for some files and `validation` for others";
                return Err(("files.split", "the same for all files".into(), expected));
            }
        }
        let fraction = self.validation_fraction;
        if with_split == 0 && !self.files.is_empty() {
            if !(fraction > 0.0 && fraction < 1.0) {
                let expected = "between 0 and 1, as no file names its split";
                return Err(("validation_fraction", fraction.to_string(), expected));
            }
        } else if fraction != 0.0 {
            let expected = "left out, as it is already known what is validation data";
            return Err(("validation_fraction", fraction.to_string(), expected));
        }
        if self.tokenizers.is_empty() {
            return Err(("tokenizers", "[]".into(), "a list of at least one name"));
        }
        Ok(())
    }
}

/// Whether a name is one of a file or a folder here, on any system.
fn is_plain(name: &str) -> bool {
    let allowed = |c: char| !c.is_control() && !['/', '\\', ':'].contains(&c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(allowed)
}

/// Whether files are downloaded from there: only where nobody can change them on the way.
fn is_allowed(url: &str) -> bool {
    let Ok(url) = url.parse::<ureq::http::Uri>() else { return false };
    let host = url.host().unwrap_or_default();
    match url.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => is_loopback(host),
        _ => false,
    }
}

/// Whether a host is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    ["127.0.0.1", "[::1]", "localhost"].contains(&host)
}
