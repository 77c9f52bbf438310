//! Steps of training, played through with the sizes of what they take and give back.

use std::collections::HashMap;

use super::account::{Account, Amounts, Block, Kind, most_idle};
use super::operations::{Loss, WIDTH};
use super::passes::{Pass, Place};
use super::trace::{Slopes, Value};
use super::{MemoryError, Operations, PartMemory, PeakMemory, TrainingMemory};
use crate::backend::LossTerms;
use crate::config::Architecture;
use crate::config::{DataConfig, Packing, RunConfig};
use crate::data::{BatchPlan, Task};
use crate::model::parameter_shapes;
use crate::train::optimizer::moments_of;
use crate::train::trained;

/// Of a process that trains next to nothing: the program, its threads and what it reads.
const PROGRAM: u64 = 19 << 20;
/// Matrix products copy factors into buffers of their own: this part of what is taken.
const PACKED: u64 = 20;
/// Steps until each is as the one before.
const STEPS: usize = 3;

/// A parameter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameter {
    pub(super) bytes: u64,
    pub(super) is_trained: bool,
    /// Of the optimizer.
    moments: usize,
}

/// Steps of training.
pub(super) struct Steps<'a> {
    config: &'a RunConfig,
    operations: Operations,
    parameters: HashMap<String, Parameter>,
    /// In the order of the model.
    names: Vec<String>,
    vocab_size: u64,
}

impl<'a> Steps<'a> {
    pub(super) fn new(
        config: &'a RunConfig,
        vocab_size: usize,
        operations: Operations,
    ) -> Result<Self, MemoryError> {
        let shapes = parameter_shapes(&config.model, vocab_size);
        let names: Vec<String> = shapes.iter().map(|(name, _)| name.clone()).collect();
        let trained = trained(config, &names)?;
        let moments = moments_of(&config.train.optimizer, &shapes)?;
        let parameters = shapes.into_iter().zip(trained).zip(moments);
        let parameters = parameters.map(|(((name, shape), is_trained), moments)| {
            let bytes = WIDTH * shape.iter().product::<usize>() as u64;
            (name, Parameter { bytes, is_trained, moments })
        });
        Ok(Self {
            config,
            operations,
            parameters: parameters.collect(),
            names,
            vocab_size: vocab_size as u64,
        })
    }

    pub(super) fn play(&self) -> TrainingMemory {
        let all: Vec<Parameter> = self.names.iter().map(|name| self.parameters[name]).collect();
        let trained: Vec<Parameter> = all.iter().filter(|it| it.is_trained).copied().collect();
        let mut account = Account::default();
        let weights = all.iter().map(|it| account.take(it.bytes, Kind::State)).collect();
        let mut state = State { weights, ..State::default() };
        for _ in 0..STEPS {
            self.step(&mut account, &mut state);
        }
        let gradients = trained.iter().map(|it| it.bytes).sum();
        TrainingMemory {
            weights: all.iter().map(|it| it.bytes).sum(),
            gradients,
            moments: trained.iter().map(|it| it.bytes * it.moments as u64).sum(),
            average: if self.config.train.average.is_some() { gradients } else { 0 },
            activations: self.activations(),
            peak: peak(account.most()),
            process: self.process(&account),
        }
    }

    /// An optimizer step over its micro-batches.
    fn step(&self, account: &mut Account, state: &mut State) {
        let mut gradients = self.micro_batch(account);
        // What the gradients of a second one are added to is there meanwhile.
        if self.config.train.accumulation > 1 {
            let more = self.micro_batch(account);
            more.into_iter().for_each(|block| account.give_back(block));
        }
        self.update(account, state, &mut gradients);
        gradients.into_iter().for_each(|block| account.give_back(block));
    }

    /// The optimizer, and the average of the weights.
    fn update(&self, account: &mut Account, state: &mut State, gradients: &mut Vec<Block>) {
        let has_average = self.config.train.average.is_some();
        let mut old = Vec::new();
        for (place, name) in self.names.iter().enumerate() {
            let Parameter { bytes, moments, is_trained } = self.parameters[name];
            if !is_trained {
                continue;
            }
            if !state.has_moments {
                let blocks = (0..moments).map(|_| account.take(bytes, Kind::State));
                state.moments.extend(blocks);
            }
            // The new value comes where the gradient was.
            let found = gradients.iter().position(|gradient| gradient.bytes() == bytes);
            let new = match found {
                Some(found) => account.rename(gradients.swap_remove(found), Kind::State),
                None => account.take(bytes, Kind::State),
            };
            let scratch = account.take(self.temporaries(moments) * bytes, Kind::Transient);
            account.give_back(scratch);
            let weight = std::mem::replace(&mut state.weights[place], new);
            // The first average is the weight before it moves on.
            match has_average && !state.has_moments {
                true => state.averages.push(weight),
                false => old.push(weight),
            }
        }
        old.into_iter().for_each(|block| account.give_back(block));
        for average in &state.averages {
            let scratch = account.take(2 * average.bytes(), Kind::Transient);
            account.give_back(scratch);
        }
        state.has_moments = true;
    }

    /// Tensors beside its own that the update of a parameter makes, each as large as it is: as many
    /// as the algorithm with so many moments is composed of, if it is.
    fn temporaries(&self, moments: usize) -> u64 {
        match moments {
            2 if self.operations.kernels => 0,
            0 => 2,
            _ => 4,
        }
    }

    /// The most memory of a process. Experts get other numbers of rows at each step, for which few
    /// of the idle blocks fit: there are as many as the allocator keeps.
    fn process(&self, account: &Account) -> u64 {
        let resident = match self.config.model.feed_forward.experts {
            Some(_) => account.most().total() + most_idle(account.most().total()),
            None => account.resident() + account.resident() / PACKED,
        };
        PROGRAM + resident
    }

    fn pass(&self) -> Pass<'_> {
        let RunConfig { model, train, data, .. } = self.config;
        let length = model.context_length as u64;
        let packing = match data {
            DataConfig::Tokens { packing, .. } => *packing,
            _ => Packing::Stream,
        };
        let masked = packing != Packing::Stream;
        let batch = train.batch_size as u64;
        Pass::new(
            model,
            &self.parameters,
            [batch, length],
            masked,
            self.operations,
            train.precision,
        )
    }

    fn loss(&self) -> Loss {
        let RunConfig { model, train, .. } = self.config;
        let rows = train.batch_size * model.context_length;
        let targets = match model.architecture {
            Architecture::Encoder => {
                Task::targets_of_window(model.architecture, rows).ceil() as u64
            }
            Architecture::Decoder | Architecture::EncoderDecoder => rows as u64,
        };
        Loss {
            targets,
            vocab_size: self.vocab_size,
            is_share: BatchPlan::of_run(train).accumulation > 1,
            terms: LossTerms { label_smoothing: train.label_smoothing, z_loss: train.z_loss },
        }
    }

    /// The stacks of layers, in the order in which they are computed.
    fn stacks(&self) -> Vec<(&'static str, usize)> {
        let model = &self.config.model;
        let (encoder, decoder) =
            (("encoder", model.n_encoder_layers()), ("decoder", model.n_layers));
        match model.architecture {
            Architecture::Decoder => vec![decoder],
            Architecture::Encoder => vec![encoder],
            Architecture::EncoderDecoder => vec![encoder, decoder],
        }
    }

    /// What is kept of a pass in which nothing is computed twice, part by part.
    fn activations(&self) -> Vec<PartMemory> {
        let mut pass = self.pass();
        self.whole(&mut pass);
        let saved = pass.recorder.trace.saved().into_iter();
        let stream = pass.stream_bytes();
        let twice = self.config.train.gradient_checkpointing;
        let is_layer = |name: &str| name.contains(".blocks.");
        let part = |(name, bytes): (String, u64)| {
            let bytes = if twice && is_layer(&name) { stream } else { bytes };
            PartMemory { name, bytes }
        };
        saved.map(part).collect()
    }

    /// Records a pass through all of the model; the loss.
    fn whole(&self, pass: &mut Pass) -> Value {
        let mut memory = None;
        let mut stream = None;
        for (stack, layers) in self.stacks() {
            pass.recorder.trace.begin(format!("{stack}.embedding"));
            let mut in_stack = pass.embedding();
            for layer in 0..layers {
                pass.recorder.trace.begin(format!("{stack}.blocks.{layer}"));
                in_stack = pass.block(Place { stack, layer }, in_stack, memory);
            }
            pass.recorder.trace.begin(format!("{stack}.final_norm"));
            in_stack = pass.final_norm(stack, in_stack);
            memory = Some(in_stack);
            stream = memory;
        }
        pass.recorder.trace.begin("head");
        let stream = stream.expect("an architecture has a stack");
        pass.loss(stream, &self.loss())
    }

    /// Forward and backward; the gradients of the parameters.
    fn micro_batch(&self, account: &mut Account) -> Vec<Block> {
        if self.config.train.gradient_checkpointing {
            return self.micro_batch_by_layers(account);
        }
        let mut pass = self.pass();
        let loss = self.whole(&mut pass);
        pass.recorder.trace.forward(account, loss).backward(account).parameters
    }

    /// Forward and backward where each layer keeps its input alone, and is computed twice.
    fn micro_batch_by_layers(&self, account: &mut Account) -> Vec<Block> {
        let embedded: Vec<_> = self.stacks().iter().map(|_| self.embedding()).collect();
        let mut embeddings = Vec::new();
        let mut layers = Vec::new();
        for ((stack, count), (pass, output)) in self.stacks().into_iter().zip(&embedded) {
            embeddings.push(pass.recorder.trace.forward(account, *output));
            for layer in 0..count {
                let place = Place { stack, layer };
                let (pass, output) = self.layer(place, false);
                let leaf = pass.recorder.trace.forward_alone(account, output);
                layers.push((place, leaf.map(|block| account.rename(block, Kind::Activations))));
            }
        }
        let mut pass = self.pass();
        let bytes = pass.stream_bytes();
        let stream = pass.recorder.trace.input(bytes);
        let normed = pass.final_norm("decoder", stream);
        let loss = pass.loss(normed, &self.loss());
        let Slopes { mut parameters, mut inputs } =
            pass.recorder.trace.forward(account, loss).backward(account);
        for (place, leaf) in layers.into_iter().rev() {
            let (pass, output) = self.layer(place, true);
            let slopes = pass.recorder.trace.forward(account, output).backward(account);
            inputs.into_iter().chain(leaf).for_each(|block| account.give_back(block));
            parameters.extend(slopes.parameters);
            inputs = slopes.inputs;
        }
        for embedding in embeddings {
            parameters.extend(embedding.backward(account).parameters);
        }
        inputs.into_iter().for_each(|block| account.give_back(block));
        parameters
    }

    fn embedding(&self) -> (Pass<'_>, Value) {
        let mut pass = self.pass();
        let embedded = pass.embedding();
        (pass, embedded)
    }

    /// A graph of one layer, from a leaf; backward, it begins with the gradient of its output.
    fn layer(&self, place: Place, is_backward: bool) -> (Pass<'_>, Value) {
        let mut pass = self.pass();
        let bytes = pass.stream_bytes();
        let stream = pass.recorder.trace.input(bytes);
        let is_cross = place.stack == "decoder"
            && self.config.model.architecture == Architecture::EncoderDecoder;
        let memory = is_cross.then(|| pass.recorder.trace.input(bytes));
        let output = pass.block(place, stream, memory);
        match is_backward {
            true => {
                let product = pass.recorder.times_gradient(output);
                (pass, product)
            }
            false => (pass, output),
        }
    }
}

/// What stays from step to step.
#[derive(Default)]
struct State {
    weights: Vec<Block>,
    moments: Vec<Block>,
    averages: Vec<Block>,
    has_moments: bool,
}

fn peak(most: Amounts) -> PeakMemory {
    PeakMemory {
        state: most.of(Kind::State),
        gradients: most.of(Kind::Gradients),
        activations: most.of(Kind::Activations),
        transient: most.of(Kind::Transient),
        total: most.total(),
    }
}
