//! The further devices of a training on several: data parallelism, with a copy of the model on each.

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::Optimizer;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn_train::TrainStep;
use std::any::Any;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use super::accumulate::{Accumulated, accumulate};
use super::all_reduce::all_reduce;
use super::{LanguageModel, ModelOptimizer};
use crate::backend::{LeftAlone, Member, TrainBackend, seed_draws};
use crate::config::RunConfig;
use crate::data::TokenBatch;

/// Why devices cannot train together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DevicesError {
    #[error(
        "{devices} devices cannot share the micro-batches of a step evenly: train.accumulation is {accumulation}; set it to a multiple of {devices}, as by --set train.accumulation={next}, and train.batch_size to what one device is to have at a time"
    )]
    Uneven { devices: usize, accumulation: usize, next: usize },
}

/// Whether a configuration can be trained on so many devices.
///
/// # Errors
/// [`DevicesError`].
pub fn check_devices(config: &RunConfig, devices: usize) -> Result<(), DevicesError> {
    let accumulation = config.train.accumulation;
    if !accumulation.is_multiple_of(devices) {
        let next = accumulation.next_multiple_of(devices);
        return Err(DevicesError::Uneven { devices, accumulation, next });
    }
    Ok(())
}

/// What became of a device that has stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceFailure {
    pub device: String,
    pub reason: String,
}

/// The devices beside the first, each with a thread that stays with it: what a device keeps for a
/// thread is kept once.
///
/// Of the micro-batches of a step rank `r` of `R` has those at `r`, `r + R`, and so on; the first
/// device is rank zero. All sum their gradients, the first says whether the step is taken and how,
/// and all take it alike, so that their weights stay the same to the last bit.
pub(super) struct Replicas<B: TrainBackend> {
    /// The first device's; none once the others have ended.
    member: Option<Member>,
    workers: Vec<Worker<B>>,
}

struct Worker<B: TrainBackend> {
    device: B::Device,
    /// It ends when this is gone.
    work: Sender<Work>,
    thread: JoinHandle<Result<LanguageModel<B>, Stop>>,
}

/// A device's part of a step.
struct Work {
    batches: Vec<TokenBatch>,
    /// Of all devices.
    micro_batches: usize,
    seed: u64,
}

/// What all do once the gradients are summed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    Take { learning_rate: f64, gradient_factor: f64 },
    Skip,
}

/// Why a thread ends before its work does.
enum Stop {
    /// Another one has; it is for that to say why.
    LeftAlone,
    Failed(String),
}

impl From<LeftAlone> for Stop {
    fn from(_: LeftAlone) -> Self {
        Self::LeftAlone
    }
}

impl<B: TrainBackend> Replicas<B> {
    /// Copies a model, and the moments that its optimizer has, to each of some devices.
    pub(super) fn start(
        model: &LanguageModel<B>,
        optimizer: &ModelOptimizer<B>,
        devices: Vec<B::Device>,
    ) -> Self {
        let mut members = Member::group(1 + devices.len()).into_iter();
        let first = members.next();
        let start = |(device, member): (B::Device, Member)| {
            let (model, optimizer, own) = (model.clone(), optimizer.clone(), device.clone());
            let (work, receiver) = channel();
            let thread = thread::spawn(move || {
                let (model, optimizer) = (copy_of(model, &own), optimizer.copied_to(&own));
                Replica { model, optimizer, device: own, member }.run(receiver)
            });
            Worker { device, work, thread }
        };
        let workers = devices.into_iter().zip(members).map(start).collect();
        Self { member: first, workers }
    }

    /// Hands out the micro-batches of a step; those of the first device come back.
    pub(super) fn deal(&self, batches: Vec<TokenBatch>, seed: u64) -> Vec<TokenBatch> {
        let micro_batches = batches.len();
        let devices = 1 + self.workers.len();
        let mut shares = vec![Vec::new(); devices];
        for (place, batch) in batches.into_iter().enumerate() {
            shares[place % devices].push(batch);
        }
        let mut shares = shares.into_iter();
        let own = shares.next().unwrap_or_default();
        for ((rank, batches), worker) in (1..).zip(shares).zip(&self.workers) {
            let work = Work { batches, micro_batches, seed: seed_of(seed, rank) };
            // Of one that has ended, the next meeting will know.
            let _ = worker.work.send(work);
        }
        own
    }

    /// The sum of what all devices have.
    ///
    /// # Errors
    /// A device that has failed. Then all of them have ended.
    pub(super) fn all_reduce(
        &mut self,
        model: &LanguageModel<B>,
        own: Accumulated<B>,
        micro_batches: usize,
        device: &B::Device,
    ) -> Result<Accumulated<B>, DeviceFailure> {
        let sum = |member: &Member| all_reduce(model, own, micro_batches, device, member);
        let sum = self.member.as_ref().ok_or(LeftAlone).and_then(sum);
        sum.map_err(|LeftAlone| self.failure())
    }

    /// Tells all devices what to do with their sums.
    ///
    /// # Errors
    /// A device that has failed. Then all of them have ended.
    pub(super) fn order(&mut self, order: Order) -> Result<(), DeviceFailure> {
        let member = self.member.as_ref().ok_or(LeftAlone);
        let told = member.and_then(|member| member.meet(Some(order)));
        told.map(drop).map_err(|LeftAlone| self.failure())
    }

    /// Waits until all threads have ended: the model of each.
    ///
    /// # Errors
    /// The first device that has failed.
    pub(super) fn end(&mut self) -> Result<Vec<LanguageModel<B>>, DeviceFailure> {
        self.member = None;
        let (mut models, mut failure) = (Vec::new(), None);
        for Worker { device, work, thread } in self.workers.drain(..) {
            drop(work);
            let reason = match thread.join() {
                Ok(Ok(model)) => {
                    models.push(model);
                    continue;
                }
                Ok(Err(Stop::LeftAlone)) => continue,
                Ok(Err(Stop::Failed(reason))) => reason,
                Err(panic) => message_of(panic),
            };
            let device = format!("{device:?}");
            failure.get_or_insert(DeviceFailure { device, reason: first_line(&reason) });
        }
        failure.map_or(Ok(models), Err)
    }

    /// Why a device has left the others.
    fn failure(&mut self) -> DeviceFailure {
        let unknown = || DeviceFailure {
            device: "which has stopped before".into(),
            reason: "no more steps can be taken".into(),
        };
        self.end().err().unwrap_or_else(unknown)
    }
}

impl<B: TrainBackend> Drop for Replicas<B> {
    fn drop(&mut self) {
        // Whoever panics is not to wait for others.
        if !thread::panicking() {
            let _ = self.end();
        }
    }
}

/// A device's copy of what is trained.
struct Replica<B: TrainBackend> {
    model: LanguageModel<B>,
    optimizer: ModelOptimizer<B>,
    device: B::Device,
    member: Member,
}

impl<B: TrainBackend> Replica<B> {
    /// Takes its part in steps for as long as there are some.
    fn run(mut self, work: Receiver<Work>) -> Result<LanguageModel<B>, Stop> {
        for Work { batches, micro_batches, seed } in work {
            seed_draws(seed);
            let (model, device) = (&self.model, &self.device);
            let own = accumulate(model, batches, device, |batch| TrainStep::step(model, batch));
            let sum = all_reduce(model, own, micro_batches, device, &self.member)?;
            // It reads no number, in which a device tells what has failed on it.
            B::sync(device).map_err(|error| Stop::Failed(error.to_string()))?;
            let orders = self.member.meet(None::<Order>)?;
            if let Some(Order::Take { learning_rate, gradient_factor }) = *orders[0] {
                self.optimizer.scale_gradients(gradient_factor);
                self.model = self.optimizer.step(learning_rate, self.model, sum.gradients);
            }
        }
        Ok(self.model)
    }
}

/// Devices draw other numbers, in this step and in those around it.
fn seed_of(seed: u64, rank: u64) -> u64 {
    seed.wrapping_add(rank << 40)
}

/// The words of a panic.
fn message_of(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// Of a message, which may go on for a page.
fn first_line(message: &str) -> String {
    let line = message.lines().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or("it ended without a word").into()
}

/// The same model on another device.
fn copy_of<B: TrainBackend>(model: LanguageModel<B>, device: &B::Device) -> LanguageModel<B> {
    struct Copy<'a, B: Backend>(&'a B::Device);

    impl<B: TrainBackend> ModuleMapper<B> for Copy<'_, B> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            param.map(|old| {
                let requires_grad = old.is_require_grad();
                let new = Tensor::from_inner(copied(old.inner(), self.0));
                new.set_require_grad(requires_grad)
            })
        }
    }

    model.map(&mut Copy::<B>(device))
}

/// The same numbers on another device. They go over the host, since between GPUs burn would ask for
/// NCCL, which not every system has.
pub(super) fn copied<I: Backend, const D: usize>(
    tensor: Tensor<I, D>,
    device: &I::Device,
) -> Tensor<I, D> {
    Tensor::from_data(tensor.into_data(), device)
}
