//! burn's data loaders over examples.

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::tensor::backend::Backend;
use std::collections::VecDeque;
use std::sync::Arc;

use super::{Example, ExampleOrder, ExamplePlace, Split, Task, TokenBatch};

/// Endless training batches in a shuffled order.
#[derive(Debug, Clone)]
pub struct TrainLoader {
    split: Split,
    task: Task,
    order: ExampleOrder,
    batch_size: usize,
    accumulation: usize,
    /// Examples that were consumed before.
    cursor: u64,
}

impl TrainLoader {
    pub fn new(
        split: Split,
        task: Task,
        order: ExampleOrder,
        batch_size: usize,
        accumulation: usize,
        cursor: u64,
    ) -> Self {
        Self { split, task, order, batch_size, accumulation, cursor }
    }
}

impl<B: Backend> DataLoader<B, TokenBatch> for TrainLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<TokenBatch> + 'a> {
        Box::new(TrainIterator { loader: self, cursor: self.cursor, ready: VecDeque::new() })
    }

    fn num_items(&self) -> usize {
        self.order.examples_per_pass()
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
    /// The micro-batches of the present optimizer step that are still to be handed out.
    ready: VecDeque<TokenBatch>,
}

impl TrainIterator<'_> {
    /// Reads the micro-batches of one optimizer step, each weighed by its share of the targets.
    fn read_step(&mut self) {
        let loader = self.loader;
        for _ in 0..loader.accumulation {
            let end = self.cursor + loader.batch_size as u64;
            let examples: Vec<Example> = (self.cursor..end)
                .map(|index| Example::read(&loader.split, loader.task, loader.order.at(index)))
                .collect();
            self.cursor = end;
            self.ready.push_back(TokenBatch::new(&examples, 1.0));
        }
        let targets: usize = self.ready.iter().map(TokenBatch::tokens).sum();
        for batch in &mut self.ready {
            batch.share = batch.tokens() as f64 / targets as f64;
        }
    }
}

impl Iterator for TrainIterator<'_> {
    type Item = TokenBatch;

    fn next(&mut self) -> Option<TokenBatch> {
        if self.ready.is_empty() {
            self.read_step();
        }
        self.ready.pop_front()
    }
}

impl DataLoaderIterator<TokenBatch> for TrainIterator<'_> {
    fn progress(&self) -> Progress {
        let items_total = self.loader.order.examples_per_pass();
        Progress { items_processed: (self.cursor % items_total as u64) as usize, items_total }
    }
}

/// A fixed list of examples, for evaluation.
#[derive(Debug, Clone)]
pub struct EvaluationLoader {
    split: Split,
    task: Task,
    places: Vec<ExamplePlace>,
    batch_size: usize,
}

impl EvaluationLoader {
    pub fn new(split: Split, task: Task, places: Vec<ExamplePlace>, batch_size: usize) -> Self {
        Self { split, task, places, batch_size }
    }

    /// The examples in batches.
    pub fn batches(&self) -> impl Iterator<Item = TokenBatch> {
        self.places.chunks(self.batch_size).map(|places| {
            let read = |place: &ExamplePlace| Example::read(&self.split, self.task, *place);
            TokenBatch::new(&places.iter().map(read).collect::<Vec<_>>(), 1.0)
        })
    }
}

impl<B: Backend> DataLoader<B, TokenBatch> for EvaluationLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<TokenBatch> + 'a> {
        Box::new(EvaluationIterator {
            batches: Box::new(self.batches()),
            progress: Progress { items_processed: 0, items_total: self.places.len() },
        })
    }

    fn num_items(&self) -> usize {
        self.places.len()
    }

    fn to_device(&self, _device: &B::Device) -> Arc<dyn DataLoader<B, TokenBatch>> {
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<B, TokenBatch>> {
        let mut part = self.clone();
        part.places = self.places[start..end].to_vec();
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
        self.progress.items_processed += batch.examples();
        Some(batch)
    }
}

impl DataLoaderIterator<TokenBatch> for EvaluationIterator<'_> {
    fn progress(&self) -> Progress {
        self.progress.clone()
    }
}
