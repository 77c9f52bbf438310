use serde_json::Value;
use std::io::{self, Write};

use super::report::{BackendReport, CheckReport, DeviceReport, Report};
use crate::backend::DeviceMemory;
use crate::backend::Requirement;
use crate::commands::figures::size;

/// Columns of what stands before a description.
const LABEL: usize = 22;

pub(super) fn write(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(out, "emberlm {}, {}", report.version, report.system)?;
    for backend in &report.backends {
        writeln!(out)?;
        write_backend(out, backend, report)?;
    }
    writeln!(out)?;
    if report.problem.is_none() {
        let Report { backend, device, .. } = report;
        writeln!(out, "a run computes on device {device} of {backend}, which works")?;
    }
    Ok(())
}

fn write_backend(out: &mut impl Write, backend: &BackendReport, report: &Report) -> io::Result<()> {
    let name = backend.name;
    match (&backend.advice, &backend.problem) {
        (Some(advice), _) => writeln!(out, "{name}: not in this program; {advice}")?,
        (None, Some(problem)) => writeln!(out, "{name}: no device, {problem}")?,
        (None, None) if backend.devices.is_empty() => writeln!(out, "{name}: no device")?,
        (None, None) => writeln!(out, "{name}")?,
    }
    // What a backend would need is noise to somebody who has nothing of it.
    if backend.is_compiled || backend.requirements.iter().any(|it| it.found.is_some()) {
        for requirement in &backend.requirements {
            write_requirement(out, requirement)?;
        }
    }
    for device in &backend.devices {
        let chosen = name == report.backend && device.info.index == report.device;
        write_device(out, device, chosen)?;
    }
    Ok(())
}

fn write_requirement(out: &mut impl Write, requirement: &Requirement) -> io::Result<()> {
    let Requirement { name, found, advice } = requirement;
    line(out, 2, name, found.as_deref().unwrap_or("missing"))?;
    match advice {
        Some(advice) => line(out, 2, "", advice),
        None => Ok(()),
    }
}

fn write_device(out: &mut impl Write, device: &DeviceReport, chosen: bool) -> io::Result<()> {
    let DeviceReport { info, check } = device;
    let mark = if chosen { ", on which a run computes" } else { "" };
    line(out, 2, &format!("device {}", info.index), &format!("{}{mark}", info.name))?;
    if let Some(DeviceMemory { total_bytes, available_bytes }) = info.memory {
        let free = available_bytes.map_or(String::new(), |free| format!(", {} free", size(free)));
        line(out, 4, "memory", &format!("{}{free}", size(total_bytes)))?;
    }
    for (name, value) in &info.properties {
        let value = match (value, name.strip_suffix("_bytes")) {
            (Value::Number(bytes), Some(_)) => size(bytes.as_u64().unwrap_or_default()),
            (Value::Bool(true), _) => "yes".into(),
            (Value::Bool(false), _) => "no".into(),
            (Value::String(text), _) => text.clone(),
            (value, _) => value.to_string(),
        };
        let name = name.trim_end_matches("_bytes").trim_start_matches("is_").replace('_', " ");
        line(out, 4, &name, &value)?;
    }
    line(out, 4, "check", &describe(check))
}

fn describe(check: &CheckReport) -> String {
    let CheckReport { problem, seconds, error, tolerance, .. } = check;
    match (problem, error) {
        (Some(problem), _) => format!("FAILED: {problem}"),
        (None, error) => format!(
            "passed in {seconds:.1} s: steps of two models as PyTorch computes them, {:.0e} off ({tolerance:.0e} allowed)",
            error.unwrap_or_default()
        ),
    }
}

fn line(out: &mut impl Write, indent: usize, label: &str, text: &str) -> io::Result<()> {
    let width = LABEL.saturating_sub(indent).max(label.len() + 1);
    writeln!(out, "{:indent$}{label:<width$} {text}", "")
}
