use serde::Serialize;
use std::cmp::Ordering;

use super::{Ended, Ledger, Measured, Trial};

/// What has become of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It has been trained as long as any other of its rung.
    Finished,
    /// It has not been trained, or not to the end of its first rung.
    Open,
    Failed,
    Skipped,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Open => "open",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// A trial and its place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Counted from one; of trials that have finished a rung, and have what they are compared by.
    pub rank: Option<usize>,
    pub run: String,
    pub status: Status,
    /// The last that it has finished, counted from one.
    pub rung: Option<usize>,
    pub measured: Option<Measured>,
    /// Why it failed, or was left out.
    pub reason: Option<String>,
    pub trial: Trial,
}

/// All trials, the best first: those of later rungs before those of earlier ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaderboard {
    pub rows: Vec<Row>,
    paths: Vec<String>,
}

impl Leaderboard {
    /// As it is by now.
    pub fn new(sweep: &str, paths: Vec<String>, ledger: &Ledger) -> Self {
        let mut rows: Vec<Row> =
            ledger.trials().iter().map(|trial| row(sweep, trial, ledger)).collect();
        let metric = ledger.metric();
        let score = |row: &Row| {
            let score = row.measured.as_ref().map(|measured| measured.score(metric));
            score.filter(|score| score.is_finite())
        };
        let order = |a: &Row, b: &Row| match (score(a), score(b)) {
            (Some(first), Some(second)) => b.rung.cmp(&a.rung).then(first.total_cmp(&second)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => (a.status as u8).cmp(&(b.status as u8)),
        };
        rows.sort_by(|a, b| order(a, b).then(a.trial.number.cmp(&b.trial.number)));
        for (rank, row) in (1..).zip(rows.iter_mut().filter(|row| score(row).is_some())) {
            row.rank = Some(rank);
        }
        Self { rows, paths }
    }

    /// The paths of the keys that differ.
    pub fn paths(&self) -> &[String] {
        &self.paths
    }

    /// The best trial, where one has finished.
    pub fn best(&self) -> Option<&Row> {
        self.rows.first().filter(|row| row.rank.is_some())
    }

    /// As a table with a line a trial.
    pub fn csv(&self) -> String {
        let mut table = csv::Writer::from_writer(Vec::new());
        let fixed = [
            "rank",
            "run",
            "status",
            "rung",
            "steps",
            "loss",
            "bits_per_byte",
            "params",
            "seconds",
            "reason",
        ];
        let head = fixed.into_iter().chain(self.paths.iter().map(String::as_str));
        // A vector takes whatever is written.
        let _ = table.write_record(head);
        for row in &self.rows {
            let of = |value: fn(&Measured) -> String| row.measured.as_ref().map(value);
            let number = |number: Option<usize>| number.map(|number| number.to_string());
            let fixed = [
                number(row.rank),
                Some(row.run.clone()),
                Some(row.status.name().into()),
                number(row.rung),
                of(|it| it.steps.to_string()),
                of(|it| it.loss.to_string()),
                of(|it| it.bits_per_byte.map(|bits| bits.to_string()).unwrap_or_default()),
                of(|it| it.params.to_string()),
                of(|it| it.seconds.to_string()),
                row.reason.clone(),
            ];
            let settings = row.trial.settings.iter().map(|setting| setting.shown());
            let fields = fixed.into_iter().map(Option::unwrap_or_default).chain(settings);
            let _ = table.write_record(fields);
        }
        let bytes = table.into_inner().unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn row(sweep: &str, trial: &Trial, ledger: &Ledger) -> Row {
    let number = trial.number;
    let (last, reason) = match ledger.last(number) {
        Some((rung, Ended::Finished(measured))) => (Some((rung, measured.clone())), None),
        // It may have come out of the rung before well.
        Some((rung, Ended::Failed(reason))) => {
            let before =
                rung.checked_sub(1).and_then(|before| match ledger.result(number, before) {
                    Some(Ended::Finished(measured)) => Some((before, measured.clone())),
                    _ => None,
                });
            (before, Some(reason.clone()))
        }
        None => (None, None),
    };
    let skipped = ledger.skipped(number).filter(|_| last.is_none() && reason.is_none());
    let status = match (&last, &reason, skipped) {
        (_, Some(_), _) => Status::Failed,
        (Some(_), None, _) => Status::Finished,
        (None, None, Some(_)) => Status::Skipped,
        (None, None, None) => Status::Open,
    };
    Row {
        rank: None,
        run: trial.run(sweep),
        status,
        rung: last.as_ref().map(|(rung, _)| rung + 1),
        measured: last.map(|(_, measured)| measured),
        reason: reason.or(skipped.map(String::from)),
        trial: trial.clone(),
    }
}
