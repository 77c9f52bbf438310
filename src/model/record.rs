//! What may take part in a pass beside the model: nobody, in training a tape, or somebody who looks
//! on.
//!
//! B batch, T new positions, S all positions, H heads, G key/value heads, K head width

use burn::tensor::backend::Backend;
use burn::tensor::{BasicOps, Tensor};
use std::fmt;

use super::{Linear, Tape};
use crate::backend::AttentionOptions;

/// Looks on while a model computes.
pub trait Observer<B: Backend> {
    /// A part of the model begins with an input of that shape, inside the part that began last and
    /// has not ended. The parts of a model are called as in the names of its parameters.
    fn enter(&self, part: Part, input: &[usize]);

    /// The part that began last has this output, and ends. The model goes on with what is returned,
    /// which has the same shape.
    fn leave(&self, output: Output<B>) -> Tensor<B, 2> {
        output.rows
    }

    /// The heads of the part that began last have attended.
    fn attention(&self, _heads: Heads<B>) {}
}

/// A part of a model by its name within the part that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    One(&'static str),
    /// One of several that are counted from zero.
    Numbered(&'static str, usize),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(name) => f.write_str(name),
            Self::Numbered(name, number) => write!(f, "{name}.{number}"),
        }
    }
}

impl From<&'static str> for Part {
    fn from(name: &'static str) -> Self {
        Self::One(name)
    }
}

impl From<(&'static str, usize)> for Part {
    fn from((name, number): (&'static str, usize)) -> Self {
        Self::Numbered(name, number)
    }
}

/// What a part of a model has computed.
#[derive(Debug)]
pub struct Output<B: Backend> {
    /// Of what was computed, whose last dimension is that of the rows.
    pub shape: Vec<usize>,
    pub rows: Tensor<B, 2>,
}

/// What the heads of one layer have computed with.
#[derive(Debug)]
pub struct Heads<'a, B: Backend> {
    /// `[B, H, T, K]`, normalised and turned by its positions where the model does either.
    pub query: Tensor<B, 4>,
    /// `[B, G, S, K]`, likewise.
    pub key: Tensor<B, 4>,
    /// `[B, G, S, K]`
    pub value: Tensor<B, 4>,
    pub options: &'a AttentionOptions,
    /// What came out, `[B, H, T, K]`.
    pub attended: Tensor<B, 4>,
    /// What brings the heads together, `[H K, D]`.
    pub projection: &'a Linear<B>,
}

/// What takes part in a pass.
pub enum Record<'a, B: Backend> {
    Nobody,
    /// Layers keep no more than their input.
    Tape(&'a Tape<B>),
    Observer(&'a dyn Observer<B>),
}

impl<B: Backend> Clone for Record<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Record<'_, B> {}

impl<'a, B: Backend> Record<'a, B> {
    /// A tape, where there is one.
    pub fn taped(tape: Option<&'a Tape<B>>) -> Self {
        tape.map_or(Self::Nobody, Self::Tape)
    }

    pub(super) fn tape(self) -> Option<&'a Tape<B>> {
        match self {
            Self::Tape(tape) => Some(tape),
            Self::Nobody | Self::Observer(_) => None,
        }
    }

    /// Computes a part of the model, looked at by whoever looks on.
    pub(super) fn part<const I: usize, const O: usize, K: BasicOps<B>>(
        self,
        part: impl Into<Part>,
        input: Tensor<B, I, K>,
        compute: impl FnOnce(Tensor<B, I, K>) -> Tensor<B, O>,
    ) -> Tensor<B, O> {
        let Self::Observer(observer) = self else {
            return compute(input);
        };
        observer.enter(part.into(), &input.dims());
        let output = compute(input);
        let shape = output.dims();
        let rows = [shape.iter().take(O - 1).product(), shape[O - 1]];
        let output = Output { shape: shape.to_vec(), rows: output.reshape(rows) };
        observer.leave(output).reshape(shape)
    }

    /// Shows the heads of a layer to whoever looks on.
    pub(super) fn attention(self, heads: Heads<B>) {
        if let Self::Observer(observer) = self {
            observer.attention(heads);
        }
    }

    /// Whether somebody looks on, for whom more may be kept than the model needs.
    pub(super) fn is_observed(self) -> bool {
        matches!(self, Self::Observer(_))
    }
}
