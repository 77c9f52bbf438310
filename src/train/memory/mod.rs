//! How much memory training takes, foretold from a configuration: its steps are played through
//! without numbers, and with the sizes of all that they take and give back.

mod account;
mod attention;
mod operations;
mod passes;
mod steps;
mod trace;

use serde::Serialize;

use super::OptimizerError;
use crate::backend::{
    BackendKind, CPU_LOGITS, GPU_LOGITS, GPU_LOGITS_ALIGNMENT, GPU_QUERIES, GPU_SCORES,
};
use crate::config::{ConfigError, RunConfig};
use steps::Steps;

/// How a backend computes, as far as its memory depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operations {
    /// By kernels of its own; otherwise by compositions of burn's operations.
    pub kernels: bool,
    /// Its kernels have products in bf16, too.
    pub bf16: bool,
    /// It has kernels for linear layers, in f32.
    pub products: bool,
    /// Parts of a tensor share its memory.
    pub views: bool,
    /// Logits that kernels have in memory at a time.
    pub logits: u64,
    /// Kernels have the logits' gradients beside them, both with columns made a multiple of so many;
    /// where absent, gradients take the place of the logits.
    pub aligned_logits: Option<u64>,
    /// Scores of attention that kernels have in memory at a time, if that is of any weight.
    pub scores: u64,
    /// Queries whose scores are in memory at a time, however many scores that are.
    pub queries: u64,
}

impl From<BackendKind> for Operations {
    fn from(kind: BackendKind) -> Self {
        let compositions = Self {
            kernels: false,
            bf16: false,
            products: false,
            views: false,
            logits: 0,
            aligned_logits: None,
            scores: 0,
            queries: 0,
        };
        match kind {
            BackendKind::Cuda | BackendKind::Wgpu => Self {
                kernels: true,
                bf16: true,
                logits: GPU_LOGITS as u64,
                aligned_logits: Some(GPU_LOGITS_ALIGNMENT as u64),
                scores: GPU_SCORES as u64,
                queries: GPU_QUERIES as u64,
                ..compositions
            },
            BackendKind::Flex => Self {
                kernels: true,
                products: true,
                views: true,
                logits: CPU_LOGITS as u64,
                ..compositions
            },
            BackendKind::Ndarray => compositions,
        }
    }
}

/// What no configuration can be foretold for.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
}

/// Bytes that training takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrainingMemory {
    /// All parameters.
    pub weights: u64,
    /// One for each parameter that is trained.
    pub gradients: u64,
    /// The optimizer's.
    pub moments: u64,
    /// Of the weights, where one is kept.
    pub average: u64,
    /// What each part of the model keeps of a micro-batch until its gradients are computed.
    pub activations: Vec<PartMemory>,
    /// The most tensors at a time.
    pub peak: PeakMemory,
    /// The most memory of a process that computes on a processor, with what its allocator keeps for
    /// the next step.
    pub process: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartMemory {
    pub name: String,
    pub bytes: u64,
}

/// Bytes at the moment when they are most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PeakMemory {
    /// Weights, moments and average.
    pub state: u64,
    /// Of parameters, as far as they are there.
    pub gradients: u64,
    /// As far as they are there.
    pub activations: u64,
    /// What comes and goes: of a layer that is computed twice also what it keeps.
    pub transient: u64,
    pub total: u64,
}

impl TrainingMemory {
    /// What has to fit into the memory of a backend's device.
    pub fn needed(&self, backend: BackendKind) -> u64 {
        match backend {
            BackendKind::Cuda | BackendKind::Wgpu => self.peak.total,
            BackendKind::Flex | BackendKind::Ndarray => self.process,
        }
    }
}

/// The most examples of a micro-batch with which training takes no more than so many bytes of a
/// backend's device; zero where not even one fits.
///
/// # Errors
/// As for [`training_memory`].
pub fn largest_batch(
    config: &RunConfig,
    vocab_size: usize,
    backend: BackendKind,
    bytes: u64,
) -> Result<usize, MemoryError> {
    let mut config = config.clone();
    let mut fits = |examples: usize| {
        config.train.batch_size = examples;
        let memory = training_memory(&config, vocab_size, backend.into())?;
        Ok::<bool, MemoryError>(memory.needed(backend) <= bytes)
    };
    let (mut most, mut too_many) = (0, 1);
    while too_many < LARGEST_BATCH && fits(too_many)? {
        (most, too_many) = (too_many, 2 * too_many);
    }
    while too_many - most > 1 {
        let middle = most + (too_many - most) / 2;
        match fits(middle)? {
            true => most = middle,
            false => too_many = middle,
        }
    }
    Ok(most)
}

/// Nobody asks for more.
const LARGEST_BATCH: usize = 1 << 24;

/// Foretells the memory of training with a vocabulary of so many tokens.
///
/// # Errors
/// Patterns of parameters that match nothing.
pub fn training_memory(
    config: &RunConfig,
    vocab_size: usize,
    operations: Operations,
) -> Result<TrainingMemory, MemoryError> {
    Ok(Steps::new(config, vocab_size, operations)?.play())
}
