use std::fs;
use std::path::Path;

/// Where NVIDIA's driver for Linux describes its devices.
pub const NVIDIA_DEVICES: &str = "/proc/driver/nvidia/gpus";

/// The model of the NVIDIA devices that such a folder describes. None where there are several
/// models, since their order there need not be CUDA's.
pub fn nvidia_model(folder: &Path) -> Option<String> {
    let mut models = fs::read_dir(folder).ok()?.map(|device| {
        let text = fs::read_to_string(device.ok()?.path().join("information")).ok()?;
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
        Some(model.trim().to_string())
    });
    let first = models.next()??;
    models.all(|other| other.as_ref() == Some(&first)).then_some(first)
}
