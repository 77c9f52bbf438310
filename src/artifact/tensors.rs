use burn::tensor::TensorData;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use super::ArtifactError;
use super::files::{read_error, write_error};

/// Writes named f32 tensors as safetensors, with a map of strings beside them.
///
/// # Errors
/// A file that cannot be written, or a tensor that is not f32.
pub fn write_tensors(
    path: &Path,
    tensors: &[(String, TensorData)],
    metadata: HashMap<String, String>,
) -> Result<(), ArtifactError> {
    let damaged = |name: &str, reason: String| ArtifactError::Damaged {
        path: path.into(),
        reason: format!("tensor `{name}`: {reason}"),
    };
    let mut views = Vec::with_capacity(tensors.len());
    for (name, data) in tensors {
        let values = data.as_slice::<f32>().map_err(|error| damaged(name, format!("{error:?}")))?;
        let view = TensorView::new(Dtype::F32, data.shape.to_vec(), bytemuck::cast_slice(values))
            .map_err(|error| damaged(name, error.to_string()))?;
        views.push((name.as_str(), view));
    }
    let bytes = safetensors::serialize(views, Some(metadata))
        .map_err(|error| damaged("(all)", error.to_string()))?;
    let write = || {
        let mut file = fs::File::create(path)?;
        file.write_all(&bytes)?;
        file.sync_all()
    };
    write().map_err(write_error(path))
}

/// Reads all tensors of a safetensors file.
///
/// # Errors
/// A file that cannot be read, is not safetensors, or holds other numbers than f32 and i64.
pub fn read_tensors(path: &Path) -> Result<HashMap<String, TensorData>, ArtifactError> {
    let damaged = |reason: String| ArtifactError::Damaged { path: path.into(), reason };
    let bytes = fs::read(path).map_err(read_error(path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
    file.iter()
        .map(|(name, view)| {
            let shape = view.shape().to_vec();
            // The file's bytes need not be aligned, so they are collected rather than cast.
            let data = match view.dtype() {
                Dtype::F32 => {
                    TensorData::new(bytemuck::pod_collect_to_vec::<u8, f32>(view.data()), shape)
                }
                Dtype::I64 => {
                    TensorData::new(bytemuck::pod_collect_to_vec::<u8, i64>(view.data()), shape)
                }
                other => {
                    return Err(damaged(format!(
                        "tensor `{name}` holds {other:?}, not F32 or I64"
                    )));
                }
            };
            Ok((name.to_string(), data))
        })
        .collect()
}
