//! What lies in memory while a recorded pass runs forward and backward.

use std::collections::HashMap;

use super::account::{Account, Block, Kind};

/// A tensor in a recorded pass, without its numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value {
    pub(super) bytes: u64,
    storage: usize,
    /// What autodiff knows it by; none where no gradient is asked for.
    node: Option<usize>,
    /// In bf16, where others are in f32.
    pub(super) is_rounded: bool,
}

impl Value {
    /// Whether two tensors are in the same memory.
    pub(super) fn shares(&self, other: &Self) -> bool {
        self.storage == other.storage
    }

    /// Whether there will be a gradient with respect to it.
    pub(super) fn is_tracked(&self) -> bool {
        self.node.is_some()
    }
}

/// What an operation makes of the gradient with respect to its output, for one of its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slope {
    /// Numbers of their own.
    New,
    /// The same numbers.
    Same,
    /// Numbers that the forward pass has made already: those of `keeps` at this place.
    Made(usize),
}

/// What stands for numbers in memory, for one tensor or for several that share them.
#[derive(Debug)]
struct Storage {
    bytes: u64,
    /// In memory whatever the pass does with it, as weights are.
    is_kept: bool,
    /// Operations that hold it until their gradients are computed.
    holders: usize,
    section: usize,
}

/// An operation in the order of the forward pass.
#[derive(Debug)]
struct Operation {
    uses: Vec<usize>,
    /// Not its output where that takes over the memory of an input.
    creates: Vec<usize>,
    scratch: u64,
}

/// An operation that autodiff has recorded; without parents, a leaf.
#[derive(Debug, Default)]
struct Node {
    depth: usize,
    /// Of the gradient with respect to its output.
    bytes: u64,
    parents: Vec<(usize, Slope)>,
    saved: Vec<usize>,
    /// Of `saved`, what nothing but this operation knows of.
    kept: Vec<usize>,
    scratch: u64,
    /// Of a leaf: whether it is a parameter.
    is_parameter: bool,
}

/// The operations of a pass through a model or a part of it.
#[derive(Debug, Default)]
pub(super) struct Trace {
    storages: Vec<Storage>,
    operations: Vec<Operation>,
    nodes: Vec<Node>,
    sections: Vec<String>,
}

/// One operation as it is recorded.
#[derive(Debug, Default)]
pub(super) struct Record<'a> {
    pub(super) inputs: &'a [(Value, Slope)],
    /// Tensors that are needed for the gradients.
    pub(super) saves: &'a [Value],
    /// Whether the output is needed for them too.
    pub(super) saves_output: bool,
    /// What else is kept for them.
    pub(super) keeps: &'a [u64],
    /// Of the output.
    pub(super) bytes: u64,
    /// Whether the output is in bf16.
    pub(super) is_rounded: bool,
    /// Beside inputs and outputs, meanwhile.
    pub(super) forward_scratch: u64,
    pub(super) backward_scratch: u64,
}

impl Trace {
    /// What is recorded from here on belongs to a part of the model.
    pub(super) fn begin(&mut self, section: impl Into<String>) {
        self.sections.push(section.into());
    }

    fn storage(&mut self, bytes: u64, is_kept: bool) -> usize {
        let section = self.sections.len().saturating_sub(1);
        self.storages.push(Storage { bytes, is_kept, holders: 0, section });
        self.storages.len() - 1
    }

    fn node(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// A parameter that is trained.
    pub(super) fn parameter(&mut self, bytes: u64) -> Value {
        self.leaf(bytes, true)
    }

    /// What comes from another graph.
    pub(super) fn input(&mut self, bytes: u64) -> Value {
        self.leaf(bytes, false)
    }

    fn leaf(&mut self, bytes: u64, is_parameter: bool) -> Value {
        let storage = self.storage(bytes, true);
        let node = self.node(Node { bytes, is_parameter, ..Node::default() });
        Value { bytes, storage, node: Some(node), is_rounded: false }
    }

    /// Something that is in memory all along, and has no gradient.
    pub(super) fn constant(&mut self, bytes: u64) -> Value {
        Value { bytes, storage: self.storage(bytes, true), node: None, is_rounded: false }
    }

    /// The output of an operation, in memory of its own.
    pub(super) fn record(&mut self, record: Record) -> Value {
        let storage = self.storage(record.bytes, false);
        self.finish(record, storage, true)
    }

    /// The output of an operation that writes it where its first input is.
    pub(super) fn record_in_place(&mut self, record: Record) -> Value {
        let storage = record.inputs[0].0.storage;
        self.finish(record, storage, false)
    }

    fn finish(&mut self, record: Record, storage: usize, is_new: bool) -> Value {
        let Record { bytes, is_rounded, .. } = record;
        let parents: Vec<(usize, Slope)> =
            record.inputs.iter().filter_map(|(input, slope)| Some((input.node?, *slope))).collect();
        let kept: Vec<usize> = match parents.is_empty() {
            true => Vec::new(),
            false => record.keeps.iter().map(|bytes| self.storage(*bytes, false)).collect(),
        };
        let creates = is_new.then_some(storage).into_iter().chain(kept.clone()).collect();
        let uses = record.inputs.iter().map(|(input, _)| input.storage).collect();
        self.operations.push(Operation { uses, creates, scratch: record.forward_scratch });
        if parents.is_empty() {
            return Value { bytes, storage, node: None, is_rounded };
        }
        let saved = record.saves.iter().map(|value| value.storage);
        let output = record.saves_output.then_some(storage);
        let saved: Vec<usize> = saved.chain(output).chain(kept.clone()).collect();
        for storage in &saved {
            self.storages[*storage].holders += 1;
        }
        let depths = parents.iter().map(|(parent, _)| self.nodes[*parent].depth);
        let depth = 1 + depths.max().unwrap_or(0);
        let scratch = record.backward_scratch;
        let node = Node { depth, bytes, parents, saved, kept, scratch, is_parameter: false };
        Value { bytes, storage, node: Some(self.node(node)), is_rounded }
    }

    /// Whether only the next operation knows of a tensor's numbers, which may then be overwritten.
    pub(super) fn is_free(&self, value: Value) -> bool {
        let storage = &self.storages[value.storage];
        !storage.is_kept && storage.holders == 0
    }

    /// The same numbers in another order, or a part of them, whose gradient is of the part's size.
    pub(super) fn view(&mut self, of: Value, bytes: u64) -> Value {
        let slope = if of.bytes == bytes { Slope::Same } else { Slope::New };
        let inputs = [(of, slope)];
        let record = Record { inputs: &inputs, bytes, ..Record::default() };
        self.finish(record, of.storage, false)
    }

    /// Bytes that each section holds for the gradients, beside what is in memory all along.
    pub(super) fn saved(&self) -> Vec<(String, u64)> {
        let mut sections: Vec<(String, u64)> =
            self.sections.iter().map(|name| (name.clone(), 0)).collect();
        for storage in self.storages.iter().filter(|it| !it.is_kept && it.holders > 0) {
            if let Some((_, bytes)) = sections.get_mut(storage.section) {
                *bytes += storage.bytes;
            }
        }
        sections
    }

    /// Runs forward, and keeps `output` alone, whose memory this is.
    pub(super) fn forward_alone(&self, account: &mut Account, output: Value) -> Option<Block> {
        let holders = vec![0; self.storages.len()];
        self.run(account, output, holders).blocks.remove(&output.storage)
    }

    /// Runs forward, and keeps what the way back needs, and `output`.
    pub(super) fn forward(&self, account: &mut Account, output: Value) -> Forward<'_> {
        let holders = self.storages.iter().map(|storage| storage.holders).collect();
        self.run(account, output, holders)
    }

    fn run(&self, account: &mut Account, output: Value, holders: Vec<usize>) -> Forward<'_> {
        let mut last = vec![0; self.storages.len()];
        for (number, operation) in self.operations.iter().enumerate() {
            for storage in operation.uses.iter().chain(&operation.creates) {
                last[*storage] = number;
            }
        }
        let mut blocks: HashMap<usize, Block> = HashMap::new();
        for (number, operation) in self.operations.iter().enumerate() {
            let scratch = account.take(operation.scratch, Kind::Transient);
            for storage in &operation.creates {
                let bytes = self.storages[*storage].bytes;
                let kind = if holders[*storage] > 0 { Kind::Activations } else { Kind::Transient };
                blocks.insert(*storage, account.take(bytes, kind));
            }
            account.give_back(scratch);
            for storage in operation.uses.iter().chain(&operation.creates) {
                let is_free = holders[*storage] == 0 && *storage != output.storage;
                if last[*storage] == number
                    && is_free
                    && let Some(block) = blocks.remove(storage)
                {
                    account.give_back(block);
                }
            }
        }
        Forward { trace: self, blocks, holders, output }
    }
}

/// A pass that has come to its end.
#[derive(Debug)]
pub(super) struct Forward<'a> {
    trace: &'a Trace,
    blocks: HashMap<usize, Block>,
    holders: Vec<usize>,
    output: Value,
}

/// The gradients that a way back leaves.
#[derive(Debug, Default)]
pub(super) struct Slopes {
    pub(super) parameters: Vec<Block>,
    pub(super) inputs: Vec<Block>,
}

/// A gradient, which several tensors may share.
#[derive(Debug)]
struct Gradient {
    block: Block,
    owners: usize,
}

impl Forward<'_> {
    /// Runs backward from the output; the gradients of the leaves stay.
    pub(super) fn backward(mut self, account: &mut Account) -> Slopes {
        let trace = self.trace;
        let mut gradients: Vec<Gradient> = Vec::new();
        // The gradient of each node, as far as it is there.
        let mut of: HashMap<usize, usize> = HashMap::new();
        let mut order: Vec<usize> = (0..trace.nodes.len()).collect();
        order.sort_by_key(|node| std::cmp::Reverse((trace.nodes[*node].depth, *node)));
        if let Some(node) = self.output.node {
            let block = account.take(self.output.bytes, Kind::Transient);
            gradients.push(Gradient { block, owners: 1 });
            of.insert(node, 0);
        }
        // Nobody but its holders needs the output any more.
        let output = self.output.storage;
        if self.holders[output] == 0
            && let Some(block) = self.blocks.remove(&output)
        {
            account.give_back(block);
        }
        for number in order {
            let node = &trace.nodes[number];
            if node.parents.is_empty() {
                continue;
            }
            let own = of.remove(&number);
            if let Some(own) = own {
                let scratch = account.take(node.scratch, Kind::Transient);
                for (parent, slope) in &node.parents {
                    let is_leaf = trace.nodes[*parent].parents.is_empty();
                    let kind = if is_leaf { Kind::Gradients } else { Kind::Transient };
                    let new = match slope {
                        Slope::Same => {
                            gradients[own].owners += 1;
                            own
                        }
                        Slope::Made(place) => {
                            let storage = node.kept[*place];
                            let Some(block) = self.blocks.remove(&storage) else { continue };
                            let block = account.rename(block, kind);
                            gradients.push(Gradient { block, owners: 1 });
                            gradients.len() - 1
                        }
                        Slope::New => {
                            let block = account.take(trace.nodes[*parent].bytes, kind);
                            gradients.push(Gradient { block, owners: 1 });
                            gradients.len() - 1
                        }
                    };
                    let sum = match of.remove(parent) {
                        None => new,
                        Some(old) => add(account, &mut gradients, [new, old], kind),
                    };
                    of.insert(*parent, sum);
                }
                account.give_back(scratch);
                drop_gradient(account, &mut gradients, own);
            }
            for storage in &node.saved {
                self.holders[*storage] -= 1;
                if self.holders[*storage] == 0
                    && let Some(block) = self.blocks.remove(storage)
                {
                    account.give_back(block);
                }
            }
        }
        self.blocks.into_values().for_each(|block| account.give_back(block));
        let mut slopes = Slopes::default();
        for (node, gradient) in of {
            // One that several leaves share is in memory once.
            gradients[gradient].owners -= 1;
            if gradients[gradient].owners > 0 {
                continue;
            }
            let block = gradients[gradient].block;
            match trace.nodes[node].is_parameter {
                true => slopes.parameters.push(account.rename(block, Kind::Gradients)),
                false => slopes.inputs.push(account.rename(block, Kind::Transient)),
            }
        }
        slopes
    }
}

/// The sum of a new gradient and an old one, which is written where the new one is if nothing else
/// is there.
fn add(
    account: &mut Account,
    gradients: &mut Vec<Gradient>,
    [new, old]: [usize; 2],
    kind: Kind,
) -> usize {
    let sum = if gradients[new].owners == 1 {
        new
    } else {
        let block = account.take(gradients[new].block.bytes(), kind);
        gradients.push(Gradient { block, owners: 1 });
        drop_gradient(account, gradients, new);
        gradients.len() - 1
    };
    drop_gradient(account, gradients, old);
    sum
}

fn drop_gradient(account: &mut Account, gradients: &mut [Gradient], number: usize) {
    let gradient = &mut gradients[number];
    gradient.owners -= 1;
    if gradient.owners == 0 {
        account.give_back(gradient.block);
    }
}
