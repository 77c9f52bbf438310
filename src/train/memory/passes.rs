//! What a model's parts record, as [`model`](crate::model) computes them.

use std::collections::HashMap;

use super::Operations;
use super::attention::{Extras, Sizes};
use super::operations::{Loss, Recorder, WIDTH};
use super::steps::Parameter;
use super::trace::{Trace, Value};
use crate::config::ModelConfig;
use crate::config::NormConfig;
use crate::config::NormPlacement;
use crate::config::PositionConfig;
use crate::config::Precision;
use crate::config::Residual;

/// Records one graph: a pass through a model, or through a part of it.
pub(super) struct Pass<'a> {
    pub(super) model: &'a ModelConfig,
    pub(super) parameters: &'a HashMap<String, Parameter>,
    /// Examples of a micro-batch, and their positions.
    pub(super) batch: u64,
    pub(super) length: u64,
    /// Whether rows of a batch are of different lengths, or hold several documents.
    pub(super) masked: bool,
    pub(super) recorder: Recorder,
    leaves: HashMap<String, Value>,
}

/// A layer's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// `encoder` or `decoder`.
    pub(super) stack: &'a str,
    pub(super) layer: usize,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        model: &'a ModelConfig,
        parameters: &'a HashMap<String, Parameter>,
        [batch, length]: [u64; 2],
        masked: bool,
        operations: Operations,
        precision: Precision,
    ) -> Self {
        let recorder = Recorder { trace: Trace::default(), operations, precision };
        Self { model, parameters, batch, length, masked, recorder, leaves: HashMap::new() }
    }

    /// Of the residual stream.
    pub(super) fn stream_bytes(&self) -> u64 {
        WIDTH * self.rows() * self.model.d_model as u64
    }

    fn rows(&self) -> u64 {
        self.batch * self.length
    }

    fn parameter(&mut self, name: &str) -> Option<Value> {
        if let Some(value) = self.leaves.get(name) {
            return Some(*value);
        }
        let Parameter { bytes, is_trained, .. } = *self.parameters.get(name)?;
        let trace = &mut self.recorder.trace;
        let value = if is_trained { trace.parameter(bytes) } else { trace.constant(bytes) };
        self.leaves.insert(name.into(), value);
        Some(value)
    }

    /// A weight, which the configuration says is there.
    fn weight(&mut self, name: &str) -> Value {
        let value = self.parameter(&format!("{name}.weight"));
        value.unwrap_or_else(|| self.recorder.trace.constant(0))
    }

    /// A linear layer to rows of so many numbers, with its adapter.
    fn linear(&mut self, name: &str, input: Value, rows: u64, outputs: u64) -> Value {
        let (weight, bias) = (self.weight(name), self.parameter(&format!("{name}.bias")));
        let bytes = WIDTH * rows * outputs;
        let adapter = [".lora.a", ".lora.b"].map(|part| self.parameter(&format!("{name}{part}")));
        let output = self.recorder.dense(input, weight, bias, bytes);
        let (Some(lora), [Some(a), Some(b)]) = (&self.model.lora, adapter) else { return output };
        let recorder = &mut self.recorder;
        let precision = std::mem::replace(&mut recorder.precision, Precision::F32);
        let input = recorder.widened(input);
        let dropped = recorder.dropout(input, lora.dropout);
        let inner = recorder.dense(dropped, a, None, WIDTH * rows * lora.rank as u64);
        let inner = recorder.scale(inner);
        let adapted = recorder.dense(inner, b, None, bytes);
        recorder.precision = precision;
        recorder.add(output, adapted)
    }

    /// [`Pass::linear`], as a factor.
    fn rounded_linear(&mut self, name: &str, input: Value, rows: u64, outputs: u64) -> Value {
        if !self.rounds(name) {
            let output = self.linear(name, input, rows, outputs);
            return self.recorder.factor(output);
        }
        let (weight, bias) = (self.weight(name), self.parameter(&format!("{name}.bias")));
        self.recorder.rounded_dense(input, weight, bias, WIDTH * rows * outputs)
    }

    /// Whether kernels may round the input of a linear layer beforehand, as a factor of it alone.
    fn rounds(&self, linear: &str) -> bool {
        let has_adapter = self.parameters.contains_key(&format!("{linear}.lora.a"));
        let rounds = self.recorder.precision == Precision::Bf16 && self.recorder.has_kernel();
        rounds && !has_adapter
    }

    /// A norm of rows of so many numbers.
    fn norm(
        &mut self,
        name: &str,
        norm: NormConfig,
        input: Value,
        width: usize,
        is_rounded: bool,
    ) -> Value {
        let weight = self.parameter(&format!("{name}.weight"));
        let bias = self.parameter(&format!("{name}.bias"));
        self.recorder.norm(input, WIDTH * width as u64, norm.kind, weight, bias, is_rounded)
    }

    fn norm_if(&mut self, wanted: bool, name: &str, input: Value) -> Value {
        self.norm_before(wanted, name, input, false)
    }

    /// [`Pass::norm_if`] before a linear layer, whose factor it may make.
    fn norm_before(&mut self, wanted: bool, name: &str, input: Value, is_rounded: bool) -> Value {
        match wanted {
            true => self.norm(name, self.model.norm, input, self.model.d_model, is_rounded),
            false => input,
        }
    }

    pub(super) fn embedding(&mut self) -> Value {
        let (model, bytes) = (self.model, self.stream_bytes());
        let table = self.parameter("embedding.token");
        let table = table.unwrap_or_else(|| self.recorder.trace.constant(0));
        let mut embedded = self.recorder.select(table, bytes);
        if model.scale_embedding {
            embedded = self.recorder.scale(embedded);
        }
        if let Some(table) = self.parameter("embedding.position") {
            let positions = self.recorder.trace.view(table, bytes / self.batch);
            embedded = self.recorder.add_shared(embedded, positions);
        } else if matches!(model.position, PositionConfig::Sinusoidal {}) {
            embedded = self.recorder.scale(embedded);
        }
        let embedded = self.norm_if(model.embedding_norm, "embedding.norm", embedded);
        self.recorder.dropout(embedded, model.embedding_dropout())
    }

    /// A layer, which in a decoder beside an encoder attends to `memory` too.
    pub(super) fn block(&mut self, place: Place, stream: Value, memory: Option<Value>) -> Value {
        let model = self.model;
        let name = format!("{}.blocks.{}", place.stack, place.layer);
        let placement = model.norm_placement;
        let shared = model.residual == Residual::ParallelSharedNorm;
        let rounds = !shared && self.rounds(&format!("{name}.attention.qkv"));
        let wanted = placement.input();
        let normed = self.norm_before(wanted, &format!("{name}.attention_norm"), stream, rounds);
        let feed_forward_norm = format!("{name}.feed_forward_norm");
        let rounds = model.feed_forward.experts.is_none()
            && !model.feed_forward.gated
            && self.rounds(&format!("{name}.feed_forward.up"));
        let attended = self.attention(&name, place, normed);
        match model.residual {
            Residual::Sequential => {
                let stream = self.add(stream, attended, &format!("{name}.attention_output_norm"));
                let stream = match memory {
                    Some(memory) => self.cross(&name, stream, memory),
                    None => stream,
                };
                let normed = self.norm_before(wanted, &feed_forward_norm, stream, rounds);
                let processed = self.feed_forward(&name, normed);
                self.add(stream, processed, &format!("{name}.feed_forward_output_norm"))
            }
            Residual::Parallel | Residual::ParallelSharedNorm => {
                let normed = match shared {
                    true => normed,
                    false => self.norm_before(wanted, &feed_forward_norm, stream, rounds),
                };
                let processed = self.feed_forward(&name, normed);
                let stream = self.add(stream, attended, &format!("{name}.attention_output_norm"));
                self.add(stream, processed, &format!("{name}.feed_forward_output_norm"))
            }
        }
    }

    fn add(&mut self, stream: Value, output: Value, norm: &str) -> Value {
        let placement = self.model.norm_placement;
        if placement == NormPlacement::Post {
            let sum = self.recorder.add(stream, output);
            return self.norm_if(true, norm, sum);
        }
        let output = self.norm_if(placement.output(), norm, output);
        self.recorder.add(stream, output)
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            batch: self.batch,
            heads: self.model.n_heads as u64,
            key_heads: self.model.n_kv_heads() as u64,
            queries: self.length,
            keys: self.length,
            width: self.model.head_dim() as u64,
        }
    }

    /// A norm on each head, and the rotation.
    fn place(&mut self, name: &str, heads: Value, rotates: bool) -> Value {
        let heads = match self.model.attention.qk_norm {
            Some(norm) => self.norm(name, norm, heads, self.model.head_dim(), false),
            None => heads,
        };
        if rotates { self.recorder.rotate(heads) } else { heads }
    }

    fn attention(&mut self, name: &str, place: Place, input: Value) -> Value {
        let (model, sizes) = (self.model, self.sizes());
        let name = format!("{name}.attention");
        let rotates = matches!(model.position, PositionConfig::Rotary { .. });
        let causal = place.stack == "decoder";
        let alibi = matches!(model.position, PositionConfig::Alibi {});
        let window = model.window(place.layer).is_some();
        let extras = Extras {
            soft_cap: model.attention.soft_cap.is_some(),
            summands: causal || window || alibi || self.masked,
            dropout: model.attention_dropout() > 0.0,
        };
        let outputs = (sizes.heads + 2 * sizes.key_heads) * sizes.width;
        let qkv = format!("{name}.qkv");
        let rounds = model.attention.qk_norm.is_none() && self.rounds(&format!("{name}.output"));
        let joined = match rounds && !rotates {
            true => self.rounded_linear(&qkv, input, self.rows(), outputs),
            false => self.linear(&qkv, input, self.rows(), outputs),
        };
        let attended = if model.attention.qk_norm.is_none() {
            let joined = match rotates {
                true => self.recorder.rotate_first(joined, sizes, rounds),
                false => joined,
            };
            self.recorder.attend_joined(joined, sizes, extras)
        } else {
            let query = self.recorder.part(joined, sizes.query_bytes());
            let query = self.place(&format!("{name}.query_norm"), query, rotates);
            let key = self.recorder.part(joined, sizes.key_bytes());
            let key = self.place(&format!("{name}.key_norm"), key, rotates);
            let value = self.recorder.part(joined, sizes.key_bytes());
            self.recorder.attend([query, key, value], sizes, extras)
        };
        self.output(&name, attended)
    }

    fn output(&mut self, attention: &str, attended: Value) -> Value {
        let d_model = self.model.d_model as u64;
        let output = self.linear(&format!("{attention}.output"), attended, self.rows(), d_model);
        self.recorder.dropout(output, self.model.residual_dropout())
    }

    /// Attention to what an encoder has made of a source of as many positions.
    fn cross(&mut self, name: &str, stream: Value, memory: Value) -> Value {
        let (model, sizes) = (self.model, self.sizes());
        let attention = format!("{name}.cross_attention");
        let wanted = model.norm_placement.input();
        let rounds = self.rounds(&format!("{attention}.query"));
        let normed = self.norm_before(wanted, &format!("{attention}_norm"), stream, rounds);
        let rows = self.rows();
        let query =
            self.linear(&format!("{attention}.query"), normed, rows, sizes.heads * sizes.width);
        let query = self.place(&format!("{attention}.query_norm"), query, false);
        let outputs = 2 * sizes.key_heads * sizes.width;
        let joined = self.linear(&format!("{attention}.key_value"), memory, rows, outputs);
        let key = self.recorder.part(joined, sizes.key_bytes());
        let key = self.place(&format!("{attention}.key_norm"), key, false);
        let value = self.recorder.part(joined, sizes.key_bytes());
        let extras = Extras {
            soft_cap: model.attention.soft_cap.is_some(),
            // Of the padding of sources.
            summands: true,
            dropout: model.attention_dropout() > 0.0,
        };
        let attended = self.recorder.attend([query, key, value], sizes, extras);
        let output = self.output(&attention, attended);
        self.add(stream, output, &format!("{attention}_output_norm"))
    }

    fn feed_forward(&mut self, name: &str, input: Value) -> Value {
        let name = format!("{name}.feed_forward");
        let output = match self.model.feed_forward.experts {
            None => self.network(&name, input, self.rows(), self.model.d_ff() as u64),
            Some(_) => self.experts(&name, input),
        };
        self.recorder.dropout(output, self.model.residual_dropout())
    }

    fn network(&mut self, name: &str, input: Value, rows: u64, d_ff: u64) -> Value {
        let d_model = self.model.d_model as u64;
        let gate = self
            .model
            .feed_forward
            .gated
            .then(|| self.linear(&format!("{name}.gate"), input, rows, d_ff));
        let up = format!("{name}.up");
        let has_adapter = self.parameters.contains_key(&format!("{up}.lora.a"));
        let hidden = match gate {
            Some(gate) => {
                let up = self.linear(&up, input, rows, d_ff);
                self.recorder.gated(gate, up)
            }
            None if has_adapter => {
                let up = self.linear(&up, input, rows, d_ff);
                self.recorder.activation(up)
            }
            None => {
                let (weight, bias) = (self.weight(&up), self.parameter(&format!("{up}.bias")));
                self.recorder.dense_activated(input, weight, bias, WIDTH * rows * d_ff)
            }
        };
        self.linear(&format!("{name}.down"), hidden, rows, d_model)
    }

    /// Experts, of which each has as many rows as the others.
    fn experts(&mut self, name: &str, input: Value) -> Value {
        let Some(experts) = self.model.feed_forward.experts else { return input };
        let (rows, bytes) = (self.rows(), self.stream_bytes());
        let (count, per_token) = (experts.count as u64, experts.per_token as u64);
        let precision = std::mem::replace(&mut self.recorder.precision, Precision::F32);
        let scores = self.linear(&format!("{name}.router"), input, rows, count);
        self.recorder.precision = precision;
        let weights = self.recorder.select(scores, WIDTH * rows * per_token);
        let mut outputs = Vec::new();
        for expert in 0..experts.count {
            let own = (rows * per_token).div_ceil(count);
            let chosen = self.recorder.select(input, WIDTH * own * self.model.d_model as u64);
            let d_ff = self.model.d_ff() as u64;
            outputs.push(self.network(&format!("{name}.experts.{expert}"), chosen, own, d_ff));
        }
        let joined = self.recorder.join(&outputs);
        let ordered = self.recorder.select(joined, bytes * per_token);
        let weighed = self.recorder.weigh(ordered, weights);
        let mixed = self.recorder.select(weighed, bytes);
        match experts.shared_d_ff {
            Some(d_ff) => {
                let shared = self.network(&format!("{name}.shared"), input, rows, d_ff as u64);
                self.recorder.add(mixed, shared)
            }
            None => mixed,
        }
    }

    pub(super) fn final_norm(&mut self, stack: &str, stream: Value) -> Value {
        self.norm_if(self.model.has_final_norm(), &format!("{stack}.final_norm"), stream)
    }

    /// What is minimised.
    pub(super) fn loss(&mut self, stream: Value, loss: &Loss) -> Value {
        let hidden = match loss.targets < self.rows() {
            true => {
                let bytes = WIDTH * loss.targets * self.model.d_model as u64;
                self.recorder.select(stream, bytes)
            }
            false => stream,
        };
        let weight = match self.model.tied_head {
            true => self.parameter("embedding.token"),
            false => self.parameter("head.weight"),
        };
        let weight = weight.unwrap_or_else(|| self.recorder.trace.constant(0));
        let bias = self.parameter("head.bias");
        let recorder = &mut self.recorder;
        if self.model.logit_soft_cap.is_none() {
            return recorder.linear_loss(hidden, weight, bias, loss);
        }
        let bytes = WIDTH * loss.targets * loss.vocab_size;
        let logits = recorder.dense(hidden, weight, bias, bytes);
        let capped = recorder.soft_cap(logits);
        recorder.loss(capped, loss)
    }
}
