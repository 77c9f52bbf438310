use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::time::Instant;

use crate::commands::figures::time;
use crate::report::terminal::clipped;
use crate::sweep::{Ended, Leaderboard, Measured, Metric, Row, Rung, Setting, short_names};

/// Columns of a terminal.
const WIDTH: usize = 80;
/// Parts of a progress bar.
const PARTS: u64 = 1000;

/// What a sweep says while it goes on: lines for people, or of JSON, and a bar on a terminal.
pub(super) struct Show {
    json: bool,
    quiet: bool,
    metric: Metric,
    paths: Vec<String>,
    short: Vec<String>,
    bar: ProgressBar,
    /// When this program began, and what had been done by then.
    begun: Option<(Instant, f64)>,
}

impl Show {
    pub(super) fn new(
        json: bool,
        quiet: bool,
        metric: Metric,
        paths: Vec<String>,
    ) -> anyhow::Result<Self> {
        let bar = match json || quiet {
            true => ProgressBar::hidden(),
            false => ProgressBar::new(PARTS),
        };
        let style = ProgressStyle::with_template("{wide_bar} {percent}% {msg}")?;
        let bar = bar.with_style(style.progress_chars("=> "));
        let short = short_names(&paths);
        Ok(Self { json, quiet, metric, paths, short, bar, begun: None })
    }

    /// A line on standard output, above the bar. Who has gone away wants none.
    fn say(&self, event: &Value, line: &str) {
        self.bar.suspend(|| {
            let mut out = io::stdout().lock();
            let _ = match (self.json, self.quiet) {
                (true, _) => writeln!(out, "{event}"),
                (_, true) => Ok(()),
                _ => writeln!(out, "{line}"),
            };
            let _ = out.flush();
        });
    }

    pub(super) fn begin(&self, name: &str, trials: usize, folder: &str) {
        let event = json!({ "event": "sweep", "name": name, "trials": trials, "folder": folder });
        let plural = if trials == 1 { "trial" } else { "trials" };
        self.say(&event, &format!("{name}: {trials} {plural}, kept in {folder}"));
    }

    pub(super) fn skipped(&self, run: &str, settings: &[Setting], reason: &str) {
        let settings = self.settings(settings);
        let event =
            json!({ "event": "skipped", "run": run, "settings": settings, "reason": reason });
        self.say(&event, &format!("{run}  skipped: {reason}"));
    }

    pub(super) fn listed(&self, run: &str, settings: &[Setting]) {
        let event = json!({ "event": "trial", "run": run, "settings": self.settings(settings) });
        self.say(&event, &format!("{run}  {}", self.line(settings)));
    }

    pub(super) fn rung(&self, number: usize, of: usize, rung: Rung, trials: usize) {
        let Some(steps) = rung.steps else { return };
        let event = json!({
            "event": "rung", "rung": number, "of": of, "steps": steps, "trials": trials,
        });
        let plural = if trials == 1 { "trial" } else { "trials" };
        self.say(&event, &format!("rung {number} of {of}: {trials} {plural} to step {steps}"));
    }

    pub(super) fn started(&self, run: &str, rung: usize, settings: &[Setting]) {
        let event = json!({
            "event": "started", "run": run, "rung": rung, "settings": self.settings(settings),
        });
        self.say(&event, &format!("{run}  {}", self.line(settings)));
    }

    pub(super) fn ended(&self, run: &str, rung: usize, ended: &Ended) {
        match ended {
            Ended::Finished(measured) => {
                let event = json!({
                    "event": "finished", "run": run, "rung": rung, "measured": measured,
                });
                let Measured { steps, params, .. } = measured;
                let score = self.score(measured);
                let line = format!(
                    "{run}  {} {score} after {steps} steps of {params} parameters, {}",
                    self.metric.name(),
                    time(measured.seconds),
                );
                self.say(&event, &line);
            }
            Ended::Failed(reason) => {
                let event =
                    json!({ "event": "failed", "run": run, "rung": rung, "reason": reason });
                self.say(&event, &format!("{run}  failed: {reason}"));
            }
        }
    }

    pub(super) fn broken(&self, run: &str, reason: &str) {
        let event = json!({ "event": "broken_off", "run": run, "reason": reason });
        self.say(&event, &format!("{run}  broke off: {reason}"));
    }

    /// How much of all there is to do has been done, and which trials are at work.
    pub(super) fn progress(&mut self, done: f64, total: f64, running: &[&str]) {
        let (started, before) = *self.begun.get_or_insert((Instant::now(), done));
        let share = if total > 0.0 { done / total } else { 0.0 };
        self.bar.set_position((share * PARTS as f64) as u64);
        let elapsed = started.elapsed().as_secs_f64();
        // Before it is of any weight, nobody knows how long it takes.
        let left = (done - before > 0.0 && elapsed > 2.0)
            .then(|| elapsed * (total - done).max(0.0) / (done - before));
        let left = left.map(|left| format!("{} left", time(left))).unwrap_or_default();
        let runs = match running {
            [] => String::new(),
            [first] => (*first).into(),
            [first, others @ ..] => format!("{first} and {} more", others.len()),
        };
        self.bar.set_message(format!("{left}  {runs}"));
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Everything by rank.
    pub(super) fn leaderboard(&self, board: &Leaderboard) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            let rows: Vec<Value> = board.rows.iter().map(|row| self.row(row)).collect();
            writeln!(out, "{}", json!({ "event": "leaderboard", "rows": rows }))?;
            return Ok(());
        }
        if !self.quiet {
            writeln!(out)?;
        }
        for line in self.table(board) {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }

    pub(super) fn note(&self, line: &str) -> io::Result<()> {
        match self.json || self.quiet {
            true => Ok(()),
            false => writeln!(io::stdout(), "{line}"),
        }
    }

    fn row(&self, row: &Row) -> Value {
        json!({
            "rank": row.rank, "run": row.run, "status": row.status, "rung": row.rung,
            "measured": row.measured, "reason": row.reason,
            "settings": self.settings(&row.trial.settings),
        })
    }

    fn settings(&self, settings: &[Setting]) -> Value {
        settings.iter().map(|setting| (setting.path.clone(), setting.value.clone())).collect()
    }

    fn score(&self, measured: &Measured) -> String {
        match measured.score(self.metric) {
            score if score.is_finite() => format!("{score:.4}"),
            _ => "unknown".into(),
        }
    }

    /// `key=value key=value`
    fn line(&self, settings: &[Setting]) -> String {
        let part = |setting: &Setting| {
            let place = self.paths.iter().position(|path| *path == setting.path);
            let name = place.map_or(&setting.path, |place| &self.short[place]);
            format!("{name}={}", setting.shown())
        };
        settings.iter().map(part).collect::<Vec<_>>().join(" ")
    }

    /// The leaderboard in lines that a terminal has room for: settings are columns, or stand below
    /// their trial where there are too many.
    fn table(&self, board: &Leaderboard) -> Vec<String> {
        let head = ["#", "run", self.metric.name(), "steps", "parameters", "time"];
        let mut wide: Vec<Vec<String>> = vec![
            head.iter().map(|it| (*it).to_string()).chain(self.short.iter().cloned()).collect(),
        ];
        for row in &board.rows {
            let of =
                |text: fn(&Measured) -> String| row.measured.as_ref().map(text).unwrap_or_default();
            let score = row.measured.as_ref().map(|it| self.score(it));
            let mut cells = vec![
                row.rank.map(|rank| rank.to_string()).unwrap_or_else(|| "-".into()),
                row.run.clone(),
                score.unwrap_or_else(|| row.status.name().into()),
                of(|it| it.steps.to_string()),
                of(|it| it.params.to_string()),
                of(|it| time(it.seconds)),
            ];
            cells.extend(row.trial.settings.iter().map(Setting::shown));
            wide.push(cells);
        }
        let narrow = |cells: &Vec<String>| cells[..head.len()].to_vec();
        let lines = aligned(&wide);
        let fits = lines.iter().all(|line| line.chars().count() <= WIDTH);
        let below = |row: &Row| (!fits).then(|| self.line(&row.trial.settings));
        let lines =
            if fits { lines } else { aligned(&wide.iter().map(narrow).collect::<Vec<_>>()) };
        let mut all = vec![clipped(&lines[0], WIDTH)];
        for (line, row) in lines[1..].iter().zip(&board.rows) {
            all.push(clipped(line, WIDTH));
            // Why one is where it is.
            for more in [below(row), row.reason.clone()].into_iter().flatten() {
                all.push(clipped(&format!("   {more}"), WIDTH));
            }
        }
        all
    }
}

/// Columns of one width each: texts to the left, and numbers to the right.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 1 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect()
}
