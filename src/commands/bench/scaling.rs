//! How a step's time and memory grow with the batch, the layers and the context.

use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{rounded, shapes};
use crate::backend::{self, Target};
use crate::cli::BenchScalingArgs;
use crate::config::RunConfig;

/// What is doubled.
struct Series {
    name: &'static str,
    first: usize,
    set: fn(&mut RunConfig, usize),
}

/// Training steps of one size.
struct Point {
    series: &'static str,
    value: usize,
    step_ms: f64,
    /// None where it is not known how many operations a model takes.
    flops: Option<f64>,
    /// None where the system does not say.
    peak_mib: Option<f64>,
}

pub(super) fn run(args: BenchScalingArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.target.backend.as_deref())?;
    let (mut config, _) = shapes::config_of(&args.shape, &[], PathBuf::new())?;
    // Each step has the batch that it is said to have.
    config.train.accumulation = 1;
    config.train.batch_warmup = None;
    let series = [
        Series { name: "batch_size", first: 1, set: |config, to| config.train.batch_size = to },
        Series { name: "n_layers", first: 1, set: set_layers },
        Series {
            name: "context_length",
            first: config.model.context_length,
            set: |config, to| config.model.context_length = to,
        },
    ];
    let folder = tempfile::tempdir().context("a temporary folder cannot be made")?;
    let mut out = std::io::stdout();
    let mut rows = Vec::new();
    if !args.json {
        let names = ["series", "value", "step_ms", "ratio", "flops_ratio", "peak_mib"];
        writeln!(out, "{}", line(names.map(String::from)))?;
    }
    for Series { name, first, set } in series {
        let mut before: Option<Point> = None;
        for doubling in 0..=args.doublings {
            let value = first << doubling;
            let mut config = config.clone();
            set(&mut config, value);
            let target = backend.on(args.target.device);
            let point = measure(name, value, &config, target, args.steps, folder.path())
                .with_context(|| format!("{name} {value}"))?;
            let row = point.row(before.as_ref());
            if !args.json {
                let number = |key: &str, places: usize| {
                    row[key].as_f64().map_or(String::new(), |number| format!("{number:.places$}"))
                };
                writeln!(
                    out,
                    "{}",
                    line([
                        name.into(),
                        value.to_string(),
                        number("step_ms", 2),
                        number("ratio", 2),
                        number("flops_ratio", 2),
                        number("peak_mib", 0),
                    ])
                )?;
            }
            rows.push(row);
            before = Some(point);
        }
    }
    if args.json {
        let result = json!({
            "bench": "scaling",
            "shape": args.shape,
            "backend": backend.name(),
            "steps": args.steps,
            "rows": rows,
        });
        writeln!(out, "{result}")?;
    }
    Ok(())
}

fn set_layers(config: &mut RunConfig, layers: usize) {
    config.model.n_layers = layers;
    config.model.n_encoder_layers = config.model.n_encoder_layers.map(|_| layers);
}

/// Steps in a process of their own, since the most memory that a process has had only grows.
fn measure(
    series: &'static str,
    value: usize,
    config: &RunConfig,
    target: Target,
    steps: u32,
    folder: &Path,
) -> anyhow::Result<Point> {
    config.validate()?;
    let file = folder.join(format!("{series}-{value}.json"));
    std::fs::write(&file, serde_json::to_string(config)?)
        .with_context(|| format!("{} cannot be written", file.display()))?;
    let program = std::env::current_exe().context("this program's own file cannot be found")?;
    let output = Command::new(program)
        .args(["bench", "train", "--json", "--backend", target.kind.name()])
        .args(target.device.map(|index| format!("--device={index}")))
        .args(["--steps", &steps.to_string()])
        .arg("--shape")
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .context("its steps cannot be run in a process of their own")?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        let message = message.trim().trim_start_matches("error: ");
        match message.is_empty() {
            true => bail!("its process ended early, {}: is there enough memory?", output.status),
            false => bail!("{message}"),
        }
    }
    let result: Value = serde_json::from_slice(&output.stdout)
        .context("the process of its steps did not print its result")?;
    let step_ms = result["step_ms"].as_f64();
    Ok(Point {
        series,
        value,
        step_ms: step_ms.context("the process of its steps did not print their time")?,
        flops: result["flops_per_step"].as_f64(),
        peak_mib: result["peak_mib"].as_f64(),
    })
}

impl Point {
    /// With ratios to the point before it.
    fn row(&self, before: Option<&Self>) -> Value {
        let flops_before = before.and_then(|before| before.flops);
        json!({
            "series": self.series,
            "value": self.value,
            "step_ms": rounded(self.step_ms),
            "ratio": before.map(|before| rounded(self.step_ms / before.step_ms)),
            "flops_ratio": self.flops.zip(flops_before).map(|(now, before)| rounded(now / before)),
            "peak_mib": self.peak_mib.map(rounded),
        })
    }
}

fn line([series, numbers @ ..]: [String; 6]) -> String {
    let numbers: String = numbers.iter().map(|number| format!("{number:>12}")).collect();
    format!("{series:<14}{numbers}")
}
