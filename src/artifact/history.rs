use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::ArtifactError;
use crate::files::{self, FileError, read_error, write_error};
use crate::train::{self, MlflowRun};

const LINES: &str = "metrics.jsonl";
const TABLE: &str = "metrics.csv";
const EVENTS: &str = "events.out.tfevents.";
const MLFLOW: &str = "mlflow.json";
const SAMPLES: &str = "samples";
const SUMMARY: &str = "summary.json";
const EVALUATIONS: &str = "evaluations";
/// Bytes at the end of the metrics that mostly have a whole line in them.
const TAIL: u64 = 1 << 16;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    pub name: String,
    pub steps: usize,
    pub tokens: u64,
    pub params: usize,
    /// The lowest loss on the fixed sample of the validation split, in nats a token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub best_val_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub best_step: Option<usize>,
    /// The last model's loss on the whole validation split, in nats a token. Absent of a run that
    /// was stopped, and can be resumed; null, and here NaN, where it is not a number.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "or_nan")]
    pub final_val_loss: Option<f64>,
    /// The same in bits a byte, where the model predicts every byte.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bits_per_byte: Option<f64>,
    /// What the loss cannot fall below in the long run, in nats a token, where it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source_entropy: Option<f64>,
    /// Steps whose gradients were not used.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub skipped_steps: u64,
    /// From the first step to the last evaluation.
    pub seconds: f64,
    /// Over the whole of `seconds`, evaluations and checkpoints included.
    pub tokens_per_s: f64,
    pub backend: String,
}

/// JSON has no number for what is none.
fn or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let number: Option<f64> = Option::deserialize(deserializer)?;
    Ok(Some(number.unwrap_or(f64::NAN)))
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Keeps what the model of a step was found to be worth, as `step-STEP-NAME.json` and `.csv`, each
/// whole or not at all, and says where the first is.
///
/// # Errors
/// A folder that cannot be written.
pub fn write_evaluation(
    folder: &Path,
    step: usize,
    name: &str,
    report: &impl Serialize,
    table: &str,
) -> Result<PathBuf, ArtifactError> {
    fs::create_dir_all(folder).map_err(write_error(folder))?;
    let path = |ending: &str| folder.join(format!("step-{step:08}-{name}.{ending}"));
    files::write_json(&path("json"), report)?;
    files::write_whole(&path("csv"), |file| file.write_all(table.as_bytes()))?;
    Ok(path("json"))
}

/// A step's or an evaluation's loss, in nats a token.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct LossPoint {
    /// `train` or `valid`.
    pub split: String,
    pub step: u64,
    /// None where it is not a number; the step has been taken all the same.
    #[serde(default)]
    pub loss: Option<f64>,
    /// Learned from since the run began; of a step.
    #[serde(default)]
    pub tokens: Option<f64>,
    /// Of a step.
    #[serde(default)]
    pub step_milliseconds: Option<f64>,
}

/// What is kept of how a run went: its metrics, the samples of its model, its summary.
#[derive(Debug, Clone)]
pub struct History {
    run: PathBuf,
}

impl History {
    pub(super) fn new(run: &Path) -> Self {
        Self { run: run.into() }
    }

    /// Where the metrics go, a JSON object a line.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn lines(&self) -> Result<File, ArtifactError> {
        let path = self.run.join(LINES);
        let file = File::options().create(true).append(true).open(&path);
        Ok(file.map_err(write_error(&path))?)
    }

    /// The losses so far, in the order in which they were written.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn losses(&self) -> Result<Vec<LossPoint>, ArtifactError> {
        let path = self.run.join(LINES);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let file = File::open(&path).map_err(read_error(&path))?;
        let mut points = Vec::new();
        for line in BufReader::new(file).lines() {
            // The last one may be in the middle of being written.
            points.extend(serde_json::from_str(&line.map_err(read_error(&path))?).ok());
        }
        Ok(points)
    }

    /// The last step whose metrics are there, while others may be written; none before the first.
    pub fn last_step(&self) -> Option<u64> {
        #[derive(Deserialize)]
        struct Line {
            step: u64,
        }
        let mut file = File::open(self.run.join(LINES)).ok()?;
        let length = file.metadata().ok()?.len();
        let mut size = TAIL;
        loop {
            let begin = length.saturating_sub(size);
            file.seek(SeekFrom::Start(begin)).ok()?;
            let mut tail = Vec::new();
            file.read_to_end(&mut tail).ok()?;
            let lines = tail.split(|byte| *byte == b'\n').rev();
            let mut steps = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok());
            match steps.next() {
                None if begin > 0 => size *= 2,
                found => return found.map(|line| line.step),
            }
        }
    }

    /// Where the metrics go as a table, and the columns that it has already.
    ///
    /// # Errors
    /// A disk that cannot be read or written.
    pub fn table(&self) -> Result<(File, Option<Vec<String>>), ArtifactError> {
        let path = self.run.join(TABLE);
        let file = File::options().create(true).append(true).read(true).open(&path);
        let file = file.map_err(write_error(&path))?;
        let mut columns = String::new();
        BufReader::new(&file).read_line(&mut columns).map_err(read_error(&path))?;
        let columns = columns.strip_suffix('\n').map(|line| line.split(',').map(String::from));
        Ok((file, columns.map(Iterator::collect)))
    }

    /// A new event file of TensorBoard's, which reads them in the order of their names.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn event_file(&self) -> Result<File, ArtifactError> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("{EVENTS}{:016}.emberlm", since.as_micros());
        let path = self.run.join(name);
        Ok(File::create_new(&path).map_err(write_error(&path))?)
    }

    /// The run on a tracking server that this one is, if it has been tracked before.
    ///
    /// # Errors
    /// A file that is damaged.
    pub fn mlflow(&self) -> Result<Option<MlflowRun>, ArtifactError> {
        let path = self.run.join(MLFLOW);
        Ok(if path.exists() { Some(files::read_json(&path)?) } else { None })
    }

    /// # Errors
    /// A disk that cannot be written.
    pub fn write_mlflow(&self, run: &MlflowRun) -> Result<(), ArtifactError> {
        Ok(files::write_json(&self.run.join(MLFLOW), run)?)
    }

    /// Where the sample of a step is, or would be.
    pub fn sample_path(&self, step: usize) -> PathBuf {
        self.run.join(SAMPLES).join(format!("step-{step:08}.txt"))
    }

    /// Keeps what the model of a step wrote.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn write_sample(&self, step: usize, text: &[u8]) -> Result<(), ArtifactError> {
        let folder = self.run.join(SAMPLES);
        fs::create_dir_all(&folder).map_err(write_error(&folder))?;
        Ok(files::write_whole(&self.sample_path(step), |file| file.write_all(text))?)
    }

    /// Where evaluations go that were asked for, each as [`write_evaluation`] writes it.
    pub fn evaluations(&self) -> PathBuf {
        self.run.join(EVALUATIONS)
    }

    /// # Errors
    /// A disk that cannot be written.
    pub fn write_summary(&self, summary: &Summary) -> Result<(), ArtifactError> {
        Ok(files::write_json(&self.run.join(SUMMARY), summary)?)
    }

    /// # Errors
    /// A summary that is missing or damaged.
    pub fn summary(&self) -> Result<Summary, ArtifactError> {
        Ok(files::read_json(&self.run.join(SUMMARY))?)
    }

    /// The summary, if there is one yet.
    ///
    /// # Errors
    /// A summary that is damaged.
    pub fn summary_so_far(&self) -> Result<Option<Summary>, ArtifactError> {
        match files::read_json(&self.run.join(SUMMARY)) {
            Ok(summary) => Ok(Some(summary)),
            // What goes on forgets it, at any moment.
            Err(FileError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn forget_after(&self, step: usize) -> Result<(), ArtifactError> {
        for folder in [SAMPLES, EVALUATIONS].map(|folder| self.run.join(folder)) {
            files::remove_parts(&folder)?;
            for name in files::names(&folder)? {
                let of = name.strip_prefix("step-").and_then(|name| name.split(['.', '-']).next());
                if of.and_then(|of| of.parse::<usize>().ok()).is_some_and(|of| of > step) {
                    let path = folder.join(&name);
                    fs::remove_file(&path).map_err(write_error(&path))?;
                }
            }
        }
        self.cut_metrics(step)?;
        let path = self.run.join(SUMMARY);
        if path.exists() {
            fs::remove_file(&path).map_err(write_error(&path))?;
        }
        Ok(())
    }

    /// Removes the metrics of what is going to be computed again: of later steps, and the
    /// evaluation of this one. A TensorBoard that has read them is told by the next event file.
    fn cut_metrics(&self, step: usize) -> Result<(), ArtifactError> {
        let stays =
            |split: &str, of: u64| of < step as u64 || (of == step as u64 && split == "train");
        keep_lines(&self.run.join(LINES), |line| {
            let line: Value = serde_json::from_slice(line).unwrap_or_default();
            let (split, of) = (line["split"].as_str(), line["step"].as_u64());
            split.zip(of).is_some_and(|(split, of)| stays(split, of))
        })?;
        for name in files::names(&self.run)?.iter().filter(|name| name.starts_with(EVENTS)) {
            let path = self.run.join(name);
            let kept = train::keep_rows(&fs::read(&path).map_err(read_error(&path))?, stays);
            files::write_whole(&path, |file| file.write_all(&kept))?;
        }
        let mut is_header = true;
        keep_lines(&self.run.join(TABLE), |line| {
            let mut fields = line.split(|byte| *byte == b',').map(std::str::from_utf8);
            let (split, of) = (fields.next(), fields.next());
            let of = of.and_then(|of| of.ok()?.parse().ok());
            let row = split.and_then(Result::ok).zip(of);
            std::mem::take(&mut is_header) || row.is_some_and(|(split, of)| stays(split, of))
        })
    }
}

/// Leaves only some of a file's whole lines, if there is such a file.
fn keep_lines(path: &Path, mut stays: impl FnMut(&[u8]) -> bool) -> Result<(), ArtifactError> {
    if !path.exists() {
        return Ok(());
    }
    let text = fs::read(path).map_err(read_error(path))?;
    Ok(files::write_whole(path, |file| {
        text.split_inclusive(|byte| *byte == b'\n')
            .filter(|line| line.ends_with(b"\n") && stays(line))
            .try_for_each(|line| file.write_all(line))
    })?)
}
