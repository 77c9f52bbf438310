//! r rank

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

use super::feed_forward::Network;
use super::shapes::linear_names;
use super::{Block, FeedForward, Initializer, Linear, Model, Stack};
use crate::backend::GptBackend;
use crate::config::ConfigError;
use crate::config::LoraConfig;
use crate::config::ModelConfig;
use crate::config::select_names;

/// What is learned beside the weights of a linear layer: `x a b alpha / r` (Hu et al. 2021).
#[derive(Module, Debug)]
pub struct Lora<B: Backend> {
    /// `[d_input, r]`
    pub a: Param<Tensor<B, 2>>,
    /// `[r, d_output]`
    pub b: Param<Tensor<B, 2>>,
    scale: f64,
    dropout: f64,
}

impl<B: Backend> Lora<B> {
    /// Adds nothing yet: `b` is zero. `a` is normal with the variance `1 / (3 d_input)` of
    /// Kaiming's uniform initialisation as LoRA's own code has it.
    fn new(
        [d_input, d_output]: [usize; 2],
        config: &LoraConfig,
        initializer: &mut Initializer,
        device: &B::Device,
    ) -> Self {
        let deviation = (3.0 * d_input as f64).powf(-0.5);
        Self {
            a: initializer.normal([d_input, config.rank], deviation, device),
            b: Initializer::constant([config.rank, d_output], 0.0, device),
            scale: config.scale(),
            dropout: config.dropout,
        }
    }
}

impl<B: GptBackend> Lora<B> {
    /// In f32, whatever the input is in.
    ///
    /// # Shapes
    /// - `input` `[.., d_input]` -> `[.., d_output]`
    pub(super) fn forward<const D: usize>(&self, input: Tensor<B, D>) -> Tensor<B, D> {
        let input = B::dropout(input.cast(FloatDType::F32), self.dropout);
        let inner = B::dense(input, self.a.val(), None) * self.scale; // [.., r]
        B::dense(inner, self.b.val(), None)
    }
}

impl<B: Backend> Model<B> {
    /// The same model with new adapters, which change nothing until they are trained.
    pub fn with_adapters(mut self, config: &LoraConfig, seed: u64) -> Self {
        let (initializer, device) = (Initializer::seeded(seed), self.device());
        let adapt = |stack: &mut Stack<B>, name| {
            stack.adapt(name, config, &initializer, &device);
        };
        match &mut self {
            Self::Gpt(model) => adapt(&mut model.decoder, DECODER),
            Self::Encoder(model) => adapt(&mut model.encoder, ENCODER),
            Self::Seq2Seq(model) => {
                adapt(&mut model.encoder, ENCODER);
                adapt(&mut model.decoder, DECODER);
            }
        }
        self
    }
}

/// What the stacks of a model are called.
pub(super) const ENCODER: &str = "encoder";
pub(super) const DECODER: &str = "decoder";
/// What the layer that chooses experts is called.
const ROUTER: &str = ".router";

impl<B: Backend> Stack<B> {
    pub(super) fn adapt(
        &mut self,
        name: &str,
        config: &LoraConfig,
        initializer: &Initializer,
        device: &B::Device,
    ) {
        for (layer, block) in self.blocks.iter_mut().enumerate() {
            for (name, linear) in linears(block, &format!("{name}.blocks.{layer}")) {
                if config.targets(&name) {
                    // By its name, so that an adapter begins alike whatever stands beside it.
                    let initializer = &mut initializer.of_adapter(&name);
                    linear.lora = Some(Lora::new(linear.shape(), config, initializer, device));
                }
            }
        }
    }
}

/// The linear layers of a block by name.
fn linears<'a, B: Backend>(
    block: &'a mut Block<B>,
    name: &str,
) -> Vec<(String, &'a mut Linear<B>)> {
    let mut found = vec![
        (format!("{name}.attention.qkv"), &mut block.attention.qkv),
        (format!("{name}.attention.output"), &mut block.attention.output),
    ];
    if let Some(attention) = &mut block.cross_attention {
        found.push((format!("{name}.cross_attention.query"), &mut attention.query));
        found.push((format!("{name}.cross_attention.key_value"), &mut attention.key_value));
        found.push((format!("{name}.cross_attention.output"), &mut attention.output));
    }
    let name = format!("{name}.feed_forward");
    let mut add = |name: String, network: &'a mut Network<B>| {
        found.extend(network.gate.as_mut().map(|gate| (format!("{name}.gate"), gate)));
        found.push((format!("{name}.up"), &mut network.up));
        found.push((format!("{name}.down"), &mut network.down));
    };
    match &mut block.feed_forward {
        FeedForward::Dense(network) => add(name, network),
        FeedForward::Experts(mixture) => {
            for (number, expert) in mixture.experts.iter_mut().enumerate() {
                add(format!("{name}.experts.{number}"), expert);
            }
            if let Some(shared) = &mut mixture.shared {
                add(format!("{name}.shared"), shared);
            }
            found.push((format!("{name}{ROUTER}"), &mut mixture.router));
        }
    }
    found
}

impl<B: Backend> Block<B> {
    /// Stores weights in a byte each, but those that choose experts; adapters stay as they are.
    pub(super) fn quantize(&mut self) {
        for (name, linear) in linears(self, "") {
            if !name.ends_with(ROUTER) {
                linear.weight.quantize();
            }
        }
    }
}

/// Whether a parameter is part of an adapter, by its name.
pub fn is_adapter(parameter: &str) -> bool {
    parameter.ends_with(".lora.a") || parameter.ends_with(".lora.b")
}

/// Checks that each target of the adapters is there.
///
/// # Errors
/// [`ConfigError::NoMatch`] for a pattern that no linear layer of the model matches.
pub fn check_adapters(config: &ModelConfig) -> Result<(), ConfigError> {
    match &config.lora {
        Some(lora) => {
            select_names("model.lora.targets", &lora.targets, &linear_names(config)).map(|_| ())
        }
        None => Ok(()),
    }
}
