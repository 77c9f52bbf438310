//! The same kernels in the stream of operations that burn fuses: each waits for its turn there.

use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::fusion::FusionCubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeRuntime};
use burn_fusion::stream::{Operation, OperationStreams};
use burn_fusion::{Fusion, FusionBackend, FusionHandle, FusionTensor};
use burn_ir::{CustomOpIr, HandleContainer, OperationIr, TensorIr};
use std::fmt::{self, Debug, Formatter};
use std::marker::PhantomData;

use super::optimizer::{MOST_PARAMETERS, shares, squares};
use super::products::element;
use super::{Cube, CubeKernels, join_by_tokens};
use crate::backend::compositions::{default_activated_backward, default_sum_rows};
use crate::backend::ops::{all_fit, fits, from_float, products_fit, to_float};
use crate::backend::{AdamwUpdate, Dropout, GptBackend, Kernels, LossTerms, Scaling, Sight, Turn};
#[cfg(feature = "cuda")]
use crate::backend::{LeftAlone, Member};
use crate::config::Activation;
use crate::config::Precision;

impl<R: CubeRuntime, BT: BoolElement> GptBackend for Fusion<Cube<R, BT>> {
    fn device_model() -> Option<String> {
        Cube::<R, BT>::device_model()
    }

    fn coarse_products(device: &Self::Device) -> Option<&'static str> {
        Cube::<R, BT>::coarse_products(device)
    }

    fn reserved_bytes(device: &Self::Device) -> Option<u64> {
        Cube::<R, BT>::reserved_bytes(device)
    }

    fn kernels() -> Option<&'static dyn Kernels<Self>> {
        Some(&FusedKernels)
    }

    fn join(parts: [Tensor<Self, 4>; 3]) -> Tensor<Self, 4> {
        join_by_tokens(parts)
    }

    fn activated_backward(
        product: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        gradient: Tensor<Self, 2>,
        kind: Activation,
    ) -> (Tensor<Self, 2>, Option<Tensor<Self, 1>>) {
        if !(products_fit(&product, &gradient) && all_fit(&[&bias])) {
            return default_activated_backward(product, bias, gradient, kind);
        }
        let (product, gradient, bias) = (to_float(product), to_float(gradient), bias.map(to_float));
        let mut outputs = vec![like(&product)];
        outputs.extend(bias.as_ref().map(like));
        let inputs = [Some(product), Some(gradient), bias].into_iter().flatten().collect();
        let gradients = defer::<R, BT>("activated_backward", inputs, outputs, move |inputs| {
            let mut inputs = inputs.into_iter();
            let [product, gradient] =
                [(); 2].map(|()| from_float(inputs.next().expect("there are always two")));
            let bias = inputs.next().map(from_float);
            let (of_product, of_bias) =
                Cube::<R, BT>::activated_backward(product, bias, gradient, kind);
            [Some(to_float(of_product)), of_bias.map(to_float)].into_iter().flatten().collect()
        });
        let mut gradients = gradients.into_iter();
        let of_product = gradients.next().expect("that of the product comes first");
        (from_float(of_product), gradients.next().map(from_float))
    }

    fn add_bias_backward(
        gradient: Tensor<Self, 2>,
        product: DType,
    ) -> (Tensor<Self, 2>, Tensor<Self, 1>) {
        if product == DType::F32 || !fits(&gradient) {
            return (gradient.clone().cast(product), Self::sum_rows(gradient));
        }
        let shape = gradient.shape();
        let outputs = vec![(shape.clone(), product), floats([shape[1]])];
        let inputs = vec![to_float(gradient)];
        let [of_product, of_bias] =
            fixed(defer::<R, BT>("add_bias_backward", inputs, outputs, move |inputs| {
                let [gradient] = fixed(inputs);
                let (of_product, of_bias) =
                    Cube::<R, BT>::add_bias_backward(from_float(gradient), product);
                vec![to_float(of_product), to_float(of_bias)]
            }));
        (from_float(of_product), from_float(of_bias))
    }

    fn sum_rows(rows: Tensor<Self, 2>) -> Tensor<Self, 1> {
        if !products_fit(&rows, &rows) {
            return default_sum_rows(rows);
        }
        let outputs = vec![floats([rows.dims()[1]])];
        let [sum] = fixed(defer::<R, BT>("sum_rows", vec![to_float(rows)], outputs, |inputs| {
            let [rows] = fixed(inputs);
            let sum = Cube::<R, BT>::sum_rows(from_float(rows));
            vec![to_float(sum)]
        }));
        from_float(sum)
    }

    #[cfg(feature = "cuda")]
    fn collectives(device: &Self::Device) -> Option<&'static str> {
        Cube::<R, BT>::collectives(device)
    }

    #[cfg(feature = "cuda")]
    fn all_reduce(tensor: Tensor<Self, 1>, member: &Member) -> Result<Tensor<Self, 1>, LeftAlone> {
        super::collectives::all_reduce(tensor, member)
    }
}

/// A backend whose operations burn fuses.
pub trait Fused {
    /// The same backend, which computes one operation at a time.
    type Inner;
}

impl<B: FusionBackend> Fused for Fusion<B> {
    type Inner = B;
}

/// A tensor that may yet have to be computed.
type Lazy<R> = FusionTensor<FusionCubeRuntime<R>>;

/// The kernels that do the work.
fn kernels<R: CubeRuntime, BT: BoolElement>() -> &'static dyn Kernels<Cube<R, BT>> {
    &CubeKernels
}

/// What an operation does once its inputs are there.
type Compute<R> = dyn Fn(Vec<CubeTensor<R>>) -> Vec<CubeTensor<R>> + Send + Sync;

struct Deferred<R: CubeRuntime, BT> {
    description: CustomOpIr,
    compute: Box<Compute<R>>,
    backend: PhantomData<fn() -> BT>,
}

impl<R: CubeRuntime, BT> Debug for Deferred<R, BT> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description.id)
    }
}

impl<R: CubeRuntime, BT: BoolElement> Operation<FusionCubeRuntime<R>> for Deferred<R, BT> {
    fn execute(&self, handles: &mut HandleContainer<FusionHandle<FusionCubeRuntime<R>>>) {
        let CustomOpIr { inputs, outputs, .. } = &self.description;
        // Tensors of integers have the same handles.
        let inputs = inputs.iter().map(|it| handles.get_float_tensor::<Cube<R, BT>>(it)).collect();
        let computed = (self.compute)(inputs);
        assert_eq!(computed.len(), outputs.len(), "{self:?}");
        for (description, tensor) in outputs.iter().zip(computed) {
            handles.register_float_tensor::<Cube<R, BT>>(&description.id, tensor);
        }
    }
}

/// Puts an operation into the stream of its first input. There must be one.
fn defer<R: CubeRuntime, BT: BoolElement>(
    name: &'static str,
    inputs: Vec<Lazy<R>>,
    outputs: Vec<(Shape, DType)>,
    compute: impl Fn(Vec<CubeTensor<R>>) -> Vec<CubeTensor<R>> + Send + Sync + 'static,
) -> Vec<Lazy<R>> {
    let client = inputs[0].client.clone();
    let streams = OperationStreams::with_inputs(&inputs);
    let inputs: Vec<TensorIr> = inputs.into_iter().map(FusionTensor::into_ir).collect();
    let output = |(shape, dtype)| TensorIr::uninit(client.create_empty_handle(), shape, dtype);
    let outputs: Vec<TensorIr> = outputs.into_iter().map(output).collect();
    let description = CustomOpIr::new(name, &inputs, &outputs);
    let compute = Box::new(compute);
    let operation =
        Deferred::<R, BT> { description: description.clone(), compute, backend: PhantomData };
    client.register(streams, OperationIr::Custom(description), operation)
}

/// So many tensors, as an array.
fn fixed<T, const N: usize>(tensors: Vec<T>) -> [T; N] {
    let found = tensors.len();
    tensors.try_into().unwrap_or_else(|_| panic!("{N} tensors and not {found}"))
}

/// A tensor like another.
fn like<R: CubeRuntime>(tensor: &Lazy<R>) -> (Shape, DType) {
    (tensor.shape.clone(), tensor.dtype)
}

fn floats(shape: impl Into<Shape>) -> (Shape, DType) {
    (shape.into(), DType::F32)
}

#[derive(Debug)]
struct FusedKernels;

impl<R: CubeRuntime, BT: BoolElement> Kernels<Fusion<Cube<R, BT>>> for FusedKernels {
    fn computes_in(&self, precision: Precision) -> bool {
        kernels::<R, BT>().computes_in(precision)
    }

    fn gated(&self, gate: Lazy<R>, up: Lazy<R>, kind: Activation) -> Lazy<R> {
        let output = like(&gate);
        let [output] =
            fixed(defer::<R, BT>("gated", vec![gate, up], vec![output], move |inputs| {
                let [gate, up] = fixed(inputs);
                vec![kernels::<R, BT>().gated(gate, up, kind)]
            }));
        output
    }

    fn gated_backward(
        &self,
        gate: Lazy<R>,
        up: Lazy<R>,
        gradient: Lazy<R>,
        kind: Activation,
    ) -> [Lazy<R>; 2] {
        let outputs = vec![like(&gate), like(&up)];
        let inputs = vec![gate, up, gradient];
        fixed(defer::<R, BT>("gated_backward", inputs, outputs, move |inputs| {
            let [gate, up, gradient] = fixed(inputs);
            kernels::<R, BT>().gated_backward(gate, up, gradient, kind).into()
        }))
    }

    fn apply_dropout(&self, input: Lazy<R>, dropout: Dropout) -> Lazy<R> {
        let output = like(&input);
        let [output] =
            fixed(defer::<R, BT>("apply_dropout", vec![input], vec![output], move |inputs| {
                let [input] = fixed(inputs);
                vec![kernels::<R, BT>().apply_dropout(input, dropout)]
            }));
        output
    }

    fn rotate(&self, input: Lazy<R>, [cosines, sines]: [Lazy<R>; 2], turn: Turn) -> Lazy<R> {
        let output = (input.shape.clone(), element(turn.precision));
        let inputs = vec![input, cosines, sines];
        let [output] = fixed(defer::<R, BT>("rotate", inputs, vec![output], move |inputs| {
            let [input, cosines, sines] = fixed(inputs);
            vec![kernels::<R, BT>().rotate(input, [cosines, sines], turn)]
        }));
        output
    }

    fn normalization(
        &self,
        input: Lazy<R>,
        weight: Option<Lazy<R>>,
        bias: Option<Lazy<R>>,
        scaling: Scaling,
        precision: Precision,
    ) -> Lazy<R> {
        let output = (input.shape.clone(), element(precision));
        let (weighted, biased) = (weight.is_some(), bias.is_some());
        let inputs = [Some(input), weight, bias].into_iter().flatten().collect();
        let [output] =
            fixed(defer::<R, BT>("normalization", inputs, vec![output], move |inputs| {
                let mut inputs = inputs.into_iter();
                let input = inputs.next().expect("there is always one");
                let weight = if weighted { inputs.next() } else { None };
                let bias = if biased { inputs.next() } else { None };
                vec![kernels::<R, BT>().normalization(input, weight, bias, scaling, precision)]
            }));
        output
    }

    fn normalization_backward(
        &self,
        input: Lazy<R>,
        weight: Option<Lazy<R>>,
        gradient: Lazy<R>,
        scaling: Scaling,
    ) -> [Lazy<R>; 3] {
        let width = input.shape[input.shape.num_dims() - 1];
        let outputs = vec![like(&input), floats([width]), floats([width])];
        let inputs = [Some(input), Some(gradient), weight].into_iter().flatten().collect();
        fixed(defer::<R, BT>("normalization_backward", inputs, outputs, move |inputs| {
            let mut inputs = inputs.into_iter();
            let [input, gradient] = [(); 2].map(|()| inputs.next().expect("there are always two"));
            kernels::<R, BT>()
                .normalization_backward(input, inputs.next(), gradient, scaling)
                .into()
        }))
    }

    fn attend(&self, inputs: [Lazy<R>; 3], sight: &Sight) -> (Lazy<R>, Lazy<R>) {
        let [b, h, t, _] = fixed(inputs[0].shape.to_vec());
        let width = inputs[2].shape[3];
        let output = ([b, h, t, width].into(), element(sight.given));
        let outputs = vec![output, floats([b, h, t])];
        let sight = sight.clone();
        let [output, log_sums] =
            fixed(defer::<R, BT>("attend", inputs.into(), outputs, move |inputs| {
                let (output, log_sums) = kernels::<R, BT>().attend(fixed(inputs), &sight);
                vec![output, log_sums]
            }));
        (output, log_sums)
    }

    fn attend_joined(
        &self,
        joined: Lazy<R>,
        heads: [usize; 2],
        sight: &Sight,
    ) -> (Lazy<R>, Lazy<R>) {
        let [b, _, t, k] = fixed(joined.shape.to_vec());
        let output = ([b, heads[0], t, k].into(), element(sight.given));
        let outputs = vec![output, floats([b, heads[0], t])];
        let sight = sight.clone();
        let [output, log_sums] =
            fixed(defer::<R, BT>("attend_joined", vec![joined], outputs, move |inputs| {
                let [joined] = fixed(inputs);
                let (output, log_sums) = kernels::<R, BT>().attend_joined(joined, heads, &sight);
                vec![output, log_sums]
            }));
        (output, log_sums)
    }

    fn attend_backward(
        &self,
        inputs: [Lazy<R>; 3],
        output: Lazy<R>,
        log_sums: Lazy<R>,
        gradient: Lazy<R>,
        sight: &Sight,
    ) -> [Lazy<R>; 3] {
        let given = element(sight.given);
        let outputs = inputs.each_ref().map(|input| (input.shape.clone(), given)).into();
        let sight = sight.clone();
        let [query, key, value] = inputs;
        let inputs = vec![query, key, value, output, log_sums, gradient];
        fixed(defer::<R, BT>("attend_backward", inputs, outputs, move |inputs| {
            let [query, key, value, output, log_sums, gradient] = fixed(inputs);
            let inputs = [query, key, value];
            kernels::<R, BT>().attend_backward(inputs, output, log_sums, gradient, &sight).into()
        }))
    }

    fn attend_joined_backward(
        &self,
        joined: Lazy<R>,
        heads: [usize; 2],
        output: Lazy<R>,
        log_sums: Lazy<R>,
        gradient: Lazy<R>,
        sight: &Sight,
    ) -> Lazy<R> {
        let outputs = vec![(joined.shape.clone(), element(sight.given))];
        let sight = sight.clone();
        let inputs = vec![joined, output, log_sums, gradient];
        let [output] =
            fixed(defer::<R, BT>("attend_joined_backward", inputs, outputs, move |inputs| {
                let [joined, output, log_sums, gradient] = fixed(inputs);
                let kernels = kernels::<R, BT>();
                vec![
                    kernels
                        .attend_joined_backward(joined, heads, output, log_sums, gradient, &sight),
                ]
            }));
        output
    }

    fn put(&self, room: Lazy<R>, new: Lazy<R>, places: &[[usize; 2]]) -> Lazy<R> {
        let (output, places) = (like(&room), places.to_vec());
        let [output] = fixed(defer::<R, BT>("put", vec![room, new], vec![output], move |inputs| {
            let [room, new] = fixed(inputs);
            vec![kernels::<R, BT>().put(room, new, &places)]
        }));
        output
    }

    fn attend_rows(&self, inputs: [Lazy<R>; 3], lengths: &[usize], sight: &Sight) -> Lazy<R> {
        let [b, h, t, _] = fixed(inputs[0].shape.to_vec());
        let output = floats([b, h, t, inputs[2].shape[3]]);
        let (lengths, sight) = (lengths.to_vec(), sight.clone());
        let [output] =
            fixed(defer::<R, BT>("attend_rows", inputs.into(), vec![output], move |inputs| {
                vec![kernels::<R, BT>().attend_rows(fixed(inputs), &lengths, &sight)]
            }));
        output
    }

    fn cross_entropy(&self, logits: Lazy<R>, targets: Lazy<R>, terms: LossTerms) -> [Lazy<R>; 3] {
        let outputs = vec![floats([1]), floats([1]), floats([logits.shape[0]])];
        let inputs = vec![logits, targets];
        fixed(defer::<R, BT>("cross_entropy", inputs, outputs, move |inputs| {
            let [logits, targets] = fixed(inputs);
            kernels::<R, BT>().cross_entropy(logits, targets, terms).into()
        }))
    }

    fn cross_entropy_backward(
        &self,
        logits: Lazy<R>,
        targets: Lazy<R>,
        log_sums: Lazy<R>,
        gradient: Lazy<R>,
        terms: LossTerms,
    ) -> Lazy<R> {
        let outputs = vec![like(&logits)];
        let inputs = vec![logits, targets, log_sums, gradient];
        let [output] =
            fixed(defer::<R, BT>("cross_entropy_backward", inputs, outputs, move |inputs| {
                let [logits, targets, log_sums, gradient] = fixed(inputs);
                let kernels = kernels::<R, BT>();
                vec![kernels.cross_entropy_backward(logits, targets, log_sums, gradient, terms)]
            }));
        output
    }

    fn linear_cross_entropy(
        &self,
        [input, weight]: [Lazy<R>; 2],
        bias: Option<Lazy<R>>,
        targets: Lazy<R>,
        precision: Precision,
        terms: LossTerms,
        wanted: [bool; 3],
    ) -> ([Lazy<R>; 2], [Option<Lazy<R>>; 3]) {
        let of_bias = floats([weight.shape[1]]);
        let gradients = [like(&input), like(&weight), of_bias];
        let gradients = gradients.into_iter().zip(wanted).filter(|(_, wanted)| *wanted);
        let losses = [(); 2].map(|()| floats([1]));
        let outputs = losses.into_iter().chain(gradients.map(|(it, _)| it)).collect();
        let inputs = [Some(input), Some(weight), Some(targets), bias];
        let inputs = inputs.into_iter().flatten().collect();
        let computed = defer::<R, BT>("linear_cross_entropy", inputs, outputs, move |inputs| {
            let mut inputs = inputs.into_iter();
            let [input, weight, targets] =
                [(); 3].map(|()| inputs.next().expect("there are always three"));
            let (factors, bias) = ([input, weight], inputs.next());
            let (losses, gradients) = kernels::<R, BT>()
                .linear_cross_entropy(factors, bias, targets, precision, terms, wanted);
            losses.into_iter().chain(gradients.into_iter().flatten()).collect()
        });
        let mut computed = computed.into_iter();
        let losses = [(); 2].map(|()| computed.next().expect("both losses come first"));
        (losses, wanted.map(|wanted| if wanted { computed.next() } else { None }))
    }

    fn scaled(&self, tensor: Lazy<R>, factor: Lazy<R>) -> Lazy<R> {
        let outputs = vec![like(&tensor)];
        let [output] =
            fixed(defer::<R, BT>("scaled", vec![tensor, factor], outputs, move |inputs| {
                let [tensor, factor] = fixed(inputs);
                vec![kernels::<R, BT>().scaled(tensor, factor)]
            }));
        output
    }

    fn embed_backward(&self, tokens: Lazy<R>, gradient: Lazy<R>, vocab_size: usize) -> Lazy<R> {
        let width = gradient.shape[gradient.shape.num_dims() - 1];
        let outputs = vec![floats([vocab_size, width])];
        let inputs = vec![tokens, gradient];
        let [output] = fixed(defer::<R, BT>("embed_backward", inputs, outputs, move |inputs| {
            let [tokens, gradient] = fixed(inputs);
            vec![kernels::<R, BT>().embed_backward(tokens, gradient, vocab_size)]
        }));
        output
    }

    fn sums_of_squares(&self, tensors: Vec<Lazy<R>>) -> Lazy<R> {
        let counts = tensors.iter().map(|tensor| tensor.shape.num_elements());
        let outputs = vec![floats([shares(counts).1])];
        let [sums] = fixed(defer::<R, BT>("sums_of_squares", tensors, outputs, move |tensors| {
            vec![squares(tensors)]
        }));
        sums
    }

    /// An operation for as many as a launch updates, so that what one of them no longer needs is
    /// free when the next begins.
    fn adamw(&self, updates: Vec<AdamwUpdate<Lazy<R>>>) -> Vec<[Lazy<R>; 3]> {
        let mut updated = Vec::with_capacity(updates.len());
        let mut updates = updates.into_iter().peekable();
        while updates.peek().is_some() {
            let (mut inputs, mut outputs, mut steps) = (Vec::new(), Vec::new(), Vec::new());
            for update in updates.by_ref().take(MOST_PARAMETERS) {
                let AdamwUpdate { value, gradient, moments, step } = update;
                outputs.extend(vec![like(&value); 3]);
                steps.push((moments.is_some(), step));
                inputs.extend([value, gradient].into_iter().chain(moments.into_iter().flatten()));
            }
            let computed = defer::<R, BT>("adamw", inputs, outputs, move |inputs| {
                let mut inputs = inputs.into_iter();
                let mut next = || inputs.next().expect("there are two, or four with moments");
                let updates = steps.iter().map(|(begun, step)| AdamwUpdate {
                    value: next(),
                    gradient: next(),
                    moments: begun.then(|| [next(), next()]),
                    step: *step,
                });
                let updated = kernels::<R, BT>().adamw(updates.collect());
                updated.into_iter().flatten().collect()
            });
            let mut computed = computed.into_iter();
            while let Some(value) = computed.next() {
                let [first, second] =
                    [(); 2].map(|()| computed.next().expect("there are three of each"));
                updated.push([value, first, second]);
            }
        }
        updated
    }
}
