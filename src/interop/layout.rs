//! Which of their tensors make up one of our parameters, and how they lie in it: one description
//! for both directions.

use burn::tensor::TensorData;

use crate::config::ModelConfig;

/// How the modules of a family of models are called, and how they keep their values.
#[derive(Debug)]
pub struct Names {
    /// Ours, with `*` for the number of the layer, and theirs, likewise.
    pub modules: &'static [(&'static str, Theirs)],
    /// Where modules that are not in the list are looked up.
    pub base: Option<&'static Names>,
    /// What follows the name of a norm: its factors, its summands.
    pub norm: [&'static str; 2],
    /// The factors of norms are stored less one (Gemma).
    pub norm_less_one: bool,
}

impl Names {
    fn module(&self, ours: &str) -> Option<&'static Theirs> {
        let found = self.modules.iter().find(|(module, _)| *module == ours);
        found.map(|(_, theirs)| theirs).or_else(|| self.base?.module(ours))
    }
}

/// What is theirs where a module is ours.
#[derive(Debug)]
pub enum Theirs {
    /// An embedding `[V, D]`, as ours.
    Table(&'static str),
    /// An embedding that is multiplied by the root of D after it was added, if the tokens' is.
    ScaledTable(&'static str),
    /// Layers like `torch.nn.Linear`, `[d_output, d_input]`, which stand side by side in ours.
    Linear(&'static [&'static str]),
    /// A linear layer `[d_input, d_output]`, as ours.
    Transposed(&'static str),
    /// Queries, keys and values in one `torch.nn.Linear`, head by head (GPT-NeoX).
    ByHead(&'static str),
    Norm(&'static str),
}

/// The usual endings of a norm's parameters.
pub const WEIGHT_AND_BIAS: [&str; 2] = ["weight", "bias"];

/// One of their tensors, which makes up some columns of one of our parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    pub name: String,
    pub shape: Vec<usize>,
    layout: Layout,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Layout {
    Same,
    Transposed,
    /// Transposed, and for each head its query, key and value instead of all queries first.
    ByHead {
        heads: usize,
    },
    /// Ours is theirs plus one.
    LessOne,
    /// Ours is theirs times this.
    Times(f32),
}

/// Their tensors that stand side by side in our parameter; none where the family lacks it.
pub fn sources(
    names: &Names,
    config: &ModelConfig,
    parameter: &str,
    shape: &[usize],
) -> Option<Vec<Source>> {
    let (layer, pattern) = split_layer(parameter);
    let (module, kind) = match pattern.rsplit_once('.')? {
        (module, kind @ ("weight" | "bias")) => (module, kind),
        // An embedding is a parameter itself.
        _ => (pattern.as_str(), "weight"),
    };
    let name = |name: &str, kind: &str| format!("{}.{kind}", name.replace('*', &layer));
    let norm = || if kind == "weight" { names.norm[0] } else { names.norm[1] };
    let one = |name, shape: Vec<usize>, layout| Some(vec![Source { name, shape, layout }]);
    let same = shape.to_vec();
    let turned = || same.iter().rev().copied().collect();
    match names.module(module)? {
        Theirs::Table(table) => one(name(table, "weight"), same, Layout::Same),
        Theirs::ScaledTable(table) => {
            let scale = if config.scale_embedding { (config.d_model as f32).sqrt() } else { 1.0 };
            one(name(table, "weight"), same, Layout::Times(scale))
        }
        Theirs::Transposed(linear) => one(name(linear, kind), same, Layout::Same),
        Theirs::Norm(module) => {
            let less_one = names.norm_less_one && kind == "weight";
            let layout = if less_one { Layout::LessOne } else { Layout::Same };
            one(name(module, norm()), same, layout)
        }
        Theirs::ByHead(linear) => {
            one(name(linear, kind), turned(), Layout::ByHead { heads: config.n_heads })
        }
        Theirs::Linear([linear]) => one(name(linear, kind), turned(), Layout::Transposed),
        Theirs::Linear(parts) => {
            let (queries, keys) = (config.n_heads, config.n_kv_heads());
            let heads = [queries, keys, keys];
            let part = |(part, heads): (&&str, usize)| {
                let mut shape: Vec<usize> = turned();
                *shape.first_mut()? = heads * config.head_dim();
                Some(Source { name: name(part, kind), shape, layout: Layout::Transposed })
            };
            parts.iter().zip(heads).map(part).collect()
        }
    }
}

/// `decoder.blocks.3.x` -> `3` and `decoder.blocks.*.x`; nothing and itself elsewhere.
fn split_layer(parameter: &str) -> (String, String) {
    let layer = parameter
        .strip_prefix("decoder.blocks.")
        .and_then(|rest| rest.split_once('.'))
        .map(|(layer, rest)| (layer.to_string(), format!("decoder.blocks.*.{rest}")));
    layer.unwrap_or_else(|| (String::new(), parameter.to_string()))
}

/// Our parameter in f32 out of their tensors, which `read` gives by name, of any kind of number.
///
/// # Errors
/// Whatever `read` refuses. Shapes must have been checked before.
pub fn assemble<E>(
    shape: &[usize],
    sources: &[Source],
    mut read: impl FnMut(&str) -> Result<TensorData, E>,
) -> Result<TensorData, E> {
    if let [Source { name, layout: Layout::Same, .. }] = sources {
        return Ok(read(name)?.convert::<f32>());
    }
    let columns = shape.last().copied().unwrap_or(1);
    let mut ours = vec![0f32; shape.iter().product()];
    let mut start = 0;
    for source in sources {
        let data = read(&source.name)?;
        let theirs: Vec<f32> = data.convert::<f32>().into_vec().unwrap_or_default();
        let width = source.width();
        let in_ours = |row: usize, column: usize| row * columns + start + column;
        match source.layout {
            Layout::LessOne => {
                source.pairs(|row, column, at| ours[in_ours(row, column)] = theirs[at] + 1.0);
            }
            Layout::Times(factor) => {
                source.pairs(|row, column, at| ours[in_ours(row, column)] = theirs[at] * factor);
            }
            _ => source.pairs(|row, column, at| ours[in_ours(row, column)] = theirs[at]),
        }
        start += width;
    }
    Ok(TensorData::new(ours, shape.to_vec()))
}

/// Their tensor `index` of those that make up our parameter: the inverse of [`assemble`].
pub fn take_apart(ours: &[f32], columns: usize, sources: &[Source], index: usize) -> TensorData {
    let start: usize = sources[..index].iter().map(Source::width).sum();
    let source = &sources[index];
    let in_ours = |row: usize, column: usize| row * columns + start + column;
    let mut theirs = vec![0f32; source.shape.iter().product()];
    match source.layout {
        Layout::LessOne => {
            source.pairs(|row, column, at| theirs[at] = ours[in_ours(row, column)] - 1.0);
        }
        Layout::Times(factor) => {
            source.pairs(|row, column, at| theirs[at] = ours[in_ours(row, column)] / factor);
        }
        _ => source.pairs(|row, column, at| theirs[at] = ours[in_ours(row, column)]),
    }
    TensorData::new(theirs, source.shape.clone())
}

impl Source {
    fn is_turned(&self) -> bool {
        matches!(self.layout, Layout::Transposed | Layout::ByHead { .. })
    }

    /// Columns of ours that it makes up.
    fn width(&self) -> usize {
        let end = if self.is_turned() { self.shape.first() } else { self.shape.last() };
        end.copied().unwrap_or(1)
    }

    /// Calls `each` with the row and the column in ours, counted from where this source begins,
    /// and the index in theirs, for every number.
    fn pairs(&self, mut each: impl FnMut(usize, usize, usize)) {
        /// Columns that are written together, so that neither side is read line by line.
        const TILE: usize = 16;
        let width = self.width();
        let rows = self.shape.iter().product::<usize>() / width.max(1);
        if !self.is_turned() {
            for row in 0..rows {
                (0..width).for_each(|column| each(row, column, row * width + column));
            }
            return;
        }
        for first in (0..width).step_by(TILE) {
            let tile = first..(first + TILE).min(width);
            let starts: Vec<usize> =
                tile.clone().map(|column| self.their_row(column) * rows).collect();
            for row in 0..rows {
                for (column, start) in tile.clone().zip(&starts) {
                    each(row, column, start + row);
                }
            }
        }
    }

    /// Which of their rows is our column, where they are turned.
    fn their_row(&self, column: usize) -> usize {
        let Layout::ByHead { heads } = self.layout else {
            return column;
        };
        let head_dim = self.width() / 3 / heads;
        let (which, rest) = (column / (heads * head_dim), column % (heads * head_dim));
        let (head, number) = (rest / head_dim, rest % head_dim);
        (head * 3 + which) * head_dim + number
    }
}
