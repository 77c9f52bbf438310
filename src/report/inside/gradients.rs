use burn::module::{ModuleVisitor, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;
use serde::Serialize;
use std::collections::HashMap;

use super::module::{Module, Named, whole};
use super::visits::{Visit, Visits};
use crate::backend::{TrainBackend, on_host};
use crate::config::ModelConfig;
use crate::data::TokenBatch;
use crate::model::{ACTIVATION, Output, parameters};
use crate::train::LanguageModel;

/// A hidden unit is dead where no token of a batch makes more of it than this.
const DEAD: f32 = 1e-6;

/// What one batch does to a model in training.
#[derive(Debug, Clone, Serialize)]
pub struct GradientReport {
    /// Nats a token.
    pub loss: f64,
    /// Targets of the batch.
    pub tokens: usize,
    /// Of all parameters together, as clipping sees it.
    pub gradient_norm: f64,
    pub model: Module<Activity>,
    /// In the order of the pass.
    pub parameters: Vec<ParameterGradient>,
}

/// What comes out of a module, and what the loss has to say to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Activity {
    /// The root mean square of its output.
    pub rms: f64,
    /// The norm of the loss's gradient with respect to its output.
    pub gradient_norm: f64,
    /// Share of its output that is exactly zero.
    pub zeros: f64,
    /// Hidden units that are within ± 1e-6 for every token; only of hidden layers.
    pub dead: Option<Units>,
}

/// How many of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Units {
    pub count: usize,
    pub of: usize,
}

/// The gradient of the loss with respect to a parameter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ParameterGradient {
    pub name: String,
    pub shape: Vec<usize>,
    /// The root mean square of its values.
    pub rms: f64,
    /// None where the parameter is not trained.
    pub gradient_norm: Option<f64>,
    /// The gradient's norm over the parameter's own; none where either is missing.
    pub relative: Option<f64>,
    /// Share of the gradient that is exactly zero.
    pub zeros: Option<f64>,
    /// Outputs of a projection whose weights have no gradient at all.
    pub dead: Option<Units>,
}

/// One step forward and backward, as training takes it, without changing anything.
pub fn gradients<B: TrainBackend>(
    model: &LanguageModel<B>,
    config: &ModelConfig,
    batch: &TokenBatch,
) -> GradientReport {
    // What is added to an output has that output's gradient.
    let visits = Visits::keeping(|output: Output<B>| {
        let [rows, columns] = output.rows.dims();
        let probe = Tensor::zeros([rows, columns], &output.rows.device()).require_grad();
        let values = output.rows.clone().inner();
        (output.rows + probe.clone(), Probe { probe, values })
    });
    let (loss, gradients) = model.observed_step(batch, &visits);
    let visits: Vec<Visit<Activity>> =
        visits.into_inner().into_iter().map(|visit| measured(visit, &gradients)).collect();
    let named: Vec<Named> =
        parameters(&model.model).into_iter().map(|found| (found.name, found.shape)).collect();
    let mut of_parameters = OfParameters { gradients: &gradients, found: Vec::new() };
    burn::module::Module::visit(&model.model, &mut of_parameters);
    let found = of_parameters.found;
    let total: f64 = found.iter().filter_map(|it| it.gradient.as_ref()).map(|it| it.squares).sum();
    let of_parameter = |((name, shape), found): (&Named, Found)| found.report(name, shape);
    GradientReport {
        loss,
        tokens: batch.tokens(),
        gradient_norm: total.sqrt(),
        parameters: named.iter().zip(found).map(of_parameter).collect(),
        model: whole(visits, &named, config),
    }
}

impl GradientReport {
    /// Of the parameters by their names.
    pub fn by_name(&self) -> HashMap<&str, &ParameterGradient> {
        self.parameters.iter().map(|parameter| (&parameter.name[..], parameter)).collect()
    }
}

#[derive(Clone)]
struct Probe<B: AutodiffBackend> {
    probe: Tensor<B, 2>,
    values: Tensor<B::InnerBackend, 2>,
}

fn measured<B: AutodiffBackend>(
    visit: Visit<Probe<B>>,
    gradients: &B::Gradients,
) -> Visit<Activity> {
    let is_hidden = visit.part.to_string() == ACTIVATION;
    let kept = visit.kept.map(|Probe { probe, values }| {
        let columns = values.dims()[1];
        let values = on_host(values);
        let gradient = probe.grad(gradients).map(|gradient| Numbers::of(&on_host(gradient)));
        let numbers = Numbers::of(&values);
        Activity {
            rms: numbers.rms(),
            gradient_norm: gradient.map_or(0.0, |gradient| gradient.squares.sqrt()),
            zeros: numbers.zeros(),
            dead: is_hidden.then(|| silent_columns(&values, columns, DEAD)),
        }
    });
    let inner = visit.inner.into_iter().map(|inner| measured(inner, gradients)).collect();
    let Visit { part, path, input, output, .. } = visit;
    Visit { part, path, input, output, kept, inner }
}

/// Columns of which no number is farther from zero than so much.
fn silent_columns(values: &[f32], columns: usize, most: f32) -> Units {
    let mut is_silent = vec![true; columns];
    for row in values.chunks(columns.max(1)) {
        for (silent, value) in is_silent.iter_mut().zip(row) {
            // What is no number is no silence.
            *silent &= value.abs() <= most;
        }
    }
    Units { count: is_silent.iter().filter(|silent| **silent).count(), of: columns }
}

/// What is told of some numbers.
struct Numbers {
    count: usize,
    squares: f64,
    zero: usize,
}

impl Numbers {
    fn of(values: &[f32]) -> Self {
        Self {
            count: values.len(),
            squares: values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum(),
            zero: values.iter().filter(|x| **x == 0.0).count(),
        }
    }

    fn rms(&self) -> f64 {
        (self.squares / self.count.max(1) as f64).sqrt()
    }

    fn zeros(&self) -> f64 {
        self.zero as f64 / self.count.max(1) as f64
    }
}

/// Of one parameter.
struct Found {
    values: Numbers,
    gradient: Option<Numbers>,
    silent: Option<Units>,
}

impl Found {
    fn report(self, name: &str, shape: &[usize]) -> ParameterGradient {
        let gradient_norm = self.gradient.as_ref().map(|gradient| gradient.squares.sqrt());
        let norm = self.values.squares.sqrt();
        // A row of an embedding without a gradient is a token that was not there.
        let is_projection = !name.starts_with("embedding.");
        ParameterGradient {
            name: name.into(),
            shape: shape.to_vec(),
            rms: self.values.rms(),
            gradient_norm,
            relative: gradient_norm.filter(|_| norm > 0.0).map(|gradient| gradient / norm),
            zeros: self.gradient.as_ref().map(Numbers::zeros),
            dead: self.silent.filter(|_| is_projection),
        }
    }
}

struct OfParameters<'a, B: AutodiffBackend> {
    gradients: &'a B::Gradients,
    found: Vec<Found>,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for OfParameters<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let value = param.val();
        let gradient = value.grad(self.gradients).map(on_host);
        let columns = value.dims()[D - 1];
        self.found.push(Found {
            silent: match D {
                2 => gradient.as_ref().map(|values| silent_columns(values, columns, 0.0)),
                _ => None,
            },
            gradient: gradient.as_deref().map(Numbers::of),
            values: Numbers::of(&on_host(value.inner())),
        });
    }
}
