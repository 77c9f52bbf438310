//! A CubeCL runtime for CUDA that needs no GPU: kernels become CUDA source as they do on an H100, a C++
//! compiler makes programs for the CPU of it, by the headers in `tests/cuda`, and these compute.
//!
//! What it leaves out: products by tensor cores but for those of `nvcuda::wmma` and of `mma.m16n8k16`
//! in bf16, asynchronous copies, and what threads see of each other's writes before a barrier.

use burn::tensor::backend::DeviceOps;
use burn_cubecl::CubeBackend;
use burn_fusion::Fusion;
use cubecl::backtrace::BackTrace;
use cubecl::bytes::Bytes;
use cubecl::device::{Device, DeviceId, DeviceService, ServerUtilitiesHandle};
use cubecl::future::DynFut;
use cubecl::ir::features::{Features, Plane};
use cubecl::ir::{
    ContiguousElements, DeviceProperties, ElemType, FloatKind, HardwareProperties, MatrixLayout,
    MemoryDeviceProperties, MmaProperties, TargetProperties, VectorSize,
};
use cubecl::prelude::{ComputeClient, CubeCount, CubeDim, ExecutionMode};
use cubecl::profile::{ProfileDuration, TimingMethod};
use cubecl::server::{
    Binding, ComputeServer, CopyDescriptor, KernelArguments, ProfileError, ProfilingToken,
    ServerCommunication, ServerError, ServerUtilities,
};
use cubecl::stream_id::StreamId;
use cubecl::zspace::{Shape, Strides};
use cubecl::{CubeTask, MemoryConfiguration, MemoryUsage, Runtime};
use cubecl_cpp::cuda::CudaDialect;
use cubecl_cpp::cuda::arch::CudaArchitecture;
use cubecl_cpp::cuda::mma::{CudaWmmaCompiler, contiguous_elements_cuda};
use cubecl_cpp::register_supported_types;
use cubecl_cpp::shared::{
    CompilationOptions, CppCompiler, CppSupportedFeatures, DialectWmmaCompiler,
    register_mma_features, register_wmma_features,
};
use cubecl_runtime::allocator::PitchedMemoryLayoutPolicy;
use cubecl_runtime::logging::ServerLogger;
use cubecl_runtime::memory_management::{
    ManagedMemoryHandle, MemoryAllocationMode, MemoryManagement, MemoryManagementOptions,
};
use cubecl_runtime::storage::{BytesResource, BytesStorage, ManagedResource};
use cubecl_runtime::timestamp_profiler::TimestampProfiler;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};
use sha2::{Digest, Sha256};
use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};

use crate::support::repository;

pub type Plain = CubeBackend<CudaSource, f32, i32, u32>;
pub type Fused = Fusion<Plain>;

type CudaCompiler = CppCompiler<CudaDialect<CudaWmmaCompiler>>;

/// Of the kernels that were launched on [`Paper::Written`], by their names with types and what was
/// known when they were written.
pub static SOURCES: Mutex<BTreeMap<String, Result<String, String>>> = Mutex::new(BTreeMap::new());

/// The lines, in order, of all kernels that were written, by the keys under which CubeCL finds what it
/// has compiled in an earlier run. It declares types in any order, and arrays of a block's threads where
/// they happen to find room.
pub static KEYS: Mutex<BTreeMap<u128, Vec<String>>> = Mutex::new(BTreeMap::new());

/// These kernels, as they were launched, one after the other.
pub static LAUNCHED: Mutex<Vec<Launch>> = Mutex::new(Vec::new());

#[derive(Debug, Clone)]
pub struct Launch {
    /// As in [`SOURCES`].
    pub kernel: String,
    /// Of the buffers that it was given.
    pub bytes: u64,
}

/// A device that is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Paper {
    /// Kernels are computed.
    #[default]
    Computed,
    /// Kernels are written and no more. Tensors have no memory, however large they are, and are zero
    /// when they are read.
    Written,
}

impl Device for Paper {
    fn from_id(id: DeviceId) -> Self {
        if id.index_id == 0 { Self::Computed } else { Self::Written }
    }

    fn to_id(&self) -> DeviceId {
        DeviceId { type_id: 0, index_id: *self as u16 }
    }
}

impl DeviceOps for Paper {}

pub struct Printer {
    device: Paper,
    utilities: Arc<ServerUtilities<Self>>,
    profiler: TimestampProfiler,
    memory: MemoryManagement<BytesStorage>,
    /// Kept as a server keeps what its memory is lent to, where there is none: by their number
    /// CubeCL tells whether a tensor has one holder.
    lent: Vec<ManagedMemoryHandle>,
    /// By the kernel's name, as in [`SOURCES`].
    written: HashMap<String, Written>,
    programs: HashMap<String, Library>,
    /// The first launch that went wrong, for whoever reads anything later: CubeCL keeps panics of a
    /// launch to itself.
    fault: Option<String>,
    /// What had gone wrong before each of the profiles that are being made: a kernel that is tried may
    /// go wrong.
    faults_before: Vec<Option<String>>,
}

/// A kernel as CUDA source, with the name of its function.
#[derive(Clone)]
struct Written {
    function: String,
    source: String,
    block: CubeDim,
}

impl std::fmt::Debug for Printer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Printer").field("device", &self.device).finish_non_exhaustive()
    }
}

impl DeviceService for Printer {
    fn init(id: DeviceId) -> Self {
        let device = Paper::from_id(id);
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
        let mut said = memory.clone();
        if device == Paper::Computed {
            // So little that small logits and scores come in blocks, too. It keeps nobody from more.
            said.max_page_size = 1 << 15;
        }
        let mut properties =
            DeviceProperties::new(Features::default(), said, hardware, TimingMethod::System);
        register_supported_types(&mut properties);
        let planes = [Plane::Ops, Plane::Sync, Plane::NonUniformControlFlow];
        properties.features.plane.extend(planes);
        // Without TF32, whose products are f32's to three digits.
        let mut products =
            CudaWmmaCompiler::supported_wmma_combinations(&CudaArchitecture { version: 90 });
        products.retain(|it| it.a_type == ElemType::Float(FloatKind::BF16).into());
        register_wmma_features(products, &mut properties);
        let mut products =
            CudaWmmaCompiler::supported_mma_combinations(&CudaArchitecture { version: 90 });
        products.retain(|it| it.a_type == ElemType::Float(FloatKind::BF16).into());
        register_mma_features(products, &mut properties);
        properties.features.matmul.ldmatrix.insert(ElemType::Float(FloatKind::BF16).into());
        properties.features.memory_reinterpret = true;
        properties.features.alignment = true;
        let logger = Arc::new(ServerLogger::default());
        let policy = PitchedMemoryLayoutPolicy::new(512);
        let utilities = Arc::new(ServerUtilities::new(properties, logger.clone(), (), policy));
        let memory = MemoryManagement::from_configuration(
            BytesStorage::default(),
            &memory,
            MemoryConfiguration::ExclusivePages,
            logger,
            MemoryManagementOptions::new("paper"),
        );
        Self {
            device,
            utilities,
            profiler: TimestampProfiler::default(),
            memory,
            lent: Vec::new(),
            written: HashMap::new(),
            programs: HashMap::new(),
            fault: None,
            faults_before: Vec::new(),
        }
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        self.utilities.clone() as Arc<dyn Any + Send + Sync>
    }
}

impl ServerCommunication for Printer {
    const SERVER_COMM_ENABLED: bool = false;
}

impl Printer {
    fn resource(&mut self, binding: Binding) -> BytesResource {
        let Binding { memory, offset_start, offset_end, .. } = binding;
        self.memory.get_resource(memory, offset_start, offset_end).expect("memory that is there")
    }

    /// Writes a kernel, or says why it cannot be written.
    fn write_kernel(
        &mut self,
        id: &str,
        key: u128,
        kernel: &<Self as ComputeServer>::Kernel,
        mode: ExecutionMode,
    ) -> Result<Written, String> {
        if let Some(written) = self.written.get(id) {
            return Ok(written.clone());
        }
        let supports_features =
            CppSupportedFeatures { grid_constants: true, fast_math: true, ..Default::default() };
        let options = CompilationOptions { warp_size: 32, supports_features };
        let mut compiler = CudaCompiler::default();
        let address = kernel.address_type();
        let compiled = catch_unwind(AssertUnwindSafe(|| {
            kernel.compile(&mut compiler, &options, mode, address)
        }));
        let compiled = compiled
            .map_err(|_| "CubeCL panics".to_string())?
            .map_err(|error| format!("{error:?}"))?;
        let (function, source) = (compiled.entrypoint_name, compiled.source);
        let fixed = |line: &str| line.split("dynamic_shared_mem[").next().unwrap().to_owned();
        let mut lines: Vec<String> = source.lines().map(fixed).collect();
        lines.sort();
        if KEYS.lock().unwrap().entry(key).or_insert_with(|| lines.clone()) != &lines {
            return Err("its key is that of another kernel".into());
        }
        let written = Written { function, source, block: compiled.cube_dim };
        self.written.insert(id.into(), written.clone());
        Ok(written)
    }

    fn compute(&mut self, id: &str, written: &Written, grid: [u32; 3], given: KernelArguments) {
        let KernelArguments { buffers, info, tensor_maps } = given;
        assert!(tensor_maps.is_empty(), "{id} asks for asynchronous copies");
        let resources: Vec<BytesResource> =
            buffers.into_iter().map(|buffer| self.resource(buffer)).collect();
        let mut values: Vec<*mut c_void> =
            resources.iter().map(|resource| resource.get_write_ptr_and_length().0.cast()).collect();
        let (constant, dynamic) = info.data.split_at(info.dynamic_metadata_offset);
        if !dynamic.is_empty() {
            values.push(dynamic.as_ptr().cast_mut().cast());
        }
        // As the CUDA driver takes them: pointers to what is given by value.
        let mut arguments: Vec<*mut c_void> =
            values.iter_mut().map(|value| (&raw mut *value).cast()).collect();
        arguments.push(constant.as_ptr().cast_mut().cast());
        let block = [written.block.x, written.block.y, written.block.z];
        if !self.programs.contains_key(id) {
            self.programs.insert(id.into(), load(&program(written), RTLD_LOCAL));
        }
        type Emulate =
            unsafe extern "C" fn(*mut *mut c_void, *const u32, *const u32) -> *const c_char;
        // SAFETY: the function is of this type, and gets what its kernel asks for.
        let fault = unsafe {
            let emulate = self.programs[id].get::<Emulate>(b"emulate").unwrap();
            let fault = emulate(arguments.as_mut_ptr(), grid.as_ptr(), block.as_ptr());
            (!fault.is_null()).then(|| CStr::from_ptr(fault))
        };
        assert!(fault.is_none(), "{id}: {fault:?}");
    }
}

/// The C++ compiler, if there is one.
fn compiler() -> Option<&'static str> {
    static FOUND: LazyLock<Option<String>> = LazyLock::new(|| {
        let named = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        let answer = Command::new(&named).arg("--version").output();
        answer.is_ok_and(|answer| answer.status.success()).then_some(named)
    });
    FOUND.as_deref()
}

/// Why there is nothing that computes.
pub fn missing() -> Option<&'static str> {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) {
        return Some("the threads are those of Linux and glibc");
    }
    compiler().is_none().then_some("there is no C++ compiler, neither c++ nor what CXX names")
}

/// Compiles C++, unless that has been done already, and says where the library is.
fn compiled(source: &str) -> PathBuf {
    static HEADERS: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let files = ["cuda_runtime.h", "cuda_bf16.h", "mma.h", "threads.cpp"];
        files.into_iter().flat_map(|it| std::fs::read(headers().join(it)).unwrap()).collect()
    });
    let digest = Sha256::new().chain_update(&*HEADERS).chain_update(source).finalize();
    let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-on-cpu");
    std::fs::create_dir_all(&folder).unwrap();
    let library = folder.join(format!("{name}.so"));
    if !library.exists() {
        let made = tempfile::tempdir_in(&folder).unwrap();
        let [text, program] = ["kernel.cpp", "kernel.so"].map(|it| made.path().join(it));
        std::fs::write(&text, source).unwrap();
        let output = Command::new(compiler().expect("a C++ compiler"))
            .args(["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-I"])
            .arg(headers())
            .arg(&text)
            .arg("-o")
            .arg(&program)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{source}\n{said}");
        std::fs::rename(program, &library).unwrap();
    }
    library
}

fn headers() -> PathBuf {
    repository().join("tests/cuda").canonicalize().unwrap()
}

fn load(path: &Path, visible: i32) -> Library {
    // SAFETY: it is made of sources of ours and CubeCL's, and nothing runs when it is loaded.
    unsafe { Library::open(Some(path), RTLD_NOW | visible) }.unwrap()
}

/// Without CubeCL's functions whose bodies are PTX. Those of these names are in `mma.h`.
fn without_assembly(source: &str) -> String {
    let mut functions = source.split("\ninline __device__ void\n__");
    let mut rest = functions.next().unwrap_or_default().to_owned();
    for function in functions {
        let (_, behind) = function.split_once("\n    }\n").expect("a function ends");
        rest.push('\n');
        rest.push_str(behind);
    }
    rest
}

/// Where the library with a kernel is.
fn program(Written { function, source, .. }: &Written) -> PathBuf {
    let source = without_assembly(source);
    // The threads, which all kernels share.
    static THREADS: LazyLock<Library> =
        LazyLock::new(|| load(&compiled("#include \"threads.cpp\"\n"), RTLD_GLOBAL));
    LazyLock::force(&THREADS);
    compiled(&format!(
        "{source}
extern \"C\" const char* emulate(void** arguments, const uint3* grid, const uint3* block) {{
    return emulation::launch({function}, arguments, grid, block);
}}
"
    ))
}

/// The rows of a tensor, and how many bytes each has and how many lie from one to the next.
fn rows(descriptor: &CopyDescriptor) -> [usize; 3] {
    let CopyDescriptor { shape, strides, elem_size, .. } = descriptor;
    let width = shape.last().copied().unwrap_or(1);
    let pitch = if shape.len() > 1 { strides[shape.len() - 2] } else { width };
    let count = shape.iter().product::<usize>() / width.max(1);
    [count, width * elem_size, pitch * elem_size]
}

impl ComputeServer for Printer {
    type Kernel = Box<dyn CubeTask<CudaCompiler>>;
    type Info = ();
    type MemoryLayoutPolicy = PitchedMemoryLayoutPolicy;
    type Storage = BytesStorage;

    /// It holds what is no number.
    fn initialize_memory(&mut self, memory: ManagedMemoryHandle, size: u64, _: StreamId) {
        if self.device == Paper::Written {
            self.lent.push(memory);
            return;
        }
        let reserved = self.memory.reserve(size).unwrap();
        self.memory.bind(reserved, memory.clone(), 0).unwrap();
        self.memory.get_resource(memory.binding(), None, None).unwrap().write().fill(0xff);
    }

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities<Self>> {
        self.utilities.clone()
    }

    fn read(
        &mut self,
        descriptors: Vec<CopyDescriptor>,
        _: StreamId,
    ) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        let mut read = |descriptor: CopyDescriptor| {
            let [count, width, pitch] = rows(&descriptor);
            if self.device == Paper::Written {
                return Bytes::from_bytes_vec(vec![0; count * width]);
            }
            let all = self.resource(descriptor.handle).read();
            let row = |row: usize| &all[row * pitch..][..width];
            Bytes::from_bytes_vec((0..count).flat_map(row).copied().collect())
        };
        let bytes = descriptors.into_iter().map(&mut read).collect();
        let result = match &self.fault {
            Some(fault) => {
                let backtrace = BackTrace::capture();
                Err(ServerError::Generic { reason: fault.clone(), backtrace })
            }
            None => Ok(bytes),
        };
        Box::pin(async move { result })
    }

    fn write(&mut self, descriptors: Vec<(CopyDescriptor, Bytes)>, _: StreamId) {
        if self.device == Paper::Written {
            return;
        }
        for (descriptor, bytes) in descriptors {
            let [_, width, pitch] = rows(&descriptor);
            let all = self.resource(descriptor.handle).write();
            for (row, values) in bytes.chunks_exact(width.max(1)).enumerate() {
                all[row * pitch..][..width].copy_from_slice(values);
            }
        }
    }

    fn sync(&mut self, _: StreamId) -> DynFut<Result<(), ServerError>> {
        Box::pin(async move { Ok(()) })
    }

    fn get_resource(
        &mut self,
        _: Binding,
        _: StreamId,
    ) -> Result<ManagedResource<BytesResource>, ServerError> {
        unreachable!("nobody asks")
    }

    unsafe fn launch(
        &mut self,
        kernel: Self::Kernel,
        grid: CubeCount,
        arguments: KernelArguments,
        mode: ExecutionMode,
        _: StreamId,
    ) {
        let mut id = kernel.id();
        id.mode(mode);
        let (key, id) = (id.stable_hash(), format!("{id:?}"));
        let CubeCount::Static(x, y, z) = grid else { unreachable!("nobody asks") };
        let grid = [x, y, z];
        let mut written = self.write_kernel(&id, key, &kernel, mode);
        // What WebGPU promises, and CUDA of two axes of three.
        let ours = id.contains("emberlm::backend::cube");
        if ours && grid.iter().any(|cubes| !(1..=65_535).contains(cubes)) {
            written = Err(format!("a grid of {x} by {y} by {z} cubes"));
        }
        match self.device {
            Paper::Written => {
                let source = written.map(|written| written.source);
                let bytes = arguments.buffers.iter().map(Binding::size_in_used).sum();
                SOURCES.lock().unwrap().insert(id.clone(), source);
                LAUNCHED.lock().unwrap().push(Launch { kernel: id, bytes });
            }
            Paper::Computed => {
                let compute = |written: Written| {
                    let compute = || self.compute(&id, &written, grid, arguments);
                    catch_unwind(AssertUnwindSafe(compute)).map_err(|panic| {
                        let text = panic.downcast::<String>().map(|text| *text);
                        text.unwrap_or_else(|_| "a panic".into())
                    })
                };
                if let Err(error) = written.and_then(compute) {
                    self.fault.get_or_insert(format!("{id}: {error}"));
                }
            }
        }
    }

    fn flush(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn memory_usage(&mut self, _: StreamId) -> Result<MemoryUsage, ServerError> {
        Ok(self.memory.memory_usage())
    }

    fn memory_cleanup(&mut self, _: StreamId) {}

    fn start_profile(&mut self, _: StreamId) -> Result<ProfilingToken, ServerError> {
        self.faults_before.push(self.fault.take());
        Ok(self.profiler.start())
    }

    fn end_profile(
        &mut self,
        _: StreamId,
        token: ProfilingToken,
    ) -> Result<ProfileDuration, ProfileError> {
        let duration = self.profiler.stop(token);
        let before = self.faults_before.pop().flatten();
        match std::mem::replace(&mut self.fault, before) {
            Some(reason) => Err(ProfileError::Unknown { reason, backtrace: BackTrace::capture() }),
            None => duration,
        }
    }

    fn allocation_mode(&mut self, _: MemoryAllocationMode, _: StreamId) {}
}

#[derive(Debug, Clone)]
pub struct CudaSource;

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
        TargetProperties {
            mma: MmaProperties {
                register_size_bits: 32,
                const_plane_size: 32,
                register_layout_a: MatrixLayout::RowMajor,
                register_layout_b: MatrixLayout::ColMajor,
                register_layout_acc: MatrixLayout::RowMajor,
                register_duplication_a: 1,
                register_duplication_b: 1,
                register_duplication_acc: 1,
                contiguous_elements: ContiguousElements::new(contiguous_elements_cuda),
            },
        }
    }

    fn enumerate_devices(_: u16, _: &()) -> Vec<DeviceId> {
        vec![Paper::Computed.to_id(), Paper::Written.to_id()]
    }
}
