use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::pass::Pass;
use super::record::Record;
use super::{CrossAttention, FeedForward, Initializer, Norm, SelfAttention};
use crate::backend::GptBackend;
use crate::config::ModelConfig;
use crate::config::NormPlacement;
use crate::config::Precision;
use crate::config::Residual;

/// One layer: attention, in a decoder beside an encoder attention to the source, then the
/// feed-forward network, each added to the residual stream.
#[derive(Module, Debug)]
pub struct Block<B: Backend> {
    pub attention_norm: Option<Norm<B>>,
    pub attention: SelfAttention<B>,
    pub attention_output_norm: Option<Norm<B>>,
    pub cross_attention_norm: Option<Norm<B>>,
    pub cross_attention: Option<CrossAttention<B>>,
    pub cross_attention_output_norm: Option<Norm<B>>,
    pub feed_forward_norm: Option<Norm<B>>,
    pub feed_forward: FeedForward<B>,
    pub feed_forward_output_norm: Option<Norm<B>>,
    #[module(skip)]
    placement: NormPlacement,
    #[module(skip)]
    residual: Residual,
    residual_dropout: f64,
}

/// What a stack of layers is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sees the past.
    Decoder,
    /// Sees the past and a source.
    CrossDecoder,
    /// Sees all.
    Encoder,
}

impl<B: Backend> Block<B> {
    pub fn new(
        config: &ModelConfig,
        layer: usize,
        role: Role,
        residual_deviation: f64,
        initializer: &mut Initializer,
        device: &B::Device,
    ) -> Self {
        let placement = config.norm_placement;
        let norm =
            |wanted: bool| wanted.then(|| Norm::new(config.d_model, &config.norm, config, device));
        let cross = role == Role::CrossDecoder;
        let causal = role != Role::Encoder;
        let shared = config.residual == Residual::ParallelSharedNorm;
        Self {
            attention_norm: norm(placement.input()),
            attention: SelfAttention::new(
                config,
                layer,
                causal,
                residual_deviation,
                initializer,
                device,
            ),
            attention_output_norm: norm(placement.output()),
            cross_attention_norm: norm(cross && placement.input()),
            cross_attention: cross
                .then(|| CrossAttention::new(config, residual_deviation, initializer, device)),
            cross_attention_output_norm: norm(cross && placement.output()),
            feed_forward_norm: norm(placement.input() && !shared),
            feed_forward: FeedForward::new(config, residual_deviation, initializer, device),
            feed_forward_output_norm: norm(placement.output()),
            placement,
            residual: config.residual,
            residual_dropout: config.residual_dropout(),
        }
    }

    pub(super) fn set_precision(&mut self, precision: Precision) {
        self.attention.set_precision(precision);
        if let Some(attention) = &mut self.cross_attention {
            attention.set_precision(precision);
        }
        self.feed_forward.set_precision(precision);
    }
}

impl<B: GptBackend> Block<B> {
    /// # Shapes
    /// - `input` `[B, T, D]` -> `[B, T, D]`
    pub fn forward(&self, input: Tensor<B, 3>, layer: usize, pass: &mut Pass<B>) -> Tensor<B, 3> {
        let record = pass.record;
        let feed_forward_norm = ("feed_forward_norm", &self.feed_forward_norm);
        let attention_output_norm = ("attention_output_norm", &self.attention_output_norm);
        let feed_forward_output_norm = ("feed_forward_output_norm", &self.feed_forward_output_norm);
        let precision = match self.residual {
            Residual::ParallelSharedNorm => Precision::F32, // for both
            _ => self.attention.qkv.input_precision(),
        };
        let attention_norm = ("attention_norm", &self.attention_norm);
        let normed = apply(record, attention_norm, input.clone(), precision);
        let attended = record.part("attention", normed.clone(), |normed| {
            self.attention.forward(normed, layer, pass)
        });
        match self.residual {
            Residual::Sequential => {
                let stream = self.add(record, input, attended, attention_output_norm);
                let stream = self.cross(stream, layer, pass);
                let precision = self.feed_forward.input_precision();
                let normed = apply(record, feed_forward_norm, stream.clone(), precision);
                let processed = self.process(normed, pass);
                self.add(record, stream, processed, feed_forward_output_norm)
            }
            Residual::Parallel | Residual::ParallelSharedNorm => {
                let normed = match self.residual {
                    Residual::ParallelSharedNorm => normed,
                    _ => {
                        let precision = self.feed_forward.input_precision();
                        apply(record, feed_forward_norm, input.clone(), precision)
                    }
                };
                let processed = self.process(normed, pass);
                let stream = self.add(record, input, attended, attention_output_norm);
                self.add(record, stream, processed, feed_forward_output_norm)
            }
        }
    }

    /// Attention to the source, where there is one.
    fn cross(&self, stream: Tensor<B, 3>, layer: usize, pass: &mut Pass<B>) -> Tensor<B, 3> {
        let Some(attention) = &self.cross_attention else {
            return stream;
        };
        let record = pass.record;
        let norm = ("cross_attention_norm", &self.cross_attention_norm);
        let normed = apply(record, norm, stream.clone(), attention.query.input_precision());
        let attended =
            record.part("cross_attention", normed, |normed| attention.forward(normed, layer, pass));
        let norm = ("cross_attention_output_norm", &self.cross_attention_output_norm);
        self.add(record, stream, attended, norm)
    }

    fn process(&self, normed: Tensor<B, 3>, pass: &mut Pass<B>) -> Tensor<B, 3> {
        let processed = pass
            .record
            .part("feed_forward", normed, |normed| self.feed_forward.forward(normed, pass));
        B::dropout(processed, self.residual_dropout)
    }

    /// Adds a sublayer's output to the stream, with the norm that belongs to one or to the sum.
    fn add(
        &self,
        record: Record<B>,
        stream: Tensor<B, 3>,
        output: Tensor<B, 3>,
        norm: PlacedNorm<B>,
    ) -> Tensor<B, 3> {
        match self.placement {
            NormPlacement::Post => apply(record, norm, B::add(stream, output), Precision::F32),
            _ => B::add(stream, apply(record, norm, output, Precision::F32)),
        }
    }
}

/// A norm that a block may have, and its name there.
type PlacedNorm<'a, B> = (&'static str, &'a Option<Norm<B>>);

/// A norm's output in the precision that what follows takes it in, or in f32 for whoever looks on.
fn apply<B: GptBackend>(
    record: Record<B>,
    (part, norm): PlacedNorm<B>,
    input: Tensor<B, 3>,
    precision: Precision,
) -> Tensor<B, 3> {
    let precision = if record.is_observed() { Precision::F32 } else { precision };
    match norm {
        Some(norm) => record.part(part, input, |input| norm.rounded(input, precision)),
        None => input,
    }
}
