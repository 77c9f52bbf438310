use burn_wgpu::WgpuDevice;
use burn_wgpu::graphics::{AutoGraphicsApi, GraphicsApi};
use serde_json::{Map, json};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use wgpu::{
    Adapter, Backends, DeviceType, Features, Instance, InstanceDescriptor, PowerPreference,
    RequestAdapterOptions,
};

use super::{DeviceInfo, Devices};
use crate::backend::Wgpu;

/// Names the device that CubeCL takes by itself.
const DEFAULT_DEVICE: &str = "CUBECL_WGPU_DEFAULT_DEVICE";

impl Devices for Wgpu {
    fn devices() -> Vec<(WgpuDevice, DeviceInfo)> {
        let backends = Backends::from(AutoGraphicsApi::backend());
        let descriptor = InstanceDescriptor::new_without_display_handle();
        let instance = Instance::new(InstanceDescriptor { backends, ..descriptor });
        let adapters = wait(instance.enumerate_adapters(backends));
        let first = default_adapter(&instance, &adapters);
        let mut found = named(&adapters);
        // Where it is chosen without a name, CubeCL finds it as a device of its own.
        if let Some(first) = first {
            let (_, info) = found.remove(first);
            found.insert(0, (WgpuDevice::DefaultDevice, info));
        }
        for (index, (_, info)) in found.iter_mut().enumerate() {
            info.index = index;
        }
        found
    }
}

/// The adapters by the names that CubeCL has for them. Of processors it knows the first alone.
fn named(adapters: &[Adapter]) -> Vec<(WgpuDevice, DeviceInfo)> {
    let of_type = |wanted| adapters.iter().filter(move |it| it.get_info().device_type == wanted);
    let named = adapters.iter().map(|adapter| {
        let device_type = adapter.get_info().device_type;
        let number = of_type(device_type).position(|other| other == adapter).unwrap_or(0);
        let device = match device_type {
            DeviceType::IntegratedGpu => WgpuDevice::IntegratedGpu(number),
            DeviceType::VirtualGpu => WgpuDevice::VirtualGpu(number),
            DeviceType::Cpu => WgpuDevice::Cpu,
            // Those of no known type are what CubeCL has where it has no more of another.
            DeviceType::DiscreteGpu | DeviceType::Other => WgpuDevice::DiscreteGpu(number),
        };
        (device, describe(adapter))
    });
    named.collect()
}

/// The place of the adapter that CubeCL takes by itself.
fn default_adapter(instance: &Instance, adapters: &[Adapter]) -> Option<usize> {
    if let Ok(name) = std::env::var(DEFAULT_DEVICE) {
        let place = named(adapters).iter().position(|(device, _)| format!("{device:?}") == name);
        if place.is_some() {
            return place;
        }
    }
    let options = RequestAdapterOptions {
        power_preference: PowerPreference::HighPerformance,
        ..Default::default()
    };
    let chosen = wait(instance.request_adapter(&options)).ok()?.get_info();
    let is_chosen = |adapter: &Adapter| {
        let info = adapter.get_info();
        (info.name, info.device_pci_bus_id, info.driver, info.device_type)
            == (
                chosen.name.clone(),
                chosen.device_pci_bus_id.clone(),
                chosen.driver.clone(),
                chosen.device_type,
            )
    };
    adapters.iter().position(is_chosen)
}

fn describe(adapter: &Adapter) -> DeviceInfo {
    let (info, features, limits) = (adapter.get_info(), adapter.features(), adapter.limits());
    let largest = limits.max_buffer_size.min(limits.max_storage_buffer_binding_size);
    let mut properties = Map::new();
    properties.insert("graphics_api".into(), json!(info.backend.to_string()));
    properties
        .insert("driver".into(), json!(format!("{} {}", info.driver, info.driver_info).trim()));
    properties.insert("is_software".into(), json!(info.device_type == DeviceType::Cpu));
    properties.insert("largest_buffer_bytes".into(), json!(largest));
    properties.insert("f16".into(), json!(features.contains(Features::SHADER_F16)));
    properties.insert("subgroups".into(), json!(features.contains(Features::SUBGROUP)));
    DeviceInfo { index: 0, name: info.name, memory: None, properties }
}

/// What a future comes to that is ready at once, as those of wgpu are outside browsers.
fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::yield_now(),
        }
    }
}
