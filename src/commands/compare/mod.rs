mod models;
mod show;

use anyhow::{Context, bail};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use super::generate::{penalties, sampling};
use super::progress::note;
use crate::artifact::Run;
use crate::backend::{self, BackendKind};
use crate::cli::{CompareArgs, CurveAxis};
use crate::config::{DataConfig, RunConfig};
use crate::files::{self, write_error};
use crate::model;
use crate::report::{Axis, Compared, Comparison, Curves, Picture, Written, differences};
use crate::train::flops_per_token;
use models::Model;

pub(super) fn run(args: CompareArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.common.target.backend.as_deref())?;
    sampling(&args.sampling).validate()?;
    penalties(&args.sampling).validate()?;
    let runs = args.runs.iter().map(|name| Run::open(&args.common.artifacts, name));
    let runs = runs.collect::<Result<Vec<_>, _>>()?;
    let known = runs.iter().map(known).collect::<anyhow::Result<Vec<_>>>()?;
    // Before anything is computed.
    for path in [&args.html, &args.svg, &args.png].into_iter().flatten() {
        check_place(path)?;
    }
    let curves = runs.iter().zip(&known).map(|(run, known)| (run.name(), &known.curves));
    let picture = match args.svg.is_some() || args.png.is_some() {
        true => Some(Picture::new(curves, axis(args.over))?),
        false => None,
    };
    let comparison = comparison(&args, backend, &runs, known)?;
    // Both are tried: a disk may be full, and a reader may have had enough.
    let told = tell(&args, &comparison);
    write_files(&args, &comparison, picture)?;
    told
}

fn tell(args: &CompareArgs, comparison: &Comparison) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(comparison)?)?,
        false => show::write(&mut out, comparison)?,
    }
    Ok(())
}

fn comparison(
    args: &CompareArgs,
    backend: BackendKind,
    runs: &[Run],
    mut compared: Vec<Compared>,
) -> anyhow::Result<Comparison> {
    let configurations = runs.iter().map(|run| serde_json::to_value(run.config()));
    let configurations = configurations.collect::<Result<Vec<_>, _>>()?;
    let all_alike =
        |alike: fn(&Run, &Run) -> bool| runs.windows(2).all(|pair| alike(&pair[0], &pair[1]));
    let same_validation = all_alike(|one, next| validate_alike(one.config(), next.config()));
    let mut texts = Vec::new();
    let mut whole = true;
    if !args.quick {
        let prompts = match (&args.prompt[..], runs) {
            ([], [first, ..]) => vec![first.config().sample.prompt.clone()],
            (prompts, _) => prompts.to_vec(),
        };
        let seeds = |sample| args.sampling.seed.wrapping_add(sample);
        for prompt in prompts {
            texts.extend((0..args.samples).map(|sample| Written {
                prompt: prompt.clone(),
                seed: seeds(sample),
                texts: Vec::new(),
            }));
        }
        let asked: Vec<(&str, u64)> =
            texts.iter().map(|text| (text.prompt.as_str(), text.seed)).collect();
        let of_run = |run: &Run| format!("the run {}", run.name());
        // What one of them cannot read is to be known before another is measured for hours.
        let models = runs
            .iter()
            .map(|run| Model::new(args, run, &asked).with_context(|| of_run(run)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        for ((run, model), compared) in runs.iter().zip(models).zip(&mut compared) {
            let found = backend::dispatch(backend.on(args.common.target.device), model)?
                .with_context(|| of_run(run))?;
            whole &= found.whole;
            compared.step = Some(found.step);
            compared.measured = Some(found.measured);
            for (text, written) in texts.iter_mut().zip(found.texts) {
                text.texts.push(written);
            }
        }
        texts.retain(|text| text.texts.iter().any(Option::is_some));
    }
    Ok(Comparison {
        version: env!("CARGO_PKG_VERSION").into(),
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        axis: axis(args.over),
        same_task: all_alike(|one, next| {
            one.config().model.architecture == next.config().model.architecture
        }),
        same_tokenizer: all_alike(|one, next| one.saved_tokenizer() == next.saved_tokenizer()),
        same_validation,
        same_text: same_validation || args.text.is_some(),
        whole,
        runs: compared,
        differences: differences(&configurations),
        texts,
    })
}

/// Whether two runs have one validation text. Stories follow from the seed.
fn validate_alike(one: &RunConfig, other: &RunConfig) -> bool {
    let are_drawn = matches!(one.data, DataConfig::Stories { .. });
    one.data == other.data && (one.seed == other.seed || !are_drawn)
}

fn axis(over: CurveAxis) -> Axis {
    match over {
        CurveAxis::Steps => Axis::Steps,
        CurveAxis::Tokens => Axis::Tokens,
        CurveAxis::Flops => Axis::Flops,
        CurveAxis::Time => Axis::Time,
    }
}

/// What is known of a run without its model.
fn known(run: &Run) -> anyhow::Result<Compared> {
    let model = &run.config().model;
    let vocab_size = model.vocab_size.unwrap_or_default();
    let flops_per_token = flops_per_token(run.config(), vocab_size);
    let history = run.history();
    Ok(Compared {
        name: run.name().into(),
        parameters: model::parameter_count(model, vocab_size),
        flops_per_token,
        summary: history.summary_so_far()?,
        step: None,
        measured: None,
        curves: Curves::new(&history.losses()?, flops_per_token),
    })
}

/// That a file can be written there.
fn check_place(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!("{}: there is no folder {}", path.display(), folder.display());
    }
    if path.is_dir() {
        bail!("{} is a folder; name a file", path.display());
    }
    // A pipe or a device is written as it is.
    if path.is_file() || !path.exists() {
        tempfile::tempfile_in(folder.unwrap_or(Path::new("."))).map_err(write_error(path))?;
    }
    Ok(())
}

fn write_files(
    args: &CompareArgs,
    comparison: &Comparison,
    picture: Option<Picture>,
) -> anyhow::Result<()> {
    let mut files: Vec<(&Path, Vec<u8>)> = Vec::new();
    if let Some(path) = &args.html {
        files.push((path, comparison.page()?.into_bytes()));
    }
    if let (Some(picture), Some(path)) = (&picture, &args.svg) {
        files.push((path, picture.svg()?.into_bytes()));
    }
    if let (Some(picture), Some(path)) = (&picture, &args.png) {
        files.push((path, picture.png()?));
    }
    for (path, bytes) in files {
        files::write_whole(path, |file| file.write_all(&bytes))?;
        let length = fs::metadata(path).map(|found| found.len()).unwrap_or_default();
        let size = super::figures::size(length);
        note(format_args!("written: {} ({size})", path.display()));
    }
    Ok(())
}
