//! The devices that backends find, and what a system has of the programs that these need.
//!
//! What can be looked up in files is told whether a backend is compiled in or not.

#[cfg(feature = "cuda")]
mod cuda;
mod kept;
mod nvidia;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod processor;
mod toolkit;
mod vulkan;
#[cfg(feature = "wgpu")]
mod wgpu;

pub use kept::{KEPT, kernels_folder};
pub use nvidia::{NVIDIA_DEVICES, nvidia_model};
#[cfg(feature = "cuda")]
pub(super) use toolkit::has_nccl;

use burn::tensor::backend::Backend;
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

use super::BackendKind;

/// A backend's devices.
pub(super) trait Devices: Backend {
    /// In the order of their indices. The first is the one that the backend takes by itself.
    ///
    /// # Panics
    /// Where a driver is missing or broken.
    fn devices() -> Vec<(Self::Device, DeviceInfo)>;

    /// What is to be done once, before any of them is used.
    fn prepare() {}
}

/// What is known of a device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceInfo {
    /// What `--device` calls it.
    pub index: usize,
    /// As its maker calls it.
    pub name: String,
    pub memory: Option<DeviceMemory>,
    /// What else matters, which differs between backends.
    pub properties: Map<String, Value>,
}

/// How much of it there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DeviceMemory {
    pub total_bytes: u64,
    /// Free for new programs now, where that is known.
    pub available_bytes: Option<u64>,
}

/// A program or a file that a backend needs beside this program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Requirement {
    pub name: &'static str,
    /// What was found of it: a version, a path.
    pub found: Option<String>,
    /// What to do, where it is missing or does not fit the others.
    pub advice: Option<String>,
}

impl Requirement {
    fn found(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, found: Some(found.into()), advice: None }
    }

    fn missing(name: &'static str, advice: impl Into<String>) -> Self {
        Self { name, found: None, advice: Some(advice.into()) }
    }
}

/// Where files are looked up.
#[derive(Debug)]
pub struct System {
    /// Stands for `/`.
    pub root: PathBuf,
    /// Environment variables that say where more is; paths in them are under the root too.
    pub variables: fn(&str) -> Option<String>,
}

impl System {
    /// The one that this program runs on.
    pub fn here() -> Self {
        Self { root: "/".into(), variables: |name| std::env::var(name).ok() }
    }

    /// Where an absolute path is.
    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What is called so below the root.
    fn name(&self, path: &Path) -> String {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        Path::new("/").join(below).display().to_string()
    }

    fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        std::fs::read_to_string(self.path(path)).ok()
    }

    /// The folders of a list as in `PATH`.
    fn folders(&self, variable: &str) -> Vec<PathBuf> {
        let list = (self.variables)(variable).unwrap_or_default();
        list.split(':').filter(|folder| !folder.is_empty()).map(PathBuf::from).collect()
    }
}

/// What a backend needs of a system, each with what was found of it; nothing of a backend that
/// needs nothing, and where this program does not know where to look.
pub fn requirements(kind: BackendKind, system: &System) -> Vec<Requirement> {
    if !cfg!(target_os = "linux") {
        return Vec::new();
    }
    match kind {
        BackendKind::Cuda => toolkit::requirements(system),
        BackendKind::Wgpu => vulkan::requirements(system),
        BackendKind::Flex | BackendKind::Ndarray => Vec::new(),
    }
}
