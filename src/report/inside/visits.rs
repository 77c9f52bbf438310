use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use std::cell::RefCell;

use crate::model::{Observer, Output, Part};

/// One part of a model in one pass.
#[derive(Debug, Clone)]
pub(super) struct Visit<X> {
    pub(super) part: Part,
    /// As the names of its parameters begin: `decoder.blocks.0.attention`.
    pub(super) path: String,
    pub(super) input: Vec<usize>,
    pub(super) output: Vec<usize>,
    /// What was kept of its output; none before it has ended.
    pub(super) kept: Option<X>,
    /// The parts inside it, in the order in which they began.
    pub(super) inner: Vec<Visit<X>>,
}

/// Writes down which parts of a model compute what, and keeps something of each of their outputs.
pub(super) struct Visits<X, F> {
    /// The parts that have not ended, outermost first; before them all that has.
    open: RefCell<Vec<Visit<X>>>,
    keep: F,
}

impl<X, F> Visits<X, F> {
    /// `keep` is given each output, and returns what the model goes on with beside what to keep.
    pub(super) fn keeping(keep: F) -> Self {
        let root = Visit {
            part: Part::One(""),
            path: String::new(),
            input: Vec::new(),
            output: Vec::new(),
            kept: None,
            inner: Vec::new(),
        };
        Self { open: RefCell::new(vec![root]), keep }
    }

    /// The outermost parts.
    pub(super) fn into_inner(self) -> Vec<Visit<X>> {
        self.open.into_inner().swap_remove(0).inner
    }
}

impl<B, X, F> Observer<B> for Visits<X, F>
where
    B: Backend,
    F: Fn(Output<B>) -> (Tensor<B, 2>, X),
{
    fn enter(&self, part: Part, input: &[usize]) {
        let mut open = self.open.borrow_mut();
        let outer = &open[open.len() - 1].path;
        let path = if outer.is_empty() { part.to_string() } else { format!("{outer}.{part}") };
        let (input, output) = (input.to_vec(), Vec::new());
        open.push(Visit { part, path, input, output, kept: None, inner: Vec::new() });
    }

    fn leave(&self, output: Output<B>) -> Tensor<B, 2> {
        let shape = output.shape.clone();
        let (rows, kept) = (self.keep)(output);
        let mut open = self.open.borrow_mut();
        if open.len() > 1
            && let Some(ended) = open.pop()
        {
            let ended = Visit { output: shape, kept: Some(kept), ..ended };
            let outer = open.len() - 1;
            open[outer].inner.push(ended);
        }
        rows
    }
}
