//! What NVIDIA's driver for Linux says of itself and of its devices.

use std::fs;
use std::path::Path;

use super::System;

/// Where the driver describes its devices.
pub const NVIDIA_DEVICES: &str = "/proc/driver/nvidia/gpus";
/// Where it says which one it is.
const VERSION: &str = "/proc/driver/nvidia/version";
/// Where the system lists what is plugged in.
const PLUGGED_IN: &str = "/sys/bus/pci/devices";
/// NVIDIA's number as a maker of what is plugged in, and the beginning of those of displays.
const VENDOR: &str = "0x10de";
const DISPLAY: &str = "0x03";

/// The newest CUDA that branches of the driver take, from the release notes of CUDA's toolkits.
const NEWEST_CUDA: [(u32, (u32, u32)); 16] = [
    (450, (11, 0)),
    (470, (11, 4)),
    (510, (11, 6)),
    (515, (11, 7)),
    (520, (11, 8)),
    (525, (12, 0)),
    (535, (12, 2)),
    (545, (12, 3)),
    (550, (12, 4)),
    (555, (12, 5)),
    (560, (12, 6)),
    (565, (12, 7)),
    (570, (12, 8)),
    (575, (12, 9)),
    (580, (13, 0)),
    (590, (13, 1)),
];

/// The model of the NVIDIA devices that such a folder describes. None where there are several
/// models, since their order there need not be CUDA's.
pub fn nvidia_model(folder: &Path) -> Option<String> {
    let models = models(folder)?;
    let (first, others) = models.split_first()?;
    others.iter().all(|other| other == first).then(|| first.clone())
}

/// The models of the devices; none where one of them has no name.
fn models(folder: &Path) -> Option<Vec<String>> {
    let model = |device: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(device.ok()?.path().join("information")).ok()?;
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
        Some(model.trim().to_string())
    };
    fs::read_dir(folder).ok()?.map(model).collect()
}

/// The devices that the driver has, or that are plugged in, in words.
pub(super) fn devices(system: &System) -> Option<String> {
    let mut models = models(&system.path(NVIDIA_DEVICES)).unwrap_or_default();
    models.sort();
    if !models.is_empty() {
        return Some(models.join(", "));
    }
    let entries = fs::read_dir(system.path(PLUGGED_IN)).ok()?;
    let is_nvidia = |folder: &Path| {
        let says = |file: &str, begin: &str| {
            fs::read_to_string(folder.join(file)).is_ok_and(|text| text.starts_with(begin))
        };
        says("vendor", VENDOR) && says("class", DISPLAY)
    };
    match entries.flatten().filter(|entry| is_nvidia(&entry.path())).count() {
        0 => None,
        1 => Some("one is plugged in".into()),
        count => Some(format!("{count} are plugged in")),
    }
}

/// The version of the driver that the kernel has loaded, as `550.54.15`.
pub(super) fn driver_version(system: &System) -> Option<String> {
    let text = system.read(VERSION)?;
    let line = text.lines().find_map(|line| line.strip_prefix("NVRM version:"))?;
    let is_version = |word: &&str| {
        let mut parts = word.split('.');
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
        parts.clone().count() > 1 && parts.all(is_number)
    };
    line.split_whitespace().find(is_version).map(String::from)
}

/// The newest CUDA that a driver of this version is known to take.
pub(super) fn newest_cuda(driver: &str) -> Option<(u32, u32)> {
    let branch: u32 = driver.split('.').next()?.parse().ok()?;
    NEWEST_CUDA.iter().rev().find(|(known, _)| *known <= branch).map(|(_, cuda)| *cuda)
}
