//! The parameters of a model by name: `decoder.blocks.0.attention.qkv.weight`.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

/// What a model refuses.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{seen} tokens seen and {new} new ones exceed the context length of {context_length}")]
    ContextOverflow { seen: usize, new: usize, context_length: usize },
    #[error("the cache holds {held} sequences, and the batch has {rows}")]
    OtherRows { held: usize, rows: usize },
    #[error("sequences of different lengths go on by one token each, not by {new}")]
    DifferentLengths { new: usize },
    #[error("tensor `{name}` is missing; the configuration says it has shape {expected:?}")]
    Missing { name: String, expected: Vec<usize> },
    #[error("tensor `{name}` is {found:?}, the configuration says {expected:?}")]
    ShapeMismatch { name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("tensor `{name}` belongs to no parameter of the model")]
    LeftOver { name: String },
}

/// One parameter, without its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    pub id: ParamId,
    pub shape: Vec<usize>,
}

/// The parameters in the order of the forward pass.
pub fn parameters<B: Backend, M: Module<B>>(module: &M) -> Vec<Parameter> {
    let mut found = Vec::new();
    visit(module, |name, id, tensor| {
        found.push(Parameter { name, id, shape: tensor.shape() });
    });
    found
}

/// Names and values, in the order of [`parameters`].
pub fn tensors<B: Backend, M: Module<B>>(module: &M) -> Vec<(String, TensorData)> {
    let mut found = Vec::new();
    visit(module, |name, _, tensor| found.push((name, tensor.data())));
    found
}

/// The values of one parameter.
pub fn tensor<B: Backend, M: Module<B>>(module: &M, wanted: ParamId) -> Option<TensorData> {
    let mut found = None;
    visit(module, |_, id, tensor| {
        if id == wanted {
            found = Some(tensor.data());
        }
    });
    found
}

/// The same module with all its values replaced by what `source` gives for each name.
///
/// # Errors
/// A tensor that is missing or of another shape, by name.
pub fn load_parameters<B: Backend, M: Module<B>>(
    module: M,
    source: impl FnMut(&str) -> Option<TensorData>,
) -> Result<M, ModelError> {
    let mut mapper = Load { path: Vec::new(), source, error: None };
    let module = module.map(&mut mapper);
    mapper.error.map_or(Ok(module), Err)
}

/// A tensor of whatever rank.
trait AnyTensor {
    fn shape(&self) -> Vec<usize>;
    fn data(&self) -> TensorData;
}

impl<B: Backend, const D: usize> AnyTensor for Tensor<B, D> {
    fn shape(&self) -> Vec<usize> {
        self.dims().to_vec()
    }

    fn data(&self) -> TensorData {
        self.to_data()
    }
}

fn visit<B: Backend, M: Module<B>>(module: &M, each: impl FnMut(String, ParamId, &dyn AnyTensor)) {
    module.visit(&mut Visit { path: Vec::new(), each });
}

/// The variants of an enum are choices of the configuration, and no part of a name.
fn is_variant(container: &str) -> bool {
    container.starts_with("Enum:")
}

fn enter(path: &mut Vec<String>, name: &str, container: &str) {
    if !is_variant(container) {
        path.push(name.into());
    }
}

fn exit(path: &mut Vec<String>, container: &str) {
    if !is_variant(container) {
        path.pop();
    }
}

struct Visit<F> {
    path: Vec<String>,
    each: F,
}

impl<B: Backend, F: FnMut(String, ParamId, &dyn AnyTensor)> ModuleVisitor<B> for Visit<F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        enter(&mut self.path, name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        exit(&mut self.path, container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        (self.each)(self.path.join("."), param.id, &param.val());
    }
}

struct Load<F> {
    path: Vec<String>,
    source: F,
    /// The first; what comes after it is not loaded.
    error: Option<ModelError>,
}

impl<F: FnMut(&str) -> Option<TensorData>> Load<F> {
    fn take(&mut self, expected: &[usize]) -> Result<TensorData, ModelError> {
        let name = self.path.join(".");
        let expected = expected.to_vec();
        let Some(data) = (self.source)(&name) else {
            return Err(ModelError::Missing { name, expected });
        };
        let found = data.shape.to_vec();
        if found == expected {
            Ok(data)
        } else {
            Err(ModelError::ShapeMismatch { name, found, expected })
        }
    }
}

impl<B: Backend, F: FnMut(&str) -> Option<TensorData>> ModuleMapper<B> for Load<F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        enter(&mut self.path, name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        exit(&mut self.path, container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if self.error.is_some() {
            return param;
        }
        // Without asking for the old values, which may not even have been made.
        match self.take(&param.lazy_shape().to_vec()) {
            Ok(data) => {
                let (tensor, id) = (Tensor::from_data(data, &param.lazy_device()), param.id);
                param.transform_for_load(tensor, id)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}
