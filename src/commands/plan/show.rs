use std::io::{self, Write};
use std::time::Duration;

use super::Plan;
use crate::commands::figures::{count, size};
use crate::train::TrainingMemory;

/// Columns of what stands before a description.
const LABEL: usize = 24;

pub(super) fn write(out: &mut impl Write, plan: &Plan) -> io::Result<()> {
    writeln!(
        out,
        "{} on {}, {} tokens in the vocabulary",
        plan.name, plan.backend, plan.vocab_size
    )?;
    writeln!(out)?;
    line(out, "parameters", &plan.parameters.to_string())?;
    for component in &plan.components {
        let share = 100.0 * component.parameters as f64 / plan.parameters.max(1) as f64;
        let number = component.parameters;
        line(out, &format!("  {}", component.name), &format!("{number:<12} {share:>5.1}%"))?;
    }
    if let Some(flops) = plan.flops_per_token {
        line(
            out,
            "operations a token",
            &format!("{:.3} GFLOP, forward and backward", flops / 1e9),
        )?;
    }
    writeln!(out)?;
    write_memory(out, plan)?;
    writeln!(out)?;
    line(out, "tokens a step", &plan.tokens_per_step.to_string())?;
    let of_run = match (plan.steps, plan.tokens) {
        (Some(steps), Some(tokens)) => {
            format!("{steps} steps, {} tokens{}", count(tokens), lasting(plan.seconds))
        }
        (None, Some(tokens)) => format!("{} tokens{}", count(tokens), lasting(plan.seconds)),
        _ => "as long as its data or its time".into(),
    };
    line(out, "the run", &of_run)?;
    let best =
        format!("{} tokens{}", count(plan.chinchilla_tokens), lasting(plan.chinchilla_seconds));
    line(out, "best for its size", &format!("{best} (Hoffmann et al. 2022)"))?;
    if let Some(rate) = plan.tokens_per_second {
        line(out, "measured", &format!("{rate:.0} tokens a second"))?;
    }
    let (one, all) = (size(plan.checkpoint), size(plan.checkpoints));
    line(out, "checkpoints", &format!("{one} each, {all} at a time"))
}

fn write_memory(out: &mut impl Write, plan: &Plan) -> io::Result<()> {
    let TrainingMemory { weights, gradients, moments, average, activations, peak, .. } =
        &plan.memory;
    line(out, "weights", &size(*weights))?;
    line(out, "gradients", &size(*gradients))?;
    line(out, "moments", &size(*moments))?;
    if *average > 0 {
        line(out, "average", &size(*average))?;
    }
    let kept: u64 = activations.iter().map(|part| part.bytes).sum();
    let layers: Vec<u64> = activations
        .iter()
        .filter(|part| part.name.contains(".blocks."))
        .map(|part| part.bytes)
        .collect();
    let layer = size(layers.iter().copied().max().unwrap_or(0));
    let count = layers.len();
    let kept = format!("{} of a micro-batch, {layer} a layer of {count}", size(kept));
    line(out, "activations", &kept)?;
    line(out, "most at a time", &size(peak.total))?;
    if plan.needed != peak.total {
        line(out, "whole process", &size(plan.needed))?;
    }
    let Some(available) = plan.available else { return Ok(()) };
    let fits = if plan.needed <= available { "fits" } else { "DOES NOT FIT" };
    line(
        out,
        "there is",
        &format!("{}: a micro-batch of {} {fits}", size(available), plan.batch_size),
    )?;
    match plan.largest_batch_size {
        Some(0) => line(out, "largest micro-batch", "none: not even a single example fits"),
        Some(largest) => line(out, "largest micro-batch", &largest.to_string()),
        None => Ok(()),
    }
}

fn line(out: &mut impl Write, label: &str, text: &str) -> io::Result<()> {
    writeln!(out, "{label:<LABEL$} {text}")
}

fn lasting(seconds: Option<f64>) -> String {
    match seconds.filter(|seconds| *seconds < 1e15) {
        Some(seconds) => {
            let time = Duration::from_secs(seconds.round() as u64);
            format!(", {}", humantime::format_duration(time))
        }
        None => String::new(),
    }
}
