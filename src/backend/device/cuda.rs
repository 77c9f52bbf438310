use burn_cuda::CudaDevice;
use cudarc::driver::CudaContext;
use serde_json::json;

use super::{DeviceInfo, DeviceMemory, Devices};
use crate::backend::Cuda;

impl Devices for Cuda {
    fn devices() -> Vec<(CudaDevice, DeviceInfo)> {
        let count = CudaContext::device_count().unwrap_or_else(|error| panic!("{error}"));
        (0..count as usize).map(|index| (CudaDevice::new(index), describe(index))).collect()
    }
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
