//! Batches of windows, and burn's data loaders over them.
//!
//! B batch, T time

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use std::sync::Arc;

use super::{Split, Window, WindowOrder};

/// Windows of equal length. Plain integers, so that it can be made on any thread and moved to
/// any device.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenBatch {
    inputs: Vec<i32>,
    targets: Vec<i32>,
    rows: usize,
    /// This batch's share of its optimizer step, by which its loss is weighed.
    pub share: f64,
}

impl TokenBatch {
    /// `windows` must lie within the tokens and be equally long.
    pub fn new(tokens: &[u32], windows: &[Window], share: f64) -> Self {
        let read = |offset: usize| {
            let ids = windows.iter().flat_map(|window| {
                let start = window.start + offset;
                &tokens[start..start + window.length]
            });
            ids.map(|id| *id as i32).collect()
        };
        Self { inputs: read(0), targets: read(1), rows: windows.len(), share }
    }

    /// Targets in the batch.
    pub fn tokens(&self) -> usize {
        self.targets.len()
    }

    /// `[B, T]`
    pub fn inputs<B: Backend>(&self, device: &B::Device) -> Tensor<B, 2, Int> {
        let shape = [self.rows, self.inputs.len() / self.rows];
        Tensor::from_data(TensorData::new(self.inputs.clone(), shape), device)
    }

    /// `[B * T]`
    pub fn targets<B: Backend>(&self, device: &B::Device) -> Tensor<B, 1, Int> {
        let shape = [self.targets.len()];
        Tensor::from_data(TensorData::new(self.targets.clone(), shape), device)
    }
}

/// Endless training batches in the order of [`WindowOrder`].
#[derive(Debug, Clone)]
pub struct TrainLoader {
    split: Split,
    order: WindowOrder,
    batch_size: usize,
    accumulation: usize,
    /// Windows that were consumed before.
    cursor: u64,
}

impl TrainLoader {
    pub fn new(
        split: Split,
        order: WindowOrder,
        batch_size: usize,
        accumulation: usize,
        cursor: u64,
    ) -> Self {
        Self { split, order, batch_size, accumulation, cursor }
    }
}

impl<B: Backend> DataLoader<B, TokenBatch> for TrainLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<TokenBatch> + 'a> {
        Box::new(TrainIterator { loader: self, cursor: self.cursor })
    }

    fn num_items(&self) -> usize {
        self.order.windows_per_pass()
    }

    fn to_device(&self, _device: &B::Device) -> Arc<dyn DataLoader<B, TokenBatch>> {
        Arc::new(self.clone())
    }

    /// The order has no end, so a part of it is the same order from `start` on.
    fn slice(&self, start: usize, _end: usize) -> Arc<dyn DataLoader<B, TokenBatch>> {
        let mut part = self.clone();
        part.cursor += start as u64;
        Arc::new(part)
    }
}

struct TrainIterator<'a> {
    loader: &'a TrainLoader,
    cursor: u64,
}

impl Iterator for TrainIterator<'_> {
    type Item = TokenBatch;

    fn next(&mut self) -> Option<TokenBatch> {
        let loader = self.loader;
        let end = self.cursor + loader.batch_size as u64;
        let windows: Vec<Window> =
            (self.cursor..end).map(|index| loader.order.window(index)).collect();
        self.cursor = end;
        let share = 1.0 / loader.accumulation as f64;
        Some(TokenBatch::new(&loader.split.tokens, &windows, share))
    }
}

impl DataLoaderIterator<TokenBatch> for TrainIterator<'_> {
    fn progress(&self) -> Progress {
        let items_total = self.loader.order.windows_per_pass();
        Progress { items_processed: (self.cursor % items_total as u64) as usize, items_total }
    }
}

/// A fixed list of windows, for evaluation.
#[derive(Debug, Clone)]
pub struct EvaluationLoader {
    split: Split,
    windows: Vec<Window>,
    batch_size: usize,
}

impl EvaluationLoader {
    pub fn new(split: Split, windows: Vec<Window>, batch_size: usize) -> Self {
        Self { split, windows, batch_size }
    }

    /// The windows in batches; where one is shorter than the one before, a new batch begins.
    pub fn batches(&self) -> impl Iterator<Item = TokenBatch> {
        self.windows
            .chunk_by(|a, b| a.length == b.length)
            .flat_map(|equal| equal.chunks(self.batch_size))
            .map(|windows| TokenBatch::new(&self.split.tokens, windows, 1.0))
    }
}

impl<B: Backend> DataLoader<B, TokenBatch> for EvaluationLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<TokenBatch> + 'a> {
        Box::new(EvaluationIterator {
            batches: Box::new(self.batches()),
            progress: Progress { items_processed: 0, items_total: self.windows.len() },
        })
    }

    fn num_items(&self) -> usize {
        self.windows.len()
    }

    fn to_device(&self, _device: &B::Device) -> Arc<dyn DataLoader<B, TokenBatch>> {
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<B, TokenBatch>> {
        let mut part = self.clone();
        part.windows = self.windows[start..end].to_vec();
        Arc::new(part)
    }
}

struct EvaluationIterator<'a> {
    batches: Box<dyn Iterator<Item = TokenBatch> + 'a>,
    progress: Progress,
}

impl Iterator for EvaluationIterator<'_> {
    type Item = TokenBatch;

    fn next(&mut self) -> Option<TokenBatch> {
        let batch = self.batches.next()?;
        self.progress.items_processed += batch.rows;
        Some(batch)
    }
}

impl DataLoaderIterator<TokenBatch> for EvaluationIterator<'_> {
    fn progress(&self) -> Progress {
        self.progress.clone()
    }
}
