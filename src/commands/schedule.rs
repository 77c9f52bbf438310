use anyhow::{Context, bail};
use console::Term;
use serde::Serialize;
use std::io::{BufWriter, Write};

use crate::cli::ScheduleArgs;
use crate::config::{self, OptimizerConfig, RunConfig, Source, Span};
use crate::data::{Corpus, LoaderPosition, TrainLoader};
use crate::report::{Line, line_chart};
use crate::train::{Schedule, planned_steps, total_steps};

/// Columns of a plot where there is no terminal, and the fewest and the most in one.
const WIDTH: u16 = 80;
const NARROWEST: u16 = 24;
const WIDEST: u16 = 120;
/// Rows of a plot with its axis, such that its labels are evenly apart.
const HEIGHT: u16 = 19;
/// Quarters of the highest learning rate that are labelled.
const LABELS: u32 = 4;
/// Steps that are looked at where there are more; far more than dots of a plot.
const MOST_POINTS: usize = 1 << 16;

/// As in a run's metrics.
#[derive(Serialize)]
struct Rate {
    /// Counted from one.
    step: usize,
    learning_rate: f64,
}

pub(super) fn run(args: ScheduleArgs) -> anyhow::Result<()> {
    let config = config::load(&Source::find(&args.config, None)?, &args.set)?;
    let steps = steps(&config)?;
    let schedule = Schedule::new(&config.train.schedule, Some(steps), 0);
    let mut out = BufWriter::new(std::io::stdout().lock());
    if args.json {
        for step in 0..steps {
            let line = Rate { step: step + 1, learning_rate: schedule.learning_rate(step) };
            writeln!(out, "{}", serde_json::to_string(&line)?)?;
        }
        return Ok(out.flush()?);
    }

    let warmup_steps = config.train.schedule.warmup_steps();
    let points: Vec<(usize, f64)> = looked_at(steps, warmup_steps)
        .into_iter()
        .map(|step| (step, schedule.learning_rate(step)))
        .collect();
    let (highest_at, highest) =
        points.iter().fold((0, 0.0), |best, point| if point.1 > best.1 { *point } else { best });
    let width = match Term::stdout().size_checked() {
        Some((_, columns)) => columns.clamp(NARROWEST, WIDEST),
        None => WIDTH,
    };
    writeln!(out, "learning rate of {}", config.name)?;
    for row in plot(&points, steps, warmup_steps, highest, width) {
        writeln!(out, "{row}")?;
    }
    writeln!(out)?;
    writeln!(out, "kind          {}", kind(&config)?)?;
    writeln!(out, "steps         {steps}")?;
    let warmup = match warmup_steps {
        0 => "none".into(),
        warmup if warmup < steps => format!("{warmup} steps, which end at the dotted line"),
        warmup => format!("{warmup} steps, of which the run has {steps}"),
    };
    writeln!(out, "warmup        {warmup}")?;
    writeln!(out, "highest rate  {highest:.3e} at step {}", highest_at + 1)?;
    writeln!(out, "last rate     {:.3e}", schedule.learning_rate(steps.saturating_sub(1)))?;
    for (name, factor) in factors(&config.train.optimizer) {
        writeln!(out, "{name}: {factor} times the rate, {:.3e} at most", factor * highest)?;
    }
    Ok(out.flush()?)
}

/// The steps that training would take.
fn steps(config: &RunConfig) -> anyhow::Result<usize> {
    if let Some(steps) = planned_steps(config) {
        return Ok(steps);
    }
    let (model, length) = (&config.model, config.train.length());
    if let Span::Minutes(_) = length {
        bail!(
            "nobody knows how many steps {length} are; say how many to plot with --set train.steps=N"
        );
    }
    let unknown = || {
        format!(
            "how many steps {length} are depends on the data; say how many with --set train.steps=N"
        )
    };
    let corpus = Corpus::load(config, None).with_context(unknown)?;
    let loader = TrainLoader::of_run(config, &corpus, LoaderPosition::default());
    let targets = corpus.train.targets_per_example(model.architecture, model.context_length);
    total_steps(&config.train, targets, loader.examples_per_pass()).with_context(unknown)
}

fn kind(config: &RunConfig) -> anyhow::Result<String> {
    let schedule = serde_json::to_value(&config.train.schedule)?;
    Ok(schedule["kind"].as_str().unwrap_or_default().into())
}

/// What has another learning rate than the schedule's, and by which factor.
fn factors(optimizer: &OptimizerConfig) -> Vec<(String, f64)> {
    let beside = match optimizer {
        OptimizerConfig::Muon(muon) => {
            Some(("what is not Muon's".into(), muon.adamw.learning_rate))
        }
        _ => None,
    };
    let groups = optimizer.groups().iter();
    let groups = groups.map(|group| (group.parameters.clone(), group.learning_rate));
    beside.into_iter().chain(groups).filter(|(_, factor)| *factor != 1.0).collect()
}

/// Steps, counted from zero: all of them, or so many that a plot shows no difference, and those
/// at the edges.
fn looked_at(steps: usize, warmup_steps: usize) -> Vec<usize> {
    let mut looked_at: Vec<usize> =
        (0..steps).step_by(steps.div_ceil(MOST_POINTS).max(1)).collect();
    let edges = [warmup_steps.saturating_sub(1), warmup_steps, steps.saturating_sub(1)];
    looked_at.extend(edges.into_iter().filter(|edge| *edge < steps));
    looked_at.sort_unstable();
    looked_at.dedup();
    looked_at
}

/// The rows of a plot of learning rates over the steps that they belong to, counted from zero.
fn plot(
    points: &[(usize, f64)],
    steps: usize,
    warmup_steps: usize,
    highest: f64,
    width: u16,
) -> Vec<String> {
    let last = steps.saturating_sub(1).max(1) as f64;
    let curve = points.iter().map(|(step, rate)| (*step as f64, *rate)).collect();
    let mut lines = vec![Line { points: curve, character: None }];
    if (1..steps).contains(&warmup_steps) {
        let place = warmup_steps as f64;
        // Above the curve.
        lines.push(Line { points: vec![(place, 0.0), (place, highest)], character: Some('┊') });
    }
    let rates = (0..=LABELS).map(|quarter| match quarter {
        0 => "0".into(),
        quarter => format!("{:.2e}", highest * (f64::from(quarter) / f64::from(LABELS))),
    });
    let numbers = vec!["step 1".into(), steps.div_ceil(2).to_string(), steps.to_string()];
    let bounds = [[0.0, last], [0.0, highest]];
    line_chart(&lines, bounds, [numbers, rates.collect()], [width, HEIGHT], false)
}
