//! How burn's autodiff learns of the gradients of kernels.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::autodiff::{Autodiff, NodeId};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Int, Tensor, TensorPrimitive};
use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, Mutex, PoisonError};

use super::compositions::{
    default_attend, default_dense, default_dense_activated, default_dropout, default_gated,
    default_normalization, default_rotate, default_separate, default_training_loss, on_rows,
    scaling,
};
use super::ops::{all_fit, fits, from_float, kernels_for, to_float};
use super::precision::factor;
use super::{AttentionOptions, Dropout, GptBackend, LossTerms, Products, Rotation, Turn};
use crate::config::Activation;
use crate::config::NormKind;
use crate::config::Precision;

impl<B: GptBackend, C: CheckpointStrategy> GptBackend for Autodiff<B, C> {
    fn sum(one: FloatTensor<Self>, other: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = prepare([&one, &other]);
        let sum = B::sum(one.primitive, other.primitive);
        to_float(finish::<B, C, 2, 1>(prepared, sum, |gradient, _| {
            [Some(gradient.clone()), Some(gradient)]
        }))
    }

    fn apply_dropout<const D: usize>(input: Tensor<Self, D>, dropout: Dropout) -> Tensor<Self, D> {
        let Some(kernels) = B::kernels().filter(|_| fits(&input)) else {
            return default_dropout(input, dropout);
        };
        let input = to_float(input);
        let prepared = prepare([&input]);
        let output = kernels.apply_dropout(input.primitive, dropout);
        finish::<B, C, 1, _>(prepared, output, move |gradient, _| {
            [Some(kernels.apply_dropout(gradient, dropout))]
        })
    }

    fn activation<const D: usize>(input: Tensor<Self, D>, kind: Activation) -> Tensor<Self, D> {
        #[derive(Debug)]
        struct ActivationBackward<const D: usize>;

        impl<B: GptBackend, const D: usize> Backward<B, 1> for ActivationBackward<D> {
            type State = (NodeId, Activation);

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                checkpointer: &mut Checkpointer,
            ) {
                let (input, kind) = ops.state;
                let input: FloatTensor<B> = checkpointer.retrieve_node_output(input);
                unary::<B, _>(ops.parents, ops.node, grads, |gradient| {
                    let (input, gradient) = (from_float::<B, D>(input), from_float(gradient));
                    B::activation_backward(input, gradient, kind).into_primitive().tensor()
                });
            }
        }

        let input = input.into_primitive().tensor();
        let output = B::activation(from_float::<B, D>(input.primitive.clone()), kind);
        let output = output.into_primitive().tensor();
        let prepared =
            ActivationBackward::<D>.prepare::<C>([input.node.clone()]).compute_bound().stateful();
        Tensor::from_primitive(TensorPrimitive::Float(match prepared {
            OpsKind::Tracked(mut prepared) => {
                let state = (prepared.checkpoint(&input), kind);
                prepared.finish(state, output)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }))
    }

    fn gated<const D: usize>(
        gate: Tensor<Self, D>,
        up: Tensor<Self, D>,
        kind: Activation,
    ) -> Tensor<Self, D> {
        let Some(kernels) = kernels_for::<B, _, _>(&gate, &up) else {
            return default_gated(gate, up, kind);
        };
        let (gate, up) = (to_float(gate), to_float(up));
        let (g, u) = (gate.primitive.clone(), up.primitive.clone());
        let output = kernels.gated(g.clone(), u.clone(), kind);
        record::<B, C, 2, _>([&gate, &up], output, move |gradient, _| {
            kernels.gated_backward(g.clone(), u.clone(), gradient, kind).map(Some)
        })
    }

    fn has_kernels_in(precision: Precision) -> bool {
        B::has_kernels_in(precision)
    }

    fn rotate(
        input: Tensor<Self, 4>,
        heads: usize,
        rotation: &Rotation<Self>,
        precision: Precision,
    ) -> Tensor<Self, 4> {
        if precision != Precision::F32 && !B::has_kernels_in(precision) {
            return factor(Self::rotate(input, heads, rotation, Precision::F32), precision);
        }
        let Some(kernels) = B::kernels().filter(|_| fits(&input) && fits(&rotation.cosines)) else {
            return factor(default_rotate(input, heads, rotation), precision);
        };
        let input = to_float(input);
        let angles = rotation.angles().map(|table| table.primitive);
        let turn = Turn { heads, pairing: rotation.pairing, back: false, precision };
        let output = kernels.rotate(input.primitive.clone(), angles.clone(), turn);
        record::<B, C, 1, _>([&input], output, move |gradient, _| {
            let back = Turn { back: true, precision: Precision::F32, ..turn };
            [Some(kernels.rotate(gradient, angles.clone(), back))]
        })
    }

    fn dense<const D: usize>(
        input: Tensor<Self, D>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, D> {
        match products_of(&input, &weight, &bias) {
            Some(products) => dense(products, input, weight, bias, None),
            None => default_dense(input, weight, bias),
        }
    }

    fn dense_activated<const D: usize>(
        input: Tensor<Self, D>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        kind: Activation,
    ) -> Tensor<Self, D> {
        match products_of(&input, &weight, &bias) {
            Some(products) => dense(products, input, weight, bias, Some(kind)),
            None => default_dense_activated(input, weight, bias, kind),
        }
    }

    fn activated(
        product: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        kind: Activation,
    ) -> Tensor<Self, 2> {
        let (product, bias) = (to_float(product), bias.map(to_float));
        let p = product.primitive.clone();
        let b = bias.as_ref().map(|bias| bias.primitive.clone());
        let output = B::activated(from_float(p.clone()), b.clone().map(from_float), kind);
        let gradients = move |gradient| {
            let (product, bias) = (from_float(p.clone()), b.clone().map(from_float));
            let (of_product, of_bias) =
                B::activated_backward(product, bias, from_float(gradient), kind);
            [Some(to_float(of_product)), of_bias.map(to_float)]
        };
        let output = to_float(output);
        match &bias {
            Some(bias) => record::<B, C, 2, _>([&product, bias], output, move |gradient, _| {
                gradients(gradient)
            }),
            None => record::<B, C, 1, _>([&product], output, move |gradient, _| {
                let [of_product, _] = gradients(gradient);
                [of_product]
            }),
        }
    }

    fn add_bias(
        product: Tensor<Self, 2>,
        bias: Tensor<Self, 1>,
        precision: Precision,
    ) -> Tensor<Self, 2> {
        let dtype = product.dtype();
        let (product, bias) = (to_float(product), to_float(bias));
        let prepared = prepare::<B, C, 2>([&product, &bias]);
        let sum = B::add_bias(from_float(product.primitive), from_float(bias.primitive), precision);
        finish(prepared, to_float(sum), move |gradient, [_, of_bias]| {
            let gradient: Tensor<B, 2> = from_float(gradient);
            if !of_bias {
                return [Some(to_float(gradient.cast(dtype))), None];
            }
            let (of_product, of_bias) = B::add_bias_backward(gradient, dtype);
            [Some(to_float(of_product)), Some(to_float(of_bias))]
        })
    }

    fn normalization<const D: usize>(
        input: Tensor<Self, D>,
        weight: Option<Tensor<Self, 1>>,
        bias: Option<Tensor<Self, 1>>,
        kind: NormKind,
        epsilon: f64,
        precision: Precision,
    ) -> Tensor<Self, D> {
        if precision != Precision::F32 && !B::has_kernels_in(precision) {
            let exact = Self::normalization(input, weight, bias, kind, epsilon, Precision::F32);
            return factor(exact, precision);
        }
        let all_fit = fits(&input) && all_fit(&[&weight, &bias]);
        let scaling = scaling(kind, epsilon).filter(|_| all_fit);
        let (Some(kernels), Some(scaling)) = (B::kernels(), scaling) else {
            return factor(default_normalization(input, weight, bias, kind, epsilon), precision);
        };
        let (input, weight, bias) = (to_float(input), weight.map(to_float), bias.map(to_float));
        let (x, w) = (input.primitive.clone(), weight.as_ref().map(|it| it.primitive.clone()));
        let b = bias.as_ref().map(|it| it.primitive.clone());
        let output = kernels.normalization(x.clone(), w.clone(), b, scaling, precision);
        let gradients = move |gradient| {
            kernels.normalization_backward(x.clone(), w.clone(), gradient, scaling).map(Some)
        };
        match (weight, bias) {
            (Some(weight), Some(bias)) => {
                record::<B, C, 3, _>([&input, &weight, &bias], output, move |gradient, _| {
                    gradients(gradient)
                })
            }
            (Some(weight), None) => {
                record::<B, C, 2, _>([&input, &weight], output, move |gradient, _| {
                    let [input, weight, _] = gradients(gradient);
                    [input, weight]
                })
            }
            (None, Some(bias)) => {
                record::<B, C, 2, _>([&input, &bias], output, move |gradient, _| {
                    let [input, _, bias] = gradients(gradient);
                    [input, bias]
                })
            }
            (None, None) => record::<B, C, 1, _>([&input], output, move |gradient, _| {
                let [input, _, _] = gradients(gradient);
                [input]
            }),
        }
    }

    fn attend(
        query: Tensor<Self, 4>,
        key: Tensor<Self, 4>,
        value: Tensor<Self, 4>,
        options: &AttentionOptions,
    ) -> Tensor<Self, 4> {
        let sight = options.sight(&[&query, &key, &value]);
        let kernels = B::kernels().filter(|it| it.computes_in(options.precision));
        let (Some(kernels), Some(sight)) = (kernels, sight) else {
            return default_attend(query, key, value, options);
        };
        let inputs = [query, key, value].map(to_float);
        let values =
            inputs.each_ref().map(|input| factor_of::<B>(&input.primitive, options.precision));
        let (output, log_sums) = kernels.attend(values.clone(), &sight);
        let saved = output.clone();
        record::<B, C, 3, _>(inputs.each_ref(), output, move |gradient, _| {
            let (output, log_sums) = (saved.clone(), log_sums.clone());
            kernels.attend_backward(values.clone(), output, log_sums, gradient, &sight).map(Some)
        })
    }

    fn attend_joined(
        joined: Tensor<Self, 4>,
        heads: [usize; 2],
        options: &AttentionOptions,
    ) -> Tensor<Self, 4> {
        let sight = options.sight(&[&joined]);
        let kernels = B::kernels().filter(|it| it.computes_in(options.precision));
        let (Some(kernels), Some(sight)) = (kernels, sight) else {
            let [query, key, value] = Self::separate(joined, heads);
            return default_attend(query, key, value, options);
        };
        let joined = to_float(joined);
        let all = factor_of::<B>(&joined.primitive, options.precision);
        let (output, log_sums) = kernels.attend_joined(all.clone(), heads, &sight);
        let saved = output.clone();
        record::<B, C, 1, _>([&joined], output, move |gradient, _| {
            let (all, output, log_sums) = (all.clone(), saved.clone(), log_sums.clone());
            let of_joined =
                kernels.attend_joined_backward(all, heads, output, log_sums, gradient, &sight);
            [Some(of_joined)]
        })
    }

    /// Autodiff's own way makes a gradient of all heads for each part, zero for the others, and
    /// adds the three up.
    fn separate(joined: Tensor<Self, 4>, heads: [usize; 2]) -> [Tensor<Self, 4>; 3] {
        if B::kernels().is_none() || !fits(&joined) {
            return default_separate(joined, heads);
        }
        let joined = to_float(joined);
        let mut parts = B::separate(from_float(joined.primitive.clone()), heads).into_iter();
        // Whoever brings the last one passes all of them on.
        let gradients: Arc<Mutex<[Option<Tensor<B, 4>>; 3]>> = Arc::default();
        std::array::from_fn(|number| {
            let part = to_float(parts.next().expect("there are three"));
            let gradients = Arc::clone(&gradients);
            record::<B, C, 1, _>([&joined], part, move |gradient, _| {
                let mut gradients = gradients.lock().unwrap_or_else(PoisonError::into_inner);
                gradients[number] = Some(from_float(gradient));
                match std::mem::take(&mut *gradients) {
                    [Some(query), Some(key), Some(value)] => {
                        [Some(to_float(B::join([query, key, value])))]
                    }
                    some => {
                        *gradients = some;
                        [None]
                    }
                }
            })
        })
    }

    fn training_loss(
        logits: Tensor<Self, 2>,
        targets: Tensor<Self, 1, Int>,
        terms: LossTerms,
    ) -> [Tensor<Self, 1>; 2] {
        let Some(kernels) = B::kernels().filter(|_| fits(&logits)) else {
            return default_training_loss(logits, targets, terms);
        };
        let (logits, targets) = (to_float(logits), targets.into_primitive());
        let x = logits.primitive.clone();
        let [loss, minimised, log_sums] = kernels.cross_entropy(x.clone(), targets.clone(), terms);
        let minimised = record::<B, C, 1, _>([&logits], minimised, move |gradient, _| {
            let (x, targets, log_sums) = (x.clone(), targets.clone(), log_sums.clone());
            [Some(kernels.cross_entropy_backward(x, targets, log_sums, gradient, terms))]
        });
        [Tensor::from_inner(from_float(loss)), minimised]
    }

    fn linear_training_loss(
        input: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        targets: Tensor<Self, 1, Int>,
        precision: Precision,
        terms: LossTerms,
    ) -> [Tensor<Self, 1>; 2] {
        let all_fit = fits(&input) && fits(&weight) && all_fit(&[&bias]);
        let kernels = B::kernels().filter(|it| all_fit && it.computes_in(precision));
        let Some(kernels) = kernels else {
            let (input, weight) = (factor(input, precision), factor(weight, precision));
            return Self::training_loss(Self::dense(input, weight, bias), targets, terms);
        };
        let (input, weight, bias) = (to_float(input), to_float(weight), bias.map(to_float));
        let wanted = [
            input.is_tracked(),
            weight.is_tracked(),
            bias.as_ref().is_some_and(FloatTensor::<Self>::is_tracked),
        ];
        // The logits are there now, and will not be again: so are their gradients.
        let ([loss, minimised], [of_input, of_weight, of_bias]) = kernels.linear_cross_entropy(
            [&input, &weight].map(|factor| factor.primitive.clone()),
            bias.as_ref().map(|bias| bias.primitive.clone()),
            targets.into_primitive(),
            precision,
            terms,
            wanted,
        );
        let scale = move |gradients: &Option<FloatTensor<B>>, gradient: &FloatTensor<B>| {
            gradients.clone().map(|tensor| kernels.scaled(tensor, gradient.clone()))
        };
        let minimised = match &bias {
            Some(bias) => {
                record::<B, C, 3, _>([&input, &weight, bias], minimised, move |gradient, _| {
                    [&of_input, &of_weight, &of_bias].map(|it| scale(it, &gradient))
                })
            }
            None => record::<B, C, 2, _>([&input, &weight], minimised, move |gradient, _| {
                [&of_input, &of_weight].map(|it| scale(it, &gradient))
            }),
        };
        [Tensor::from_inner(from_float(loss)), minimised]
    }

    fn embed(weight: Tensor<Self, 2>, tokens: Tensor<Self, 2, Int>) -> Tensor<Self, 3> {
        let Some(kernels) = B::kernels().filter(|_| fits(&weight)) else {
            return burn::tensor::module::embedding(weight, tokens);
        };
        let (vocab_size, weight) = (weight.dims()[0], to_float(weight));
        let inner: Tensor<B, 2, Int> = Tensor::from_primitive(tokens.into_primitive());
        let output = B::embed(from_float(weight.primitive.clone()), inner.clone());
        record::<B, C, 1, _>([&weight], to_float(output), move |gradient, _| {
            let tokens = inner.clone().into_primitive();
            [Some(kernels.embed_backward(tokens, gradient, vocab_size))]
        })
    }
}

/// Heads as factors of products in this precision, in which they are kept for the gradients, too.
fn factor_of<B: GptBackend>(heads: &FloatTensor<B>, precision: Precision) -> FloatTensor<B> {
    to_float(factor::<B, 4>(from_float(heads.clone()), precision))
}

/// The kernels for a product of these, where there are any.
fn products_of<B: GptBackend, C: CheckpointStrategy, const D: usize>(
    input: &Tensor<Autodiff<B, C>, D>,
    weight: &Tensor<Autodiff<B, C>, 2>,
    bias: &Option<Tensor<Autodiff<B, C>, 1>>,
) -> Option<&'static dyn Products<B>> {
    B::products().filter(|_| fits(input) && fits(weight) && all_fit(&[bias]))
}

/// A product, or an activation of it.
fn dense<B: GptBackend, C: CheckpointStrategy, const D: usize>(
    products: &'static dyn Products<B>,
    input: Tensor<Autodiff<B, C>, D>,
    weight: Tensor<Autodiff<B, C>, 2>,
    bias: Option<Tensor<Autodiff<B, C>, 1>>,
    activation: Option<Activation>,
) -> Tensor<Autodiff<B, C>, D> {
    let d_output = weight.dims()[1];
    on_rows(input, d_output, |input| {
        let (input, weight, bias) = (to_float(input), to_float(weight), bias.map(to_float));
        let (x, w) = (input.primitive.clone(), weight.primitive.clone());
        let b = bias.as_ref().map(|bias| bias.primitive.clone());
        let (output, slopes) = match activation {
            Some(kind) => {
                let [output, slopes] = products.dense_activated(x.clone(), w.clone(), b, kind);
                (output, Some(slopes))
            }
            None => (products.dense(x.clone(), w.clone(), b), None),
        };
        let gradients = move |gradient, wanted| {
            products.dense_backward(x.clone(), w.clone(), slopes.clone(), gradient, wanted)
        };
        match &bias {
            Some(bias) => record::<B, C, 3, _>([&input, &weight, bias], output, gradients),
            None => record::<B, C, 2, _>([&input, &weight], output, move |gradient, [a, b]| {
                let [a, b, _] = gradients(gradient, [a, b, false]);
                [a, b]
            }),
        }
    })
}

/// The gradients with respect to the parents, from that with respect to the output, as far as they
/// are wanted.
type GradientFn<B, const N: usize> =
    dyn Fn(FloatTensor<B>, [bool; N]) -> [Option<FloatTensor<B>>; N] + Send + Sync;

/// How an operation passes its gradient on.
#[derive(Clone)]
struct Pass<B: Backend, const N: usize>(Arc<GradientFn<B, N>>);

impl<B: Backend, const N: usize> Debug for Pass<B, N> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Pass")
    }
}

#[derive(Debug)]
struct Recorded;

impl<B: GptBackend, const N: usize> Backward<B, N> for Recorded {
    type State = Pass<B, N>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = grads.consume::<B>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let gradients = (ops.state.0)(gradient, wanted);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                // Gradients are found by a tensor of their node. `register` would add them up, too,
                // but not by the backend's own kernel.
                let mut gradient = Autodiff::<B>::from_inner(gradient);
                gradient.node = parent;
                let gathered = grads.remove(&gradient);
                let (parent, gradient) = (gradient.node.id, gradient.primitive);
                let sum = match gathered {
                    Some(gathered) => B::sum(gradient, gathered),
                    None => gradient,
                };
                grads.register::<B>(parent, sum);
            }
        }
    }
}

/// What a kernel has computed, as an operation on its parents.
fn record<B: GptBackend, C: CheckpointStrategy, const N: usize, const D: usize>(
    parents: [&FloatTensor<Autodiff<B, C>>; N],
    output: FloatTensor<B>,
    gradients: impl Fn(FloatTensor<B>, [bool; N]) -> [Option<FloatTensor<B>>; N] + Send + Sync + 'static,
) -> Tensor<Autodiff<B, C>, D> {
    finish(prepare(parents), output, gradients)
}

/// An operation of which only the parents are known.
type Prepared<B, C, const N: usize> = OpsKind<Recorded, B, Pass<B, N>, C, N>;

/// [`record`] before the kernel has computed anything: it may take its parents' memory then.
fn prepare<B: GptBackend, C: CheckpointStrategy, const N: usize>(
    parents: [&FloatTensor<Autodiff<B, C>>; N],
) -> Prepared<B, C, N> {
    let nodes = parents.map(|parent| parent.node.clone());
    Backward::<B, N>::prepare::<C>(Recorded, nodes).compute_bound().stateful()
}

/// [`record`] when it has.
fn finish<B: GptBackend, C: CheckpointStrategy, const N: usize, const D: usize>(
    prepared: Prepared<B, C, N>,
    output: FloatTensor<B>,
    gradients: impl Fn(FloatTensor<B>, [bool; N]) -> [Option<FloatTensor<B>>; N] + Send + Sync + 'static,
) -> Tensor<Autodiff<B, C>, D> {
    from_float(match prepared {
        OpsKind::Tracked(prepared) => prepared.finish(Pass(Arc::new(gradients)), output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    })
}
