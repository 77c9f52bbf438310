use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use serde::Serialize;
use std::collections::HashSet;

use super::describe::{Axis, Description, Sizes, Symbol, describe};
use super::visits::{Visit, Visits};
use crate::backend::GptBackend;
use crate::config::Architecture;
use crate::config::ModelConfig;
use crate::model::{Model, Output, Part, parameters};

/// A part of a model: what goes into it, what comes out, and what it is made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Module<X = ()> {
    /// Within the module that it is part of.
    pub name: String,
    /// As the names of its parameters begin.
    pub path: String,
    pub does: String,
    /// None where no token came here.
    pub input: Option<Vec<Axis>>,
    /// None where no token came here.
    pub output: Option<Vec<Axis>>,
    /// Of this module and of all in it; zero where they have been counted above.
    pub parameter_count: usize,
    /// Its own.
    pub parameters: Vec<ModuleParameter>,
    /// Whether the pass has been here before, so that its parameters are counted above.
    pub shared: bool,
    /// What else is known of its output.
    #[serde(flatten)]
    pub kept: Option<X>,
    pub modules: Vec<Self>,
}

/// A parameter by its name within its module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleParameter {
    pub name: String,
    pub shape: Vec<usize>,
}

impl<X> Module<X> {
    /// This module and all in it, in the order of the pass.
    pub fn walk<'a>(&'a self, each: &mut impl FnMut(&'a Self)) {
        each(self);
        self.modules.iter().for_each(|module| module.walk(each));
    }
}

/// The whole of a model as one pass of `batch` rows goes through it.
///
/// # Panics
/// Where the sizes are beyond what the model can see.
pub fn outline<B: GptBackend>(model: &Model<B>, config: &ModelConfig, sizes: Sizes) -> Module {
    let visits = Visits::keeping(|output: Output<B>| (output.rows, ()));
    let device = model.device();
    let tokens = |length| counted::<B>([sizes.batch, length], sizes.vocab_size, &device);
    let lengths = vec![sizes.source; sizes.batch];
    let source = (config.architecture == Architecture::EncoderDecoder)
        .then(|| (tokens(sizes.source), &lengths[..]));
    model.observe(tokens(sizes.time), source, &visits);
    let shapes: Vec<Named> =
        parameters(model).into_iter().map(|found| (found.name, found.shape)).collect();
    whole(visits.into_inner(), &shapes, config)
}

/// Ids of which none matters, but that are not all the same.
fn counted<B: Backend>(
    shape: [usize; 2],
    vocab_size: usize,
    device: &B::Device,
) -> Tensor<B, 2, Int> {
    let ids = (0..shape[0] * shape[1]).map(|place| ((place * 31 + place / 7) % vocab_size) as i32);
    Tensor::from_data(TensorData::new(ids.collect::<Vec<i32>>(), shape), device)
}

/// A parameter's name and shape.
pub(super) type Named = (String, Vec<usize>);

/// The tree of a model from a pass through it, and from its parameters, some of which no token may
/// have come to.
pub(super) fn whole<X: Clone>(
    visits: Vec<Visit<X>>,
    parameters: &[Named],
    config: &ModelConfig,
) -> Module<X> {
    let mut seen = HashSet::new();
    let mut tree = Tree { parameters, config, seen: &mut seen };
    let modules: Vec<Module<X>> = visits.iter().map(|visit| tree.module(visit)).collect();
    let does = match config.architecture {
        Architecture::Decoder => "each token from those before it",
        Architecture::Encoder => "each token from all others",
        Architecture::EncoderDecoder => "each token from those before it and from a source",
    };
    // A source comes first, where there is one.
    let text = modules.iter().rfind(|module| module.name == "embedding");
    let last = modules.last().and_then(|module| module.output.clone());
    Module {
        name: "model".into(),
        path: String::new(),
        does: does.into(),
        input: text.and_then(|text| text.input.clone()),
        output: last,
        parameter_count: modules.iter().map(|module| module.parameter_count).sum(),
        parameters: Vec::new(),
        shared: false,
        kept: None,
        modules,
    }
}

struct Tree<'a> {
    parameters: &'a [Named],
    config: &'a ModelConfig,
    /// Paths of modules that have had their turn.
    seen: &'a mut HashSet<String>,
}

impl Tree<'_> {
    fn module<X: Clone>(&mut self, visit: &Visit<X>) -> Module<X> {
        let shared = !self.seen.insert(visit.path.clone());
        let Description { does, input, output } = describe(&visit.path, shared, self.config);
        let mut modules: Vec<Module<X>> =
            visit.inner.iter().map(|inner| self.module(inner)).collect();
        if !shared {
            self.add_unvisited(&visit.path, &visit.inner, &mut modules);
        }
        let own = if shared { Vec::new() } else { self.own(&visit.path, &modules) };
        Module {
            name: visit.part.to_string(),
            path: visit.path.clone(),
            does,
            input: Some(axes(&input, &visit.input)),
            output: Some(axes(&output, &visit.output)),
            parameter_count: count(&own, &modules),
            parameters: own,
            shared,
            kept: visit.kept.clone(),
            modules,
        }
    }

    /// Experts that no token was sent to have parameters all the same.
    fn add_unvisited<X: Clone>(
        &self,
        path: &str,
        visited: &[Visit<X>],
        modules: &mut Vec<Module<X>>,
    ) {
        let numbered = |visit: &Visit<X>| match visit.part {
            Part::Numbered(name, number) => Some((name, number)),
            Part::One(_) => None,
        };
        let experts = self.config.feed_forward.experts.map_or(0, |experts| experts.count);
        let is_mixture = path.ends_with("feed_forward") && experts > 0;
        for number in (0..experts).filter(|_| is_mixture) {
            if visited.iter().filter_map(numbered).any(|(_, visited)| visited == number) {
                continue;
            }
            let name = Part::Numbered("experts", number).to_string();
            let path = format!("{path}.{name}");
            let parameters = self.under(&path).collect::<Vec<_>>();
            let module = Module {
                does: describe(&path, false, self.config).does,
                input: None,
                output: None,
                parameter_count: parameters.iter().map(ModuleParameter::count).sum(),
                parameters,
                shared: false,
                kept: None,
                modules: Vec::new(),
                name,
                path,
            };
            let place = modules
                .iter()
                .rposition(|before| is_before(&before.name, number))
                .map_or(0, |place| place + 1);
            modules.insert(place, module);
        }
    }

    /// The parameters under a path, by the rest of their names.
    fn under(&self, path: &str) -> impl Iterator<Item = ModuleParameter> {
        self.parameters.iter().filter_map(move |(name, shape)| {
            let rest = name.strip_prefix(path)?.strip_prefix('.')?;
            Some(ModuleParameter { name: rest.into(), shape: shape.clone() })
        })
    }

    /// Those that belong to no module inside.
    fn own<X>(&self, path: &str, modules: &[Module<X>]) -> Vec<ModuleParameter> {
        let is_inside = |parameter: &ModuleParameter| {
            modules.iter().any(|module| {
                let rest = parameter.name.strip_prefix(&module.name);
                rest.is_some_and(|rest| rest.starts_with('.'))
            })
        };
        self.under(path).filter(|parameter| !is_inside(parameter)).collect()
    }
}

/// Whether a module stands before an expert: the router and the experts of lower numbers do.
fn is_before(name: &str, expert: usize) -> bool {
    match name.strip_prefix("experts.") {
        Some(number) => number.parse::<usize>().is_ok_and(|number| number < expert),
        None => name == "router",
    }
}

impl ModuleParameter {
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

fn count<X>(own: &[ModuleParameter], modules: &[Module<X>]) -> usize {
    let own: usize = own.iter().map(ModuleParameter::count).sum();
    own + modules.iter().map(|module| module.parameter_count).sum::<usize>()
}

/// The sizes are those of the pass; only the letters come from the description.
fn axes(symbols: &[Symbol], shape: &[usize]) -> Vec<Axis> {
    let letters = symbols.iter().map(|symbol| symbol.letter()).chain(std::iter::repeat("?"));
    shape.iter().zip(letters).map(|(size, symbol)| Axis { symbol, size: *size }).collect()
}
