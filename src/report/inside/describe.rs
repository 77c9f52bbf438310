use serde::Serialize;

use crate::config::Architecture;
use crate::config::ModelConfig;
use crate::config::NormConfig;
use crate::config::NormKind;
use crate::config::NormPlacement;
use crate::config::PositionConfig;
use crate::config::Residual;
use crate::config::{Activation, RotaryPairing};

/// A dimension by the letter that papers call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symbol {
    Batch,
    Time,
    Source,
    Width,
    Vocabulary,
    Heads,
    KeyHeads,
    HeadWidth,
    /// Queries, keys and values of all heads.
    JoinedHeads,
    JoinedWidth,
    QueryWidth,
    KeyValueWidth,
    Hidden,
    SharedHidden,
    /// Of the whole batch.
    Tokens,
    /// Those tokens of the batch that came to an expert.
    OwnTokens,
    Experts,
}

/// All that are not made of others, in the order in which a pass meets them.
pub(super) const LETTERS: [Symbol; 13] = [
    Symbol::Batch,
    Symbol::Time,
    Symbol::Source,
    Symbol::Width,
    Symbol::Heads,
    Symbol::KeyHeads,
    Symbol::HeadWidth,
    Symbol::Hidden,
    Symbol::Tokens,
    Symbol::Experts,
    Symbol::OwnTokens,
    Symbol::SharedHidden,
    Symbol::Vocabulary,
];

/// How long each of them is in one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub batch: usize,
    pub time: usize,
    /// Of the text that an encoder reads beside a decoder.
    pub source: usize,
    pub vocab_size: usize,
}

/// One dimension of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Axis {
    pub symbol: &'static str,
    pub size: usize,
}

impl Symbol {
    pub fn letter(self) -> &'static str {
        match self {
            Self::Batch => "B",
            Self::Time => "T",
            Self::Source => "S",
            Self::Width => "D",
            Self::Vocabulary => "V",
            Self::Heads => "H",
            Self::KeyHeads => "G",
            Self::HeadWidth => "K",
            Self::JoinedHeads => "H+2G",
            Self::JoinedWidth => "(H+2G)K",
            Self::QueryWidth => "HK",
            Self::KeyValueWidth => "2GK",
            Self::Hidden => "F",
            Self::SharedHidden => "F'",
            Self::Tokens => "N",
            Self::OwnTokens => "n",
            Self::Experts => "E",
        }
    }

    /// What the letter stands for; none for those that are made of others.
    pub fn meaning(self) -> Option<&'static str> {
        match self {
            Self::Batch => Some("batch"),
            Self::Time => Some("time"),
            Self::Source => Some("time of the source"),
            Self::Width => Some("model width"),
            Self::Vocabulary => Some("vocabulary"),
            Self::Heads => Some("heads"),
            Self::KeyHeads => Some("key/value heads"),
            Self::HeadWidth => Some("head width"),
            Self::Hidden => Some("hidden width"),
            Self::SharedHidden => Some("the shared expert's hidden width"),
            Self::Tokens => Some("tokens of the batch"),
            Self::OwnTokens => Some("those that came to an expert"),
            Self::Experts => Some("experts"),
            _ => None,
        }
    }

    /// How long it is, by the configuration; none where that is up to the tokens.
    pub fn size(self, config: &ModelConfig, sizes: &Sizes) -> Option<usize> {
        let (h, g, k) = (config.n_heads, config.n_kv_heads(), config.head_dim());
        let experts = config.feed_forward.experts;
        Some(match self {
            Self::Batch => sizes.batch,
            Self::Time => sizes.time,
            Self::Source => sizes.source,
            Self::Width => config.d_model,
            Self::Vocabulary => sizes.vocab_size,
            Self::Heads => h,
            Self::KeyHeads => g,
            Self::HeadWidth => k,
            Self::JoinedHeads => h + 2 * g,
            Self::JoinedWidth => (h + 2 * g) * k,
            Self::QueryWidth => h * k,
            Self::KeyValueWidth => 2 * g * k,
            Self::Hidden => config.d_ff(),
            Self::SharedHidden => experts?.shared_d_ff?,
            // Experts are in the layers of an encoder, too.
            Self::Tokens | Self::OwnTokens => return None,
            Self::Experts => experts?.count,
        })
    }
}

/// What a part of a model is for, and its dimensions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Description {
    pub(super) does: String,
    pub(super) input: Vec<Symbol>,
    pub(super) output: Vec<Symbol>,
}

/// Of the part with that path. `again` says that it has had its turn in this pass before.
pub(super) fn describe(path: &str, again: bool, config: &ModelConfig) -> Description {
    use Symbol::*;
    let is_source = match config.architecture {
        Architecture::EncoderDecoder => {
            path.starts_with("encoder") || (path.starts_with("embedding") && !again)
        }
        _ => false,
    };
    let t = if is_source { Source } else { Time };
    let name = path.rsplit('.').find(|part| part.parse::<usize>().is_err()).unwrap_or(path);
    let stream = vec![Batch, t, Width];
    let (is_expert, is_shared) = (path.contains(".experts."), path.contains(".shared"));
    // The tokens of an expert have no rows and columns any more.
    let tokens = |last| match (is_expert, is_shared) {
        (true, _) => vec![OwnTokens, last],
        (_, true) => vec![Tokens, last],
        _ => vec![Batch, t, last],
    };
    let hidden = tokens(if is_shared { SharedHidden } else { Hidden });
    let keys = if path.contains(".cross_attention") { Source } else { t };
    let queries = vec![Batch, Heads, t, HeadWidth];
    let key_heads = vec![Batch, KeyHeads, keys, HeadWidth];
    let (input, output) = match name {
        "embedding" => (vec![Batch, t], stream),
        "qkv" => (stream, vec![Batch, t, JoinedWidth]),
        "query" => (stream, vec![Batch, t, QueryWidth]),
        "key_value" => (vec![Batch, Source, Width], vec![Batch, Source, KeyValueWidth]),
        "rotation" => {
            let joined = vec![Batch, JoinedHeads, t, HeadWidth];
            (joined.clone(), joined)
        }
        "query_norm" | "query_rotation" => (queries.clone(), queries),
        "key_norm" | "key_rotation" => (key_heads.clone(), key_heads),
        "attend" if attends_joined(path, config) => {
            (vec![Batch, JoinedHeads, t, HeadWidth], queries)
        }
        "attend" => (queries.clone(), queries),
        "output" => (vec![Batch, t, QueryWidth], stream),
        "gate" | "up" => (tokens(Width), hidden),
        "activation" => (hidden.clone(), hidden),
        "down" => (hidden, tokens(Width)),
        "router" => (vec![Tokens, Width], vec![Tokens, Experts]),
        "experts" => (vec![OwnTokens, Width], vec![OwnTokens, Width]),
        "shared" => (vec![Tokens, Width], vec![Tokens, Width]),
        "head" => (stream, vec![Batch, t, Vocabulary]),
        _ => (stream.clone(), stream),
    };
    Description { does: does(path, name, config), input, output }
}

/// Whether attention takes queries, keys and values in one tensor, as their projection has made
/// them.
fn attends_joined(path: &str, config: &ModelConfig) -> bool {
    !path.contains(".cross_attention") && config.attention.qk_norm.is_none()
}

fn does(path: &str, name: &str, config: &ModelConfig) -> String {
    let is_cross = path.contains(".cross_attention");
    match name {
        "embedding" => embedding(config),
        "decoder" if config.architecture == Architecture::EncoderDecoder => {
            format!("{} layers that see what is behind them and the source", config.n_layers)
        }
        "decoder" => format!("{} layers that see what is behind them", config.n_layers),
        "encoder" => format!("{} layers that see all positions", config.n_encoder_layers()),
        "blocks" => block(path, config),
        "final_norm" => format!("after the last layer: {}", norm(&config.norm, config)),
        "query_norm" | "key_norm" => {
            let of = if name == "query_norm" { "queries" } else { "keys" };
            let own = config.attention.qk_norm.unwrap_or(config.norm);
            format!("each head's {of}: {}", norm(&own, config))
        }
        _ if name.ends_with("norm") => norm(&config.norm, config),
        "attention" => "each position gathers what it needs from others".into(),
        "cross_attention" => "each position gathers what it needs from the source".into(),
        "qkv" => match config.n_kv_heads() {
            g if g == config.n_heads => "queries, keys and values of all heads".into(),
            g => format!("queries of {} heads, keys and values of {g}", config.n_heads),
        },
        "query" => "queries of all heads".into(),
        "key_value" => "keys and values of the source".into(),
        "rotation" => format!("queries and keys {}", rotation(config)),
        "query_rotation" | "key_rotation" => rotation(config),
        "attend" => attend(path, is_cross, config),
        "output" => "brings the heads together, back to the model's width".into(),
        "feed_forward" => feed_forward(config),
        "router" => "scores each token for each expert".into(),
        "experts" => "one of the networks that tokens are sent to".into(),
        "shared" => "a network that every token goes through".into(),
        "gate" => "what the activation is applied to".into(),
        "up" if config.feed_forward.gated => "what the gate lets through".into(),
        "up" => "to the hidden width".into(),
        "activation" if config.feed_forward.gated => {
            format!("{}(gate) * up", activation(config.feed_forward.activation))
        }
        "activation" => format!("{}, unit by unit", activation(config.feed_forward.activation)),
        "down" => "back to the model's width".into(),
        "head" => head(config),
        _ => "a part of the model".into(),
    }
}

fn embedding(config: &ModelConfig) -> String {
    let scaled = if config.scale_embedding { ", times the root of D" } else { "" };
    let position = match config.position {
        PositionConfig::Learned {} => ", plus one for its position",
        PositionConfig::Sinusoidal {} => ", plus waves for its position",
        _ => "",
    };
    format!("a row of numbers for each token{scaled}{position}")
}

fn block(path: &str, config: &ModelConfig) -> String {
    let (f, g) = ("attention", "feed_forward");
    let around = |f: &str| match config.norm_placement {
        NormPlacement::Pre => format!("x + {f}(norm(x))"),
        NormPlacement::Post => format!("norm(x + {f}(x))"),
        NormPlacement::Sandwich => format!("x + norm({f}(norm(x)))"),
        NormPlacement::Output => format!("x + norm({f}(x))"),
    };
    let is_cross =
        config.architecture == Architecture::EncoderDecoder && path.starts_with("decoder");
    match config.residual {
        Residual::Sequential if is_cross => {
            format!("{}, likewise cross_attention and {g}", around(f))
        }
        Residual::Sequential => format!("{}, then {}", around(f), around(g)),
        Residual::Parallel | Residual::ParallelSharedNorm => {
            let rest = around(g).trim_start_matches("x + ").to_owned();
            format!("{} + {rest}, both of the same x", around(f))
        }
    }
}

fn norm(norm: &NormConfig, config: &ModelConfig) -> String {
    let to = match norm.kind {
        NormKind::Layer => "layer norm: to mean 0 and variance 1",
        NormKind::Rms => "RMS norm: to a root mean square of 1",
        NormKind::Cosine => "cosine norm: to length 1",
    };
    let weight = if norm.affine { ", times a weight" } else { "" };
    let bias = if config.norm_bias(norm) { ", plus a bias" } else { "" };
    format!("{to}{weight}{bias}")
}

fn rotation(config: &ModelConfig) -> String {
    let PositionConfig::Rotary { theta, pairing, .. } = config.position else {
        return "turned by their positions".into();
    };
    let pairs = match pairing {
        RotaryPairing::Half => "halves",
        RotaryPairing::Interleaved => "neighbours",
    };
    let (turned, width) = (config.rotary_dim(), config.head_dim());
    let which = if turned < width { format!("{turned} of {width}") } else { "all".into() };
    format!("turned by position: {which} numbers, pairs of {pairs}, base {theta}")
}

fn attend(path: &str, is_cross: bool, config: &ModelConfig) -> String {
    let attention = &config.attention;
    let scale = match attention.scale {
        Some(scale) => format!("{scale} QKᵀ"),
        None => "QKᵀ/√K".into(),
    };
    let scores = match attention.soft_cap {
        Some(cap) => format!("{cap} tanh({scale} / {cap})"),
        None => scale,
    };
    let slope = match config.position {
        PositionConfig::Alibi {} if !is_cross => " - slope * distance",
        _ => "",
    };
    let layer = path.split('.').find_map(|part| part.parse().ok()).unwrap_or(0);
    let window = config.window(layer).filter(|_| !is_cross);
    let sees = match (is_cross || path.starts_with("encoder"), window) {
        (_, None) if is_cross => "the whole source".into(),
        (true, None) => "all positions".into(),
        (true, Some(window)) => format!("positions less than {window} away"),
        (false, None) => "itself and what is behind".into(),
        (false, Some(window)) => format!("itself and {} behind", window - 1),
    };
    format!("softmax({scores}{slope}) V, over {sees}")
}

fn feed_forward(config: &ModelConfig) -> String {
    match config.feed_forward.experts {
        Some(experts) => {
            let shared = if experts.shared_d_ff.is_some() { ", and a shared one" } else { "" };
            format!("each token through {} of {} experts{shared}", experts.per_token, experts.count)
        }
        None if config.feed_forward.gated => {
            "each position by itself: down(activation(gate) * up)".into()
        }
        None => "each position by itself: down(activation(up))".into(),
    }
}

fn activation(kind: Activation) -> &'static str {
    match kind {
        Activation::Gelu => "GELU",
        Activation::GeluTanh => "GELU (tanh)",
        Activation::Relu => "ReLU",
        Activation::ReluSquared => "squared ReLU",
        Activation::Silu => "SiLU",
        Activation::Mish => "Mish",
    }
}

fn head(config: &ModelConfig) -> String {
    let weights =
        if config.tied_head { "the token embedding's own weights" } else { "its own weights" };
    let cap = config.logit_soft_cap.map(|cap| format!(", kept within ± {cap}"));
    format!("a logit for each token, by {weights}{}", cap.unwrap_or_default())
}
