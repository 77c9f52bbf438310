use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use super::{
    Embedding, Encoder, Gpt, Head, Initializer, LinearHead, Observer, Record, Rows, Seq2Seq,
};
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
    /// Logits, looked at on their way through every part of the model. Targets of a translator have
    /// a source, of as many tokens a row as are said.
    ///
    /// # Shapes
    /// - `tokens` `[B, T]`, source `[B, S]` -> `[B, T, V]`
    pub fn observe(
        &self,
        tokens: Tensor<B, 2, Int>,
        source: Option<(Tensor<B, 2, Int>, &[usize])>,
        observer: &dyn Observer<B>,
    ) -> Tensor<B, 3> {
        let (record, rows) = (Record::Observer(observer), Rows::default());
        let (hidden, _) = match (self, source) {
            (Self::Gpt(model), _) => model.hidden_recorded(tokens, rows, record),
            (Self::Encoder(model), _) => model.hidden_recorded(tokens, rows, record),
            (Self::Seq2Seq(model), Some((source, lengths))) => {
                model.hidden_recorded(source, lengths, tokens, None, record)
            }
            (Self::Seq2Seq(_), None) => panic!("a decoder beside an encoder is given a source"),
        };
        record.part("head", hidden, |hidden| self.logits(hidden))
    }

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
