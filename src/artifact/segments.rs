use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::ArtifactError;
use super::run::CONFIG;
use crate::config::RunConfig;
use crate::files::{self, write_error};

const SEGMENTS: &str = "segments";
const SEGMENT: &str = "segment.json";

/// A part of a run's history that has settings of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// The step after which it begins.
    pub step: usize,
    /// When it was begun, as RFC 3339 has it.
    pub started: String,
    pub backend: String,
    /// Of this program.
    pub version: String,
    /// What is otherwise than before, by the path in the configuration.
    pub changes: BTreeMap<String, Change>,
}

/// A setting that was changed; null where it was, or is, not there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    pub from: Value,
    pub to: Value,
}

/// Writes a segment into a run's folder, whole or not at all.
pub(super) fn begin(
    run: &Path,
    config: &RunConfig,
    segment: &Segment,
) -> Result<(), ArtifactError> {
    let all = folder(run);
    fs::create_dir_all(&all).map_err(write_error(&all))?;
    let number = folders(run)?.len() + 2; // the run began with the first
    let path = all.join(format!("{number:04}"));
    files::write_folder(&path, |part| {
        files::write_json(&part.join(CONFIG), config)?;
        files::write_json(&part.join(SEGMENT), segment)?;
        Ok(files::write_checksums(part, &[CONFIG, SEGMENT])?)
    })
}

/// The segments of a run after the first.
pub(super) fn read(run: &Path) -> Result<Vec<Segment>, ArtifactError> {
    let read = |folder: PathBuf| {
        files::verify(&folder, SEGMENT)?;
        Ok(files::read_json(&folder.join(SEGMENT))?)
    };
    folders(run)?.into_iter().map(read).collect()
}

/// Where a run has its segments.
pub(super) fn folder(run: &Path) -> PathBuf {
    run.join(SEGMENTS)
}

/// The folders of a run's segments after the first, in their order.
pub(super) fn folders(run: &Path) -> Result<Vec<PathBuf>, ArtifactError> {
    let folder = folder(run);
    let mut names = files::names(&folder)?;
    names.retain(|name| name.parse::<u32>().is_ok());
    names.sort_unstable();
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}
