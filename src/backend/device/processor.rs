//! The processor, which is the one device of the backends that compute on it.

use serde_json::{Map, json};
use std::thread;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::{DeviceInfo, DeviceMemory, Devices};

#[cfg(feature = "flex")]
impl Devices for burn_flex::Flex {
    fn devices() -> Vec<(Self::Device, DeviceInfo)> {
        vec![(Default::default(), describe())]
    }
}

#[cfg(feature = "ndarray")]
impl Devices for burn_ndarray::NdArray {
    fn devices() -> Vec<(Self::Device, DeviceInfo)> {
        vec![(Default::default(), describe())]
    }
}

fn describe() -> DeviceInfo {
    let what = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(what);
    let name = system.cpus().first().map(|cpu| cpu.brand().trim()).unwrap_or_default();
    let name = if name.is_empty() { std::env::consts::ARCH } else { name };
    let mut properties = Map::new();
    if let Ok(threads) = thread::available_parallelism() {
        properties.insert("threads".into(), json!(threads.get()));
    }
    if let Some(cores) = System::physical_core_count() {
        properties.insert("cores".into(), json!(cores));
    }
    properties.insert("vector_extensions".into(), json!(vector_extensions()));
    DeviceInfo { index: 0, name: name.into(), memory: Some(memory(&system)), properties }
}

/// Of the machine, or of the group of processes that this one may not use more than.
fn memory(system: &System) -> DeviceMemory {
    let (total, available) = (system.total_memory(), system.available_memory());
    match system.cgroup_limits() {
        Some(limits) if limits.total_memory < total => DeviceMemory {
            total_bytes: limits.total_memory,
            available_bytes: Some(limits.free_memory.min(available)),
        },
        _ => DeviceMemory { total_bytes: total, available_bytes: Some(available) },
    }
}

/// The widest vectors for which kernels have been compiled.
fn vector_extensions() -> &'static str {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    {
        let widest = ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"];
        let has = |feature: &str| match feature {
            "avx512f" => std::is_x86_feature_detected!("avx512f"),
            "avx512bw" => std::is_x86_feature_detected!("avx512bw"),
            "avx512cd" => std::is_x86_feature_detected!("avx512cd"),
            "avx512dq" => std::is_x86_feature_detected!("avx512dq"),
            _ => std::is_x86_feature_detected!("avx512vl"),
        };
        if widest.into_iter().all(has) {
            return "AVX-512";
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            return "AVX2, FMA";
        }
        "SSE2"
    }
    #[cfg(target_arch = "aarch64")]
    {
        match std::arch::is_aarch64_feature_detected!("sve") {
            true => "SVE",
            false => "NEON",
        }
    }
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    {
        "none that are known"
    }
}
