//! Drivers that are missing or broken announce themselves by a panic, on whatever thread first
//! touches them.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// There is one hook for all threads: who changes it waits for who has.
static HOOK: Mutex<()> = Mutex::new(());

/// What became of something that may panic here or on another thread.
pub(super) struct Outcome<T> {
    /// None where it panicked here.
    pub(super) value: Option<T>,
    /// The first sentence of the first panic of any thread.
    pub(super) panic: Option<String>,
}

pub(super) fn capture_panics<T>(run: impl FnOnce() -> T) -> Outcome<T> {
    let _alone = HOOK.lock().unwrap_or_else(PoisonError::into_inner);
    let first: Arc<Mutex<Option<String>>> = Arc::default();
    let reason = first.clone();
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or("the driver failed without a message");
        let mut reason = reason.lock().unwrap_or_else(PoisonError::into_inner);
        reason.get_or_insert_with(|| one_line(message));
    }));
    let outcome = panic::catch_unwind(AssertUnwindSafe(run));
    panic::set_hook(hook);
    let panic = first.lock().unwrap_or_else(PoisonError::into_inner).take();
    Outcome { value: outcome.ok(), panic }
}

impl<T> Outcome<T> {
    /// The value, whatever happened on other threads.
    pub(super) fn value(self) -> Result<T, String> {
        let reason = self.panic;
        self.value.ok_or_else(|| reason.unwrap_or_else(|| "it failed without a message".into()))
    }
}

impl<T> Outcome<Result<T, String>> {
    /// The value; what a thread panicked with says more than that something came out wrong.
    pub(super) fn correct(self) -> Result<T, String> {
        match self {
            Self { value: Some(Err(wrong)), panic } => Err(panic.unwrap_or(wrong)),
            outcome => outcome.value().flatten(),
        }
    }

    /// The value, if nothing panicked anywhere: the program would have ended with it.
    pub(super) fn undisturbed(self) -> Result<T, String> {
        match self.panic {
            Some(reason) => Err(reason),
            None => self.correct(),
        }
    }
}

/// Adds two numbers on a device.
///
/// # Errors
/// Where their sum is wrong.
pub(super) fn probe<B: Backend>(device: &B::Device) -> Result<(), String> {
    let one = Tensor::<B, 1>::ones([1], device);
    match (one.clone() + one).into_data().iter::<f32>().next() {
        Some(2.0) => Ok(()),
        sum => Err(format!("it computes 1 + 1 = {sum:?}")),
    }
}

/// Runs something on a thread of its own, for no longer than a limit.
///
/// # Errors
/// Where it takes longer; its thread is left behind.
///
/// # Panics
/// Where its thread does.
pub(super) fn within<T: Send + 'static>(
    limit: Duration,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let outcome = run();
        // Nobody listens any more where it took too long.
        let _ = sender.send(outcome);
    });
    match receiver.recv_timeout(limit) {
        Ok(outcome) => Ok(outcome),
        Err(RecvTimeoutError::Timeout) => {
            Err(format!("it gives no answer within {} seconds", limit.as_secs()))
        }
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(payload) => panic::resume_unwind(payload),
            Ok(()) => unreachable!("a thread that ends without a panic has sent its outcome"),
        },
    }
}

/// The first sentence of a driver's message, which may go on for a page.
fn one_line(message: &str) -> String {
    let line = message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let end = [". ", " - ", ": ["].iter().filter_map(|stop| line.find(stop)).min();
    line[..end.unwrap_or(line.len())].trim_end_matches(['.', ':']).into()
}
