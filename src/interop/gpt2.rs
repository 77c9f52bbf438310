//! GPT-2 as Hugging Face stores it (`GPT2LMHeadModel`). Its linear layers keep their weights as
//! `[d_input, d_output]`, as ours do, so nothing is transposed.

use serde::Deserialize;

use crate::config::{Activation, FeedForwardConfig, ModelConfig, NormConfig};

/// The part of `config.json` that shapes the model.
#[derive(Debug, Clone, Deserialize)]
pub struct Gpt2Config {
    pub vocab_size: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_positions: usize,
    n_inner: Option<usize>,
    layer_norm_epsilon: f64,
    #[serde(default)]
    resid_pdrop: f64,
}

impl Gpt2Config {
    /// The same architecture in our words.
    pub fn model_config(&self) -> ModelConfig {
        ModelConfig {
            n_layers: self.n_layer,
            d_ff: self.n_inner,
            vocab_size: Some(self.vocab_size),
            dropout: self.resid_pdrop,
            norm: NormConfig { epsilon: self.layer_norm_epsilon, ..NormConfig::default() },
            feed_forward: FeedForwardConfig {
                activation: Activation::GeluTanh,
                ..FeedForwardConfig::default()
            },
            ..ModelConfig::new(self.n_embd, self.n_layer, self.n_head, self.n_positions)
        }
    }
}

/// The name of one of our parameters in a Hugging Face file; none where GPT-2 has no such thing.
pub fn tensor_name(ours: &str) -> Option<String> {
    let name = match ours {
        "embedding.token" => "wte.weight".into(),
        "embedding.position" => "wpe.weight".into(),
        _ => match ours.strip_prefix("decoder.")?.split_once('.')? {
            ("final_norm", rest) => format!("ln_f.{rest}"),
            ("blocks", rest) => {
                let (layer, rest) = rest.split_once('.')?;
                let (module, kind) = rest.rsplit_once('.')?;
                let module = match module {
                    "attention_norm" => "ln_1",
                    "attention.qkv" => "attn.c_attn",
                    "attention.output" => "attn.c_proj",
                    "feed_forward_norm" => "ln_2",
                    "feed_forward.up" => "mlp.c_fc",
                    "feed_forward.down" => "mlp.c_proj",
                    _ => return None,
                };
                format!("h.{layer}.{module}.{kind}")
            }
            _ => return None,
        },
    };
    Some(format!("transformer.{name}"))
}
