//! The operations of a backend as autodiff records them: with kernels, each is one; without, each
//! is composed of others, as in [`backend`](crate::backend).
//!
//! N rows, I inputs, O outputs, V vocabulary

use super::Operations;
use super::trace::{Record, Slope, Trace, Value};
use crate::backend::{LossTerms, gpu_logits_rows};
use crate::config::NormKind;
use crate::config::Precision;

/// Of f32.
pub(super) const WIDTH: u64 = 4;

/// What is minimised.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loss {
    /// Of a micro-batch.
    pub(super) targets: u64,
    pub(super) vocab_size: u64,
    /// Of several micro-batches of a step.
    pub(super) is_share: bool,
    /// Kernels take no memory for them.
    pub(super) terms: LossTerms,
}

/// Records operations as a backend has them.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) trace: Trace,
    pub(super) operations: Operations,
    /// Of matrix products.
    pub(super) precision: Precision,
}

impl Recorder {
    /// Whether there are kernels for what has matrix products in it.
    pub(super) fn has_kernel(&self) -> bool {
        let Operations { kernels, bf16, .. } = self.operations;
        kernels && (self.precision == Precision::F32 || bf16)
    }

    /// An operation with one input, whose gradient has numbers of its own.
    pub(super) fn unary(
        &mut self,
        input: Value,
        bytes: u64,
        saves: &[Value],
        scratch: [u64; 2],
    ) -> Value {
        let [forward_scratch, backward_scratch] = scratch;
        let inputs = [(input, Slope::New)];
        let record = Record {
            inputs: &inputs,
            saves,
            bytes,
            forward_scratch,
            backward_scratch,
            ..Record::default()
        };
        self.trace.record(record)
    }

    /// An operation element by element, in place where nothing else needs its first input.
    fn elementwise(&mut self, inputs: &[(Value, Slope)], saves: &[Value]) -> Value {
        let first = inputs[0].0;
        let is_free = self.trace.is_free(first) && saves.iter().all(|saved| !first.shares(saved));
        let (bytes, is_rounded) = (first.bytes, first.is_rounded);
        let record = Record { inputs, saves, bytes, is_rounded, ..Record::default() };
        match is_free {
            true => self.trace.record_in_place(record),
            false => self.trace.record(record),
        }
    }

    /// A sum or a mean over rows, which is small.
    pub(super) fn reduced(&mut self, input: Value, bytes: u64) -> Value {
        self.unary(input, bytes, &[], [0; 2])
    }

    pub(super) fn add(&mut self, stream: Value, branch: Value) -> Value {
        self.elementwise(&[(stream, Slope::Same), (branch, Slope::Same)], &[])
    }

    /// Adds numbers that are the same for all rows, or for all entries of a batch.
    pub(super) fn add_shared(&mut self, input: Value, shared: Value) -> Value {
        self.elementwise(&[(input, Slope::Same), (shared, Slope::New)], &[])
    }

    /// Multiplies by a number.
    pub(super) fn scale(&mut self, input: Value) -> Value {
        self.elementwise(&[(input, Slope::Same)], &[])
    }

    pub(super) fn dropout(&mut self, input: Value, probability: f64) -> Value {
        if probability == 0.0 {
            return input;
        }
        // Kernels draw again what they have dropped, in place of a mask.
        if self.operations.kernels {
            return self.scale(input);
        }
        let mask = self.trace.record(Record { bytes: input.bytes, ..Record::default() });
        self.elementwise(&[(input, Slope::New), (mask, Slope::New)], &[mask])
    }

    /// A factor of a product, in its precision.
    pub(super) fn factor(&mut self, value: Value) -> Value {
        match self.precision {
            Precision::Bf16 if !value.is_rounded => self.trace.record(Record {
                inputs: &[(value, Slope::New)],
                bytes: value.bytes / 2,
                is_rounded: true,
                ..Record::default()
            }),
            _ => value,
        }
    }

    /// The same in f32.
    pub(super) fn widened(&mut self, value: Value) -> Value {
        match value.is_rounded {
            true => self.unary(value, 2 * value.bytes, &[], [0; 2]),
            false => value,
        }
    }

    /// The product of two factors, of so many bytes in f32.
    pub(super) fn product(&mut self, left: Value, right: Value, bytes: u64) -> Value {
        let product = self.rounded_product(left, right, bytes);
        self.widened(product)
    }

    /// [`Recorder::product`] in the precision of its factors.
    fn rounded_product(&mut self, left: Value, right: Value, bytes: u64) -> Value {
        let is_rounded = self.precision == Precision::Bf16;
        self.trace.record(Record {
            inputs: &[(left, Slope::New), (right, Slope::New)],
            saves: &[left, right],
            bytes: if is_rounded { bytes / 2 } else { bytes },
            is_rounded,
            ..Record::default()
        })
    }

    /// `[N, I]`, `[I, O]` -> `[N, O]`, of so many bytes.
    pub(super) fn dense(
        &mut self,
        input: Value,
        weight: Value,
        bias: Option<Value>,
        bytes: u64,
    ) -> Value {
        if self.operations.products && self.precision == Precision::F32 {
            let mut inputs = vec![(input, Slope::New), (weight, Slope::New)];
            inputs.extend(bias.map(|bias| (bias, Slope::New)));
            let saves = [input, weight];
            return self.trace.record(Record {
                inputs: &inputs,
                saves: &saves,
                bytes,
                ..Record::default()
            });
        }
        let (input, weight) = (self.factor(input), self.factor(weight));
        let product = self.product(input, weight, bytes);
        match bias {
            Some(bias) => self.add_shared(product, bias),
            None => product,
        }
    }

    /// [`Recorder::dense`] in bf16, as a factor.
    pub(super) fn rounded_dense(
        &mut self,
        input: Value,
        weight: Value,
        bias: Option<Value>,
        bytes: u64,
    ) -> Value {
        let (input, weight) = (self.factor(input), self.factor(weight));
        let product = self.rounded_product(input, weight, bytes);
        match bias {
            Some(bias) => self.add_shared(product, bias),
            None => product,
        }
    }

    /// An activation of [`Recorder::dense`], as a factor.
    pub(super) fn dense_activated(
        &mut self,
        input: Value,
        weight: Value,
        bias: Option<Value>,
        bytes: u64,
    ) -> Value {
        if self.operations.products && self.precision == Precision::F32 {
            let output = self.dense(input, weight, bias, bytes);
            return self.activation(output);
        }
        let (input, weight) = (self.factor(input), self.factor(weight));
        let product = self.rounded_product(input, weight, bytes);
        // Kernels without bf16 take and make f32, on the way back a gradient too; compositions have
        // the sum with the bias beside what their activation takes.
        let [forward_scratch, backward_scratch] = match (self.has_kernel(), self.operations.kernels)
        {
            (true, _) => [0, 0],
            (false, true) => [2, 3],
            (false, false) => [3, 5],
        };
        let mut inputs = vec![(product, Slope::New)];
        inputs.extend(bias.map(|bias| (bias, Slope::New)));
        self.trace.record(Record {
            inputs: &inputs,
            saves: &[product],
            bytes: product.bytes,
            is_rounded: product.is_rounded,
            forward_scratch: forward_scratch * bytes,
            backward_scratch: backward_scratch * bytes,
            ..Record::default()
        })
    }

    /// Of rows of so many bytes.
    pub(super) fn norm(
        &mut self,
        input: Value,
        row: u64,
        kind: NormKind,
        weight: Option<Value>,
        bias: Option<Value>,
        is_rounded: bool,
    ) -> Value {
        let bytes = input.bytes;
        if self.operations.kernels && kind != NormKind::Cosine {
            let mut inputs = vec![(input, Slope::New)];
            inputs.extend(weight.iter().chain(&bias).map(|value| (*value, Slope::New)));
            return self.trace.record(Record {
                inputs: &inputs,
                saves: &[input],
                bytes: if is_rounded { bytes / 2 } else { bytes },
                is_rounded,
                ..Record::default()
            });
        }
        let a_row = bytes / row.max(1) * WIDTH;
        let level = match kind {
            NormKind::Layer => {
                let record = Record { inputs: &[(input, Slope::Same)], bytes, ..Record::default() };
                self.trace.record(record)
            }
            NormKind::Rms | NormKind::Cosine => input,
        };
        let squares = self.unary(level, bytes, &[level], [0, bytes]);
        let root = self.reduced(squares, a_row);
        let scaled = self.trace.record(Record {
            inputs: &[(level, Slope::New), (root, Slope::New)],
            saves: &[level, root],
            bytes,
            backward_scratch: 2 * bytes,
            ..Record::default()
        });
        let scaled = match weight {
            Some(weight) => self.trace.record(Record {
                inputs: &[(scaled, Slope::New), (weight, Slope::New)],
                saves: &[scaled],
                bytes,
                backward_scratch: bytes,
                ..Record::default()
            }),
            None => scaled,
        };
        match bias {
            Some(bias) => self.add_shared(scaled, bias),
            None => scaled,
        }
    }

    /// Its gradient is the backend's own on all backends; without a kernel it is a few operations.
    pub(super) fn activation(&mut self, input: Value) -> Value {
        let temporaries = if self.operations.kernels { [0, 0] } else { [2, 4] };
        let scratch = temporaries.map(|count| count * input.bytes);
        self.unary(input, input.bytes, &[input], scratch)
    }

    /// As a factor, of what is rounded to factors first.
    pub(super) fn gated(&mut self, gate: Value, up: Value) -> Value {
        let (gate, up) = (self.factor(gate), self.factor(up));
        if self.has_kernel() {
            return self.trace.record(Record {
                inputs: &[(gate, Slope::New), (up, Slope::New)],
                saves: &[gate, up],
                bytes: up.bytes,
                is_rounded: up.is_rounded,
                ..Record::default()
            });
        }
        let (gate, up) = (self.widened(gate), self.widened(up));
        let gate = if self.operations.kernels { gate } else { self.activation(gate) };
        let inputs = [(gate, Slope::New), (up, Slope::New)];
        let record =
            Record { inputs: &inputs, saves: &[gate, up], bytes: up.bytes, ..Record::default() };
        let gated = self.trace.record(record);
        self.factor(gated)
    }

    /// Rotary positions.
    pub(super) fn rotate(&mut self, heads: Value) -> Value {
        let temporaries = if self.operations.kernels { [0, 0] } else { [2, 3] };
        let scratch = temporaries.map(|count| count * heads.bytes);
        self.unary(heads, heads.bytes, &[], scratch)
    }

    /// [`Recorder::rotate`] by a kernel that makes factors.
    pub(super) fn rotate_rounding(&mut self, heads: Value) -> Value {
        self.trace.record(Record {
            inputs: &[(heads, Slope::New)],
            bytes: heads.bytes / 2,
            is_rounded: true,
            ..Record::default()
        })
    }

    /// Rows of a table by their number, of so many bytes together.
    pub(super) fn select(&mut self, table: Value, bytes: u64) -> Value {
        self.unary(table, bytes, &[], [0; 2])
    }

    /// Several tensors as one.
    pub(super) fn join(&mut self, parts: &[Value]) -> Value {
        let inputs: Vec<(Value, Slope)> = parts.iter().map(|part| (*part, Slope::New)).collect();
        let bytes = parts.iter().map(|part| part.bytes).sum();
        self.trace.record(Record { inputs: &inputs, bytes, ..Record::default() })
    }

    /// Numbers times a factor for each row.
    pub(super) fn weigh(&mut self, input: Value, factors: Value) -> Value {
        self.trace.record(Record {
            inputs: &[(input, Slope::New), (factors, Slope::New)],
            saves: &[input, factors],
            bytes: input.bytes,
            backward_scratch: input.bytes,
            ..Record::default()
        })
    }

    /// What is minimised of a linear head, `[N, I]`, `[I, V]`, in blocks of logits where there is a
    /// kernel.
    pub(super) fn linear_loss(
        &mut self,
        hidden: Value,
        weight: Value,
        bias: Option<Value>,
        loss: &Loss,
    ) -> Value {
        let Loss { targets, vocab_size, is_share, .. } = *loss;
        if !self.has_kernel() {
            let logits = self.dense(hidden, weight, bias, WIDTH * targets * vocab_size);
            return self.loss(logits, loss);
        }
        // Scaled by a share, they are in memory a second time; on a GPU also by one.
        let is_new = is_share || self.operations.aligned_logits.is_some();
        let slope = |place| if is_new { Slope::New } else { Slope::Made(place) };
        let tracked = [hidden, weight].into_iter().filter(Value::is_tracked).enumerate();
        let inputs: Vec<(Value, Slope)> =
            tracked.map(|(place, input)| (input, slope(place))).collect();
        let keeps: Vec<u64> = inputs.iter().map(|(input, _)| input.bytes).collect();
        self.trace.record(Record {
            inputs: &inputs,
            keeps: &keeps,
            bytes: WIDTH,
            forward_scratch: self.loss_scratch(hidden, weight, [targets, vocab_size]),
            ..Record::default()
        })
    }

    /// What the kernel of [`Recorder::linear_loss`] has in memory at a time beside its inputs and
    /// their gradients.
    fn loss_scratch(&self, hidden: Value, weight: Value, [rows, vocab_size]: [u64; 2]) -> u64 {
        let columns = vocab_size.next_multiple_of(self.operations.aligned_logits.unwrap_or(1));
        let logits = self.operations.logits;
        if self.operations.aligned_logits.is_none() {
            return WIDTH * (logits / columns).clamp(1, rows) * columns;
        }
        let block_rows = rows.min(gpu_logits_rows(logits as usize, columns as usize) as u64);
        let is_widened = columns > vocab_size;
        let width = hidden.bytes / (WIDTH * rows);
        let weights = width * columns;
        // Copies of both factors in another type, and of the weights with more columns.
        let (element, copies) = match self.precision {
            Precision::F32 => (WIDTH, if is_widened { WIDTH * weights } else { 0 }),
            Precision::Bf16 => (WIDTH / 2, WIDTH / 2 * (weights + width * rows)),
        };
        let logits = block_rows * columns;
        if !(hidden.is_tracked() || weight.is_tracked()) {
            return copies + WIDTH * logits;
        }
        let is_whole = block_rows == rows;
        let kept = |value: Value| if value.is_tracked() { value.bytes } else { 0 };
        // Gradients beside logits; those of the inputs follow.
        let mut with_logits = (WIDTH + element) * logits;
        if is_whole {
            with_logits = with_logits.saturating_sub(kept(hidden) + kept(weight));
        }
        if !weight.is_tracked() {
            return copies + with_logits.max(element * logits);
        }
        // That of the weights is wider than what is kept of it, which is a copy then; what comes of
        // a further block lies beside the sum.
        let further = if is_whole { 0 } else { WIDTH * weights };
        let with_weights = element * logits + further + WIDTH * weights - weight.bytes;
        let with_copy = if is_widened { WIDTH * weights } else { 0 };
        copies + with_logits.max(with_weights).max(with_copy)
    }

    /// What is minimised of logits.
    pub(super) fn loss(&mut self, logits: Value, loss: &Loss) -> Value {
        if self.operations.kernels {
            return self.unary(logits, WIDTH, &[logits], [0; 2]);
        }
        let log_probabilities = self.log_softmax(logits, loss.targets);
        let mut minimised = self.reduced(log_probabilities, WIDTH);
        if loss.terms.label_smoothing > 0.0 {
            let of_all = self.reduced(log_probabilities, WIDTH);
            minimised = self.add(minimised, of_all);
        }
        if loss.terms.z_loss > 0.0 {
            let log_z = self.reduced(logits, WIDTH);
            minimised = self.add(minimised, log_z);
        }
        minimised
    }

    fn log_softmax(&mut self, logits: Value, rows: u64) -> Value {
        let bytes = logits.bytes;
        let shifted = self.scale(logits);
        let exponentials = self.unary(shifted, bytes, &[shifted], [0, bytes]);
        let sum = self.reduced(exponentials, WIDTH * rows);
        let inputs = [(shifted, Slope::Same), (sum, Slope::Same)];
        self.trace.record(Record { inputs: &inputs, bytes, ..Record::default() })
    }

    /// The logits' soft cap.
    pub(super) fn soft_cap(&mut self, logits: Value) -> Value {
        let bytes = logits.bytes;
        let scaled = self.scale(logits);
        let capped = self.unary(scaled, bytes, &[scaled], [0, 2 * bytes]);
        self.scale(capped)
    }

    /// `Σ x g`, from which a part of a pass goes backward: of an output and its known gradient.
    pub(super) fn times_gradient(&mut self, output: Value) -> Value {
        let gradient = self.trace.constant(output.bytes);
        let inputs = [(output, Slope::New), (gradient, Slope::New)];
        let record = Record {
            inputs: &inputs,
            saves: &[gradient],
            bytes: output.bytes,
            ..Record::default()
        };
        let product = self.trace.record(record);
        self.reduced(product, WIDTH)
    }
}
