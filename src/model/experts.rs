//! N tokens, E experts, P experts a token, D model width

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use super::feed_forward::Network;
use super::pass::Pass;
use super::{Initializer, Linear};
use crate::backend::{GptBackend, on_host};
use crate::config::ExpertsConfig;
use crate::config::ModelConfig;
use crate::config::Precision;

/// A mixture of experts: each token goes through the few networks that score highest for it,
/// weighed by the softmax over their scores (Shazeer et al. 2017). One alone is weighed by the
/// softmax over all, or its router would have nothing to learn from (Fedus et al. 2022).
#[derive(Module, Debug)]
pub struct Experts<B: Backend> {
    /// Scores, `[D, E]`.
    pub router: Linear<B>,
    pub experts: Vec<Network<B>>,
    /// A network that every token goes through.
    pub shared: Option<Network<B>>,
    per_token: usize,
}

/// How the experts of one layer were used.
#[derive(Debug, Clone)]
pub struct Routing<B: Backend> {
    /// One where all experts are used alike, E where all tokens go to one: `[1]`.
    pub balance: Tensor<B, 1>,
    /// Tokens that went to each expert.
    pub counts: Vec<usize>,
}

impl<B: Backend> Experts<B> {
    pub fn new(
        config: &ModelConfig,
        experts: &ExpertsConfig,
        residual_deviation: f64,
        initializer: &mut Initializer,
        device: &B::Device,
    ) -> Self {
        let shape = [config.d_model, experts.count];
        let router = Linear::new(shape, false, super::init::DEVIATION, initializer, device);
        let mut network =
            |d_ff| Network::new(config, d_ff, residual_deviation, initializer, device);
        Self {
            router,
            experts: (0..experts.count).map(|_| network(config.d_ff())).collect(),
            shared: experts.shared_d_ff.map(&mut network),
            per_token: experts.per_token,
        }
    }

    /// The router stays as it is: which expert is best must not hang on a rounding (Fedus et al.
    /// 2022, section 2.4).
    pub(super) fn set_precision(&mut self, precision: Precision) {
        for network in self.experts.iter_mut().chain(&mut self.shared) {
            network.set_precision(precision);
        }
    }
}

impl<B: GptBackend> Experts<B> {
    /// Adds to the pass how the experts were used, by tokens that are no padding.
    ///
    /// # Shapes
    /// - `input` `[B, T, D]` -> `[B, T, D]`
    pub(super) fn forward(&self, input: Tensor<B, 3>, pass: &mut Pass<B>) -> Tensor<B, 3> {
        let (record, lengths) = (pass.record, pass.lengths);
        let [b, t, d] = input.dims();
        let (n, p) = (b * t, self.per_token);
        let device = input.device();
        let tokens = input.reshape([n, d]);
        let scores = record.part("router", tokens.clone(), |tokens| self.router.forward(tokens)); // [N, E]
        let chosen = self.choose(&scores);

        let indices = |ids: Vec<i32>, shape: Vec<usize>| TensorData::new(ids, shape);
        let weights = match p {
            1 => {
                // What `gather` would give: under burn's fusion it reads past a single column where
                // its result goes into wider rows.
                let all = self.experts.len();
                let mut is_chosen = vec![0.0_f32; n * all];
                for (row, expert) in is_chosen.chunks_exact_mut(all).zip(&chosen) {
                    row[*expert] = 1.0;
                }
                let is_chosen = Tensor::from_data(TensorData::new(is_chosen, [n, all]), &device);
                (softmax(scores.clone(), 1) * is_chosen).sum_dim(1)
            }
            _ => {
                let experts: Vec<i32> = chosen.iter().map(|expert| *expert as i32).collect();
                let experts = Tensor::from_data(indices(experts, vec![n, p]), &device);
                softmax(scores.clone().gather(1, experts), 1)
            }
        };
        let weights = weights.reshape([n * p, 1]);

        // Assignments in the order of their experts, so that each expert has its rows together.
        let mut rows_of = vec![Vec::new(); self.experts.len()];
        let mut place_in = Vec::with_capacity(n * p);
        for (assignment, expert) in chosen.iter().enumerate() {
            place_in.push(rows_of[*expert].len());
            rows_of[*expert].push((assignment / p) as i32);
        }
        let mut starts = vec![0];
        let mut outputs = Vec::new();
        for ((number, expert), rows) in self.experts.iter().enumerate().zip(rows_of) {
            starts.push(starts[starts.len() - 1] + rows.len());
            if !rows.is_empty() {
                let count = rows.len();
                let rows = Tensor::from_data(indices(rows, vec![count]), &device);
                let rows = tokens.clone().select(0, rows);
                let part = ("experts", number);
                outputs.push(record.part(part, rows, |rows| expert.forward(rows, record)));
            }
        }
        let place_of = chosen.iter().zip(place_in).map(|(expert, place)| starts[*expert] + place);
        let place_of: Vec<i32> = place_of.map(|place| place as i32).collect();
        let place_of = Tensor::from_data(indices(place_of, vec![n * p]), &device);
        let outputs = Tensor::cat(outputs, 0).select(0, place_of) * weights; // [N P, D]
        let mixed = outputs.reshape([n, p, d]).sum_dim(1).reshape([n, d]);
        let mixed = match &self.shared {
            Some(shared) => {
                mixed + record.part("shared", tokens, |tokens| shared.forward(tokens, record))
            }
            None => mixed,
        };
        pass.routing.push(self.routing(
            scores,
            &chosen,
            lengths.map(|lengths| text_rows(lengths, t)),
        ));
        mixed.reshape([b, t, d])
    }

    /// How the experts were used by the rows that are given, or by all.
    fn routing(
        &self,
        scores: Tensor<B, 2>,
        chosen: &[usize],
        rows: Option<Vec<i32>>,
    ) -> Routing<B> {
        let p = self.per_token;
        let mut counts = vec![0; self.experts.len()];
        let mut count = |row: usize| {
            chosen[row * p..][..p].iter().for_each(|expert| counts[*expert] += 1);
        };
        let scores = match rows {
            Some(rows) => {
                rows.iter().for_each(|row| count(*row as usize));
                let shape = [rows.len()];
                let rows = Tensor::from_data(TensorData::new(rows, shape), &scores.device());
                scores.select(0, rows)
            }
            None => {
                (0..chosen.len() / p).for_each(count);
                scores
            }
        };
        Routing { balance: balance(scores, &counts), counts }
    }

    /// The experts of each token, `N * P` of them, best first; the first where scores are equal.
    fn choose(&self, scores: &Tensor<B, 2>) -> Vec<usize> {
        let count = self.experts.len();
        // Read back: which rows an expert gets is not known to any graph.
        let scores = on_host(scores.clone());
        let choose_row = |row: &[f32]| {
            let mut experts: Vec<usize> = (0..count).collect();
            experts.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            experts.truncate(self.per_token);
            experts
        };
        scores.chunks(count).flat_map(choose_row).collect()
    }
}

/// The rows of a batch of `t` columns that are no padding.
fn text_rows(lengths: &[usize], t: usize) -> Vec<i32> {
    let of_row = |(row, length): (usize, &usize)| (row * t..row * t + length).map(|i| i as i32);
    lengths.iter().enumerate().flat_map(of_row).collect()
}

/// `E Σ f p`, of the share `f` of assignments that an expert got and its mean probability `p`
/// (Fedus et al. 2022, equation 4).
fn balance<B: Backend>(scores: Tensor<B, 2>, counts: &[usize]) -> Tensor<B, 1> {
    let total: usize = counts.iter().sum();
    let factor = counts.len() as f32 / total as f32;
    let shares: Vec<f32> = counts.iter().map(|count| *count as f32 * factor).collect();
    let shares = TensorData::new(shares, [1, counts.len()]);
    let shares = Tensor::<B, 2>::from_data(shares, &scores.device());
    (softmax(scores, 1).mean_dim(0) * shares).sum()
}
