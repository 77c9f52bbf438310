use burn_cuda::CudaDevice;
use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use cudarc::driver::{self, CudaContext};
use cudarc::nvrtc;
use serde_json::json;
use std::env;
use std::sync::{Arc, Once};

use super::{DeviceInfo, DeviceMemory, Devices, kernels_folder};
use crate::backend::Cuda;

impl Devices for Cuda {
    fn devices() -> Vec<(CudaDevice, DeviceInfo)> {
        let count = CudaContext::device_count().unwrap_or_else(|error| panic!("{error}"));
        (0..count as usize).map(|index| (CudaDevice::new(index), describe(index))).collect()
    }

    fn prepare() {
        static ONCE: Once = Once::new();
        ONCE.call_once(keep_kernels);
    }
}

/// Has CubeCL keep what NVRTC makes of kernels and which kernels were the quickest, unless a file of its
/// own says where. For the 56 kernels of a training step NVRTC takes 13 s (on one core of a Zen 3).
fn keep_kernels() {
    let Some(setup) = setup() else { return };
    let Some(root) = dirs::cache_dir() else { return };
    let root = root.join(env!("CARGO_PKG_NAME")).join(setup);
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    // Its default, for which another device of the same number is the same device.
    if matches!(config.autotune.cache, CacheConfig::Target) {
        config.autotune.cache = CacheConfig::File(root.clone());
    }
    // What cannot be kept is made anew.
    if config.compilation.cache.is_none()
        && let Ok(program) = env::current_exe()
        && let Ok(folder) = kernels_folder(&root, &program)
    {
        config.compilation.cache = Some(CacheConfig::File(folder));
    }
    CubeClRuntimeConfig::storage().lock().get_or_insert_with(|| Arc::new(config));
}

/// What compiled kernels depend on beside the program, as the name of a folder; none where that cannot
/// be found out, or where there are devices of several models, whose kernels CubeCL would mix up.
fn setup() -> Option<String> {
    // SAFETY: it is only looked for.
    if !unsafe { driver::sys::is_culib_present() && nvrtc::sys::is_culib_present() } {
        return None;
    }
    let count = CudaContext::device_count().ok()?;
    let names = (0..count)
        .map(|index| driver::result::device::get_name(driver::result::device::get(index)?));
    let mut names = names.collect::<Result<Vec<_>, _>>().ok()?;
    names.dedup();
    let [name] = &names[..] else { return None };
    let (mut of_driver, mut major, mut minor) = (0, 0, 0);
    // SAFETY: they write into these numbers.
    unsafe {
        driver::sys::cuDriverGetVersion(&mut of_driver).result().ok()?;
        nvrtc::sys::nvrtcVersion(&mut major, &mut minor).result().ok()?;
    }
    let name = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    // CUDA 13.1 is 13010.
    let (of_driver, of_minor) = (of_driver / 1000, of_driver % 1000 / 10);
    Some(format!("{name}-driver-{of_driver}.{of_minor}-nvrtc-{major}.{minor}"))
}

/// A device that does not even say what it is has no name; whoever uses it learns why.
fn describe(index: usize) -> DeviceInfo {
    let mut info = DeviceInfo {
        index,
        name: "a device that does not answer".into(),
        memory: None,
        properties: Default::default(),
    };
    let Ok(context) = CudaContext::new(index) else { return info };
    if let Ok(name) = context.name() {
        info.name = name;
    }
    if let Ok((available, total)) = context.mem_get_info() {
        info.memory = Some(DeviceMemory {
            total_bytes: total as u64,
            available_bytes: Some(available as u64),
        });
    }
    if let Ok((major, minor)) = context.compute_capability() {
        info.properties.insert("compute_capability".into(), json!(format!("{major}.{minor}")));
    }
    info
}
