//! safetensors files, a tensor at a time: neither reading nor writing one needs the memory of the
//! whole. Files are read by position rather than mapped, so a file that shrinks meanwhile is an
//! error and not a signal, and pages that were read count to nobody's memory.

use burn::tensor::TensorData;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::ArtifactError;
use crate::files::{FileError, write_error};
use crate::model::is_adapter;

/// Bytes before the header, which say how long it is.
const PREFIX: usize = 8;
/// The format's own limit on the header.
const MAX_HEADER: u64 = 100_000_000;
/// Half-precision numbers converted at a time.
const CHUNK: usize = 1 << 16;

/// What is wrong with a safetensors file.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a whole safetensors file: {reason}", .path.display())]
    Format { path: PathBuf, reason: String },
    #[error("{} has no tensor `{name}`", .path.display())]
    Missing { path: PathBuf, name: String },
    #[error(
        "tensor `{name}` in {} holds {found}; F32, F16, BF16 and I64 can be read", .path.display()
    )]
    Type { path: PathBuf, name: String, found: String },
    #[error("the adapter of tensor `{name}` in {} does not fit it", .path.display())]
    Adapter { path: PathBuf, name: String },
    #[error("tensor `{name}` is in {} and in {}", .first.display(), .second.display())]
    Twice { name: String, first: PathBuf, second: PathBuf },
}

/// The tensors of one safetensors file, or of several that make up one model.
#[derive(Debug)]
pub struct TensorFile {
    shards: Vec<Shard>,
    /// Which shard has a tensor, and where.
    tensors: BTreeMap<String, (usize, TensorInfo)>,
    /// Texts that are kept beside the tensors.
    metadata: HashMap<String, String>,
    /// Factor on the adapters, where each is read as part of the weights that it belongs to.
    merged: Option<f64>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
    /// Where the values begin, after the header.
    start: u64,
}

impl TensorFile {
    /// # Errors
    /// A file that cannot be read, or whose header does not fit its length.
    pub fn open(path: &Path) -> Result<Self, TensorError> {
        Self::open_shards([path])
    }

    /// # Errors
    /// As [`TensorFile::open`], and a tensor that is in two of the files.
    pub fn open_shards(
        paths: impl IntoIterator<Item = impl AsRef<Path>>,
    ) -> Result<Self, TensorError> {
        let mut whole = Self {
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            metadata: HashMap::new(),
            merged: None,
        };
        for path in paths {
            let (shard, metadata) = Shard::open(path.as_ref())?;
            for (name, info) in metadata.tensors() {
                let place = (whole.shards.len(), info.clone());
                if let Some((first, _)) = whole.tensors.insert(name.clone(), place) {
                    let first = whole.shards[first].path.clone();
                    return Err(TensorError::Twice { name, first, second: shard.path });
                }
            }
            whole.metadata.extend(metadata.metadata().clone().unwrap_or_default());
            whole.shards.push(shard);
        }
        Ok(whole)
    }

    /// The same tensors with low-rank adapters gone into the weights beside them,
    /// `W + a b scale`, when these are read.
    pub fn merging(self, scale: f64) -> Self {
        Self { merged: Some(scale), ..self }
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.tensors.keys().map(String::as_str);
        names.filter(|name| self.merged.is_none() || !is_adapter(name))
    }

    /// A text that is kept beside the tensors.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.1.shape)
    }

    /// The values of one tensor: integers as they are, numbers of any precision as f32.
    ///
    /// # Errors
    /// A tensor that is not there or holds something else, or a file that cannot be read.
    pub fn read(&mut self, name: &str) -> Result<TensorData, TensorError> {
        let data = self.read_one(name)?;
        let linear = name.strip_suffix(".weight").unwrap_or(name);
        let adapter = [format!("{linear}.lora.a"), format!("{linear}.lora.b")];
        match self.merged {
            Some(scale) if self.tensors.contains_key(&adapter[0]) => {
                let (a, b) = (self.read_one(&adapter[0])?, self.read_one(&adapter[1])?);
                let misfit = || TensorError::Adapter { path: self.path(), name: name.into() };
                add_product(data, &a, &b, scale as f32).ok_or_else(misfit)
            }
            _ => Ok(data),
        }
    }

    fn path(&self) -> PathBuf {
        self.shards.first().map(|shard| shard.path.clone()).unwrap_or_default()
    }

    fn read_one(&mut self, name: &str) -> Result<TensorData, TensorError> {
        let Some((shard, info)) = self.tensors.get(name) else {
            return Err(TensorError::Missing { path: self.path(), name: name.into() });
        };
        let shard = &mut self.shards[*shard];
        let read = shard.seek(info).and_then(|()| match info.dtype {
            Dtype::F32 => shard.numbers::<f32>(info).map(Some),
            Dtype::I64 => shard.numbers::<i64>(info).map(Some),
            Dtype::F16 => shard.halves(info, f16::to_f32).map(Some),
            Dtype::BF16 => shard.halves(info, bf16::to_f32).map(Some),
            _ => Ok(None),
        });
        let path = || shard.path.clone();
        match read {
            Ok(Some(data)) => Ok(data),
            Ok(None) => Err(TensorError::Type {
                path: path(),
                name: name.into(),
                found: format!("{:?}", info.dtype),
            }),
            Err(source) => Err(TensorError::Read { path: path(), source }),
        }
    }
}

/// `weight + a b scale`, of matrices that fit each other.
fn add_product(
    mut weight: TensorData,
    a: &TensorData,
    b: &TensorData,
    scale: f32,
) -> Option<TensorData> {
    let &[rows, columns] = weight.shape.as_slice() else { return None };
    let &[_, rank] = a.shape.as_slice() else { return None };
    if a.shape.as_slice() != [rows, rank] || b.shape.as_slice() != [rank, columns] {
        return None;
    }
    let (a, b) = (a.as_slice::<f32>().ok()?, b.as_slice::<f32>().ok()?);
    let values = weight.as_mut_slice::<f32>().ok()?;
    values.par_chunks_mut(columns).zip(a.par_chunks(rank)).for_each(|(row, a)| {
        for (a, b) in a.iter().zip(b.chunks(columns)) {
            let factor = a * scale;
            row.iter_mut().zip(b).for_each(|(value, b)| *value += factor * b);
        }
    });
    Some(weight)
}

impl Shard {
    fn open(path: &Path) -> Result<(Self, Metadata), TensorError> {
        let read_error = |source| TensorError::Read { path: path.into(), source };
        let wrong = |reason: String| TensorError::Format { path: path.into(), reason };
        let mut file = File::open(path).map_err(read_error)?;
        let length = file.metadata().map_err(read_error)?.len();
        let mut prefix = [0; PREFIX];
        if length < PREFIX as u64 {
            return Err(wrong(format!("it has {length} bytes")));
        }
        file.read_exact(&mut prefix).map_err(read_error)?;
        let header_length = u64::from_le_bytes(prefix);
        if header_length > MAX_HEADER || header_length > length - PREFIX as u64 {
            return Err(wrong(format!("its header cannot be {header_length} bytes long")));
        }
        let mut header = vec![0; header_length as usize];
        file.read_exact(&mut header).map_err(read_error)?;
        // Deserialisation checks that the tensors fill the file without gaps, each by its shape.
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| wrong(error.to_string()))?;
        let start = PREFIX as u64 + header_length;
        let (expected, found) = (metadata.data_len() as u64, length - start);
        if expected != found {
            return Err(wrong(format!("its tensors need {expected} bytes and it has {found}")));
        }
        Ok((Self { path: path.into(), file, start }, metadata))
    }

    fn seek(&mut self, info: &TensorInfo) -> io::Result<()> {
        let position = self.start + info.data_offsets.0 as u64;
        self.file.seek(SeekFrom::Start(position)).map(|_| ())
    }

    fn numbers<T: bytemuck::Pod + burn::tensor::Element>(
        &mut self,
        info: &TensorInfo,
    ) -> io::Result<TensorData> {
        let count = info.shape.iter().product();
        let mut values = vec![T::zeroed(); count];
        self.file.read_exact(bytemuck::cast_slice_mut(&mut values))?;
        Ok(TensorData::new(values, info.shape.clone()))
    }

    fn halves<T: bytemuck::Pod>(
        &mut self,
        info: &TensorInfo,
        widen: fn(T) -> f32,
    ) -> io::Result<TensorData> {
        let count: usize = info.shape.iter().product();
        let mut values = Vec::with_capacity(count);
        let mut chunk = vec![T::zeroed(); CHUNK.min(count)];
        while values.len() < count {
            let chunk = &mut chunk[..CHUNK.min(count - values.len())];
            self.file.read_exact(bytemuck::cast_slice_mut(chunk))?;
            values.extend(chunk.iter().map(|value| widen(*value)));
        }
        Ok(TensorData::new(values, info.shape.clone()))
    }
}

/// Writes f32 tensors as safetensors, asking for the values of each in turn.
///
/// # Errors
/// A file that cannot be written, whatever `values` refuses, or values that are not f32 or not of
/// the shape that was announced. What has been written by then is left to the caller.
pub fn stream_tensors<'a, E: From<FileError>>(
    path: &Path,
    shapes: &[(String, Vec<usize>)],
    metadata: HashMap<String, String>,
    mut values: impl FnMut(usize) -> Result<Cow<'a, TensorData>, E>,
) -> Result<(), E> {
    let header = header(shapes, metadata)
        .map_err(|reason| FileError::Damaged { path: path.into(), reason })?;
    let mut file = File::create(path).map(BufWriter::new).map_err(write_error(path))?;
    file.write_all(&header).map_err(write_error(path))?;
    for (index, (name, shape)) in shapes.iter().enumerate() {
        let data = values(index)?;
        let wrong = |reason: String| FileError::Damaged {
            path: path.into(),
            reason: format!("tensor `{name}`: {reason}"),
        };
        if data.shape.as_slice() != shape.as_slice() {
            return Err(wrong(format!("it is {:?} instead of {shape:?}", data.shape)).into());
        }
        let numbers = data.as_slice::<f32>().map_err(|error| wrong(format!("{error:?}")))?;
        file.write_all(bytemuck::cast_slice(numbers)).map_err(write_error(path))?;
    }
    file.into_inner()
        .map_err(io::IntoInnerError::into_error)
        .and_then(|file| file.sync_all())
        .map_err(write_error(path))?;
    Ok(())
}

/// The length of the header and the header, padded so that the values are aligned.
fn header(
    shapes: &[(String, Vec<usize>)],
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>, String> {
    let mut end = 0;
    let mut tensors = Vec::with_capacity(shapes.len());
    for (name, shape) in shapes {
        let start = end;
        end += shape.iter().product::<usize>() * size_of::<f32>();
        let (shape, data_offsets) = (shape.clone(), (start, end));
        tensors.push((name.clone(), TensorInfo { dtype: Dtype::F32, shape, data_offsets }));
    }
    let metadata = (!metadata.is_empty()).then_some(metadata);
    let metadata = Metadata::new(metadata, tensors).map_err(|error| error.to_string())?;
    let mut text = serde_json::to_vec(&metadata).map_err(|error| error.to_string())?;
    text.resize(text.len().next_multiple_of(PREFIX), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    Ok(header)
}

/// Writes named f32 tensors as safetensors, with a map of strings beside them.
///
/// # Errors
/// A file that cannot be written, or a tensor that is not f32.
pub fn write_tensors(
    path: &Path,
    tensors: &[(String, TensorData)],
    metadata: HashMap<String, String>,
) -> Result<(), ArtifactError> {
    let shapes: Vec<_> =
        tensors.iter().map(|(name, data)| (name.clone(), data.shape.to_vec())).collect();
    stream_tensors(path, &shapes, metadata, |index| Ok(Cow::Borrowed(&tensors[index].1)))
}

/// Reads all tensors of a safetensors file.
///
/// # Errors
/// A file that cannot be read, is not safetensors, or holds other than numbers.
pub fn read_tensors(path: &Path) -> Result<HashMap<String, TensorData>, ArtifactError> {
    let mut file = TensorFile::open(path)?;
    let names: Vec<String> = file.names().map(String::from).collect();
    names.into_iter().map(|name| Ok((name.clone(), file.read(&name)?))).collect()
}
