//! The backends: which are compiled in, which one runs, and the operations they share.
//!
//! This is the only module that names a concrete backend or asks for its feature. Everything
//! else is generic, and meets a concrete type only through [`dispatch`].

mod autodiff;
mod compositions;
#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cubecl")]
mod cube;
mod device;
mod kernels;
// With the code that is not safe, but of use to every backend.
#[path = "cpu/memory.rs"]
mod memory;
mod operands;
mod ops;
mod precision;
mod random;

#[cfg(feature = "cubecl")]
pub use cube::Fused;
pub use device::{NVIDIA_DEVICES, nvidia_model};
pub use kernels::{AdamwStep, AdamwUpdate, Kernels, Products, Scaling, Sight, Turn};
pub use memory::{Allocator, without_keeping};
pub use operands::{AttentionOptions, Documents, LossTerms, Rotation};
pub use ops::{GptBackend, TrainBackend};
pub use precision::{check_int8, check_precision, factor};
pub use random::draw_seed;

use burn::backend::Autodiff;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

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

/// Runs a job on a backend's default device.
///
/// # Errors
/// [`BackendError::NoDevice`] where a small computation on that device fails.
pub fn dispatch<J: Job>(kind: BackendKind, job: J) -> Result<J::Output, BackendError> {
    match kind {
        #[cfg(feature = "cuda")]
        BackendKind::Cuda => dispatch_to::<Cuda, J>(kind, job),
        #[cfg(feature = "wgpu")]
        BackendKind::Wgpu => dispatch_to::<Wgpu, J>(kind, job),
        #[cfg(feature = "flex")]
        BackendKind::Flex => dispatch_to::<burn_flex::Flex, J>(kind, job),
        #[cfg(feature = "ndarray")]
        BackendKind::Ndarray => dispatch_to::<burn_ndarray::NdArray, J>(kind, job),
        #[allow(unreachable_patterns)] // reached by the kinds that are not compiled in
        kind => Err(BackendError::NotCompiled { kind, compiled: list(compiled()) }),
    }
}

#[cfg(all(feature = "cuda", not(feature = "unfused")))]
type Cuda = burn_cuda::Cuda;
#[cfg(all(feature = "cuda", feature = "unfused"))]
type Cuda = <burn_cuda::Cuda as Fused>::Inner;
#[cfg(all(feature = "wgpu", not(feature = "unfused")))]
type Wgpu = burn_wgpu::Wgpu;
#[cfg(all(feature = "wgpu", feature = "unfused"))]
type Wgpu = <burn_wgpu::Wgpu as Fused>::Inner;

fn dispatch_to<B: GptBackend, J: Job>(
    kind: BackendKind,
    job: J,
) -> Result<J::Output, BackendError> {
    let device = B::Device::default();
    probe::<B>(&device).map_err(|reason| BackendError::NoDevice {
        kind,
        reason,
        compiled: list(compiled().filter(|other| *other != kind)),
    })?;
    Ok(job.run::<Autodiff<B>>(device))
}

/// Adds two numbers on the device. Drivers that are missing announce themselves by a panic, on
/// whatever thread first touches them, so the first message of any thread is the reason.
fn probe<B: Backend>(device: &B::Device) -> Result<(), String> {
    let reason: Arc<Mutex<Option<String>>> = Arc::default();
    let first = reason.clone();
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or("the driver failed without a message");
        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| one_line(message));
    }));
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        let one = Tensor::<B, 1>::ones([1], device);
        (one.clone() + one).into_data().iter::<f32>().next()
    }));
    panic::set_hook(hook);
    let reason = reason.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (outcome, reason) {
        (Ok(Some(2.0)), _) => Ok(()),
        (_, Some(reason)) => Err(reason),
        (outcome, None) => Err(format!("it computes 1 + 1 = {outcome:?}")),
    }
}

/// The first sentence of a driver's message, which may go on for a page.
fn one_line(message: &str) -> String {
    let line = message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let end = [". ", " - ", ": ["].iter().filter_map(|stop| line.find(stop)).min();
    line[..end.unwrap_or(line.len())].trim_end_matches(['.', ':']).into()
}

#[cfg(feature = "ndarray")]
impl GptBackend for burn_ndarray::NdArray {}
