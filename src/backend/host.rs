use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// All numbers of a tensor, row after row. Where there are many of them, as a vocabulary has logits,
/// they are copied as they are, not one by one.
pub fn on_host<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    data.into_vec().expect("it has just been converted")
}
