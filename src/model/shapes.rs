use crate::config::Architecture;
use crate::config::ModelConfig;
use crate::config::NormConfig;
use crate::config::PositionConfig;
use crate::config::Residual;

/// Names and shapes of all parameters, in the order of [`super::parameters`], without building
/// the model.
pub fn parameter_shapes(config: &ModelConfig, vocab_size: usize) -> Vec<(String, Vec<usize>)> {
    Shapes::of_model(config, vocab_size).found
}

/// Names of all linear layers, to each of which an adapter can be added.
pub(super) fn linear_names(config: &ModelConfig) -> Vec<String> {
    Shapes::of_model(config, 0).linears
}

/// Parameters of a model, without building it; the shared weights of a tied head count once.
pub fn parameter_count(config: &ModelConfig, vocab_size: usize) -> usize {
    parameter_shapes(config, vocab_size)
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum()
}

struct Shapes<'a> {
    config: &'a ModelConfig,
    found: Vec<(String, Vec<usize>)>,
    linears: Vec<String>,
}

impl<'a> Shapes<'a> {
    fn of_model(config: &'a ModelConfig, vocab_size: usize) -> Self {
        let mut shapes = Self { config, found: Vec::new(), linears: Vec::new() };
        let d_model = config.d_model;
        shapes.push("embedding.token", vec![vocab_size, d_model]);
        if matches!(config.position, PositionConfig::Learned {}) {
            shapes.push("embedding.position", vec![config.context_length, d_model]);
        }
        shapes.norm_if(config.embedding_norm, "embedding.norm");
        let (decoder, cross) = match config.architecture {
            Architecture::Decoder => (true, false),
            Architecture::Encoder => (false, false),
            Architecture::EncoderDecoder => (true, true),
        };
        if config.n_encoder_layers() > 0 {
            shapes.stack("encoder", config.n_encoder_layers(), false);
        }
        if decoder {
            shapes.stack("decoder", config.n_layers, cross);
        }
        if !config.tied_head {
            shapes.push("head.weight", vec![d_model, vocab_size]);
        }
        if config.head_bias {
            shapes.push("head.bias", vec![vocab_size]);
        }
        shapes
    }

    fn push(&mut self, name: impl Into<String>, shape: Vec<usize>) {
        self.found.push((name.into(), shape));
    }

    fn linear(&mut self, name: &str, input: usize, output: usize, bias: bool) {
        self.push(format!("{name}.weight"), vec![input, output]);
        if bias {
            self.push(format!("{name}.bias"), vec![output]);
        }
        if let Some(lora) = self.config.lora.as_ref().filter(|lora| lora.targets(name)) {
            self.push(format!("{name}.lora.a"), vec![input, lora.rank]);
            self.push(format!("{name}.lora.b"), vec![lora.rank, output]);
        }
        self.linears.push(name.into());
    }

    fn norm(&mut self, name: &str, norm: &NormConfig, width: usize) {
        if norm.affine {
            self.push(format!("{name}.weight"), vec![width]);
        }
        if self.config.norm_bias(norm) {
            self.push(format!("{name}.bias"), vec![width]);
        }
    }

    fn norm_if(&mut self, wanted: bool, name: &str) {
        if wanted {
            let (norm, width) = (self.config.norm, self.config.d_model);
            self.norm(name, &norm, width);
        }
    }

    fn qk_norms(&mut self, name: &str) {
        if let Some(norm) = self.config.attention.qk_norm {
            let width = self.config.head_dim();
            self.norm(&format!("{name}.query_norm"), &norm, width);
            self.norm(&format!("{name}.key_norm"), &norm, width);
        }
    }

    fn stack(&mut self, name: &str, layers: usize, cross: bool) {
        for layer in 0..layers {
            self.block(&format!("{name}.blocks.{layer}"), cross);
        }
        self.norm_if(self.config.has_final_norm(), &format!("{name}.final_norm"));
    }

    fn block(&mut self, name: &str, cross: bool) {
        let config = self.config;
        let (input, output) = (config.norm_placement.input(), config.norm_placement.output());
        let (d_model, width) = (config.d_model, config.head_dim());
        let (heads, kv_heads) = (config.n_heads * width, config.n_kv_heads() * width);

        let attention = format!("{name}.attention");
        self.norm_if(input, &format!("{attention}_norm"));
        let qkv = format!("{attention}.qkv");
        self.linear(&qkv, d_model, heads + 2 * kv_heads, config.qkv_bias());
        self.qk_norms(&attention);
        self.linear(&format!("{attention}.output"), heads, d_model, config.output_bias());
        self.norm_if(output, &format!("{attention}_output_norm"));

        if cross {
            let attention = format!("{name}.cross_attention");
            self.norm_if(input, &format!("{attention}_norm"));
            self.linear(&format!("{attention}.query"), d_model, heads, config.qkv_bias());
            let key_value = format!("{attention}.key_value");
            self.linear(&key_value, d_model, 2 * kv_heads, config.qkv_bias());
            self.qk_norms(&attention);
            self.linear(&format!("{attention}.output"), heads, d_model, config.output_bias());
            self.norm_if(output, &format!("{attention}_output_norm"));
        }

        let feed_forward = format!("{name}.feed_forward");
        let shared_norm = config.residual == Residual::ParallelSharedNorm;
        self.norm_if(input && !shared_norm, &format!("{feed_forward}_norm"));
        match config.feed_forward.experts {
            None => self.network(&feed_forward, config.d_ff()),
            Some(experts) => {
                self.linear(&format!("{feed_forward}.router"), d_model, experts.count, false);
                for expert in 0..experts.count {
                    self.network(&format!("{feed_forward}.experts.{expert}"), config.d_ff());
                }
                if let Some(d_ff) = experts.shared_d_ff {
                    self.network(&format!("{feed_forward}.shared"), d_ff);
                }
            }
        }
        self.norm_if(output, &format!("{feed_forward}_output_norm"));
    }

    fn network(&mut self, name: &str, d_ff: usize) {
        let (d_model, bias) = (self.config.d_model, self.config.feed_forward_bias());
        if self.config.feed_forward.gated {
            self.linear(&format!("{name}.gate"), d_model, d_ff, bias);
        }
        self.linear(&format!("{name}.up"), d_model, d_ff, bias);
        self.linear(&format!("{name}.down"), d_ff, d_model, bias);
    }
}
