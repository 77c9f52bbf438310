//! Gradient checkpointing (Chen et al. 2016, "Training deep nets with sublinear memory cost"): a
//! layer keeps its input alone, and is computed once more when its gradient is asked for.
//!
//! burn's graphs are held locked while they run backward, so that no operation can run another
//! backward pass inside its own. The graph is cut at every layer instead: what comes out of a
//! layer is a leaf of the graph of the next, and the tape goes through the layers in reverse,
//! handing the gradient of each leaf to the graph before it.
//!
//! B batch, T time, D model width

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use std::cell::RefCell;

use super::block::Block;
use super::experts::Routing;
use super::parameters;
use super::pass::{Memory, Pass};
use super::record::Record;
use crate::backend::{GptBackend, KeyRanges, Rotation, TrainBackend, seed_draws};

/// What a pass in training leaves out of its graph.
#[derive(Debug, Default)]
pub struct Tape<B: Backend> {
    segments: RefCell<Vec<Segment<B>>>,
}

/// A part of the pass whose result is a leaf to all that follows.
#[derive(Debug)]
enum Segment<B: Backend> {
    /// Its graph was kept.
    Kept { output: Tensor<B, 3>, leaf: Tensor<B, 3> },
    /// It is to be computed once more.
    Layer(Box<Layer<B>>),
}

#[derive(Debug)]
struct Layer<B: Backend> {
    block: Block<B>,
    index: usize,
    /// The leaf of the segment before, `[B, T, D]`.
    input: Tensor<B, 3>,
    /// A leaf too, where the layer attends to a source.
    memory: Option<Memory<B>>,
    rotation: Option<Rotation<B>>,
    lengths: Option<Vec<usize>>,
    ranges: Option<KeyRanges>,
    seed: Option<u64>,
    output: Tensor<B, 3>,
    /// Where it has experts, the leaf of their balance, `[1]`.
    balance: Option<Tensor<B, 1>>,
}

impl<B: Backend> Tape<B> {
    /// The same values as a leaf.
    ///
    /// # Shapes
    /// - `output` `[B, T, D]` -> `[B, T, D]`
    pub(super) fn cut(&self, output: Tensor<B, 3>) -> Tensor<B, 3> {
        let leaf = leaf(output.clone());
        self.segments.borrow_mut().push(Segment::Kept { output, leaf: leaf.clone() });
        leaf
    }
}

impl<B: GptBackend> Tape<B> {
    /// [`Block::forward`] of a leaf, without a graph.
    ///
    /// # Shapes
    /// - `input` `[B, T, D]` -> `[B, T, D]`, a leaf
    pub(super) fn run(
        &self,
        block: &Block<B>,
        input: Tensor<B, 3>,
        index: usize,
        pass: &mut Pass<B>,
    ) -> Tensor<B, 3> {
        // A clone of a parameter that nobody has asked for yet would be a parameter of its own.
        parameters(block);
        let mut layer = Layer {
            block: block.clone(),
            index,
            input,
            memory: pass.memory.cloned(),
            rotation: pass.rotation.clone(),
            lengths: pass.lengths.map(<[usize]>::to_vec),
            ranges: pass.ranges.clone(),
            seed: pass.seed,
            output: Tensor::empty([0, 0, 0], &pass.device),
            balance: None,
        };
        let (output, routing) = layer.forward_without_graph();
        layer.output = leaf(output);
        pass.routing.extend(routing.map(|routing| {
            let balance = leaf(routing.balance);
            layer.balance = Some(balance.clone());
            Routing { balance, counts: routing.counts }
        }));
        let output = layer.output.clone();
        self.segments.borrow_mut().push(Segment::Layer(Box::new(layer)));
        output
    }
}

impl<B: TrainBackend> Tape<B> {
    /// The gradients of what came of the pass, in parts: that of a parameter is their sum.
    ///
    /// # Shapes
    /// - `loss` `[1]`
    pub fn backward(self, loss: Tensor<B, 1>) -> Vec<B::Gradients> {
        let mut segments = self.segments.into_inner();
        let after = segments.iter().rev().find_map(Segment::seed_after);
        let mut parts = vec![loss.backward()];
        while let Some(segment) = segments.pop() {
            let part = segment.backward(&mut parts);
            parts.extend(part);
        }
        // One graph would sum them in this order, where there are three: of an embedding that source,
        // target and head share.
        parts[1..].reverse();
        // Whatever is drawn next is what would have been drawn without this.
        if let Some(seed) = after {
            seed_draws(seed);
        }
        parts
    }
}

impl<B: Backend> Segment<B> {
    fn seed_after(&self) -> Option<u64> {
        match self {
            Self::Kept { .. } => None,
            Self::Layer(layer) => Some(layer_seed(layer.seed?, layer.index + 1)),
        }
    }
}

impl<B: TrainBackend> Segment<B> {
    /// Further gradients, from those of its leaf; none where nothing depends on that.
    fn backward(self, parts: &mut [B::Gradients]) -> Option<B::Gradients> {
        let root = match self {
            Self::Kept { output, leaf } => times_gradient(output, &leaf, parts)?,
            Self::Layer(layer) => {
                let (output, routing) = layer.forward();
                let root = times_gradient(output, &layer.output, parts);
                let balance = match (routing, &layer.balance) {
                    (Some(routing), Some(leaf)) => times_gradient(routing.balance, leaf, parts),
                    _ => None,
                };
                match (root, balance) {
                    (Some(root), Some(balance)) => root + balance,
                    (root, balance) => root.or(balance)?,
                }
            }
        };
        Some(root.backward())
    }
}

impl<B: GptBackend> Layer<B> {
    fn forward(&self) -> (Tensor<B, 3>, Option<Routing<B>>) {
        self.forward_of(&self.block, self.input.clone(), self.memory.as_ref())
    }

    fn forward_without_graph(&self) -> (Tensor<B, 3>, Option<Routing<B>>) {
        let memory = self.memory.as_ref().map(|memory| Memory {
            hidden: memory.hidden.clone().set_require_grad(false),
            ..memory.clone()
        });
        let input = self.input.clone().set_require_grad(false);
        self.forward_of(&burn::module::Module::no_grad(self.block.clone()), input, memory.as_ref())
    }

    fn forward_of(
        &self,
        block: &Block<B>,
        input: Tensor<B, 3>,
        memory: Option<&Memory<B>>,
    ) -> (Tensor<B, 3>, Option<Routing<B>>) {
        let mut pass = Pass {
            rotation: self.rotation.clone(),
            lengths: self.lengths.as_deref(),
            ranges: self.ranges.clone(),
            memory,
            cache: None,
            routing: Vec::new(),
            seed: self.seed,
            record: Record::Nobody,
            device: input.device(),
        };
        pass.seed_layer(self.index);
        let output = block.forward(input, self.index, &mut pass);
        (output, pass.routing.pop())
    }
}

/// The seed of what a layer draws.
pub(super) fn layer_seed(seed: u64, layer: usize) -> u64 {
    seed.wrapping_add(layer as u64)
}

fn leaf<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Tensor<B, D> {
    tensor.set_require_grad(false).require_grad()
}

/// A number whose gradient with respect to `output` is that of its leaf, taken out of the parts.
fn times_gradient<B: TrainBackend, const D: usize>(
    output: Tensor<B, D>,
    leaf: &Tensor<B, D>,
    parts: &mut [B::Gradients],
) -> Option<Tensor<B, 1>> {
    let gradients = parts.iter_mut().filter_map(|part| leaf.grad_remove(part));
    let gradient = gradients.reduce(|sum, next| next + sum)?;
    Some((output * Tensor::from_inner(gradient)).sum())
}
