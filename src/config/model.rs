use serde::{Deserialize, Serialize};

use super::schema::check;
use super::{ConfigError, LoraConfig};

/// The architecture. Every combination of its keys is a model, or is refused by name in
/// [`ModelConfig::validate`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A decoder predicts the next token, an encoder the masked ones, and the two together
    /// translate.
    #[serde(default)]
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Layers of the decoder; of the encoder where that is all there is.
    pub n_layers: usize,
    /// Layers of the encoder beside a decoder; `n_layers` where absent.
    #[serde(default)]
    pub n_encoder_layers: Option<usize>,
    /// Attention heads a layer.
    pub n_heads: usize,
    /// Heads that have keys and values of their own, each shared by `n_heads / n_kv_heads` query
    /// heads (Shazeer 2019 for one, Ainslie et al. 2023 for several); `n_heads` where absent.
    #[serde(default)]
    pub n_kv_heads: Option<usize>,
    /// Width of a head; `d_model / n_heads` where absent.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// The longest sequence the model can see, in tokens.
    pub context_length: usize,
    /// Width of the hidden layer of the feed-forward network; where absent `4 * d_model`, or two
    /// thirds of that, rounded up to a multiple of 8, if it is gated, which keeps its size.
    #[serde(default)]
    pub d_ff: Option<usize>,
    /// Rows of the embedding; the tokenizer's size where absent. May be larger, as padding.
    #[serde(default)]
    pub vocab_size: Option<usize>,
    /// Biases in the linear layers and in layer norms, where nothing more special says otherwise.
    #[serde(default = "default_true")]
    pub bias: bool,
    /// Probability of dropping an activation, where nothing more special says otherwise.
    #[serde(default)]
    pub dropout: f64,
    /// Of the sum of the embeddings; `dropout` where absent.
    #[serde(default)]
    pub embedding_dropout: Option<f64>,
    /// Of what a sublayer adds to the residual stream; `dropout` where absent.
    #[serde(default)]
    pub residual_dropout: Option<f64>,
    /// Multiplies the token embeddings by the root of `d_model` (Vaswani et al. 2017).
    #[serde(default)]
    pub scale_embedding: bool,
    /// A norm on the sum of the embeddings, as in BERT.
    #[serde(default)]
    pub embedding_norm: bool,
    #[serde(default)]
    pub position: PositionConfig,
    #[serde(default)]
    pub norm: NormConfig,
    #[serde(default)]
    pub norm_placement: NormPlacement,
    /// A norm between the last layer and the head; where absent, there is one unless the
    /// placement is `post`, whose layers end in one.
    #[serde(default)]
    pub final_norm: Option<bool>,
    #[serde(default)]
    pub residual: Residual,
    #[serde(default)]
    pub attention: AttentionConfig,
    #[serde(default)]
    pub feed_forward: FeedForwardConfig,
    /// The output projection shares the token embedding's weights.
    #[serde(default = "default_true")]
    pub tied_head: bool,
    #[serde(default)]
    pub head_bias: bool,
    /// Keeps the logits within ± this by `cap * tanh(logit / cap)`.
    #[serde(default)]
    pub logit_soft_cap: Option<f64>,
    /// Adapters, beside which the other parameters are not trained; none where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

/// What attends to what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// Each position sees those before it (Radford et al. 2018).
    #[default]
    Decoder,
    /// Each position sees all (Devlin et al. 2019).
    Encoder,
    /// A decoder that also sees what an encoder made of a source text (Vaswani et al. 2017).
    EncoderDecoder,
}

/// How a model knows the order of its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PositionConfig {
    /// An embedding a position, added to the tokens'.
    Learned {},
    /// Fixed waves, added to the token embeddings (Vaswani et al. 2017, section 3.5).
    Sinusoidal {},
    /// Queries and keys turned by an angle that grows with their position (Su et al. 2021).
    Rotary {
        /// Base of the wavelengths.
        #[serde(default = "default_theta")]
        theta: f64,
        #[serde(default)]
        pairing: RotaryPairing,
        /// The share of a head's width that is turned, from its beginning on.
        #[serde(default = "default_fraction")]
        fraction: f64,
        #[serde(default)]
        scaling: Option<RotaryScaling>,
    },
    /// Scores fall with the distance, by a slope a head (Press et al. 2022).
    Alibi {},
    /// Only the causal mask tells positions apart; to an encoder a text is a set of tokens.
    None {},
}

/// Which two numbers of a head are the coordinates that a rotation turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RotaryPairing {
    /// One of the first half and its counterpart of the second, as in Hugging Face's Llama.
    #[default]
    Half,
    /// Neighbours, as in the paper and in Meta's Llama.
    Interleaved,
}

/// Stretches the wavelengths of a model beyond the context it was trained on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RotaryScaling {
    /// All by one factor (Chen et al. 2023).
    Linear { factor: f64 },
    /// Long ones by a factor, short ones not, and those between by something between (Llama 3.1).
    Llama3 {
        factor: f64,
        low_frequency_factor: f64,
        high_frequency_factor: f64,
        original_context_length: usize,
    },
}

/// How activations are brought to one scale.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NormConfig {
    pub kind: NormKind,
    /// A learned factor for each number.
    pub affine: bool,
    /// A learned summand for each number; where absent, layer norms have one if `affine` and
    /// `model.bias` are set, and others do not.
    pub bias: Option<bool>,
    pub epsilon: f64,
}

impl Default for NormConfig {
    fn default() -> Self {
        Self { kind: NormKind::default(), affine: true, bias: None, epsilon: 1e-5 }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormKind {
    /// To mean zero and variance one (Ba, Kiros and Hinton 2016).
    #[default]
    Layer,
    /// To a root mean square of one (Zhang and Sennrich 2019).
    Rms,
    /// To length one; `epsilon` is the least length that is divided by.
    Cosine,
}

/// Where a sublayer `f` has its norms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormPlacement {
    /// `x + f(norm(x))` (GPT-2).
    #[default]
    Pre,
    /// `norm(x + f(x))` (Vaswani et al. 2017).
    Post,
    /// `x + norm(f(norm(x)))` (Ding et al. 2021; Grok, Gemma 2).
    Sandwich,
    /// `x + norm(f(x))` (OLMo 2).
    Output,
}

impl NormPlacement {
    /// Whether what goes into a sublayer is normalised.
    pub fn input(self) -> bool {
        matches!(self, Self::Pre | Self::Sandwich)
    }

    /// Whether what a sublayer gives, or its sum with the residual stream, is normalised.
    pub fn output(self) -> bool {
        matches!(self, Self::Post | Self::Sandwich | Self::Output)
    }
}

/// How attention and the feed-forward network share a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Residual {
    /// The second sees what the first has added.
    #[default]
    Sequential,
    /// Both see the same input, each through its own norm (GPT-NeoX).
    Parallel,
    /// Both see the same input through the same norm (GPT-J, Phi).
    ParallelSharedNorm,
}

/// What attention has beside its heads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttentionConfig {
    /// In the query, key and value projections; `model.bias` where absent.
    pub qkv_bias: Option<bool>,
    /// In the output projection; `model.bias` where absent.
    pub output_bias: Option<bool>,
    /// Of the attention weights, after the softmax; `model.dropout` where absent.
    pub dropout: Option<f64>,
    /// A query sees positions less than this away from its own (Beltagy et al. 2020), all where
    /// absent. Sources are always seen whole.
    pub window: Option<usize>,
    /// Of the windowed layers, every so many-th sees all positions after all; none where absent.
    pub full_every: Option<usize>,
    /// Keeps the scores within ± this by `cap * tanh(score / cap)` (Gemma 2).
    pub soft_cap: Option<f64>,
    /// Factor on the scores; `1 / sqrt(head_dim)` where absent.
    pub scale: Option<f64>,
    /// A norm on each head's queries and keys, before they are rotated (Dehghani et al. 2023).
    pub qk_norm: Option<NormConfig>,
}

/// The network that every position goes through by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeedForwardConfig {
    pub activation: Activation,
    /// Multiplies the hidden layer by a second projection of the input (Shazeer 2020).
    pub gated: bool,
    /// `model.bias` where absent.
    pub bias: Option<bool>,
    /// Several networks of which each token goes through a few; one for all where absent.
    pub experts: Option<ExpertsConfig>,
}

/// A mixture of experts (Shazeer et al. 2017; Fedus et al. 2022).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertsConfig {
    /// Networks to choose from, each of hidden width `d_ff`.
    pub count: usize,
    /// Networks that a token goes through, weighed by the softmax over the chosen ones' scores.
    #[serde(default = "default_per_token")]
    pub per_token: usize,
    /// Hidden width of a network that every token goes through beside them (Dai et al. 2024);
    /// none where absent.
    #[serde(default)]
    pub shared_d_ff: Option<usize>,
    /// Weight in the training loss of the balance term, which is one where all experts are used
    /// alike (Fedus et al. 2022, section 2.2).
    #[serde(default = "default_balance_weight")]
    pub balance_weight: f64,
}

/// The non-linearity of the feed-forward network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// `x Φ(x)` (Hendrycks and Gimpel 2016), exact.
    #[default]
    Gelu,
    /// The tanh approximation of GELU, as in OpenAI's GPT-2.
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0)²` (So et al. 2021)
    ReluSquared,
    /// `x σ(x)` (Elfwing et al. 2018)
    Silu,
    /// `x tanh(ln(1 + eˣ))` (Misra 2019)
    Mish,
}

fn default_true() -> bool {
    true
}

fn default_theta() -> f64 {
    10_000.0
}

fn default_fraction() -> f64 {
    1.0
}

fn default_per_token() -> usize {
    2
}

fn default_balance_weight() -> f64 {
    0.01
}

impl Default for PositionConfig {
    fn default() -> Self {
        Self::Learned {}
    }
}

impl PositionConfig {
    /// Rotary positions as in the paper, in Hugging Face's layout.
    pub fn rotary(theta: f64) -> Self {
        Self::Rotary { theta, pairing: RotaryPairing::Half, fraction: 1.0, scaling: None }
    }
}

impl ModelConfig {
    /// A plain decoder: all but its size is as in GPT-2, with exact GELU.
    pub fn new(d_model: usize, n_layers: usize, n_heads: usize, context_length: usize) -> Self {
        Self {
            architecture: Architecture::default(),
            d_model,
            n_layers,
            n_encoder_layers: None,
            n_heads,
            n_kv_heads: None,
            head_dim: None,
            context_length,
            d_ff: None,
            vocab_size: None,
            bias: true,
            dropout: 0.0,
            embedding_dropout: None,
            residual_dropout: None,
            scale_embedding: false,
            embedding_norm: false,
            position: PositionConfig::default(),
            norm: NormConfig::default(),
            norm_placement: NormPlacement::default(),
            final_norm: None,
            residual: Residual::default(),
            attention: AttentionConfig::default(),
            feed_forward: FeedForwardConfig::default(),
            tied_head: true,
            head_bias: false,
            logit_soft_cap: None,
            lora: None,
        }
    }

    pub fn n_kv_heads(&self) -> usize {
        self.n_kv_heads.unwrap_or(self.n_heads)
    }

    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.d_model / self.n_heads.max(1))
    }

    pub fn d_ff(&self) -> usize {
        let default = || match self.feed_forward.gated {
            true => self.d_model.saturating_mul(8).div_ceil(24).saturating_mul(8),
            false => self.d_model.saturating_mul(4),
        };
        self.d_ff.unwrap_or_else(default)
    }

    pub fn n_encoder_layers(&self) -> usize {
        match self.architecture {
            Architecture::Decoder => 0,
            Architecture::Encoder => self.n_layers,
            Architecture::EncoderDecoder => self.n_encoder_layers.unwrap_or(self.n_layers),
        }
    }

    pub fn has_final_norm(&self) -> bool {
        self.final_norm.unwrap_or(self.norm_placement != NormPlacement::Post)
    }

    pub fn qkv_bias(&self) -> bool {
        self.attention.qkv_bias.unwrap_or(self.bias)
    }

    pub fn output_bias(&self) -> bool {
        self.attention.output_bias.unwrap_or(self.bias)
    }

    pub fn feed_forward_bias(&self) -> bool {
        self.feed_forward.bias.unwrap_or(self.bias)
    }

    /// Whether a norm of this model has a bias.
    pub fn norm_bias(&self, norm: &NormConfig) -> bool {
        norm.bias.unwrap_or(norm.kind == NormKind::Layer && norm.affine && self.bias)
    }

    pub fn attention_dropout(&self) -> f64 {
        self.attention.dropout.unwrap_or(self.dropout)
    }

    pub fn embedding_dropout(&self) -> f64 {
        self.embedding_dropout.unwrap_or(self.dropout)
    }

    pub fn residual_dropout(&self) -> f64 {
        self.residual_dropout.unwrap_or(self.dropout)
    }

    /// Whether a training step draws what the layers drop, adapters included.
    pub fn layers_drop(&self) -> bool {
        let adapters = self.lora.as_ref().map_or(0.0, |lora| lora.dropout);
        self.attention_dropout() + self.residual_dropout() + adapters > 0.0
    }

    /// Positions that the queries of a layer see, counted from zero; all where there is none.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let full = self.attention.full_every.is_some_and(|every| (layer + 1).is_multiple_of(every));
        self.attention.window.filter(|_| !full)
    }

    /// Numbers of a head that rotary positions turn: an even number, none for other positions.
    pub fn rotary_dim(&self) -> usize {
        match self.position {
            PositionConfig::Rotary { fraction, .. } => (self.head_dim() as f64 * fraction) as usize,
            _ => 0,
        }
    }

    /// The same model without adapters.
    pub fn without_adapters(&self) -> Self {
        Self { lora: None, ..self.clone() }
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The first key whose value cannot work, with the values it accepts.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check_sizes()?;
        self.check_numbers()?;
        self.lora.as_ref().map_or(Ok(()), LoraConfig::validate)?;
        self.check_combinations()
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        let experts = self.feed_forward.experts;
        let of_experts = |value: fn(&ExpertsConfig) -> usize| experts.as_ref().map_or(1, value);
        let attention = &self.attention;
        // The bounds keep the number of parameters within a machine word.
        for (path, value, most) in [
            ("model.d_model", self.d_model, 1 << 20),
            ("model.n_layers", self.n_layers, 1 << 10),
            ("model.n_encoder_layers", self.n_encoder_layers.unwrap_or(1), 1 << 10),
            ("model.n_heads", self.n_heads, 1 << 16),
            ("model.n_kv_heads", self.n_kv_heads(), 1 << 16),
            ("model.head_dim", self.head_dim.unwrap_or(1), 1 << 12),
            ("model.context_length", self.context_length, 1 << 30),
            ("model.d_ff", self.d_ff(), 1 << 20),
            ("model.vocab_size", self.vocab_size.unwrap_or(1), MOST_TOKENS),
            ("model.attention.window", attention.window.unwrap_or(1), 1 << 30),
            ("model.attention.full_every", attention.full_every.unwrap_or(1), 1 << 10),
            ("model.feed_forward.experts.count", of_experts(|e| e.count), 1 << 12),
            ("model.feed_forward.experts.per_token", of_experts(|e| e.per_token), 1 << 12),
            (
                "model.feed_forward.experts.shared_d_ff",
                of_experts(|e| e.shared_d_ff.unwrap_or(1)),
                1 << 20,
            ),
        ] {
            check(path, value, value >= 1, "at least 1")?;
            check(path, value, value <= most, "a size that some machine could hold")?;
        }
        if self.head_dim.is_none() && !self.d_model.is_multiple_of(self.n_heads) {
            return Err(ConfigError::HeadWidth { d_model: self.d_model, n_heads: self.n_heads });
        }
        let (n_heads, n_kv_heads) = (self.n_heads, self.n_kv_heads());
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(ConfigError::SharedHeads { n_heads, n_kv_heads });
        }
        if let Some(experts) = experts {
            let (path, chosen) = ("model.feed_forward.experts.per_token", experts.per_token);
            check(path, chosen, chosen <= experts.count, "at most experts.count")?;
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        for (path, value) in [
            ("model.dropout", self.dropout),
            ("model.embedding_dropout", self.embedding_dropout()),
            ("model.residual_dropout", self.residual_dropout()),
            ("model.attention.dropout", self.attention_dropout()),
        ] {
            check(path, value, (0.0..1.0).contains(&value), "at least 0 and below 1")?;
        }
        let attention = &self.attention;
        for (path, value) in [
            ("model.norm.epsilon", self.norm.epsilon),
            ("model.attention.qk_norm.epsilon", attention.qk_norm.map_or(1.0, |n| n.epsilon)),
            ("model.attention.soft_cap", attention.soft_cap.unwrap_or(1.0)),
            ("model.attention.scale", attention.scale.unwrap_or(1.0)),
            ("model.logit_soft_cap", self.logit_soft_cap.unwrap_or(1.0)),
        ] {
            check(path, value, is_positive(value), "a positive number")?;
        }
        if let Some(experts) = self.feed_forward.experts {
            let (path, weight) =
                ("model.feed_forward.experts.balance_weight", experts.balance_weight);
            let valid = weight.is_finite() && weight >= 0.0;
            check(path, weight, valid, "zero or a positive number")?;
        }
        self.check_rotary()
    }

    fn check_rotary(&self) -> Result<(), ConfigError> {
        let PositionConfig::Rotary { theta, fraction, scaling, .. } = self.position else {
            return Ok(());
        };
        check("model.position.theta", theta, is_positive(theta), "a positive number")?;
        let valid = fraction > 0.0 && fraction <= 1.0;
        check("model.position.fraction", fraction, valid, "above 0 and at most 1")?;
        let turned = self.rotary_dim();
        if turned == 0 || !turned.is_multiple_of(2) {
            return Err(ConfigError::RotaryWidth { head_dim: self.head_dim(), fraction, turned });
        }
        let factor = |path, factor: f64| check(path, factor, is_positive(factor), "positive");
        match scaling {
            None => Ok(()),
            Some(RotaryScaling::Linear { factor: by }) => {
                factor("model.position.scaling.factor", by)
            }
            Some(RotaryScaling::Llama3 {
                factor: by,
                low_frequency_factor: low,
                high_frequency_factor: high,
                original_context_length: original,
            }) => {
                factor("model.position.scaling.factor", by)?;
                factor("model.position.scaling.low_frequency_factor", low)?;
                let path = "model.position.scaling.high_frequency_factor";
                let valid = high.is_finite() && high > low;
                check(path, high, valid, "above low_frequency_factor")?;
                let path = "model.position.scaling.original_context_length";
                check(path, original, original >= 1, "at least 1")
            }
        }
    }

    fn check_combinations(&self) -> Result<(), ConfigError> {
        let conflict = |first, second, reason| Err(ConfigError::Conflict { first, second, reason });
        if self.norm.bias == Some(true) && !self.norm.affine {
            return conflict("model.norm.bias", "model.norm.affine", "a bias needs affine = true");
        }
        if self.attention.qk_norm.is_some_and(|norm| norm.bias == Some(true) && !norm.affine) {
            return conflict(
                "model.attention.qk_norm.bias",
                "model.attention.qk_norm.affine",
                "a bias needs affine = true",
            );
        }
        let parallel = self.residual != Residual::Sequential;
        if parallel && self.norm_placement == NormPlacement::Post {
            return conflict(
                "model.residual",
                "model.norm_placement",
                "post normalises after each sublayer, so the two cannot be parallel",
            );
        }
        if self.residual == Residual::ParallelSharedNorm && !self.norm_placement.input() {
            return conflict(
                "model.residual",
                "model.norm_placement",
                "a shared norm needs one before the sublayers: pre or sandwich",
            );
        }
        if self.architecture == Architecture::EncoderDecoder && parallel {
            return conflict(
                "model.residual",
                "model.architecture",
                "a decoder beside an encoder has three sublayers, one after the other",
            );
        }
        if self.architecture != Architecture::EncoderDecoder && self.n_encoder_layers.is_some() {
            return conflict(
                "model.n_encoder_layers",
                "model.architecture",
                "only encoder-decoder has both",
            );
        }
        if self.attention.full_every.is_some() && self.attention.window.is_none() {
            return conflict(
                "model.attention.full_every",
                "model.attention.window",
                "without a window every layer sees all positions",
            );
        }
        Ok(())
    }
}

/// Ids of a vocabulary are kept in four bytes, with room for those of a task.
pub(super) const MOST_TOKENS: usize = 1 << 30;

fn is_positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}
