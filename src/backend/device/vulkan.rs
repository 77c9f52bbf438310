//! What Vulkan needs, through which the backend `wgpu` computes on Linux.

use std::path::PathBuf;

use super::{Requirement, System};

/// Where drivers are registered, unless the environment says which there are.
const REGISTERED: [&str; 4] = [
    "/etc/vulkan/icd.d",
    "/usr/local/etc/vulkan/icd.d",
    "/usr/local/share/vulkan/icd.d",
    "/usr/share/vulkan/icd.d",
];
/// Each a list of files; the first is the newer name.
const VARIABLES: [&str; 2] = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];

pub(super) fn requirements(system: &System) -> Vec<Requirement> {
    let loader = match system.library("libvulkan.so", &["1"]) {
        Some(path) => Requirement::found("Vulkan loader", system.name(&path)),
        None => Requirement::missing("Vulkan loader", "install it: apt-get install libvulkan1"),
    };
    let drivers: Vec<String> = drivers(system)
        .iter()
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    let drivers = match drivers.is_empty() {
        false => Requirement::found("Vulkan drivers", drivers.join(", ")),
        true => Requirement::missing(
            "Vulkan drivers",
            "install one: apt-get install mesa-vulkan-drivers, which has those of AMD and Intel and one for processors; NVIDIA's comes with its driver",
        ),
    };
    vec![loader, drivers]
}

/// The files that describe drivers.
fn drivers(system: &System) -> Vec<PathBuf> {
    let named = VARIABLES.iter().find(|variable| (system.variables)(variable).is_some());
    let mut found: Vec<PathBuf> = match named {
        Some(variable) => {
            system.folders(variable).into_iter().map(|file| system.path(file)).collect()
        }
        None => REGISTERED
            .iter()
            .filter_map(|folder| std::fs::read_dir(system.path(folder)).ok())
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect(),
    };
    found.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    found.retain(|path| path.exists());
    found.sort();
    found
}
