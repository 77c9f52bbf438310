//! The backends: which are compiled in, which one runs, and the operations they share.
//!
//! This is the only module that names a concrete backend or asks for its feature. Everything
//! else is generic, and meets a concrete type only through [`dispatch`].

mod alibi;
mod attempt;
mod autodiff;
mod compositions;
#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cubecl")]
mod cube;
mod device;
mod dropout;
mod group;
mod host;
mod kernels;
mod key_ranges;
// With the code that is not safe, but of use to every backend.
#[path = "cpu/memory.rs"]
mod memory;
mod operands;
mod ops;
mod precision;
mod random;

pub use alibi::alibi_slope;
use attempt::{capture_panics, probe, within};
#[cfg(feature = "cubecl")]
pub use cube::Fused;
use device::Devices;
pub use device::{
    DeviceInfo, DeviceMemory, KEPT, NVIDIA_DEVICES, Requirement, System, kernels_folder,
    nvidia_model, requirements,
};
pub use dropout::Dropout;
pub use group::{LeftAlone, Member};
pub use host::on_host;
pub use kernels::{
    AdamwStep, AdamwUpdate, CPU_LOGITS, GPU_LOGITS, GPU_LOGITS_ALIGNMENT, GPU_QUERIES, GPU_SCORES,
    Kernels, Products, Scaling, Sight, Turn, gpu_logits_rows, gpu_queries,
};
pub use key_ranges::KeyRanges;
pub use memory::{ALWAYS_IDLE, Allocator, kept_size, without_keeping};
pub use operands::{AttentionOptions, LossTerms, Rotation};
pub use ops::{GptBackend, TrainBackend};
pub use precision::{check_int8, check_precision, factor};
pub use random::{draw_seed, seed_draws};

use burn::backend::Autodiff;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

#[cfg(not(any(feature = "cuda", feature = "wgpu", feature = "flex", feature = "ndarray")))]
compile_error!(
    "emberlm needs a backend: build it with one or more of the features cuda, wgpu, flex (the default) and ndarray"
);

/// A backend by name, in the order in which one is chosen by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// NVIDIA GPUs.
    Cuda,
    /// Vulkan, Metal or WebGPU.
    Wgpu,
    /// The fast backend for CPUs.
    Flex,
    /// The plain backend for CPUs, the reference in the tests.
    Ndarray,
}

impl BackendKind {
    /// All that there are, compiled in or not.
    pub const ALL: [Self; 4] = [Self::Cuda, Self::Wgpu, Self::Flex, Self::Ndarray];

    /// The name, which is also that of the Cargo feature.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
            Self::Flex => "flex",
            Self::Ndarray => "ndarray",
        }
    }

    /// Whether it computes by kernels of ours; otherwise all operations are composed of burn's.
    pub fn has_kernels(self) -> bool {
        match self {
            Self::Cuda | Self::Wgpu | Self::Flex => true,
            Self::Ndarray => false,
        }
    }

    fn is_compiled(self) -> bool {
        match self {
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Flex => cfg!(feature = "flex"),
            Self::Ndarray => cfg!(feature = "ndarray"),
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BackendKind {
    type Err = BackendError;

    fn from_str(name: &str) -> Result<Self, BackendError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| BackendError::Unknown { name: name.into(), compiled: list(compiled()) })
    }
}

/// Why no backend can run.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("no backend `{name}`; compiled in: {compiled}")]
    Unknown { name: String, compiled: String },
    #[error(
        "backend `{kind}` is not compiled in (compiled in: {compiled}); rebuild with --features {kind}"
    )]
    NotCompiled { kind: BackendKind, compiled: String },
    #[error(
        "backend `{kind}` finds no usable device: {reason}; choose another with --backend ({compiled})"
    )]
    NoDevice { kind: BackendKind, reason: String, compiled: String },
    #[error("backend `{kind}` has no device {index}; it has {found} (see emberlm doctor)")]
    NoSuchDevice { kind: BackendKind, index: usize, found: String },
    #[error("device {index} of backend `{kind}` is named twice")]
    SameDevice { kind: BackendKind, index: usize },
    #[error(
        "backend `{kind}` computes in f32 only; set train.precision to \"f32\" or choose another with --backend ({others})"
    )]
    F32Only { kind: BackendKind, others: String },
    #[error(
        "backend `{kind}` has no integers of one byte; leave --quantize out or choose another with --backend ({others})"
    )]
    NoInt8 { kind: BackendKind, others: String },
}

/// The backends in this binary, best first.
pub fn compiled() -> impl Iterator<Item = BackendKind> {
    BackendKind::ALL.into_iter().filter(|kind| kind.is_compiled())
}

fn list(kinds: impl Iterator<Item = BackendKind>) -> String {
    kinds.map(BackendKind::name).collect::<Vec<_>>().join(", ")
}

/// The backend of that name, or without one the best that is compiled in.
///
/// # Errors
/// [`BackendError::Unknown`] and [`BackendError::NotCompiled`], each listing what there is.
pub fn choose(name: Option<&str>) -> Result<BackendKind, BackendError> {
    let Some(name) = name else {
        return Ok(compiled().next().expect("a build without any backend does not compile"));
    };
    let kind: BackendKind = name.parse()?;
    if kind.is_compiled() {
        Ok(kind)
    } else {
        Err(BackendError::NotCompiled { kind, compiled: list(compiled()) })
    }
}

/// Work that is generic over the backend.
pub trait Job {
    type Output;

    /// Runs on the backend that was chosen; `B::InnerBackend` is the same one without gradients.
    fn run<B: TrainBackend>(self, device: B::Device) -> Self::Output;
}

/// Work on several devices of a backend.
pub trait JobOfDevices {
    type Output;

    /// There is at least one device, and none twice.
    fn run<B: TrainBackend>(self, devices: Vec<B::Device>) -> Self::Output;
}

/// A backend, and which of its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub kind: BackendKind,
    /// As [`devices`] counts them; none for the one that the backend takes by itself.
    pub device: Option<usize>,
}

impl BackendKind {
    /// One of this backend's devices, or where none is named that which it takes by itself.
    pub fn on(self, device: Option<usize>) -> Target {
        Target { kind: self, device }
    }
}

impl From<BackendKind> for Target {
    fn from(kind: BackendKind) -> Self {
        kind.on(None)
    }
}

/// Runs a job on a backend's device.
///
/// # Errors
/// [`BackendError::NoSuchDevice`], and [`BackendError::NoDevice`] where a small computation on
/// that device fails.
pub fn dispatch<J: Job>(target: impl Into<Target>, job: J) -> Result<J::Output, BackendError> {
    let target = target.into();
    visit(target.kind, Dispatch { targets: vec![target], job: OfFirst(job) })?
}

/// Runs a job on several devices of a backend, as [`devices`] counts them. Where none is named, it is
/// the one that the backend takes by itself.
///
/// # Errors
/// What [`dispatch`] says of each of them, and [`BackendError::SameDevice`].
pub fn dispatch_on<J: JobOfDevices>(
    kind: BackendKind,
    devices: &[usize],
    job: J,
) -> Result<J::Output, BackendError> {
    let targets = match devices {
        [] => vec![kind.into()],
        _ => devices.iter().map(|device| kind.on(Some(*device))).collect(),
    };
    visit(kind, Dispatch { targets, job })?
}

/// Runs a job on a device that may fail in any way, on a thread of its own.
///
/// # Errors
/// What [`dispatch`] says, and [`BackendError::NoDevice`] with the first words of a panic on
/// whatever thread, or where the job takes longer than `limit`: then its thread is left behind.
pub fn attempt<J: Job<Output: Send> + Send + 'static>(
    target: impl Into<Target>,
    limit: Duration,
    job: J,
) -> Result<J::Output, BackendError> {
    let target = target.into();
    visit(target.kind, Attempt { target, limit, job })?
}

/// The devices that a backend finds, in the order of their indices.
///
/// # Errors
/// [`BackendError::NotCompiled`], and [`BackendError::NoDevice`] where its driver is missing.
pub fn devices(kind: BackendKind) -> Result<Vec<DeviceInfo>, BackendError> {
    visit(kind, List { kind })?
}

#[cfg(all(feature = "cuda", not(feature = "unfused")))]
type Cuda = burn_cuda::Cuda;
#[cfg(all(feature = "cuda", feature = "unfused"))]
type Cuda = <burn_cuda::Cuda as Fused>::Inner;
#[cfg(all(feature = "wgpu", not(feature = "unfused")))]
type Wgpu = burn_wgpu::Wgpu;
#[cfg(all(feature = "wgpu", feature = "unfused"))]
type Wgpu = <burn_wgpu::Wgpu as Fused>::Inner;

/// What is done with a concrete backend.
trait Visitor {
    type Output;

    fn visit<B: GptBackend + Devices>(self) -> Self::Output;
}

fn visit<V: Visitor>(kind: BackendKind, visitor: V) -> Result<V::Output, BackendError> {
    match kind {
        #[cfg(feature = "cuda")]
        BackendKind::Cuda => Ok(visitor.visit::<Cuda>()),
        #[cfg(feature = "wgpu")]
        BackendKind::Wgpu => Ok(visitor.visit::<Wgpu>()),
        #[cfg(feature = "flex")]
        BackendKind::Flex => Ok(visitor.visit::<burn_flex::Flex>()),
        #[cfg(feature = "ndarray")]
        BackendKind::Ndarray => Ok(visitor.visit::<burn_ndarray::NdArray>()),
        #[allow(unreachable_patterns)] // reached by the kinds that are not compiled in
        kind => Err(BackendError::NotCompiled { kind, compiled: list(compiled()) }),
    }
}

/// A job of one device.
struct OfFirst<J>(J);

impl<J: Job> JobOfDevices for OfFirst<J> {
    type Output = J::Output;

    fn run<B: TrainBackend>(self, mut devices: Vec<B::Device>) -> J::Output {
        self.0.run::<B>(devices.swap_remove(0))
    }
}

struct Dispatch<J> {
    targets: Vec<Target>,
    job: J,
}

impl<J: JobOfDevices> Visitor for Dispatch<J> {
    type Output = Result<J::Output, BackendError>;

    fn visit<B: GptBackend + Devices>(self) -> Self::Output {
        let Self { targets, job } = self;
        let mut devices = Vec::with_capacity(targets.len());
        for target @ Target { kind, device } in targets {
            let unusable = |reason| unusable(kind, reason);
            let found = capture_panics(|| select::<B>(target)).value().map_err(unusable)??;
            if let Some(index) = device
                && devices.contains(&found)
            {
                return Err(BackendError::SameDevice { kind, index });
            }
            capture_panics(|| probe::<B>(&found)).correct().map_err(unusable)?;
            devices.push(found);
        }
        Ok(job.run::<Autodiff<B>>(devices))
    }
}

struct Attempt<J> {
    target: Target,
    limit: Duration,
    job: J,
}

impl<J: Job<Output: Send> + Send + 'static> Visitor for Attempt<J> {
    type Output = Result<J::Output, BackendError>;

    fn visit<B: GptBackend + Devices>(self) -> Self::Output {
        let Self { target, limit, job } = self;
        let run = move || select::<B>(target).map(|device| job.run::<Autodiff<B>>(device));
        let outcome = capture_panics(|| within(limit, run));
        outcome.undisturbed().map_err(|reason| unusable(target.kind, reason))?
    }
}

struct List {
    kind: BackendKind,
}

impl Visitor for List {
    type Output = Result<Vec<DeviceInfo>, BackendError>;

    fn visit<B: GptBackend + Devices>(self) -> Self::Output {
        let found = capture_panics(B::devices).value();
        let found = found.map_err(|reason| unusable(self.kind, reason))?;
        Ok(found.into_iter().map(|(_, info)| info).collect())
    }
}

fn unusable(kind: BackendKind, reason: String) -> BackendError {
    let compiled = list(compiled().filter(|other| *other != kind));
    BackendError::NoDevice { kind, reason, compiled }
}

/// The device of a target.
fn select<B: Devices>(Target { kind, device }: Target) -> Result<B::Device, BackendError> {
    B::prepare();
    let Some(index) = device else { return Ok(B::Device::default()) };
    let mut found = B::devices();
    if index < found.len() {
        return Ok(found.swap_remove(index).0);
    }
    let names = found.iter().map(|(_, info)| format!("{} ({})", info.index, info.name));
    let found = match found.len() {
        0 => "none".into(),
        _ => names.collect::<Vec<_>>().join(", "),
    };
    Err(BackendError::NoSuchDevice { kind, index, found })
}

#[cfg(feature = "ndarray")]
impl GptBackend for burn_ndarray::NdArray {
    /// Sums over rows are added up in an order that depends on how many there are.
    fn equal_rows() -> Option<usize> {
        Some(1)
    }
}
