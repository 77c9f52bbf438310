//! burn's data loaders over examples.

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::tensor::backend::Backend;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::{
    BatchPlan, Corpus, DataError, Example, ExampleOrder, ExamplePlace, Split, Task, TokenBatch,
};
use crate::config::RunConfig;

/// Micro-batches that are read ahead.
const READ_AHEAD: usize = 4;

/// Endless training batches in a shuffled order.
///
/// One thread reads ahead for as long as the batches are wanted. It hands over plain integers, so
/// that whatever a device keeps for each thread is kept once.
#[derive(Debug, Clone)]
pub struct TrainLoader {
    split: Split,
    task: Task,
    order: ExampleOrder,
    plan: BatchPlan,
    start: LoaderPosition,
    rank: u64,
    ranks: u64,
    /// Why there are no more batches.
    failure: Arc<Mutex<Option<DataError>>>,
}

/// How far a training has come in its data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoaderPosition {
    /// Optimizer steps taken.
    pub step: u64,
    /// Examples that were consumed of this order, by all ranks.
    pub cursor: u64,
}

impl TrainLoader {
    pub fn new(
        split: Split,
        task: Task,
        order: ExampleOrder,
        plan: BatchPlan,
        start: LoaderPosition,
    ) -> Self {
        Self { split, task, order, plan, start, rank: 0, ranks: 1, failure: Arc::default() }
    }

    /// The batches that a configuration trains on.
    pub fn of_run(config: &RunConfig, corpus: &Corpus, start: LoaderPosition) -> Self {
        let order = corpus.train.order(config.model.context_length, config.seed);
        let plan = BatchPlan::of_run(&config.train);
        Self::new(corpus.train.clone(), corpus.task, order, plan, start)
    }

    /// The part of one of several programs that train together: of every `ranks` batches in the
    /// order, the one at `rank`. The parts are disjoint, and together they are the whole.
    #[must_use]
    pub fn for_rank(self, rank: u64, ranks: u64) -> Self {
        assert!(rank < ranks, "rank {rank} of {ranks}");
        Self { rank, ranks, ..self }
    }

    /// Examples in one pass over the data.
    pub fn examples_per_pass(&self) -> usize {
        self.order.examples_per_pass()
    }

    /// The micro-batches of an optimizer step, each weighed by its share of the targets.
    pub fn read_step(&self, at: LoaderPosition) -> Vec<TokenBatch> {
        let mut cursor = at.cursor;
        let mut batches = Vec::with_capacity(self.plan.accumulation);
        for size in self.plan.micro_batches(at.step) {
            let size = size as u64;
            let start = cursor + self.rank * size;
            let examples: Vec<Example> = (start..start + size)
                .map(|index| Example::read(&self.split, self.task, self.order.at(index)))
                .collect();
            batches.push(TokenBatch::new(&examples, 1.0));
            cursor += size * self.ranks;
        }
        let targets: usize = batches.iter().map(TokenBatch::tokens).sum();
        for batch in &mut batches {
            batch.share = batch.tokens() as f64 / targets as f64;
        }
        batches
    }

    /// The same, of files that are whole before and after they are read: what is cut off in between
    /// reads as zeros.
    fn read_whole_step(&self, at: LoaderPosition) -> Result<Vec<TokenBatch>, DataError> {
        self.split.check()?;
        let batches = self.read_step(at);
        self.split.check()?;
        Ok(batches)
    }

    /// Why the batches have ended, which they do only where the data cannot be read any more.
    pub fn failure(&self) -> Option<DataError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Where the step after this one begins.
    fn after(&self, at: LoaderPosition) -> LoaderPosition {
        let examples = self.plan.examples(at.step) as u64 * self.ranks;
        LoaderPosition { step: at.step + 1, cursor: at.cursor + examples }
    }
}

impl<B: Backend> DataLoader<B, TokenBatch> for TrainLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<TokenBatch> + 'a> {
        let (sender, receiver) = sync_channel(READ_AHEAD);
        let loader = self.clone();
        thread::spawn(move || {
            let mut at = loader.start;
            loop {
                let batches = match loader.read_whole_step(at) {
                    Ok(batches) => batches,
                    Err(error) => {
                        let failure = loader.failure.lock();
                        *failure.unwrap_or_else(PoisonError::into_inner) = Some(error);
                        return;
                    }
                };
                for batch in batches {
                    if sender.send(batch).is_err() {
                        return; // nobody wants more
                    }
                }
                at = loader.after(at);
            }
        });
        Box::new(TrainIterator { loader: self, batches: receiver, cursor: self.start.cursor })
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
        part.start.cursor += start as u64;
        Arc::new(part)
    }
}

struct TrainIterator<'a> {
    loader: &'a TrainLoader,
    batches: Receiver<TokenBatch>,
    cursor: u64,
}

impl Iterator for TrainIterator<'_> {
    type Item = TokenBatch;

    fn next(&mut self) -> Option<TokenBatch> {
        let batch = self.batches.recv().ok()?;
        self.cursor += batch.examples() as u64 * self.loader.ranks;
        Some(batch)
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
