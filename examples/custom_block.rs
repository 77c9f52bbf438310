//! A block of one's own, chosen by a configuration file: ReZero (Bachlechner et al. 2020), which
//! has no norms, and instead a learned factor for what a layer adds, zero at first. It stands
//! between the library's embedding and head, and is trained with its data, loss, optimizer and
//! schedule.
//!
//! ```text
//! cargo run --example custom_block                             # examples/custom_block.json
//! cargo run --example custom_block -- MY.json
//! ```

use anyhow::{Context, anyhow, bail};
use burn::module::{AutodiffModule, Module, Param};
use burn::optim::{GradientsParams, Optimizer};
use burn::tensor::backend::Backend;
use burn::tensor::{ElementConversion, Int, Tensor};
use emberlm::backend::{self, GptBackend, Job, TrainBackend};
use emberlm::config::{self, ModelConfig, RunConfig, Span};
use emberlm::data::{Corpus, EvaluationLoader, LoaderPosition, TokenBatch, TrainLoader};
use emberlm::model::{
    Block, Embedding, FeedForward, Head, Initializer, Norm, Pass, Places, Record, Role, Rows,
    SelfAttention,
};
use emberlm::train::{ModelOptimizer, Schedule, clip_factor, gradient_norm};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1);
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/custom_block.json");
    let outcome = run(Path::new(path.as_deref().unwrap_or(example)))?;
    println!("validation loss before training {:.4}", outcome.before);
    println!("validation loss after it {:.4} nats a character", outcome.after);
    println!("what the layers have learned to be multiplied by: {:.3?}", outcome.factors);
    Ok(())
}

/// What the configuration file says of a block.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum BlockConfig {
    Standard {},
    Rezero {},
}

// The block: B batch, T time, D model width.

/// `x + α attention(x)`, then `x + β feed_forward(x)`.
#[derive(Module, Debug)]
pub struct RezeroBlock<B: Backend> {
    pub attention: SelfAttention<B>,
    pub feed_forward: FeedForward<B>,
    /// α and β, `[2]`
    pub factors: Param<Tensor<B, 1>>,
}

impl<B: GptBackend> RezeroBlock<B> {
    pub fn new(
        config: &ModelConfig,
        layer: usize,
        initializer: &mut Initializer,
        device: &B::Device,
    ) -> Self {
        // Nothing is to be kept small at first: the factors do that.
        let deviation = (config.d_model as f64).powf(-0.5);
        Self {
            attention: SelfAttention::new(config, layer, true, deviation, initializer, device),
            feed_forward: FeedForward::new(config, deviation, initializer, device),
            factors: Initializer::constant([2], 0.0, device),
        }
    }

    /// `[B, T, D]` -> `[B, T, D]`
    pub fn forward(&self, stream: Tensor<B, 3>, layer: usize, pass: &mut Pass<B>) -> Tensor<B, 3> {
        let factor = |index| self.factors.val().narrow(0, index, 1).unsqueeze::<3>();
        let attended = self.attention.forward(stream.clone(), layer, pass);
        let stream = stream + attended * factor(0);
        let processed = self.feed_forward.forward(stream.clone(), pass);
        stream + processed * factor(1)
    }
}

// What it stands in.

/// A layer of the kind that the configuration names.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // handles of tensors, a few a layer
pub enum Layer<B: Backend> {
    Standard(Block<B>),
    Rezero(RezeroBlock<B>),
}

#[derive(Module, Debug)]
pub struct CustomModel<B: Backend> {
    pub embedding: Embedding<B>,
    pub layers: Vec<Layer<B>>,
    pub norm: Norm<B>,
    pub head: Head<B>,
    #[module(skip)]
    config: ModelConfig,
}

impl<B: GptBackend> CustomModel<B> {
    pub fn new(config: &RunConfig, block: BlockConfig, device: &B::Device) -> Self {
        let (model, init) = (&config.model, &mut Initializer::seeded(config.seed));
        let vocab_size = model.vocab_size.unwrap_or_default();
        let embedding = Embedding::new(model, vocab_size, init, device);
        // As the library's stack has it: 0.02 less the more branches add to the stream.
        let deviation = 0.02 / (2.0 * model.n_layers as f64).sqrt();
        let layer = |layer| match block {
            BlockConfig::Standard {} => {
                Layer::Standard(Block::new(model, layer, Role::Decoder, deviation, init, device))
            }
            BlockConfig::Rezero {} => Layer::Rezero(RezeroBlock::new(model, layer, init, device)),
        };
        let layers = (0..model.n_layers).map(layer).collect();
        let norm = Norm::new(model.d_model, &model.norm, model, device);
        let head = Head::new(model, vocab_size, init, device);
        Self { embedding, layers, norm, head, config: model.clone() }
    }

    /// `[B, T]` -> `[B, T, V]`
    pub fn forward(&self, tokens: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        let places = Places::Columns(0..tokens.dims()[1]);
        let mut pass = Pass::new(&self.config, Rows::default(), &places, &tokens.device());
        let mut stream = self.embedding.forward(tokens, &places, Record::Nobody);
        for (index, layer) in self.layers.iter().enumerate() {
            stream = match layer {
                Layer::Standard(block) => block.forward(stream, index, &mut pass),
                Layer::Rezero(block) => block.forward(stream, index, &mut pass),
            };
        }
        self.head.forward(self.norm.forward(stream), &self.embedding)
    }

    /// Nats a token, `[1]`.
    fn loss(&self, batch: &TokenBatch, device: &B::Device) -> Tensor<B, 1> {
        let logits = self.forward(batch.inputs(device)).flatten(0, 1); // [B T, V]
        B::cross_entropy(logits, batch.targets(device))
    }
}

#[derive(Debug)]
pub struct Outcome {
    /// Validation losses in nats a character.
    pub before: f64,
    pub after: f64,
    /// α and β of each layer; none of standard ones.
    pub factors: Vec<f32>,
}

pub fn run(path: &Path) -> anyhow::Result<Outcome> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut file: Value = serde_json::from_str(&text)?;
    let block = BlockConfig::deserialize(&file["block"]).context("block")?;
    let config = config::resolve(file["recipe"].take()).context("recipe")?;
    backend::dispatch(backend::choose(None)?, Example { block, config })?
}

struct Example {
    block: BlockConfig,
    config: RunConfig,
}

impl Job for Example {
    type Output = anyhow::Result<Outcome>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<Outcome> {
        let Self { block, mut config } = self;
        let corpus = Corpus::load(&config, None)?;
        config.model.vocab_size = Some(corpus.tokenizer.vocab_size());
        let sample = corpus.validation.spread(config.model.context_length, 40);
        let sample = EvaluationLoader::new(corpus.validation.clone(), corpus.task, sample, 40);
        let sample = sample.batches().next().ok_or_else(|| anyhow!("no validation data"))?;
        let evaluate = |model: &CustomModel<B>| -> f64 {
            model.valid().loss(&sample, &device).into_scalar().elem()
        };

        let mut model = CustomModel::<B>::new(&config, block, &device);
        let before = evaluate(&model);
        let mut optimizer = ModelOptimizer::of_module(&config.train.optimizer, &model)?;
        // This loop is as short as can be; the library's own does more.
        let Span::Steps(steps) = config.train.length() else {
            bail!("recipe.train: this example counts its length in steps; give `steps`");
        };
        if config.train.accumulation != 1 {
            bail!("recipe.train.accumulation: a step of this example is one batch; leave it out");
        }
        let steps = steps as usize;
        let schedule = Schedule::new(&config.train.schedule, Some(steps), 0);
        let loader = TrainLoader::of_run(&config, &corpus, LoaderPosition::default());
        for step in 0..steps {
            let position = LoaderPosition {
                step: step as u64,
                cursor: (step * config.train.examples_per_step()) as u64,
            };
            let batch = loader.read_step(position).remove(0);
            let gradients = model.loss(&batch, &device).backward();
            let gradients = GradientsParams::from_grads(gradients, &model);
            let norm = gradient_norm(&model, &gradients);
            optimizer.scale_gradients(clip_factor(norm, config.train.clip_norm));
            model = optimizer.step(schedule.learning_rate(step), model, gradients);
        }
        let mut factors = Vec::new();
        for layer in &model.layers {
            if let Layer::Rezero(block) = layer {
                factors.extend(block.factors.val().into_data().iter::<f32>());
            }
        }
        Ok(Outcome { before, after: evaluate(&model), factors })
    }
}
