//! Trials of a sweep, trained in their turn.

mod candidate;
mod show;
mod trainer;

use anyhow::{Context, bail};
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::advice;
use super::plan::{bytes, free_memory};
use super::progress;
use super::signals::{STOPPED, stop_on_signal};
use super::train::apply_data;
use crate::artifact::{History, Run};
use crate::backend;
use crate::cli::SweepArgs;
use crate::config;
use crate::files::write_whole;
use crate::sweep::{Ended, Leaderboard, Ledger, Rung, Sweep, Trial, survivors};
use candidate::{Candidate, Examiner};
use show::Show;
use trainer::{Exit, Order, PATIENCE, Trainer, is_there, outcome};

/// How often trials are asked how they are.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) fn run(args: SweepArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.common.target.backend.as_deref())?;
    let mut sweep = Sweep::load(&args.sweep)?;
    if args.data.is_some() || args.eval_data.is_some() {
        let initial = match sweep.base["init_from"].as_str() {
            Some(name) => Some(Run::open(&args.common.artifacts, name).context("init_from")?),
            None => None,
        };
        let architecture = config::architecture(&sweep.base, initial.as_ref().map(Run::config));
        apply_data(&mut sweep.base, architecture, args.data.as_ref(), args.eval_data.as_ref())?;
    }
    let available = match &args.memory {
        Some(size) => Some(bytes(size).context("--memory")?),
        None => free_memory(backend, args.common.target.device)?,
    };
    let candidates = Examiner::new(&sweep, &args, backend, available).examine();
    let show = Show::new(args.json, progress::is_quiet(), sweep.metric, sweep.paths())?;
    let skipped: BTreeMap<usize, String> = candidates
        .iter()
        .filter_map(|(trial, found)| Some((*trial, found.as_ref().err()?.clone())))
        .collect();
    if skipped.len() == candidates.len()
        && let Some(reason) = skipped.values().next()
    {
        bail!("none of the {} trials can be trained; the first: {reason}", candidates.len());
    }
    let artifacts = &args.common.artifacts;
    if args.dry_run {
        return list(&sweep, &skipped, artifacts, &show);
    }
    let known = Ledger::begun(artifacts, &sweep.name)?;
    for trial in sweep.trials().iter().skip(known) {
        let run = trial.run(&sweep.name);
        if artifacts.join(&run).exists() {
            bail!(
                "there is a run {run} that is not of this sweep; give the sweep another `name`, or remove {}",
                artifacts.join(&run).display()
            );
        }
    }
    let mut ledger = Ledger::open(artifacts, &sweep)?;
    if args.retry {
        ledger.forget_failures()?;
    }
    if ledger.may_reconsider() {
        ledger.skip(skipped)?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    // The trials notice, and end with their checkpoints.
    stop_on_signal(stop.clone(), "stopping after these steps")?;
    let mut work =
        Work { args: &args, sweep: &sweep, candidates, available, ledger, show, stop, broken: 0 };
    let finished = work.all();
    work.show.finish();
    work.keep_board()?;
    let finished = finished?;
    work.conclude(finished)
}

/// What would be trained.
fn list(
    sweep: &Sweep,
    skipped: &BTreeMap<usize, String>,
    artifacts: &Path,
    show: &Show,
) -> anyhow::Result<()> {
    let trials = sweep.trials();
    let folder = Ledger::folder_of(artifacts, &sweep.name);
    show.begin(&sweep.name, trials.len(), &folder.display().to_string());
    for trial in &trials {
        let run = trial.run(&sweep.name);
        match skipped.get(&trial.number) {
            Some(reason) => show.skipped(&run, &trial.settings, reason),
            None => show.listed(&run, &trial.settings),
        }
    }
    let rungs = sweep.rungs(trials.len());
    for (number, rung) in (1..).zip(&rungs) {
        show.rung(number, rungs.len(), *rung, rung.trials);
    }
    Ok(())
}

/// A sweep at work.
struct Work<'a> {
    args: &'a SweepArgs,
    sweep: &'a Sweep,
    candidates: BTreeMap<usize, Result<Candidate, String>>,
    /// Bytes of memory that trials may take together.
    available: Option<u64>,
    ledger: Ledger,
    show: Show,
    stop: Arc<AtomicBool>,
    /// Trials that something has ended which had nothing to do with them.
    broken: usize,
}

/// A trial at work.
struct Running {
    trial: Trial,
    run: String,
    needed: u64,
    trainer: Trainer,
    /// Once its run is there.
    history: Option<History>,
    /// The last that it has taken.
    step: Option<u64>,
}

impl Running {
    fn look(&mut self, artifacts: &Path) {
        if self.history.is_none() {
            self.history = Run::open(artifacts, &self.run).ok().map(|run| run.history());
        }
        self.step = self.history.as_ref().and_then(History::last_step).or(self.step);
    }
}

impl Work<'_> {
    /// Trains all that is to be trained; whether nothing is left.
    fn all(&mut self) -> anyhow::Result<bool> {
        let folder = self.ledger.folder().display().to_string();
        let trials = self.ledger.trials().to_vec();
        self.show.begin(&self.sweep.name, trials.len(), &folder);
        for trial in &trials {
            if let Some(reason) = self.ledger.skipped(trial.number) {
                self.show.skipped(&trial.run(&self.sweep.name), &trial.settings, reason);
            }
        }
        let takes_part = |trial: &&Trial| self.ledger.skipped(trial.number).is_none();
        let mut members: Vec<Trial> = trials.iter().filter(takes_part).cloned().collect();
        let rungs = self.sweep.rungs(trials.len());
        for (place, rung) in rungs.iter().enumerate() {
            if place > 0 {
                let best = survivors(&self.losses(&members, place - 1), rung.trials);
                members.retain(|trial| best.contains(&trial.number));
            }
            if members.is_empty() {
                break;
            }
            self.show.rung(place + 1, rungs.len(), *rung, members.len());
            self.rung(place, &rungs, &members)?;
            if self.stop.load(Ordering::Relaxed) || self.broken > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Of those that have finished a rung.
    fn losses(&self, members: &[Trial], rung: usize) -> Vec<(usize, f64)> {
        let loss = |trial: &Trial| match self.ledger.result(trial.number, rung)? {
            Ended::Finished(measured) => Some((trial.number, measured.score(self.sweep.metric))),
            Ended::Failed(_) => None,
        };
        members.iter().filter_map(loss).collect()
    }

    /// Trains trials to the end of a rung, as many at a time as there is room for.
    fn rung(&mut self, place: usize, rungs: &[Rung], members: &[Trial]) -> anyhow::Result<()> {
        let is_open = |trial: &&Trial| self.ledger.result(trial.number, place).is_none();
        let mut waiting: VecDeque<Trial> = members.iter().filter(is_open).cloned().collect();
        let mut running: Vec<Running> = Vec::new();
        let outcome = self.take_turns(place, rungs, members, &mut waiting, &mut running);
        // Some are still at work where this program has failed: their checkpoints are worth waiting for.
        for one in &mut running {
            one.trainer.stop();
        }
        let begun = Instant::now();
        while !running.iter_mut().all(|one| one.trainer.has_ended()) && begun.elapsed() < PATIENCE {
            std::thread::sleep(PAUSE);
        }
        outcome
    }

    fn take_turns(
        &mut self,
        place: usize,
        rungs: &[Rung],
        members: &[Trial],
        waiting: &mut VecDeque<Trial>,
        running: &mut Vec<Running>,
    ) -> anyhow::Result<()> {
        let mut is_stopping = false;
        loop {
            if self.stop.load(Ordering::Relaxed) && !is_stopping {
                is_stopping = true;
                waiting.clear();
                running.iter_mut().for_each(|one| one.trainer.stop());
            }
            while running.len() < self.args.parallel as usize
                && waiting.front().is_some_and(|next| self.has_room(next, running))
                && let Some(trial) = waiting.pop_front()
            {
                if let Some(started) = self.start(trial, place, rungs[place])? {
                    running.push(started);
                }
            }
            if running.is_empty() && waiting.is_empty() {
                return Ok(());
            }
            // Whatever fails here, the others stay known, and are waited for.
            let mut at = 0;
            while let Some(one) = running.get_mut(at) {
                let Some(exit) = one.trainer.poll(&self.args.common.artifacts)? else {
                    one.look(&self.args.common.artifacts);
                    at += 1;
                    continue;
                };
                let one = running.remove(at);
                match exit {
                    Exit::Ended(ended) => self.record(&one.trial, place, ended)?,
                    Exit::Stopped => {}
                    Exit::Broken(reason) => {
                        self.broken += 1;
                        self.show.broken(&one.run, &reason);
                    }
                }
            }
            self.report(place, rungs, members, running);
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether a trial fits beside those at work. Alone it does: it would have been left out.
    fn has_room(&self, next: &Trial, running: &[Running]) -> bool {
        let needed = self.needed(next);
        let taken: u64 = running.iter().map(|one| one.needed).sum();
        running.is_empty() || self.available.is_none_or(|most| taken + needed <= most)
    }

    fn needed(&self, trial: &Trial) -> u64 {
        let candidate = self.candidates.get(&trial.number);
        candidate.and_then(|it| it.as_ref().ok()).map_or(0, |candidate| candidate.needed)
    }

    /// Begins with a trial or goes on with it, unless it has come to its end already.
    fn start(&mut self, trial: Trial, place: usize, rung: Rung) -> anyhow::Result<Option<Running>> {
        let run = trial.run(&self.sweep.name);
        let candidate = match &self.candidates[&trial.number] {
            Ok(candidate) => candidate,
            // It could be trained when the sweep began.
            Err(reason) => {
                self.broken += 1;
                self.show.broken(&run, reason);
                return Ok(None);
            }
        };
        let artifacts = &self.args.common.artifacts;
        let goes_on = is_there(artifacts, &run)?;
        // This program was killed before it could note what has come out.
        if goes_on
            && let Some((steps, ended)) = outcome(artifacts, &run)?
            && rung.steps.is_none_or(|length| steps as u64 >= length)
        {
            self.record(&trial, place, ended)?;
            return Ok(None);
        }
        let threads = (self.args.parallel > 1).then(|| {
            let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
            (cores / self.args.parallel as usize).max(1)
        });
        let order = Order {
            run: &run,
            goes_on,
            base: &self.ledger.base(),
            assignments: &candidate.assignments,
            steps: rung.steps,
            log: &self.ledger.log(&run),
            threads,
        };
        let trainer = Trainer::start(&order, self.args)?;
        self.show.started(&run, place + 1, &trial.settings);
        let needed = candidate.needed;
        Ok(Some(Running { trial, run, needed, trainer, history: None, step: None }))
    }

    fn record(&mut self, trial: &Trial, place: usize, ended: Ended) -> anyhow::Result<()> {
        self.show.ended(&trial.run(&self.sweep.name), place + 1, &ended);
        self.ledger.record(trial.number, place, ended)?;
        self.keep_board()
    }

    /// Shows how much of the work is done: of steps as many operations as they take, of trials
    /// whose steps nobody knows as many as have ended.
    fn report(&mut self, place: usize, rungs: &[Rung], members: &[Trial], running: &[Running]) {
        let candidate =
            |trial: &Trial| self.candidates.get(&trial.number).and_then(|it| it.as_ref().ok());
        let length = |trial: &Trial| rungs[place].steps.or_else(|| candidate(trial)?.steps);
        let by_step = members.iter().all(|trial| length(trial).is_some());
        let of_step = |trial: &Trial| candidate(trial).map_or(0.0, |it| it.work);
        let before = place.checked_sub(1).and_then(|before| rungs[before].steps).unwrap_or(0);
        let (mut done, mut total) = (0.0, 0.0);
        for (past, rung) in rungs[..place].iter().enumerate() {
            let from = past.checked_sub(1).and_then(|before| rungs[before].steps).unwrap_or(0);
            let steps = rung.steps.unwrap_or(0).saturating_sub(from) as f64;
            let took_part = |trial: &&Trial| self.ledger.result(trial.number, past).is_some();
            let trials = self.ledger.trials().iter().filter(took_part);
            done += trials.map(|trial| steps * of_step(trial)).sum::<f64>();
        }
        total += done;
        for trial in members {
            let steps = length(trial).unwrap_or(0).saturating_sub(before) as f64;
            let whole = if by_step { steps * of_step(trial) } else { 1.0 };
            total += whole;
            if self.ledger.result(trial.number, place).is_some() {
                done += whole;
            } else if by_step {
                let run = running.iter().find(|one| one.trial.number == trial.number);
                let step = run.and_then(|one| one.step).unwrap_or(0);
                done += (step.saturating_sub(before) as f64).min(steps) * of_step(trial);
            }
        }
        // Nobody knows yet who goes on; they are taken to be like the others.
        let mean = members.iter().map(of_step).sum::<f64>() / members.len().max(1) as f64;
        for pair in rungs[place..].windows(2) {
            let steps = pair[1].steps.unwrap_or(0).saturating_sub(pair[0].steps.unwrap_or(0));
            total += pair[1].trials as f64 * steps as f64 * mean;
        }
        let runs: Vec<&str> = running.iter().map(|one| one.run.as_str()).collect();
        self.show.progress(done, total, &runs);
    }

    fn board(&self) -> Leaderboard {
        Leaderboard::new(&self.sweep.name, self.sweep.paths(), &self.ledger)
    }

    fn keep_board(&self) -> anyhow::Result<()> {
        let table = self.board().csv();
        Ok(write_whole(&self.ledger.table(), |file| file.write_all(table.as_bytes()))?)
    }

    /// Tells how it went.
    fn conclude(&self, finished: bool) -> anyhow::Result<()> {
        let board = self.board();
        let told = self.tell(&board);
        if self.stop.load(Ordering::Relaxed) {
            // The same signal may have ended whoever reads this.
            let _ = writeln!(std::io::stderr(), "stopped; the same command goes on from here");
            std::process::exit(STOPPED);
        }
        told?;
        if !finished {
            let logs = self.ledger.log("NAME");
            bail!(
                "{} of the trials broke off, see {}; the same command goes on with them",
                self.broken,
                logs.display()
            );
        }
        // What has come of each stands above.
        if board.best().is_none() {
            bail!("no trial could be ranked by its {}", self.sweep.metric.name());
        }
        Ok(())
    }

    fn tell(&self, board: &Leaderboard) -> anyhow::Result<()> {
        self.show.leaderboard(board)?;
        self.show.note(&format!("\nas a table: {}", self.ledger.table().display()))?;
        let artifacts = &self.args.common.artifacts;
        // Who has removed the run needs no advice on it.
        if let Some(best) = board.best().and_then(|best| Run::open(artifacts, &best.run).ok()) {
            self.show.note(&format!("the best: {}", advice::use_of(&best, artifacts)))?;
        }
        Ok(())
    }
}
