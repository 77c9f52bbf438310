//! What several tests share.

use burn::tensor::TensorData;
use burn::tensor::backend::Backend;
use emberlm::backend::{self, BackendKind, Job, LossTerms};
use emberlm::config::Activation;
use emberlm::data::{Example, ExamplePlace, Place, Split, Task, TokenBatch, Window};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The CPU backends that are compiled in; ndarray is the reference.
pub fn cpu_backends() -> Vec<BackendKind> {
    let cpu = [BackendKind::Flex, BackendKind::Ndarray];
    let found: Vec<_> = backend::compiled().filter(|kind| cpu.contains(kind)).collect();
    assert!(!found.is_empty(), "build the tests with --features ndarray or flex");
    found
}

/// Runs a job on each CPU backend.
pub fn on_cpu_backends<J: Job + Clone>(job: J) -> Vec<(BackendKind, J::Output)> {
    cpu_backends()
        .into_iter()
        .map(|kind| (kind, backend::dispatch(kind, job.clone()).expect("a CPU is always there")))
        .collect()
}

/// Runs a job on each backend of which there is a device: on GPUs with fusion and without.
pub fn on_all_backends<J: Job + Clone>(job: J) -> Vec<(String, J::Output)> {
    let mut all: Vec<_> = on_cpu_backends(job.clone())
        .into_iter()
        .map(|(kind, output)| (kind.to_string(), output))
        .collect();
    all.extend(on_gpus(job));
    all
}

/// With CUDA, that is what a C++ compiler makes of its source for the CPU.
fn on_gpus<J: Job + Clone>(job: J) -> Vec<(String, J::Output)> {
    let mut all = on_wgpu(job.clone());
    all.extend(on_cuda_source(job));
    all
}

#[cfg(not(feature = "wgpu"))]
fn on_wgpu<J: Job>(_: J) -> Vec<(String, J::Output)> {
    Vec::new()
}

#[cfg(feature = "wgpu")]
fn on_wgpu<J: Job + Clone>(job: J) -> Vec<(String, J::Output)> {
    use burn::backend::Autodiff;
    use emberlm::backend::Fused;

    #[derive(Clone)]
    struct Nothing;

    impl Job for Nothing {
        type Output = ();

        fn run<B: emberlm::backend::TrainBackend>(self, _: B::Device) {}
    }

    if let Err(error) = backend::dispatch(BackendKind::Wgpu, Nothing) {
        println!("skipped on wgpu: {error}");
        return Vec::new();
    }
    let device = burn_wgpu::WgpuDevice::default();
    vec![
        ("wgpu".into(), job.clone().run::<Autodiff<burn_wgpu::Wgpu>>(device.clone())),
        (
            "wgpu without fusion".into(),
            job.run::<Autodiff<<burn_wgpu::Wgpu as Fused>::Inner>>(device),
        ),
    ]
}

#[cfg(not(feature = "cuda-source"))]
fn on_cuda_source<J: Job>(_: J) -> Vec<(String, J::Output)> {
    Vec::new()
}

#[cfg(feature = "cuda-source")]
fn on_cuda_source<J: Job + Clone>(job: J) -> Vec<(String, J::Output)> {
    use crate::cuda_runtime::{Fused, Paper, Plain, missing};
    use burn::backend::Autodiff;

    if let Some(reason) = missing() {
        println!("skipped on CUDA source: {reason}");
        return Vec::new();
    }
    vec![
        ("CUDA source".into(), job.clone().run::<Autodiff<Fused>>(Paper::Computed)),
        ("CUDA source without fusion".into(), job.run::<Autodiff<Plain>>(Paper::Computed)),
    ]
}

/// No terms, each, and both.
pub const LOSS_TERMS: [LossTerms; 4] = [
    LossTerms { label_smoothing: 0.0, z_loss: 0.0 },
    LossTerms { label_smoothing: 0.1, z_loss: 0.0 },
    LossTerms { label_smoothing: 0.0, z_loss: 1e-2 },
    LossTerms { label_smoothing: 0.3, z_loss: 2e-2 },
];

/// Whether a backend is CUDA on a CPU, where large shapes take minutes.
pub fn is_cuda_on_cpu<B: Backend>(device: &B::Device) -> bool {
    let is_cuda_on_cpu = B::name(device).contains("cuda");
    if is_cuda_on_cpu {
        println!("skipped on CUDA source: what takes minutes on a CPU");
    }
    is_cuda_on_cpu
}

/// A closure over backends cannot be generic; this names the job that a test runs. With a type, it
/// returns what each backend has made of it.
#[macro_export]
macro_rules! on_each_backend {
    (|$device:ident: $backend:ident| $body:block) => {{
        $crate::on_each_backend!(|$device: $backend| -> () $body);
    }};
    (|$device:ident: $backend:ident| -> $output:ty $body:block) => {{
        #[derive(Clone)]
        struct Body;
        impl emberlm::backend::Job for Body {
            type Output = $output;
            fn run<$backend: emberlm::backend::TrainBackend>(
                self,
                $device: $backend::Device,
            ) -> $output {
                $body
            }
        }
        $crate::support::on_all_backends(Body)
    }};
}

/// Where the repository is now: the tests may have been compiled in another clone, if both share
/// a target folder.
pub fn repository() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or(".".into(), PathBuf::from)
}

/// A folder beside the repository that not every checkout has.
pub fn shared(path: &str) -> Option<PathBuf> {
    let full = repository().join("../shared").join(path);
    if full.exists() {
        return Some(full);
    }
    println!("skipped: {} is not there", full.display());
    None
}

pub fn golden(path: &str) -> PathBuf {
    repository().join("tests/golden").join(path)
}

pub fn floats(data: TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}

#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: other lengths");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(*found) - expected).abs();
        assert!(
            difference <= tolerance,
            "{what}[{index}] is {found}, expected {expected}: {difference:e} apart, {tolerance:e} allowed"
        );
    }
}

/// Norm of the difference over norm.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let norm: f64 = expected.iter().map(|b| f64::from(*b).powi(2)).sum();
    (difference / norm).sqrt()
}

/// Numbers that look random and are the same everywhere.
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// `TrainBackend` with its inner backend, for tests that need no gradients.
pub type Inner<B> = <B as burn::tensor::backend::AutodiffBackend>::InnerBackend;

/// Windows of a text as a batch for a decoder.
pub fn window_batch(tokens: &[u32], windows: &[Window], share: f64) -> TokenBatch {
    let split = Split::text(tokens, tokens.len());
    let read = |window: &Window| {
        let place = ExamplePlace { place: Place::Window(*window), number: 0 };
        Example::read(&split, Task::NextToken, place)
    };
    TokenBatch::new(&windows.iter().map(read).collect::<Vec<_>>(), share)
}

/// The batch of a golden, rebuilt through our own windows: each row's inputs and its last target.
pub fn golden_batch(reference: &HashMap<String, TensorData>) -> TokenBatch {
    let columns = reference["input_ids"].shape[1];
    let read =
        |name: &str| -> Vec<u32> { reference[name].iter::<i64>().map(|id| id as u32).collect() };
    let (inputs, targets) = (read("input_ids"), read("target_ids"));
    let (mut stream, mut windows) = (Vec::new(), Vec::new());
    for (inputs, targets) in inputs.chunks(columns).zip(targets.chunks(columns)) {
        assert_eq!(inputs[1..], targets[..columns - 1]);
        windows.push(Window { start: stream.len(), length: columns });
        stream.extend_from_slice(inputs);
        stream.push(targets[columns - 1]);
    }
    window_batch(&stream, &windows, 1.0)
}

/// All there are.
pub const ACTIVATIONS: [Activation; 6] = [
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Relu,
    Activation::ReluSquared,
    Activation::Silu,
    Activation::Mish,
];

/// All files of a folder, in another.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}
