use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::RunStatus;
use crate::train::Row;

/// Rows that wait at most; hours of a server's absence.
const CAPACITY: usize = 20_000;

/// Between the training, which adds rows, and the thread that takes them to the server.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    /// The oldest first, each with its time in milliseconds since 1970. A row stays until the
    /// server has it.
    pub(super) rows: VecDeque<(u64, Row)>,
    /// Rows that the server will never have.
    pub(super) lost: usize,
    /// What the server said to something that it would not have.
    pub(super) refusal: Option<String>,
    /// Why the last attempt failed.
    pub(super) trouble: Option<String>,
    /// Where the run is shown, once the server knows it.
    pub(super) page: Option<String>,
    /// How the run ended, once it has.
    pub(super) ending: Option<RunStatus>,
    /// The server knows how the run ended.
    pub(super) is_closed: bool,
    /// Nothing is sent any more.
    pub(super) is_done: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until something holds, or some time has passed, and then looks.
    pub(super) fn wait<T>(
        &self,
        at_most: Duration,
        until: impl Fn(&State) -> bool,
        look: impl FnOnce(&State) -> T,
    ) -> T {
        let waited = self.changed.wait_timeout_while(self.lock(), at_most, |state| !until(state));
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        look(&state)
    }

    /// Takes a row, if there is room. Training goes on at once either way.
    pub(super) fn add(&self, row: &Row) {
        let mut state = self.lock();
        if state.rows.len() < CAPACITY {
            state.rows.push_back((now(), row.clone()));
        } else {
            state.lost += 1;
        }
    }

    /// As many of the oldest rows as have at most so many metrics together, but one at least.
    pub(super) fn oldest(&self, most_metrics: usize) -> Vec<(u64, Row)> {
        let mut metrics = 0;
        let fits = |(_, row): &&(u64, Row)| {
            metrics += row.values.len();
            metrics <= most_metrics || metrics == row.values.len()
        };
        self.lock().rows.iter().take_while(fits).cloned().collect()
    }
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
