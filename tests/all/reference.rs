//! An oracle for the models: their parameters' contract and their forward pass in plain f64 loops,
//! one sequence at a time, without dropout. Written from the contract and the configuration schema
//! alone, so that it cannot share a mistake with `emberlm::model`.
//!
//! T time, S source time, D model width, H heads, G key/value heads, K head width, V vocabulary

use burn::tensor::TensorData;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::f64::consts::PI;

use emberlm::config::{
    Activation, Architecture, ExpertsConfig, ModelConfig, NormConfig, NormKind, NormPlacement,
    PositionConfig, Residual, RotaryPairing, RotaryScaling,
};

/// A sequence of vectors: `[T][D]`.
type Rows = Vec<Vec<f64>>;

/// A sequence of vectors, each cut into heads: `[T][H][K]`.
type Heads = Vec<Rows>;

/// Shape and row-major values of each parameter, by name.
pub struct Parameters(pub HashMap<String, (Vec<usize>, Vec<f64>)>);

impl Parameters {
    pub fn from_tensors(tensors: Vec<(String, TensorData)>) -> Self {
        let convert = |data: TensorData| (data.shape.to_vec(), data.iter::<f64>().collect());
        Self(tensors.into_iter().map(|(name, data)| (name, convert(data))).collect())
    }

    fn vector(&self, name: &str) -> &[f64] {
        let (shape, values) = self.0.get(name).unwrap_or_else(|| panic!("no parameter {name}"));
        assert_eq!(shape.len(), 1, "{name} is not a vector");
        values
    }

    fn matrix(&self, name: &str) -> (usize, &[f64]) {
        let (shape, values) = self.0.get(name).unwrap_or_else(|| panic!("no parameter {name}"));
        assert_eq!(shape.len(), 2, "{name} is not a matrix");
        assert_eq!(shape[0] * shape[1], values.len(), "{name}");
        (shape[1], values)
    }

    fn rows(&self, name: &str) -> impl Iterator<Item = &[f64]> {
        let (columns, values) = self.matrix(name);
        values.chunks_exact(columns)
    }

    fn row(&self, name: &str, index: usize) -> &[f64] {
        self.rows(name).nth(index).unwrap_or_else(|| panic!("{name} has no row {index}"))
    }

    /// `x @ weight + bias`
    fn linear(&self, name: &str, x: &[f64], has_bias: bool) -> Vec<f64> {
        let (columns, weight) = self.matrix(&format!("{name}.weight"));
        assert_eq!(weight.len(), x.len() * columns, "{name}.weight");
        let mut output = vec![0.0; columns];
        for (x, row) in x.iter().zip(weight.chunks_exact(columns)) {
            add_scaled(&mut output, *x, row);
        }
        if let Some(bias) = self.optional(&format!("{name}.bias"), has_bias) {
            add_scaled(&mut output, 1.0, bias);
        }
        output
    }

    /// A vector that must be there exactly if the configuration says so.
    fn optional(&self, name: &str, expected: bool) -> Option<&[f64]> {
        assert_eq!(self.0.contains_key(name), expected, "{name}");
        expected.then(|| self.vector(name))
    }
}

/// Next-token logits of one sequence: `[T][V]`.
pub fn decoder_logits(config: &ModelConfig, parameters: &Parameters, tokens: &[u32]) -> Rows {
    let model = Model::new(config, parameters);
    model.logits(&model.decode(tokens, None))
}

/// Logits of each token of one sequence: `[T][V]`.
pub fn encoder_logits(config: &ModelConfig, parameters: &Parameters, tokens: &[u32]) -> Rows {
    let model = Model::new(config, parameters);
    model.logits(&model.encode(tokens))
}

/// Logits of one sequence in which attention does not leave the document of a token, by the number
/// of each token's document: `[T][V]`.
pub fn packed_logits(
    config: &ModelConfig,
    parameters: &Parameters,
    tokens: &[u32],
    documents: &[u32],
) -> Rows {
    let model = Model { documents: Some(documents), ..Model::new(config, parameters) };
    model.logits(&match config.architecture {
        Architecture::Encoder => model.encode(tokens),
        _ => model.decode(tokens, None),
    })
}

/// Next-token logits of one target, given its source: `[T][V]`.
pub fn seq2seq_logits(
    config: &ModelConfig,
    parameters: &Parameters,
    source: &[u32],
    target: &[u32],
) -> Rows {
    let model = Model::new(config, parameters);
    model.logits(&model.decode(target, Some(&model.encode(source))))
}

/// How unevenly a batch uses the experts of a decoder, as a mean over its layers: one where all
/// are used alike (Fedus et al. 2022, equation 4, with several choices a token).
pub fn balance_term(config: &ModelConfig, parameters: &Parameters, batch: &[Vec<u32>]) -> f64 {
    let experts = config.feed_forward.experts.expect("a model of experts");
    let model = Model::new(config, parameters);
    for tokens in batch {
        model.decode(tokens, None);
    }
    let layers = model.router_scores.into_inner();
    assert_eq!(layers.len(), config.n_layers);
    let term = |scores: &Rows| -> f64 {
        let (mut share, mut probability) = (vec![0.0; experts.count], vec![0.0; experts.count]);
        for scores in scores {
            for expert in largest(scores, experts.per_token) {
                share[expert] += 1.0 / experts.per_token as f64;
            }
            add_scaled(&mut probability, 1.0, &softmax(scores));
        }
        let tokens = scores.len() as f64;
        experts.count as f64 * dot(&share, &probability) / (tokens * tokens)
    };
    layers.values().map(term).sum::<f64>() / layers.len() as f64
}

struct Model<'a> {
    config: &'a ModelConfig,
    parameters: &'a Parameters,
    documents: Option<&'a [u32]>,
    /// What the routers made of each token so far, by the name of their block.
    router_scores: RefCell<BTreeMap<String, Rows>>,
}

impl<'a> Model<'a> {
    fn new(config: &'a ModelConfig, parameters: &'a Parameters) -> Self {
        Self { config, parameters, documents: None, router_scores: RefCell::default() }
    }

    fn encode(&self, tokens: &[u32]) -> Rows {
        self.stack("encoder", self.config.n_encoder_layers(), self.embed(tokens), None)
    }

    fn decode(&self, tokens: &[u32], source: Option<&Rows>) -> Rows {
        self.stack("decoder", self.config.n_layers, self.embed(tokens), source)
    }

    fn embed(&self, tokens: &[u32]) -> Rows {
        let width = self.config.d_model;
        let scale = if self.config.scale_embedding { (width as f64).sqrt() } else { 1.0 };
        let embed = |(position, &token): (usize, &u32)| {
            let mut x = vec![0.0; width];
            add_scaled(&mut x, scale, self.parameters.row("embedding.token", token as usize));
            match self.config.position {
                PositionConfig::Learned {} => {
                    add_scaled(&mut x, 1.0, self.parameters.row("embedding.position", position));
                }
                PositionConfig::Sinusoidal {} => {
                    add_scaled(&mut x, 1.0, &sinusoid(position, width));
                }
                _ => {}
            }
            match self.config.embedding_norm {
                true => self.norm("embedding.norm", &self.config.norm, &x),
                false => x,
            }
        };
        tokens.iter().enumerate().map(embed).collect()
    }

    fn stack(&self, stack: &str, n_layers: usize, mut x: Rows, source: Option<&Rows>) -> Rows {
        for layer in 0..n_layers {
            x = self.block(stack, layer, x, source);
        }
        match self.config.has_final_norm() {
            true => self.norm_rows(&format!("{stack}.final_norm"), &x),
            false => x,
        }
    }

    fn block(&self, stack: &str, layer: usize, x: Rows, source: Option<&Rows>) -> Rows {
        let block = format!("{stack}.blocks.{layer}");
        let [attention, cross_attention, feed_forward] =
            ["attention", "cross_attention", "feed_forward"].map(|part| format!("{block}.{part}"));
        let is_causal = stack == "decoder";
        let attend = |x: &Rows| self.self_attention(&attention, layer, is_causal, x);
        let feed = |x: &Rows| x.iter().map(|x| self.feed_forward(&feed_forward, x)).collect();

        let shares_norm = match self.config.residual {
            Residual::Sequential => {
                let mut x = self.sublayer(&attention, &x, attend);
                if let Some(source) = source {
                    x = self.sublayer(&cross_attention, &x, |x| {
                        self.cross_attention(&cross_attention, x, source)
                    });
                }
                return self.sublayer(&feed_forward, &x, feed);
            }
            Residual::Parallel => false,
            Residual::ParallelSharedNorm => true,
        };
        let attention_input = self.normed_input(&attention, &x);
        let feed_forward_input = match shares_norm {
            true => attention_input.clone(),
            false => self.normed_input(&feed_forward, &x),
        };
        let attended = self.normed_output(&attention, attend(&attention_input));
        let fed = self.normed_output(&feed_forward, feed(&feed_forward_input));
        add(&add(&x, &attended), &fed)
    }

    fn sublayer(&self, name: &str, x: &Rows, function: impl Fn(&Rows) -> Rows) -> Rows {
        let output = function(&self.normed_input(name, x));
        match self.config.norm_placement {
            NormPlacement::Post => self.norm_rows(&format!("{name}_output_norm"), &add(x, &output)),
            _ => add(x, &self.normed_output(name, output)),
        }
    }

    fn normed_input(&self, name: &str, x: &Rows) -> Rows {
        match self.config.norm_placement {
            NormPlacement::Pre | NormPlacement::Sandwich => {
                self.norm_rows(&format!("{name}_norm"), x)
            }
            NormPlacement::Post | NormPlacement::Output => x.clone(),
        }
    }

    fn normed_output(&self, name: &str, x: Rows) -> Rows {
        match self.config.norm_placement {
            NormPlacement::Sandwich | NormPlacement::Output => {
                self.norm_rows(&format!("{name}_output_norm"), &x)
            }
            NormPlacement::Pre | NormPlacement::Post => x,
        }
    }

    fn norm_rows(&self, name: &str, x: &Rows) -> Rows {
        x.iter().map(|x| self.norm(name, &self.config.norm, x)).collect()
    }

    fn norm(&self, name: &str, norm: &NormConfig, x: &[f64]) -> Vec<f64> {
        let count = x.len() as f64;
        let mean = x.iter().sum::<f64>() / count;
        let (shift, divisor) = match norm.kind {
            NormKind::Layer => {
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
                (mean, (variance + norm.epsilon).sqrt())
            }
            NormKind::Rms => (0.0, (dot(x, x) / count + norm.epsilon).sqrt()),
            NormKind::Cosine => (0.0, dot(x, x).sqrt().max(norm.epsilon)),
        };
        let mut normed: Vec<f64> = x.iter().map(|x| (x - shift) / divisor).collect();
        if let Some(weight) = self.parameters.optional(&format!("{name}.weight"), norm.affine) {
            assert_eq!(weight.len(), x.len(), "{name}.weight");
            normed.iter_mut().zip(weight).for_each(|(x, weight)| *x *= weight);
        }
        let has_bias = self.config.norm_bias(norm);
        if let Some(bias) = self.parameters.optional(&format!("{name}.bias"), has_bias) {
            add_scaled(&mut normed, 1.0, bias);
        }
        normed
    }

    fn self_attention(&self, name: &str, layer: usize, is_causal: bool, x: &Rows) -> Rows {
        let (n_queries, n_keys) = (self.config.n_heads, self.config.n_kv_heads());
        let (mut queries, mut keys, mut values) = (Heads::new(), Heads::new(), Heads::new());
        for (position, x) in x.iter().enumerate() {
            let mut heads = self.heads(&format!("{name}.qkv"), x); // [H + 2 G][K]
            assert_eq!(heads.len(), n_queries + 2 * n_keys, "{name}.qkv");
            values.push(heads.split_off(n_queries + n_keys));
            let key = self.head_norms(&format!("{name}.key_norm"), heads.split_off(n_queries));
            let query = self.head_norms(&format!("{name}.query_norm"), heads);
            keys.push(key.iter().map(|head| self.rotate(head, position)).collect());
            queries.push(query.iter().map(|head| self.rotate(head, position)).collect());
        }
        let window = self.config.window(layer).unwrap_or(usize::MAX);
        let slopes = match self.config.position {
            PositionConfig::Alibi {} => alibi_slopes(n_queries),
            _ => vec![0.0; n_queries],
        };
        self.attend(name, &queries, &keys, &values, |head, query, key| {
            let distance = query.abs_diff(key);
            let is_other = self.documents.is_some_and(|number| number[query] != number[key]);
            let is_seen = distance < window && !(is_causal && key > query) && !is_other;
            is_seen.then(|| -slopes[head] * distance as f64)
        })
    }

    /// What comes from the source has no place in the target: neither positions nor masks.
    fn cross_attention(&self, name: &str, x: &Rows, source: &Rows) -> Rows {
        let (mut queries, mut keys, mut values) = (Heads::new(), Heads::new(), Heads::new());
        for x in x {
            let query = self.heads(&format!("{name}.query"), x); // [H][K]
            queries.push(self.head_norms(&format!("{name}.query_norm"), query));
        }
        for x in source {
            let mut key = self.heads(&format!("{name}.key_value"), x); // [2 G][K]
            assert_eq!(key.len(), 2 * self.config.n_kv_heads(), "{name}.key_value");
            values.push(key.split_off(self.config.n_kv_heads()));
            keys.push(self.head_norms(&format!("{name}.key_norm"), key));
        }
        self.attend(name, &queries, &keys, &values, |_, _, _| Some(0.0))
    }

    /// `x @ weight + bias`, and `x @ a @ b * alpha / rank` where there is an adapter.
    fn linear(&self, name: &str, x: &[f64], has_bias: bool) -> Vec<f64> {
        let mut output = self.parameters.linear(name, x, has_bias);
        if self.parameters.0.contains_key(&format!("{name}.lora.a")) {
            let lora = self.config.lora.as_ref().expect("a model with adapters");
            let mut inner = vec![0.0; lora.rank];
            for (x, row) in x.iter().zip(self.parameters.rows(&format!("{name}.lora.a"))) {
                add_scaled(&mut inner, x * lora.alpha / lora.rank as f64, row);
            }
            for (inner, row) in inner.iter().zip(self.parameters.rows(&format!("{name}.lora.b"))) {
                add_scaled(&mut output, *inner, row);
            }
        }
        output
    }

    fn heads(&self, name: &str, x: &[f64]) -> Rows {
        let joined = self.linear(name, x, self.config.qkv_bias());
        assert_eq!(joined.len() % self.config.head_dim(), 0, "{name}");
        joined.chunks_exact(self.config.head_dim()).map(<[f64]>::to_vec).collect()
    }

    fn head_norms(&self, name: &str, heads: Rows) -> Rows {
        match &self.config.attention.qk_norm {
            Some(norm) => heads.iter().map(|head| self.norm(name, norm, head)).collect(),
            None => heads,
        }
    }

    /// Softmax attention; `bias(head, query, key)` is added to a score, none hides the key.
    fn attend(
        &self,
        name: &str,
        queries: &Heads,
        keys: &Heads,
        values: &Heads,
        bias: impl Fn(usize, usize, usize) -> Option<f64>,
    ) -> Rows {
        let width = self.config.head_dim();
        let scale = self.config.attention.scale.unwrap_or(1.0 / (width as f64).sqrt());
        let shared_by = self.config.n_heads / self.config.n_kv_heads();
        let attend = |(position, heads): (usize, &Rows)| {
            assert_eq!(heads.len(), self.config.n_heads, "{name}");
            let mut joined = Vec::new();
            for (head, query) in heads.iter().enumerate() {
                let score = |(key_position, keys): (usize, &Rows)| {
                    let score = dot(query, &keys[head / shared_by]) * scale;
                    let score = soft_cap(score, self.config.attention.soft_cap);
                    bias(head, position, key_position)
                        .map_or(f64::NEG_INFINITY, |bias| score + bias)
                };
                let scores: Vec<f64> = keys.iter().enumerate().map(score).collect();
                let mut mixture = vec![0.0; width];
                for (weight, values) in softmax(&scores).iter().zip(values) {
                    add_scaled(&mut mixture, *weight, &values[head / shared_by]);
                }
                joined.extend(mixture);
            }
            let output = format!("{name}.output");
            self.linear(&output, &joined, self.config.output_bias())
        };
        queries.iter().enumerate().map(attend).collect()
    }

    fn rotate(&self, head: &[f64], position: usize) -> Vec<f64> {
        let mut turned = head.to_vec();
        let PositionConfig::Rotary { theta, pairing, scaling, .. } = self.config.position else {
            return turned;
        };
        let width = self.config.rotary_dim();
        for pair in 0..width / 2 {
            let frequency = theta.powf(-2.0 * pair as f64 / width as f64);
            let (sine, cosine) = (position as f64 * scaled(frequency, scaling)).sin_cos();
            let (first, second) = match pairing {
                RotaryPairing::Half => (pair, pair + width / 2),
                RotaryPairing::Interleaved => (2 * pair, 2 * pair + 1),
            };
            turned[first] = head[first] * cosine - head[second] * sine;
            turned[second] = head[second] * cosine + head[first] * sine;
        }
        turned
    }

    fn feed_forward(&self, name: &str, x: &[f64]) -> Vec<f64> {
        match &self.config.feed_forward.experts {
            Some(experts) => self.experts(name, experts, x),
            None => self.dense(name, x),
        }
    }

    fn experts(&self, name: &str, experts: &ExpertsConfig, x: &[f64]) -> Vec<f64> {
        let scores = self.linear(&format!("{name}.router"), x, false);
        assert_eq!(scores.len(), experts.count, "{name}.router");
        let chosen = largest(&scores, experts.per_token);
        let chosen_scores: Vec<f64> = chosen.iter().map(|&expert| scores[expert]).collect();
        // One alone has its probability among all (Fedus et al. 2022, equation 2).
        let weights = match experts.per_token {
            1 => vec![softmax(&scores)[chosen[0]]],
            _ => softmax(&chosen_scores),
        };
        let mut output = vec![0.0; x.len()];
        for (expert, weight) in chosen.iter().zip(weights) {
            add_scaled(&mut output, weight, &self.dense(&format!("{name}.experts.{expert}"), x));
        }
        if experts.shared_d_ff.is_some() {
            add_scaled(&mut output, 1.0, &self.dense(&format!("{name}.shared"), x));
        }
        self.router_scores.borrow_mut().entry(name.to_owned()).or_default().push(scores);
        output
    }

    fn dense(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let settings = &self.config.feed_forward;
        let linear = |part: &str, x: &[f64]| {
            self.linear(&format!("{name}.{part}"), x, self.config.feed_forward_bias())
        };
        let mut hidden = linear("up", x);
        if settings.gated {
            let gate = linear("gate", x);
            assert_eq!(gate.len(), hidden.len(), "{name}.gate");
            let gated = |(up, gate): (&mut f64, &f64)| *up *= activate(settings.activation, *gate);
            hidden.iter_mut().zip(&gate).for_each(gated);
        } else {
            hidden.iter_mut().for_each(|up| *up = activate(settings.activation, *up));
        }
        linear("down", &hidden)
    }

    fn logits(&self, hidden: &Rows) -> Rows {
        let logits = |x: &Vec<f64>| {
            let has_bias = self.config.head_bias;
            let logits = match self.config.tied_head {
                false => self.linear("head", x, has_bias),
                true => {
                    let rows = self.parameters.rows("embedding.token");
                    let mut logits: Vec<f64> = rows.map(|row| dot(row, x)).collect();
                    if let Some(bias) = self.parameters.optional("head.bias", has_bias) {
                        add_scaled(&mut logits, 1.0, bias);
                    }
                    logits
                }
            };
            logits.iter().map(|logit| soft_cap(*logit, self.config.logit_soft_cap)).collect()
        };
        hidden.iter().map(logits).collect()
    }
}

fn sinusoid(position: usize, width: usize) -> Vec<f64> {
    let wave = |column: usize| {
        let exponent = (column - column % 2) as f64 / width as f64;
        let angle = position as f64 / 10_000f64.powf(exponent);
        if column.is_multiple_of(2) { angle.sin() } else { angle.cos() }
    };
    (0..width).map(wave).collect()
}

/// As transformers' `_compute_llama3_parameters`, where scaling is Llama 3's.
fn scaled(frequency: f64, scaling: Option<RotaryScaling>) -> f64 {
    match scaling {
        None => frequency,
        Some(RotaryScaling::Linear { factor }) => frequency / factor,
        Some(RotaryScaling::Llama3 {
            factor,
            low_frequency_factor: low,
            high_frequency_factor: high,
            original_context_length,
        }) => {
            let turns = original_context_length as f64 * frequency / (2.0 * PI);
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            kept * frequency + (1.0 - kept) * frequency / factor
        }
    }
}

/// `get_slopes` of <https://github.com/ofirpress/attention_with_linear_biases>.
pub(crate) fn alibi_slopes(n_heads: usize) -> Vec<f64> {
    if n_heads.is_power_of_two() {
        return (1..=n_heads).map(|head| (-8.0 * head as f64 / n_heads as f64).exp2()).collect();
    }
    let power = n_heads.next_power_of_two() / 2;
    let between = alibi_slopes(2 * power).into_iter().step_by(2);
    alibi_slopes(power).into_iter().chain(between).take(n_heads).collect()
}

/// Indices of the `count` largest, the lower of two equals first.
fn largest(values: &[f64], count: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..values.len()).collect();
    indices.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    indices.truncate(count);
    indices
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

fn soft_cap(value: f64, cap: Option<f64>) -> f64 {
    cap.map_or(value, |cap| cap * (value / cap).tanh())
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Gelu => 0.5 * x * (1.0 + error_function(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::ReluSquared => x.max(0.0).powi(2),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Mish => x * x.exp().ln_1p().tanh(),
    }
}

/// `erf(x) = 2/√π e^(-x²) Σ 2ⁿ x^(2n+1) / (2n+1)!!`, whose terms have one sign (DLMF 7.6.2).
fn error_function(x: f64) -> f64 {
    // Beyond, erf is ±1 in f64.
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, 0.0);
    for n in 1..200 {
        sum += term;
        term *= 2.0 * x * x / f64::from(2 * n + 1);
    }
    2.0 / PI.sqrt() * (-x * x).exp() * sum
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(a: &Rows, b: &Rows) -> Rows {
    assert_eq!(a.len(), b.len());
    let mut sum = a.clone();
    sum.iter_mut().zip(b).for_each(|(sum, b)| add_scaled(sum, 1.0, b));
    sum
}

fn add_scaled(sum: &mut [f64], factor: f64, values: &[f64]) {
    assert_eq!(sum.len(), values.len());
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
}
