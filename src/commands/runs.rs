use serde::Serialize;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use super::figures::{count, size};
use super::progress::note;
use crate::artifact::{ArtifactError, Run, run_names};
use crate::cli::{ListRunsArgs, RunOrder};
use crate::files::folder_size;
use crate::model;
use crate::report::terminal::clipped;

/// Columns of a name; longer ones are cut.
const NAME: usize = 28;

/// What has become of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// Now, by some program.
    Training,
    Finished,
    /// Before its end; it can be resumed.
    Stopped,
    /// Its model was trained elsewhere.
    Imported,
    Damaged,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    status: Status,
    /// What is wrong with a damaged one.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Of the newest checkpoint.
    step: Option<usize>,
    parameters: Option<usize>,
    /// The lowest validation loss, in nats a token.
    loss: Option<f64>,
    bytes: u64,
    /// Seconds since anything was written.
    age: Option<u64>,
}

pub(super) fn run(args: ListRunsArgs) -> anyhow::Result<()> {
    let root = &args.runs.artifacts;
    let mut rows: Vec<Row> = run_names(root)?.iter().map(|name| row(root, name)).collect();
    match args.sort {
        RunOrder::Name => {} // as they are
        RunOrder::Age => rows.sort_by_key(|row| row.age.unwrap_or(u64::MAX)),
        RunOrder::Size => rows.sort_by_key(|row| std::cmp::Reverse(row.bytes)),
        RunOrder::Loss => {
            let loss = |row: &Row| row.loss.unwrap_or(f64::INFINITY);
            rows.sort_by(|a, b| loss(a).total_cmp(&loss(b)));
        }
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        for row in &rows {
            writeln!(out, "{}", serde_json::to_string(row)?)?;
        }
        return Ok(());
    }
    if rows.is_empty() {
        note(format_args!("there are no runs in {}", root.display()));
        return Ok(());
    }
    let names = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let width = names.clamp("name".len(), NAME);
    writeln!(
        out,
        "{:<width$}  {:<8} {:>8} {:>10} {:>8} {:>10} {:>5}",
        "name", "status", "step", "parameters", "loss", "size", "age"
    )?;
    for row in &rows {
        let status = match row.status {
            Status::Training => "training",
            Status::Finished => "finished",
            Status::Stopped => "stopped",
            Status::Imported => "imported",
            Status::Damaged => "damaged",
        };
        writeln!(
            out,
            "{:<width$}  {status:<8} {:>8} {:>10} {:>8} {:>10} {:>5}",
            clipped(&row.name, width),
            row.step.map(|step| step.to_string()).unwrap_or_default(),
            row.parameters.map(|number| count(number as u64)).unwrap_or_default(),
            row.loss.map(|loss| format!("{loss:.4}")).unwrap_or_default(),
            size(row.bytes),
            row.age.map(age).unwrap_or_default(),
        )?;
    }
    Ok(())
}

fn row(root: &Path, name: &str) -> Row {
    let path = root.join(name);
    let row = Row {
        name: name.into(),
        status: Status::Damaged,
        error: None,
        step: None,
        parameters: None,
        loss: None,
        bytes: folder_size(&path),
        age: last_written(&path).and_then(|at| at.elapsed().ok()).map(|age| age.as_secs()),
    };
    match Run::open(root, name) {
        Ok(run) => known(&run, row),
        Err(error) => Row { error: Some(reason(error)), ..row },
    }
}

/// What is wrong, and why: an error of a file alone does not say.
fn reason(error: ArtifactError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

/// What a run says of itself.
fn known(run: &Run, row: Row) -> Row {
    let model = &run.config().model;
    let vocab_size = model.vocab_size;
    let parameters = vocab_size.map(|vocab_size| model::parameter_count(model, vocab_size));
    let found = || -> Result<(Option<usize>, Option<f64>, Status), ArtifactError> {
        let step = run.checkpoints().steps()?.last().copied();
        let history = run.history();
        let summary = history.summary_so_far()?;
        let of_summary = summary.as_ref().and_then(|summary| summary.best_val_loss);
        // Of long runs the metrics are long, too.
        let points = if of_summary.is_some() { Vec::new() } else { history.losses()? };
        let valid = points.iter().filter(|point| point.split == "valid");
        let valid = valid.filter_map(|point| point.loss);
        let loss = of_summary.or_else(|| valid.min_by(f64::total_cmp));
        let status = match summary.map(|summary| summary.final_val_loss) {
            _ if run.is_being_trained() => Status::Training,
            Some(Some(_)) => Status::Finished,
            None if points.is_empty() && step == Some(0) => Status::Imported,
            _ => Status::Stopped,
        };
        Ok((step, loss, status))
    };
    match found() {
        Ok((step, loss, status)) => Row { status, step, parameters, loss, ..row },
        Err(error) => Row { error: Some(reason(error)), parameters, ..row },
    }
}

/// When a file of a folder was written last.
fn last_written(folder: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries.filter_map(|entry| entry.metadata().ok()?.modified().ok()).max()
}

/// Seconds in one unit.
fn age(seconds: u64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}
