//! Kernels for GPUs as CUDA source, without a GPU: a runtime that compiles whatever is launched, in
//! f32 and bf16, keeps the source, and computes nothing.

use burn::backend::Autodiff;
use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::CubeBackend;
use cubecl::bytes::Bytes;
use cubecl::device::{Device, DeviceId, DeviceService, ServerUtilitiesHandle};
use cubecl::future::DynFut;
use cubecl::ir::features::Features;
use cubecl::ir::{
    DeviceProperties, HardwareProperties, MemoryDeviceProperties, TargetProperties, VectorSize,
};
use cubecl::prelude::{ComputeClient, CubeCount, ExecutionMode};
use cubecl::profile::{ProfileDuration, TimingMethod};
use cubecl::server::{
    Binding, ComputeServer, CopyDescriptor, KernelArguments, ProfileError, ProfilingToken,
    ServerCommunication, ServerError, ServerUtilities,
};
use cubecl::stream_id::StreamId;
use cubecl::zspace::{Shape, Strides};
use cubecl::{Compiler, CubeTask, MemoryUsage, Runtime};
use cubecl_cpp::cuda::CudaDialect;
use cubecl_cpp::cuda::mma::CudaWmmaCompiler;
use cubecl_cpp::register_supported_types;
use cubecl_cpp::shared::CppCompiler;
use cubecl_runtime::allocator::ContiguousMemoryLayoutPolicy;
use cubecl_runtime::logging::ServerLogger;
use cubecl_runtime::memory_management::{ManagedMemoryHandle, MemoryAllocationMode};
use cubecl_runtime::storage::{BytesResource, BytesStorage, ManagedResource};
use cubecl_runtime::timestamp_profiler::TimestampProfiler;
use emberlm::backend::{
    AdamwStep, AdamwUpdate, AttentionOptions, GptBackend, Rotation, TrainBackend,
};
use emberlm::config::{NormKind, Precision, RotaryPairing};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::support::{ACTIVATIONS, numbers};

type CudaCompiler = CppCompiler<CudaDialect<CudaWmmaCompiler>>;

/// By the kernel's name with its types and what was known when it was compiled.
static SOURCES: Mutex<BTreeMap<String, Result<String, String>>> = Mutex::new(BTreeMap::new());

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Paper;

impl Device for Paper {
    fn from_id(_: DeviceId) -> Self {
        Self
    }

    fn to_id(&self) -> DeviceId {
        DeviceId { type_id: 0, index_id: 0 }
    }
}

impl burn::tensor::backend::DeviceOps for Paper {}

#[derive(Debug)]
struct Printer {
    utilities: Arc<ServerUtilities<Self>>,
    profiler: TimestampProfiler,
}

impl DeviceService for Printer {
    fn init(_: DeviceId) -> Self {
        // An H100's, as far as they matter.
        let hardware = HardwareProperties {
            load_width: 128,
            plane_size_min: 32,
            plane_size_max: 32,
            max_bindings: 1024,
            max_shared_memory_size: 227 * 1024,
            max_cube_count: (i32::MAX as u32, 65535, 65535),
            max_units_per_cube: 1024,
            max_cube_dim: (1024, 1024, 64),
            num_streaming_multiprocessors: Some(132),
            num_tensor_cores: Some(4),
            min_tensor_cores_dim: Some(8),
            num_cpu_cores: None,
            max_vector_size: VectorSize::MAX,
        };
        let memory = MemoryDeviceProperties { max_page_size: 1 << 34, alignment: 512 };
        let mut properties =
            DeviceProperties::new(Features::default(), memory, hardware, TimingMethod::System);
        register_supported_types(&mut properties);
        let logger = Arc::new(ServerLogger::default());
        let policy = ContiguousMemoryLayoutPolicy::new(512);
        let utilities = Arc::new(ServerUtilities::new(properties, logger, (), policy));
        Self { utilities, profiler: TimestampProfiler::default() }
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        self.utilities.clone() as Arc<dyn Any + Send + Sync>
    }
}

impl ServerCommunication for Printer {
    const SERVER_COMM_ENABLED: bool = false;
}

impl ComputeServer for Printer {
    type Kernel = Box<dyn CubeTask<CudaCompiler>>;
    type Info = ();
    type MemoryLayoutPolicy = ContiguousMemoryLayoutPolicy;
    type Storage = BytesStorage;

    fn initialize_memory(&mut self, _: ManagedMemoryHandle, _: u64, _: StreamId) {}

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities<Self>> {
        self.utilities.clone()
    }

    /// Zeros.
    fn read(
        &mut self,
        descriptors: Vec<CopyDescriptor>,
        _: StreamId,
    ) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        let zeros = |it: CopyDescriptor| vec![0; it.handle.size_in_used() as usize];
        let bytes = descriptors.into_iter().map(|it| Bytes::from_bytes_vec(zeros(it))).collect();
        Box::pin(async move { Ok(bytes) })
    }

    fn write(&mut self, _: Vec<(CopyDescriptor, Bytes)>, _: StreamId) {}

    fn sync(&mut self, _: StreamId) -> DynFut<Result<(), ServerError>> {
        Box::pin(async move { Ok(()) })
    }

    fn get_resource(
        &mut self,
        _: Binding,
        _: StreamId,
    ) -> Result<ManagedResource<BytesResource>, ServerError> {
        unreachable!("there is no memory")
    }

    unsafe fn launch(
        &mut self,
        kernel: Self::Kernel,
        _: CubeCount,
        _: KernelArguments,
        mode: ExecutionMode,
        _: StreamId,
    ) {
        let mut options = <CudaCompiler as Compiler>::CompilationOptions::default();
        options.warp_size = 32;
        let compiled =
            kernel.compile(&mut CudaCompiler::default(), &options, mode, kernel.address_type());
        let source = compiled.map(|it| it.source).map_err(|error| format!("{error:?}"));
        SOURCES.lock().unwrap().insert(format!("{:?}", kernel.id()), source);
    }

    fn flush(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn memory_usage(&mut self, _: StreamId) -> Result<MemoryUsage, ServerError> {
        unreachable!("nobody asks")
    }

    fn memory_cleanup(&mut self, _: StreamId) {}

    fn start_profile(&mut self, _: StreamId) -> Result<ProfilingToken, ServerError> {
        Ok(self.profiler.start())
    }

    fn end_profile(
        &mut self,
        _: StreamId,
        token: ProfilingToken,
    ) -> Result<ProfileDuration, ProfileError> {
        self.profiler.stop(token)
    }

    fn allocation_mode(&mut self, _: MemoryAllocationMode, _: StreamId) {}
}

#[derive(Debug, Clone)]
struct CudaSource;

impl Runtime for CudaSource {
    type Compiler = CudaCompiler;
    type Server = Printer;
    type Device = Paper;

    fn client(device: &Paper) -> ComputeClient<Self> {
        ComputeClient::load(device)
    }

    fn name(_: &ComputeClient<Self>) -> &'static str {
        "cuda"
    }

    fn require_array_lengths() -> bool {
        true
    }

    fn max_cube_count() -> (u32, u32, u32) {
        (i32::MAX as u32, 65535, 65535)
    }

    fn can_read_tensor(shape: &Shape, strides: &Strides) -> bool {
        cubecl::zspace::striding::has_pitched_row_major_strides(shape, strides)
    }

    fn target_properties() -> TargetProperties {
        TargetProperties { mma: Default::default() }
    }

    fn enumerate_devices(_: u16, _: &()) -> Vec<DeviceId> {
        vec![Paper.to_id()]
    }
}

fn leaf<B: TrainBackend, const D: usize>(shape: [usize; D], device: &B::Device) -> Tensor<B, D> {
    let values = numbers(shape.iter().product(), 1);
    Tensor::<B, 1>::from_floats(&*values, device).reshape(shape).require_grad()
}

/// Every operation that has a kernel, forward and backward.
fn launch_all<B: TrainBackend>(device: &B::Device) {
    let norm = |kind, weighted: bool| {
        let row = || weighted.then(|| leaf::<B, 1>([96], device));
        B::normalization(leaf::<B, 3>([2, 3, 96], device), row(), row(), kind, 1e-5)
    };
    for kind in [NormKind::Layer, NormKind::Rms] {
        for weighted in [false, true] {
            norm(kind, weighted).sum().backward();
        }
    }
    for kind in ACTIVATIONS {
        let [gate, up] = [(); 2].map(|()| leaf::<B, 2>([3, 40], device));
        B::gated(gate, up, kind).sum().backward();
    }
    for pairing in [RotaryPairing::Half, RotaryPairing::Interleaved] {
        let angles = leaf::<B, 2>([5, 4], device).detach();
        let rotation = Rotation { cosines: angles.clone(), sines: angles, pairing };
        B::rotate(leaf::<B, 4>([2, 3, 5, 8], device), 2, &rotation).sum().backward();
    }
    for precision in [Precision::F32, Precision::Bf16] {
        let options = AttentionOptions { precision, ..AttentionOptions::causal(0.25) };
        let [query, key, value] = [4, 2, 2].map(|heads| leaf::<B, 4>([2, heads, 9, 16], device));
        B::attend(query, key, value, &options).sum().backward();
        let targets = Tensor::<B, 1, Int>::zeros([6], device);
        let (input, weight) = (leaf::<B, 2>([6, 16], device), leaf::<B, 2>([16, 130], device));
        let bias = Some(leaf::<B, 1>([130], device));
        B::linear_cross_entropy(input, weight, bias, targets, precision).backward();
    }
    let targets = Tensor::<B, 1, Int>::zeros([6], device);
    B::cross_entropy(leaf::<B, 2>([6, 70], device), targets).backward();
    let tokens = Tensor::<B, 2, Int>::zeros([2, 9], device);
    B::embed(leaf::<B, 2>([30, 24], device), tokens).sum().backward();
    let plain = || leaf::<B, 1>([300], device).inner();
    B::InnerBackend::sums_of_squares(vec![plain(), plain()]);
    let step = AdamwStep {
        learning_rate: 1e-3,
        weight_decay: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        step: 1,
        gradient_factor: 0.5,
    };
    for moments in [None, Some([plain(), plain()])] {
        let update = AdamwUpdate { value: plain(), gradient: plain(), moments, step };
        B::InnerBackend::adamw(vec![update]);
    }
    B::sync(device).unwrap();
}

/// Functions with `#[cube(launch)]`, as the source text has them.
fn kernels_of_ours() -> Vec<String> {
    let mut names = Vec::new();
    let folder = crate::support::repository().join("src/backend/cube");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let module = path.file_stem().unwrap().to_string_lossy().into_owned();
        let after = text.match_indices("#[cube(launch").map(|(at, _)| &text[at..]);
        for rest in after {
            let name = rest.split("fn ").nth(1).unwrap();
            let name: String =
                name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            names.push(format!("{module}::{name}::"));
        }
    }
    names
}

#[test]
fn kernels_become_cuda_source() {
    type B = CubeBackend<CudaSource, f32, i32, u32>;
    assert!(<B as burn::tensor::backend::Backend>::supports_dtype(&Paper, DType::BF16));
    launch_all::<Autodiff<B>>(&Paper);
    let sources = SOURCES.lock().unwrap();
    for (id, source) in sources.iter() {
        assert!(source.is_ok(), "{id}: {source:?}");
    }
    // For tests/python/check_cuda_source.py, which has NVIDIA's compiler read them.
    if let Some(folder) = std::env::var_os("EMBERLM_CUDA_SOURCE") {
        let folder = std::path::PathBuf::from(folder);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, (id, source)) in sources.iter().enumerate() {
            let text = format!("// {id}\n{}", source.as_ref().unwrap());
            std::fs::write(folder.join(format!("{number:03}.cu")), text).unwrap();
        }
    }
    let expected = kernels_of_ours();
    assert!(expected.len() >= 16, "{expected:?}");
    for kernel in expected {
        let mut found = sources.iter().filter(|(id, _)| id.contains(&kernel)).peekable();
        assert!(found.peek().is_some(), "{kernel} is not launched");
        for (id, source) in found {
            let source = source.as_ref().unwrap();
            assert!(source.contains("extern \"C\" __global__ void"), "{id}: {source}");
        }
    }
}
