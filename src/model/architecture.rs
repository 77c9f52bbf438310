use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{Embedding, Encoder, Gpt, Head, Initializer, LinearHead, Seq2Seq};
use crate::backend::GptBackend;
use crate::config::Architecture;
use crate::config::ModelConfig;
use crate::config::Precision;

/// A model of any architecture.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // handles of tensors, a few a layer, and never moved about
pub enum Model<B: Backend> {
    Gpt(Gpt<B>),
    Encoder(Encoder<B>),
    Seq2Seq(Seq2Seq<B>),
}

impl<B: Backend> Model<B> {
    /// A new model of a checked configuration.
    pub fn new(
        name: &str,
        config: &ModelConfig,
        vocab_size: usize,
        init: Initializer,
        device: &B::Device,
    ) -> Self {
        match config.architecture {
            Architecture::Decoder => Self::Gpt(Gpt::new(name, config, vocab_size, init, device)),
            Architecture::Encoder => {
                Self::Encoder(Encoder::new(name, config, vocab_size, init, device))
            }
            Architecture::EncoderDecoder => {
                Self::Seq2Seq(Seq2Seq::new(name, config, vocab_size, init, device))
            }
        }
    }

    pub fn device(&self) -> B::Device {
        match self {
            Self::Gpt(model) => model.device(),
            Self::Encoder(model) => model.device(),
            Self::Seq2Seq(model) => model.device(),
        }
    }

    /// What matrix products are computed in; f32 where nothing else is said. The choice of experts
    /// is not affected.
    pub fn set_precision(&mut self, precision: Precision) {
        let (stacks, head) = match self {
            Self::Gpt(model) => ([Some(&mut model.decoder), None], &mut model.head),
            Self::Encoder(model) => ([Some(&mut model.encoder), None], &mut model.head),
            Self::Seq2Seq(model) => {
                ([Some(&mut model.encoder), Some(&mut model.decoder)], &mut model.head)
            }
        };
        stacks.into_iter().flatten().for_each(|stack| stack.set_precision(precision));
        head.set_precision(precision);
    }

    /// The same model with the weights of its projections in a byte each, for inference: symmetric,
    /// with a scale for each output. Vectors of tokens, norms, biases, adapters and the choice of
    /// experts stay in f32.
    pub fn quantize_int8(self) -> Self {
        match self {
            Self::Gpt(model) => Self::Gpt(model.quantize_int8()),
            Self::Encoder(model) => Self::Encoder(model.quantize_int8()),
            Self::Seq2Seq(model) => Self::Seq2Seq(model.quantize_int8()),
        }
    }
}

impl<B: GptBackend> Model<B> {
    /// Logits from the residual stream after the last layer.
    ///
    /// # Shapes
    /// - `hidden` `[.., D]` -> `[.., V]`
    pub fn logits<const D: usize>(&self, hidden: Tensor<B, D>) -> Tensor<B, D> {
        let (head, embedding) = self.ends();
        head.forward(hidden, embedding)
    }

    /// What [`Head::linear`] says of this model's.
    pub fn linear_head(&self) -> Option<LinearHead<B>> {
        let (head, embedding) = self.ends();
        head.linear(embedding)
    }

    fn ends(&self) -> (&Head<B>, &Embedding<B>) {
        match self {
            Self::Gpt(model) => (&model.head, &model.embedding),
            Self::Encoder(model) => (&model.head, &model.embedding),
            Self::Seq2Seq(model) => (&model.head, &model.embedding),
        }
    }
}
