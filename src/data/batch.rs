//! Examples side by side, as tensors.
//!
//! B batch, S source positions, T target positions

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

use super::Example;

/// Examples in rows. Plain integers, so that it can be made on any thread and moved to any
/// device. Shorter rows are filled up at their end; what fills them is never asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenBatch {
    inputs: Rows,
    targets: Vec<i32>,
    /// Places of the targets that are asked for, in rows one after the other; all where absent.
    asked: Option<Vec<i32>>,
    sources: Option<Rows>,
    /// Of each input, without what rows are filled up with; absent where every row is of one.
    documents: Option<Vec<Vec<u32>>>,
    /// This batch's share of its optimizer step, by which its loss is weighed.
    pub share: f64,
}

/// Rows of numbers of one length.
#[derive(Debug, Clone, PartialEq)]
struct Rows {
    ids: Vec<i32>,
    columns: usize,
    lengths: Vec<usize>,
}

impl Rows {
    fn new<'a>(rows: impl Iterator<Item = &'a [u32]> + Clone) -> Self {
        let columns = rows.clone().map(<[u32]>::len).max().unwrap_or(0);
        let mut ids = Vec::new();
        let mut lengths = Vec::new();
        for row in rows {
            ids.extend(row.iter().map(|id| *id as i32));
            ids.resize(ids.len() + columns - row.len(), 0);
            lengths.push(row.len());
        }
        Self { ids, columns, lengths }
    }

    fn tensor<B: Backend>(&self, device: &B::Device) -> Tensor<B, 2, Int> {
        let shape = [self.lengths.len(), self.columns];
        Tensor::from_data(TensorData::new(self.ids.clone(), shape), device)
    }

    fn padded(&self) -> bool {
        self.lengths.iter().any(|length| *length < self.columns)
    }
}

impl TokenBatch {
    /// At least one example, all of one task.
    pub fn new(examples: &[Example], share: f64) -> Self {
        let inputs = Rows::new(examples.iter().map(|example| example.input.as_slice()));
        let targets = Rows::new(examples.iter().map(|example| example.target.as_slice()));
        let sources: Vec<&[u32]> =
            examples.iter().filter_map(|example| example.source.as_deref()).collect();
        let sources = (!sources.is_empty()).then(|| Rows::new(sources.into_iter()));
        let some_asked = examples.iter().any(|example| example.asked.is_some());
        let asked = (some_asked || inputs.padded()).then(|| {
            let place = |row: usize, column: usize| (row * inputs.columns + column) as i32;
            let row_of = |(row, example): (usize, &Example)| -> Vec<i32> {
                match &example.asked {
                    Some(asked) => asked.iter().map(|column| place(row, *column)).collect(),
                    None => (0..example.target.len()).map(|column| place(row, column)).collect(),
                }
            };
            examples.iter().enumerate().flat_map(row_of).collect()
        });
        Self { inputs, targets: targets.ids, asked, sources, documents: documents(examples), share }
    }

    /// Rows.
    pub fn examples(&self) -> usize {
        self.inputs.lengths.len()
    }

    /// Targets that are asked for.
    pub fn tokens(&self) -> usize {
        self.asked.as_ref().map_or(self.targets.len(), Vec::len)
    }

    /// `[B, T]`
    pub fn inputs<B: Backend>(&self, device: &B::Device) -> Tensor<B, 2, Int> {
        self.inputs.tensor(device)
    }

    /// The length of each row of inputs without its filling; none where all are full.
    pub fn lengths(&self) -> Option<&[usize]> {
        self.inputs.padded().then_some(self.inputs.lengths.as_slice())
    }

    /// The document of each input of each row, by a number within the row, without what rows are
    /// filled up with. None where every row is of one document.
    pub fn documents(&self) -> Option<&[Vec<u32>]> {
        self.documents.as_deref()
    }

    /// Places of the targets that are asked for, counting through the rows: `[N]`. None where
    /// all are.
    pub fn asked<B: Backend>(&self, device: &B::Device) -> Option<Tensor<B, 1, Int>> {
        let places = self.asked.as_ref()?;
        Some(Tensor::from_data(TensorData::new(places.clone(), [places.len()]), device))
    }

    /// The targets that are asked for, `[N]`.
    pub fn targets<B: Backend>(&self, device: &B::Device) -> Tensor<B, 1, Int> {
        let targets = match &self.asked {
            Some(places) => places.iter().map(|place| self.targets[*place as usize]).collect(),
            None => self.targets.clone(),
        };
        let shape = [targets.len()];
        Tensor::from_data(TensorData::new(targets, shape), device)
    }

    /// Sources, `[B, S]`, and the length of each without its filling.
    pub fn sources<B: Backend>(&self, device: &B::Device) -> Option<(Tensor<B, 2, Int>, &[usize])> {
        let sources = self.sources.as_ref()?;
        Some((sources.tensor(device), &sources.lengths))
    }
}

fn documents(examples: &[Example]) -> Option<Vec<Vec<u32>>> {
    let several = |documents: &Vec<u32>| documents.iter().any(|number| *number != documents[0]);
    if !examples.iter().filter_map(|example| example.documents.as_ref()).any(several) {
        return None;
    }
    let of_row = |example: &Example| match &example.documents {
        Some(documents) => documents.clone(),
        None => vec![0; example.input.len()],
    };
    Some(examples.iter().map(of_row).collect())
}
