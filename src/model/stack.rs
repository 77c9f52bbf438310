use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::block::{Block, Role};
use super::lora::{DECODER, ENCODER};
use super::pass::Pass;
use super::{Initializer, Norm};
use crate::backend::GptBackend;
use crate::config::ModelConfig;
use crate::config::Precision;

/// Layers, one after the other, and the norm that follows them.
#[derive(Module, Debug)]
pub struct Stack<B: Backend> {
    pub blocks: Vec<Block<B>>,
    pub final_norm: Option<Norm<B>>,
}

impl<B: Backend> Stack<B> {
    pub fn new(
        config: &ModelConfig,
        role: Role,
        initializer: &mut Initializer,
        device: &B::Device,
    ) -> Self {
        let (layers, branches) = match role {
            Role::Decoder => (config.n_layers, 2),
            Role::CrossDecoder => (config.n_layers, 3),
            Role::Encoder => (config.n_encoder_layers(), 2),
        };
        // Every branch of a layer adds to the residual stream; GPT-2 keeps its variance in bounds
        // by shrinking what they start with (Radford et al. 2019, section 2.3).
        let residual_deviation = super::init::DEVIATION / ((branches * layers) as f64).sqrt();
        let block =
            |layer| Block::new(config, layer, role, residual_deviation, initializer, device);
        let mut stack = Self {
            blocks: (0..layers).map(block).collect(),
            final_norm: config
                .has_final_norm()
                .then(|| Norm::new(config.d_model, &config.norm, config, device)),
        };
        if let Some(lora) = &config.lora {
            let name = if role == Role::Encoder { ENCODER } else { DECODER };
            stack.adapt(name, lora, initializer, device);
        }
        stack
    }

    pub(super) fn set_precision(&mut self, precision: Precision) {
        self.blocks.iter_mut().for_each(|block| block.set_precision(precision));
    }

    pub(super) fn quantize(&mut self) {
        self.blocks.iter_mut().for_each(Block::quantize);
    }
}

impl<B: GptBackend> Stack<B> {
    /// # Shapes
    /// - `stream` `[B, T, D]` -> `[B, T, D]`
    pub(super) fn forward(&self, mut stream: Tensor<B, 3>, pass: &mut Pass<B>) -> Tensor<B, 3> {
        let record = pass.record;
        if let Some(tape) = record.tape() {
            stream = tape.cut(stream);
        }
        for (layer, block) in self.blocks.iter().enumerate() {
            stream = match record.tape() {
                Some(tape) => tape.run(block, stream, layer, pass),
                None => {
                    pass.seed_layer(layer);
                    let part = ("blocks", layer);
                    record.part(part, stream, |stream| block.forward(stream, layer, pass))
                }
            };
        }
        pass.seed_layer(self.blocks.len());
        match &self.final_norm {
            Some(norm) => record.part("final_norm", stream, |stream| norm.forward(stream)),
            None => stream,
        }
    }
}
