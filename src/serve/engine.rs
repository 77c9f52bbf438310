use burn::module::Module;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::{self, JoinHandle};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::metrics::{Counted, ModelMetrics};
use super::{Options, ServeError};
use crate::artifact::Run;
use crate::backend::{self, GptBackend, Job, Target, TrainBackend};
use crate::data::Task;
use crate::generate::{Batch, NextToken, Progress, Request, RequestError, Ticket};
use crate::model::Model;
use crate::tokenizer::Tokenizer;

/// What comes of a text, the texts of a client counted from zero.
pub(super) type Event = (usize, Result<Progress, RequestError>);

/// Writes the texts that are asked of a run, on a thread of its own.
#[derive(Debug)]
pub(super) struct Engine {
    orders: UnboundedSender<Order>,
    /// Places in the queue that are free.
    places: Arc<Semaphore>,
    metrics: ModelMetrics,
}

/// There are no places in the queue for all texts of a request.
pub(super) struct Full;

/// A text that is asked for.
struct Order {
    request: Request,
    index: usize,
    events: UnboundedSender<Event>,
    place: (OwnedSemaphorePermit, Counted),
}

/// A text that is being written.
struct Running {
    index: usize,
    events: UnboundedSender<Event>,
    _counted: Counted,
}

impl Engine {
    /// Loads the model of a run, and waits for it; the number of its parameters comes back, and
    /// the thread, which ends when nothing can be asked any more.
    ///
    /// # Errors
    /// A backend without a device, a run without a model, or one that cannot be continued.
    pub(super) fn start(
        run: &Run,
        tokenizer: Arc<dyn Tokenizer>,
        task: Task,
        options: &Options,
        metrics: ModelMetrics,
    ) -> Result<(Self, usize, JoinHandle<()>), ServeError> {
        let (orders, received) = mpsc::unbounded_channel();
        let (ready, loaded) = std::sync::mpsc::sync_channel(1);
        let writer = Writer {
            run: run.clone(),
            tokenizer,
            task,
            target: options.target,
            int8: options.int8,
            max_batch: options.max_batch,
            orders: received,
            metrics: metrics.clone(),
            ready: ready.clone(),
        };
        let target = options.target;
        let thread = thread::Builder::new()
            .name(format!("engine of {}", run.name()))
            .spawn(move || {
                let ended = backend::dispatch(target, writer);
                if let Err(error) = ended.map_err(ServeError::from).and_then(|ended| ended) {
                    // Whoever waits for it is gone only if the model was loaded.
                    let _ = ready.send(Err(error));
                }
            })
            .map_err(|source| ServeError::Thread { source })?;
        let stopped = |_| ServeError::Stopped { run: run.name().into() };
        let params = loaded.recv().map_err(stopped)??;
        let places = Arc::new(Semaphore::new(options.queue));
        Ok((Self { orders, places, metrics }, params, thread))
    }

    /// Whether nothing will be written any more: its thread has ended, as by a panic.
    pub(super) fn has_ended(&self) -> bool {
        self.orders.is_closed()
    }

    /// Asks for texts; what comes of them, until each has finished. Dropping that forgets them.
    ///
    /// # Errors
    /// [`Full`]
    pub(super) fn order(&self, requests: Vec<Request>) -> Result<UnboundedReceiver<Event>, Full> {
        let count = u32::try_from(requests.len()).map_err(|_| Full)?;
        let mut places = self.places.clone().try_acquire_many_owned(count).map_err(|_| Full)?;
        let (events, received) = mpsc::unbounded_channel();
        for (index, request) in requests.into_iter().enumerate() {
            let place = places.split(1).ok_or(Full)?;
            let place = (place, Counted::new(&self.metrics.waiting));
            // An engine that has ended is noticed by the end of the events.
            let _ = self.orders.send(Order { request, index, events: events.clone(), place });
        }
        Ok(received)
    }
}

/// What the thread needs.
struct Writer {
    run: Run,
    tokenizer: Arc<dyn Tokenizer>,
    task: Task,
    target: Target,
    int8: bool,
    max_batch: usize,
    orders: UnboundedReceiver<Order>,
    metrics: ModelMetrics,
    ready: SyncSender<Result<usize, ServeError>>,
}

impl Job for Writer {
    type Output = Result<(), ServeError>;

    fn run<B: TrainBackend>(self, device: B::Device) -> Result<(), ServeError> {
        if self.int8 {
            backend::check_int8::<B>(self.target.kind, &device)?;
        }
        let model: Model<B::InnerBackend> = self.run.load_model(&device)?;
        let params = model.num_params();
        let model = if self.int8 { model.quantize_int8() } else { model };
        match model {
            Model::Gpt(model) => self.write(&model, params),
            Model::Seq2Seq(model) => self.write(&model, params),
            Model::Encoder(_) => {
                return Err(ServeError::FillsGaps { run: self.run.name().into() });
            }
        }
        Ok(())
    }
}

impl Writer {
    /// Until nobody can ask for anything any more.
    fn write<B: GptBackend>(self, model: &impl NextToken<B>, params: usize) {
        let end = self.task.end(self.tokenizer.as_ref());
        let mut batch = Batch::new(model, self.tokenizer.as_ref(), end);
        let mut waiting: VecDeque<Order> = VecDeque::new();
        let mut running: BTreeMap<Ticket, Running> = BTreeMap::new();
        // Dropped first, in a panic, too: who hears that a text has ended finds the engine ended.
        let mut orders = self.orders;
        if self.ready.send(Ok(params)).is_err() {
            return;
        }
        loop {
            if waiting.is_empty() && running.is_empty() {
                let Some(order) = orders.blocking_recv() else { return };
                waiting.push_back(order);
            }
            while let Ok(order) = orders.try_recv() {
                waiting.push_back(order);
            }
            waiting.retain(|order| !order.events.is_closed());
            running.retain(|ticket, text| {
                let stays = !text.events.is_closed();
                if !stays {
                    batch.leave(*ticket);
                }
                stays
            });
            while running.len() < self.max_batch
                && let Some(Order { request, index, events, place }) = waiting.pop_front()
            {
                drop(place);
                match batch.enter(request) {
                    Ok(ticket) => {
                        let _counted = Counted::new(&self.metrics.active);
                        running.insert(ticket, Running { index, events, _counted });
                    }
                    // A client that has gone is noticed in the next round.
                    Err(error) => drop(events.send((index, Err(error)))),
                }
            }
            for (ticket, progress) in batch.step() {
                let Some(text) = running.get(&ticket) else { continue };
                self.metrics.generated.inc_by(progress.choice.is_some().into());
                let finished = progress.finish.is_some();
                let _ = text.events.send((text.index, Ok(progress)));
                if finished {
                    running.remove(&ticket);
                }
            }
        }
    }
}
