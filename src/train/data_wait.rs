use std::time::{Duration, Instant};

/// Batches, and the time that was spent waiting for them.
pub(super) struct DataWait<I> {
    batches: I,
    waited: Duration,
}

impl<I> DataWait<I> {
    pub(super) fn new(batches: I) -> Self {
        Self { batches, waited: Duration::ZERO }
    }

    pub(super) fn waited(&self) -> Duration {
        self.waited
    }
}

impl<I: Iterator> Iterator for DataWait<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        let started = Instant::now();
        let batch = self.batches.next();
        self.waited += started.elapsed();
        batch
    }
}
