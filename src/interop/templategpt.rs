//! Models of templateGPT (github.com/evintunador/templateGPT): `model.pth` and
//! `model_config.json`.

use serde::Deserialize;

use super::InteropError;
use super::layout::{Names, Theirs};
use crate::config::Activation;
use crate::config::ModelConfig;
use crate::config::NormConfig;
use crate::config::NormKind;
use crate::config::NormPlacement;
use crate::config::PositionConfig;

pub(super) const NAMES: Names = Names {
    modules: &[
        ("embedding.token", Theirs::Table("token_embedder")),
        ("embedding.position", Theirs::ScaledTable("pos_embedder")),
        ("decoder.blocks.*.attention_norm", Theirs::Norm("layers.*.pre_attn_norm")),
        (
            "decoder.blocks.*.attention.qkv",
            Theirs::Linear(&["layers.*.attn.Wq", "layers.*.attn.Wk", "layers.*.attn.Wv"]),
        ),
        ("decoder.blocks.*.attention.output", Theirs::Linear(&["layers.*.attn.Wo"])),
        ("decoder.blocks.*.attention_output_norm", Theirs::Norm("layers.*.post_attn_norm")),
        ("decoder.blocks.*.feed_forward_norm", Theirs::Norm("layers.*.pre_mlp_norm")),
        ("decoder.blocks.*.feed_forward.gate", Theirs::Linear(&["layers.*.mlp.Wgate"])),
        ("decoder.blocks.*.feed_forward.up", Theirs::Linear(&["layers.*.mlp.Wup"])),
        ("decoder.blocks.*.feed_forward.down", Theirs::Linear(&["layers.*.mlp.Wdown"])),
        ("decoder.blocks.*.feed_forward_output_norm", Theirs::Norm("layers.*.post_mlp_norm")),
        ("decoder.final_norm", Theirs::Norm("final_norm")),
        ("head", Theirs::Linear(&["output"])),
    ],
    base: None,
    norm: ["w", "b"],
    norm_less_one: false,
};

/// The name of the output projection, which is stored even where it is the embedding.
pub(super) const HEAD: &str = "output.weight";

/// `model_config.json`
#[derive(Debug, Deserialize)]
pub(super) struct TemplateGptConfig {
    dim: usize,
    vocab_len: usize,
    num_layers: usize,
    num_q_heads: usize,
    num_kv_heads: Option<usize>,
    head_dim: Option<usize>,
    max_seq_len: usize,
    linear_bias: bool,
    out_weight_share: bool,
    pos_enc_type: String,
    #[serde(default = "theta")]
    theta: f64,
    scale_first_resid: bool,
    second_resid_norm: bool,
    mlp_hidden_mult: f64,
    mlp_nonlinearity: String,
    mlp_gated: bool,
    norm_type: String,
    norm_affine: bool,
    norm_bias: bool,
    eps: f64,
    #[serde(default)]
    dropout_rate: f64,
}

/// Of [`PositionConfig::Sinusoidal`] too.
fn theta() -> f64 {
    10_000.0
}

impl TemplateGptConfig {
    pub(super) fn model_config(&self) -> Result<ModelConfig, InteropError> {
        let mut config =
            ModelConfig::new(self.dim, self.num_layers, self.num_q_heads, self.max_seq_len);
        config.vocab_size = Some(self.vocab_len);
        config.n_kv_heads = self.num_kv_heads;
        config.head_dim = self.head_dim;
        // It keeps the size of a gated network that of one without, and rounds down.
        let widths =
            if self.mlp_gated { self.mlp_hidden_mult * 2.0 / 3.0 } else { self.mlp_hidden_mult };
        config.d_ff = Some((self.dim as f64 * widths) as usize);
        config.bias = self.linear_bias;
        config.dropout = self.dropout_rate;
        config.scale_embedding = self.scale_first_resid;
        config.position = self.position()?;
        config.norm = self.norm()?;
        if self.second_resid_norm {
            config.norm_placement = NormPlacement::Sandwich;
        }
        config.feed_forward.gated = self.mlp_gated;
        config.feed_forward.activation = match self.mlp_nonlinearity.as_str() {
            "GeLU" => Activation::Gelu,
            "SiLU" => Activation::Silu,
            "ReLU" => Activation::Relu,
            other => {
                let reason = "GeLU, SiLU and ReLU are";
                return Err(InteropError::option("mlp_nonlinearity", other, reason));
            }
        };
        config.tied_head = self.out_weight_share;
        Ok(config)
    }

    fn position(&self) -> Result<PositionConfig, InteropError> {
        match self.pos_enc_type.as_str() {
            "RoPE" => Ok(PositionConfig::rotary(self.theta)),
            "learnable" => Ok(PositionConfig::Learned {}),
            // It scales the sum of tokens and positions; learned ones are scaled beforehand.
            "Sinusoidal" if self.scale_first_resid => {
                let reason = "with pos_enc_type Sinusoidal it scales the positions as well";
                Err(InteropError::option("scale_first_resid", true, reason))
            }
            "Sinusoidal" if self.theta != theta() => {
                let reason = "with pos_enc_type Sinusoidal it must be 10000";
                Err(InteropError::option("theta", self.theta, reason))
            }
            "Sinusoidal" => Ok(PositionConfig::Sinusoidal {}),
            other => {
                let reason = "RoPE, learnable and Sinusoidal are";
                Err(InteropError::option("pos_enc_type", other, reason))
            }
        }
    }

    fn norm(&self) -> Result<NormConfig, InteropError> {
        let kind = match self.norm_type.as_str() {
            "RMSNorm" => NormKind::Rms,
            "LayerNorm" => NormKind::Layer,
            "CosineNorm" => NormKind::Cosine,
            other => {
                let reason = "RMSNorm, LayerNorm and CosineNorm are";
                return Err(InteropError::option("norm_type", other, reason));
            }
        };
        // Without factors it leaves the summands out too.
        let bias = Some(self.norm_affine && self.norm_bias);
        Ok(NormConfig { kind, affine: self.norm_affine, bias, epsilon: self.eps })
    }
}
