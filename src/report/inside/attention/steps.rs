use serde::Serialize;

/// What is the same for all heads of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Steps {
    pub head_dim: usize,
    pub keys: usize,
    pub causal: bool,
    pub window: Option<usize>,
    pub scale: f64,
    pub soft_cap: Option<f64>,
    /// Keys that are there; all where absent.
    pub key_length: Option<usize>,
}

/// What one head computed, row by row, from the queries, keys and values of the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeadSteps {
    /// Which keys and values are its own or are shared with others.
    pub key_head: usize,
    /// Of ALiBi.
    pub slope: Option<f64>,
    /// `[T, K]`, after norm and rotation, as are the keys.
    pub query: Vec<f32>,
    /// `[S, K]`
    pub key: Vec<f32>,
    /// `[S, K]`
    pub value: Vec<f32>,
    /// Of queries and keys, `[T, S]`.
    pub products: Vec<f32>,
    /// What the softmax is of, `[T, S]`: scaled, capped, less the slope times the distance, and
    /// minus infinity where a query does not see a key.
    pub scores: Vec<f32>,
    /// Their softmax, `[T, S]`.
    pub weights: Vec<f32>,
    /// What the model's own operation gave, `[T, K]`.
    pub attended: Vec<f32>,
    /// The largest difference between that and the weights times the values.
    pub difference: f64,
    /// What the projection makes of it, `[T, D]`: the head's part of what attention adds to the
    /// stream.
    pub contribution: Vec<f32>,
}

impl Steps {
    /// The steps of a head, computed in f64 between what the model was given and what it gave.
    pub(super) fn of_head(
        &self,
        key_head: usize,
        slope: Option<f64>,
        [query, key, value]: [Vec<f32>; 3],
        attended: Vec<f32>,
        contribution: Vec<f32>,
    ) -> HeadSteps {
        let (k, s) = (self.head_dim, self.keys);
        let t = query.len() / k;
        let (mut products, mut scores, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let mut difference = 0.0f64;
        for (row, query) in query.chunks(k).enumerate() {
            let of_row: Vec<f64> = key.chunks(k).map(|key| dot(query, key)).collect();
            // The queries are those of the last positions.
            let place = if self.causal { row + s - t } else { row };
            let seen: Vec<f64> = of_row
                .iter()
                .enumerate()
                .map(|(key, product)| self.score(*product, place, key, slope))
                .collect();
            let softmax = softmax(&seen);
            for (column, expected) in attended[row * k..][..k].iter().enumerate() {
                let sum: f64 = softmax
                    .iter()
                    .zip(value.chunks(k))
                    .map(|(w, v)| w * f64::from(v[column]))
                    .sum();
                difference = difference.max((sum - f64::from(*expected)).abs());
            }
            products.extend(of_row.iter().map(|x| *x as f32));
            scores.extend(seen.iter().map(|x| *x as f32));
            weights.extend(softmax.iter().map(|x| *x as f32));
        }
        HeadSteps {
            key_head,
            slope,
            query,
            key,
            value,
            products,
            scores,
            weights,
            attended,
            difference,
            contribution,
        }
    }

    /// What the softmax sees of a query at a place and a key.
    fn score(&self, product: f64, place: usize, key: usize, slope: Option<f64>) -> f64 {
        let distance = place.abs_diff(key);
        let is_hidden = (self.causal && key > place)
            || self.window.is_some_and(|window| distance >= window)
            || self.key_length.is_some_and(|length| key >= length);
        if is_hidden {
            return f64::NEG_INFINITY;
        }
        let scaled = product * self.scale;
        let capped = self.soft_cap.map_or(scaled, |cap| cap * (scaled / cap).tanh());
        capped - slope.unwrap_or(0.0) * distance as f64
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Every row has a finite score: a query sees itself, or all of a source.
fn softmax(scores: &[f64]) -> Vec<f64> {
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}
