use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{Method, Metric, Sweep, SweepError, Trial};
use crate::files::{self, LockedFile, write_error};

/// Below the folder of the runs, a folder a sweep.
const SWEEPS: &str = "sweeps";
const LEDGER: &str = "sweep.json";
const BASE: &str = "config.json";
const TABLE: &str = "leaderboard.csv";
const LOGS: &str = "logs";
const LOCK: &str = "lock";

/// How a trial came out of a rung.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Finished(Measured),
    /// It cannot be trained, and would not be another time: the reason, in a line.
    Failed(String),
}

/// What a trial was found to be worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    pub steps: usize,
    /// Nats a token, over the whole validation split.
    pub loss: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
    pub params: usize,
    /// Of training and evaluating, from the first step on.
    pub seconds: f64,
}

impl Measured {
    /// What trials are compared by; infinite where it was not measured.
    pub fn score(&self, metric: Metric) -> f64 {
        match metric {
            Metric::Loss => self.loss,
            Metric::BitsPerByte => self.bits_per_byte.unwrap_or(f64::INFINITY),
        }
    }
}

/// What is kept of a sweep, and what tells that it is the same one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    name: String,
    method: Method,
    metric: Metric,
    base: Value,
    trials: Vec<Trial>,
    /// Why some trials are left out, by their numbers.
    skipped: BTreeMap<usize, String>,
    /// By trial and rung.
    results: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    trial: usize,
    rung: usize,
    ended: Ended,
}

impl Entry {
    fn place(&self) -> (usize, usize) {
        (self.trial, self.rung)
    }
}

/// The results of a sweep so far, on disk at any moment.
#[derive(Debug)]
pub struct Ledger {
    folder: PathBuf,
    kept: Kept,
    _lock: LockedFile,
}

impl Ledger {
    /// Where the results of a sweep are, whose runs are under `root`.
    pub fn folder_of(root: &Path, name: &str) -> PathBuf {
        root.join(SWEEPS).join(name)
    }

    /// How many trials a sweep of this name was begun with; none where there is none yet.
    ///
    /// # Errors
    /// A file that is damaged.
    pub fn begun(root: &Path, name: &str) -> Result<usize, SweepError> {
        let path = Self::folder_of(root, name).join(LEDGER);
        if !path.exists() {
            return Ok(0);
        }
        Ok(files::read_json::<Kept>(&path)?.trials.len())
    }

    /// That of a sweep, which is begun here or goes on. More random trials may be asked for than it
    /// was begun with; everything else has to be as it was.
    ///
    /// # Errors
    /// [`SweepError::Changed`], [`SweepError::Busy`], or a disk that cannot be read or written.
    pub fn open(root: &Path, sweep: &Sweep) -> Result<Self, SweepError> {
        let folder = Self::folder_of(root, &sweep.name);
        fs::create_dir_all(folder.join(LOGS)).map_err(write_error(&folder))?;
        let lock = folder.join(LOCK);
        let file = File::options().create(true).append(true).open(&lock);
        let lock = LockedFile::new(file.map_err(write_error(&lock))?)
            .ok_or_else(|| SweepError::Busy { path: folder.clone() })?;
        files::remove_parts(&folder)?;
        let path = folder.join(LEDGER);
        let now = Kept {
            name: sweep.name.clone(),
            method: sweep.method,
            metric: sweep.metric,
            base: sweep.base.clone(),
            trials: sweep.trials(),
            skipped: BTreeMap::new(),
            results: Vec::new(),
        };
        let kept = match path.exists() {
            false => now,
            true => {
                let before: Kept = files::read_json(&path)?;
                let changed = |what| Err(SweepError::Changed { path: folder.clone(), what });
                let is_longer = |before: Method, now: Method| match (before, now) {
                    (Method::Random { seed: a, .. }, Method::Random { seed: b, .. }) => a == b,
                    (before, now) => before == now,
                };
                if before.metric != now.metric {
                    return changed("its metric was another one");
                }
                if before.base != now.base {
                    return changed("its configuration was another one");
                }
                if !is_longer(before.method, now.method) {
                    return changed("its method was another one");
                }
                if !now.trials.starts_with(&before.trials) {
                    return changed("its trials were others");
                }
                let Kept { skipped, mut results, .. } = before;
                results.sort_by_key(Entry::place);
                Kept { skipped, results, ..now }
            }
        };
        let ledger = Self { folder, kept, _lock: lock };
        files::write_json(&ledger.base(), &ledger.kept.base)?;
        ledger.write()?;
        Ok(ledger)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The configuration that all trials begin with.
    pub fn base(&self) -> PathBuf {
        self.folder.join(BASE)
    }

    /// Where the ranks are kept as a table.
    pub fn table(&self) -> PathBuf {
        self.folder.join(TABLE)
    }

    /// What the training of a run prints.
    pub fn log(&self, run: &str) -> PathBuf {
        self.folder.join(LOGS).join(format!("{run}.log"))
    }

    pub fn trials(&self) -> &[Trial] {
        &self.kept.trials
    }

    pub fn metric(&self) -> Metric {
        self.kept.metric
    }

    /// Why a trial is left out, if it is.
    pub fn skipped(&self, trial: usize) -> Option<&str> {
        self.kept.skipped.get(&trial).map(String::as_str)
    }

    /// Whether trials that were left out before may take part now: not where others have been
    /// compared and left already.
    pub fn may_reconsider(&self) -> bool {
        !matches!(self.kept.method, Method::SuccessiveHalving { .. })
            || self.kept.results.is_empty()
    }

    /// Leaves trials out.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn skip(&mut self, skipped: BTreeMap<usize, String>) -> Result<(), SweepError> {
        self.kept.skipped = skipped;
        self.write()
    }

    /// How a trial came out of a rung, if it has.
    pub fn result(&self, trial: usize, rung: usize) -> Option<&Ended> {
        let found = self.find(trial, rung).ok()?;
        Some(&self.kept.results[found].ended)
    }

    /// Where the result is, or would be.
    fn find(&self, trial: usize, rung: usize) -> Result<usize, usize> {
        self.kept.results.binary_search_by_key(&(trial, rung), Entry::place)
    }

    /// The last rung that a trial has come out of, and how.
    pub fn last(&self, trial: usize) -> Option<(usize, &Ended)> {
        let end = self.kept.results.partition_point(|entry| entry.trial <= trial);
        let entry = self.kept.results[..end].last().filter(|entry| entry.trial == trial)?;
        Some((entry.rung, &entry.ended))
    }

    /// Keeps how a trial came out of a rung.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn record(&mut self, trial: usize, rung: usize, ended: Ended) -> Result<(), SweepError> {
        match self.find(trial, rung) {
            Ok(found) => self.kept.results[found].ended = ended,
            Err(place) => self.kept.results.insert(place, Entry { trial, rung, ended }),
        }
        self.write()
    }

    /// Lets trials that have failed be tried again.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn forget_failures(&mut self) -> Result<(), SweepError> {
        self.kept.results.retain(|entry| !matches!(entry.ended, Ended::Failed(_)));
        self.write()
    }

    fn write(&self) -> Result<(), SweepError> {
        Ok(files::write_json(&self.folder.join(LEDGER), &self.kept)?)
    }
}
