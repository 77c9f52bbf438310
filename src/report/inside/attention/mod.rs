//! Attention step by step: what the heads of a model computed with, and each step between.
//!
//! T queries, S keys, K head width, D model width, H heads, G key/value heads

mod maps;
mod page;
mod size;
mod steps;

pub use maps::{Selection, write_maps, write_steps};
pub use page::{PageError, attention_page};
pub use size::{Holder, TooLarge, attention_size};
pub use steps::{HeadSteps, Steps};

use burn::tensor::{Tensor, TensorData};
use serde::Serialize;
use std::cell::RefCell;

use super::passage::Passage;
use crate::backend::{GptBackend, alibi_slope, on_host};
use crate::model::{Heads, Model, Observer, Output, Part};

/// The attention of one layer to itself or to a source, as a pass of the model computed it.
#[derive(Debug, Clone, Serialize)]
pub struct AttentionLayer {
    /// `decoder.blocks.0.attention`
    pub path: String,
    pub layer: usize,
    /// What is looked at are a source's tokens, not the text's own.
    pub is_cross: bool,
    /// What looks are a source's tokens too: the layer is one of an encoder beside a decoder.
    pub is_of_source: bool,
    pub queries: usize,
    pub keys: usize,
    pub head_dim: usize,
    pub key_heads: usize,
    pub causal: bool,
    pub window: Option<usize>,
    pub scale: f64,
    pub soft_cap: Option<f64>,
    pub heads: Vec<HeadSteps>,
    /// What the projection adds to the sum of what the heads write, `[D]`.
    pub bias: Vec<f32>,
    /// What the model went on with after the projection, `[T, D]`.
    pub output: Vec<f32>,
}

/// What every attention of a model does with a text; of some layers only, where they are named.
pub fn attention<B: GptBackend>(
    model: &Model<B>,
    passage: &Passage,
    layers: &[usize],
) -> Vec<AttentionLayer> {
    let has_source = passage.source.is_some();
    let witness =
        Witness { layers, has_source, path: RefCell::default(), found: RefCell::default() };
    passage.observe(model, &witness);
    witness.found.into_inner()
}

struct Witness<'a> {
    /// All where there are none.
    layers: &'a [usize],
    has_source: bool,
    path: RefCell<Vec<Part>>,
    found: RefCell<Vec<AttentionLayer>>,
}

impl Witness<'_> {
    fn path(&self) -> String {
        self.path.borrow().iter().map(Part::to_string).collect::<Vec<_>>().join(".")
    }

    fn layer(&self) -> usize {
        let number = |part: &Part| match part {
            Part::Numbered("blocks", number) => Some(*number),
            _ => None,
        };
        self.path.borrow().iter().find_map(number).unwrap_or_default()
    }
}

impl<B: GptBackend> Observer<B> for Witness<'_> {
    fn enter(&self, part: Part, _input: &[usize]) {
        self.path.borrow_mut().push(part);
    }

    fn leave(&self, output: Output<B>) -> Tensor<B, 2> {
        let path = self.path();
        if let Some(found) = self.found.borrow_mut().last_mut().filter(|found| found.path == path) {
            found.output = on_host(output.rows.clone());
        }
        self.path.borrow_mut().pop();
        output.rows
    }

    fn attention(&self, heads: Heads<B>) {
        let layer = self.layer();
        if !self.layers.is_empty() && !self.layers.contains(&layer) {
            return;
        }
        let path = self.path();
        let ([_, h, t, k], [_, g, s, _]) = (heads.query.dims(), heads.key.dims());
        let options = heads.options;
        let (contributions, bias) = contributions(&heads);
        let steps = Steps {
            head_dim: k,
            keys: s,
            causal: options.causal,
            window: options.window,
            scale: options.scale,
            soft_cap: options.soft_cap,
            key_length: options.ranges.as_ref().and_then(|ranges| ranges.length(0)),
        };
        let [query, key, value] = [heads.query, heads.key, heads.value].map(on_host);
        let attended = on_host(heads.attended);
        let head = |head: usize| {
            let own = |values: &[f32], number: usize, rows: usize| {
                values[number * rows * k..][..rows * k].to_vec()
            };
            let shared = head / (h / g);
            let slope = options.alibi.then(|| alibi_slope(head, h));
            let [query, attended] = [&query, &attended].map(|values| own(values, head, t));
            let [key, value] = [&key, &value].map(|values| own(values, shared, s));
            let contribution = &contributions[head];
            steps.of_head(shared, slope, [query, key, value], attended, contribution.clone())
        };
        self.found.borrow_mut().push(AttentionLayer {
            layer,
            is_cross: path.ends_with("cross_attention"),
            is_of_source: self.has_source && path.starts_with("encoder"),
            path,
            queries: t,
            keys: s,
            head_dim: k,
            key_heads: g,
            causal: options.causal,
            window: options.window,
            scale: options.scale,
            soft_cap: options.soft_cap,
            heads: (0..h).map(head).collect(),
            bias,
            output: Vec::new(),
        });
    }
}

/// What the projection makes of each head alone, `[T, D]`, and what it adds to nothing at all, by
/// the model's own projection, adapters included.
fn contributions<B: GptBackend>(heads: &Heads<B>) -> (Vec<Vec<f32>>, Vec<f32>) {
    let [_, h, t, k] = heads.attended.dims();
    let device = heads.attended.device();
    let attended = on_host(heads.attended.clone());
    // One row of heads for each of them, in which all others are zero.
    let mut alone = vec![0.0f32; h * t * h * k];
    for head in 0..h {
        for row in 0..t {
            let from = &attended[(head * t + row) * k..][..k];
            alone[((head * t + row) * h + head) * k..][..k].copy_from_slice(from);
        }
    }
    let alone = Tensor::<B, 3>::from_data(TensorData::new(alone, [h, t, h * k]), &device);
    let nothing = Tensor::<B, 3>::zeros([1, 1, h * k], &device);
    let bias = heads.projection.forward(nothing); // [1, 1, D]
    let alone = heads.projection.forward(alone) - bias.clone(); // [H, T, D]
    let d = bias.dims()[2];
    (on_host(alone).chunks(t * d).map(<[f32]>::to_vec).collect(), on_host(bias))
}
