//! Kernels for GPUs as CUDA source, without a GPU, in f32 and bf16.

use burn::backend::Autodiff;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Int, Tensor};
use burn_train::TrainStep;
use emberlm::backend::{
    AdamwStep, AdamwUpdate, AttentionOptions, Dropout, GptBackend, KeyRanges, LossTerms, Rotation,
    Scaling, Sight, TrainBackend, Turn, factor,
};
use emberlm::config::{self, NormKind, Precision, RotaryPairing};
use emberlm::data::Window;
use emberlm::model::{Initializer, Model};
use emberlm::train::LanguageModel;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cuda_runtime::{Fused, KEYS, LAUNCHED, Launch, Paper, Plain, SOURCES};
use crate::support::{ACTIVATIONS, numbers, window_batch};

/// Whose launches these are.
static TURN: Mutex<()> = Mutex::new(());

/// Keeps the source and computes nothing.
const PAPER: Paper = Paper::Written;

fn leaf<B: TrainBackend, const D: usize>(shape: [usize; D], device: &B::Device) -> Tensor<B, D> {
    let values = numbers(shape.iter().product(), 1);
    Tensor::<B, 1>::from_floats(&*values, device).reshape(shape).require_grad()
}

const STEP: AdamwStep = AdamwStep {
    learning_rate: 1e-3,
    weight_decay: 0.1,
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    step: 1,
    gradient_factor: 0.5,
};

/// Without terms, and with both.
const TERMS: [LossTerms; 2] = [
    LossTerms { label_smoothing: 0.0, z_loss: 0.0 },
    LossTerms { label_smoothing: 0.1, z_loss: 1e-4 },
];

/// Every operation that has a kernel, forward and backward.
fn launch_all<B: TrainBackend>(device: &B::Device) {
    let norm = |kind, weighted: bool, precision| {
        let row = || weighted.then(|| leaf::<B, 1>([96], device));
        B::normalization(leaf::<B, 3>([2, 3, 96], device), row(), row(), kind, 1e-5, precision)
    };
    for kind in [NormKind::Layer, NormKind::Rms] {
        for weighted in [false, true] {
            for precision in [Precision::F32, Precision::Bf16] {
                norm(kind, weighted, precision).cast(DType::F32).sum().backward();
            }
        }
    }
    for kind in ACTIVATIONS {
        let [gate, up] = [(); 2].map(|()| leaf::<B, 2>([3, 40], device));
        B::activation(gate.clone(), kind).sum().backward();
        B::gated(gate.clone(), up.clone(), kind).sum().backward();
        let [gate, up] = [gate, up].map(|tensor| factor(tensor, Precision::Bf16));
        B::gated(gate, up, kind).cast(DType::F32).sum().backward();
        for (precision, width) in [(Precision::F32, 70), (Precision::Bf16, 80)] {
            let [input, weight] = [[100, 40], [40, width]]
                .map(|shape| factor(leaf::<B, 2>(shape, device), precision));
            let bias = Some(leaf::<B, 1>([width], device));
            B::dense_activated(input, weight, bias, kind).cast(DType::F32).sum().backward();
        }
    }
    let bias = leaf::<B, 1>([70], device);
    let plain = leaf::<B, 2>([100, 70], device);
    B::add_bias(plain, bias.clone(), Precision::F32).sum().backward();
    let product = factor(leaf::<B, 2>([100, 70], device), Precision::Bf16);
    for precision in [Precision::F32, Precision::Bf16] {
        let sum = B::add_bias(product.clone(), bias.clone(), precision);
        sum.cast(DType::F32).sum().backward();
    }
    for pairing in [RotaryPairing::Half, RotaryPairing::Interleaved] {
        let angles = leaf::<B, 2>([5, 4], device).detach();
        let rotation = Rotation { cosines: angles.clone(), sines: angles, pairing };
        for precision in [Precision::F32, Precision::Bf16] {
            let turned = B::rotate(leaf([2, 3, 5, 8], device), 2, &rotation, precision);
            turned.cast(DType::F32).sum().backward();
        }
    }
    for precision in [Precision::F32, Precision::Bf16] {
        let options = AttentionOptions { precision, ..AttentionOptions::causal(0.25) };
        // By tensor cores, where heads are as wide as they like it, and by blocks.
        for width in [16, 64, 128, 9] {
            let heads = |heads| leaf::<B, 4>([2, heads, 9, width], device);
            B::attend(heads(4), heads(2), heads(2), &options).sum().backward();
            let heads = |count| factor(heads(count), precision);
            let attended = B::attend(heads(4), heads(2), heads(2), &options);
            attended.cast(DType::F32).sum().backward();
        }
        let (dropout, soft_cap) = (Some(Dropout::new(0.1, 7)), Some(5.0));
        let dropping = AttentionOptions { dropout, soft_cap, ..options.clone() };
        let biased = AttentionOptions { alibi: true, ..options.clone() };
        let ranges = Some(KeyRanges::of_lengths(&[9, 4]));
        let padded = AttentionOptions { ranges, ..options };
        for options in [dropping, biased, padded] {
            let heads = |heads| leaf::<B, 4>([2, heads, 9, 16], device);
            B::attend(heads(4), heads(2), heads(2), &options).sum().backward();
        }
        for (rows, alibi) in [(1, false), (2, false), (9, false), (2, true)] {
            let heads = |heads| leaf::<B, 4>([rows, heads, 9, 16], device).inner();
            let options = AttentionOptions { precision, alibi, ..AttentionOptions::causal(0.25) };
            let (query, lengths) = (heads(4).narrow(2, 0, 1), vec![9; rows]);
            B::InnerBackend::attend_rows(query, heads(2), heads(2), &lengths, &options);
            B::InnerBackend::put(heads(2), heads(2), &vec![[0, 0]; rows]);
        }
        for terms in TERMS {
            let targets = || Tensor::<B, 1, Int>::zeros([6], device);
            let (input, weight) = (leaf::<B, 2>([6, 16], device), leaf::<B, 2>([16, 130], device));
            let bias = Some(leaf::<B, 1>([130], device));
            let [_, minimised] =
                B::linear_training_loss(input, weight, bias, targets(), precision, terms);
            minimised.backward();
            let logits = leaf::<B, 2>([6, 70], device);
            let [_, minimised] = B::training_loss(logits, targets(), terms);
            minimised.backward();
        }
    }
    let tokens = Tensor::<B, 2, Int>::zeros([2, 9], device);
    B::embed(leaf::<B, 2>([30, 24], device), tokens).sum().backward();
    let plain = || leaf::<B, 1>([300], device).inner();
    // As many as a launch takes, and some more.
    B::InnerBackend::sums_of_squares((0..40).map(|_| plain()).collect());
    for begun in [false, true] {
        let update = |_| {
            let moments = begun.then(|| [plain(), plain()]);
            AdamwUpdate { value: plain(), gradient: plain(), moments, step: STEP }
        };
        B::InnerBackend::adamw((0..30).map(update).collect());
    }
    B::sync(device).unwrap();
}

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is launched meanwhile.
fn launches<B: GptBackend>(device: &B::Device, run: impl FnOnce()) -> Vec<Launch> {
    B::sync(device).unwrap();
    LAUNCHED.lock().unwrap().clear();
    run();
    B::sync(device).unwrap();
    std::mem::take(&mut *LAUNCHED.lock().unwrap())
}

/// [`launches`] by the names of the kernels.
fn launched<B: GptBackend>(device: &B::Device, run: impl FnOnce()) -> Vec<String> {
    let name = |Launch { kernel, .. }: Launch| {
        let mut parts = kernel.split("::");
        parts.find(|part| part.contains("Kernel<")).map(str::to_owned).unwrap_or(kernel)
    };
    launches::<B>(device, run).into_iter().map(name).collect()
}

/// Kernels whose tensors have more elements than 32 bits count. Those of a few thousand million tokens
/// or of a block of logits have none.
fn launch_large() {
    fn large<const D: usize>(shape: [usize; D]) -> FloatTensor<Plain> {
        Tensor::<Plain, D>::empty(shape, &PAPER).into_primitive().tensor()
    }
    let kernels = Plain::kernels().unwrap();
    let tokens = |shape: [usize; 1]| Tensor::<Plain, 1, Int>::zeros(shape, &PAPER);
    let square = || large([1 << 16, 1 << 16]);
    let kind = ACTIVATIONS[0];
    let plain = || Tensor::<Plain, 2>::empty([1 << 16, 1 << 16], &PAPER);
    Plain::activation_backward(Plain::activation(plain(), kind), plain(), kind);
    let bias = || Some(Tensor::<Plain, 1>::empty([1 << 16], &PAPER));
    Plain::activated_backward(Plain::activated(plain(), bias(), kind), bias(), plain(), kind);
    kernels.gated_backward(square(), square(), kernels.gated(square(), square(), kind), kind);
    Plain::sum_rows(plain());
    Plain::add_bias_backward(plain(), DType::BF16);
    let scaling = Scaling { centered: true, epsilon: 1e-5 };
    kernels.normalization(square(), None, None, scaling, Precision::F32);
    kernels.normalization_backward(square(), None, square(), scaling);
    kernels.apply_dropout(square(), Dropout::new(0.1, 7));
    let angles = [(); 2].map(|()| large([1 << 12, 1 << 7]));
    let turn =
        Turn { heads: 3, pairing: RotaryPairing::Half, back: false, precision: Precision::F32 };
    kernels.rotate(large([1 << 8, 1 << 4, 1 << 12, 1 << 8]), angles, turn);
    let targets = || tokens([1 << 16]).into_primitive();
    for terms in TERMS {
        let [_, minimised, log_sums] = kernels.cross_entropy(square(), targets(), terms);
        kernels.cross_entropy_backward(square(), targets(), log_sums, minimised, terms);
    }
    let places = tokens([1 << 16]).reshape([1, 1 << 16]).into_primitive();
    kernels.embed_backward(places, large([1, 1 << 16, 1 << 16]), 50_257);
    let sight = Sight {
        scale: 1.0,
        soft_cap: None,
        causal: true,
        window: None,
        alibi: false,
        ranges: None,
        dropout: None,
        precision: Precision::F32,
        given: Precision::F32,
    };
    // In two blocks, of which the first sees fewer keys.
    let keys = || large([1, 1, 1 << 26, 8]);
    let long = || [large([1, 1, 128, 8]), keys(), keys()];
    let (output, log_sums) = kernels.attend(long(), &sight);
    kernels.attend_backward(long(), output.clone(), log_sums, output, &sight);
    let room = || large([1 << 8, 1 << 4, 1 << 14, 1 << 6]);
    let in_bf16 = Sight { precision: Precision::Bf16, ..sight.clone() };
    let (output, log_sums) = kernels.attend([room(), room(), room()], &in_bf16);
    let rooms = [room(), room(), room()];
    kernels.attend_backward(rooms, output.clone(), log_sums, output, &in_bf16);
    kernels.put(room(), room(), &vec![[0, 0]; 1 << 8]);
    let query = large([1, 1 << 4, 1, 1 << 6]);
    kernels.attend_rows([query, room(), room()], &[1 << 14], &sight);
    let line = || Tensor::<Plain, 1>::empty([1_usize << 32], &PAPER);
    Plain::sums_of_squares(vec![line()]);
    let moments = Some([line(), line()]);
    Plain::adamw(vec![AdamwUpdate { value: line(), gradient: line(), moments, step: STEP }]);
}

/// Functions with `#[cube(launch)]`, as the source text has them.
fn kernels_of_ours() -> Vec<String> {
    let mut names = Vec::new();
    let folder = crate::support::repository().join("src/backend/cube");
    let files = [folder.join("*.rs"), folder.join("*/*.rs")];
    let files = files.iter().flat_map(|pattern| glob::glob(&pattern.to_string_lossy()).unwrap());
    for path in files.map(Result::unwrap) {
        let text = std::fs::read_to_string(&path).unwrap();
        let module = path.file_stem().unwrap().to_string_lossy().into_owned();
        let after = text.match_indices("#[cube(launch").map(|(at, _)| &text[at..]);
        for rest in after {
            let name = rest.split("fn ").nth(1).unwrap();
            let name: String =
                name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            names.push(format!("{module}::{name}::"));
        }
    }
    names
}

#[test]
fn kernels_become_cuda_source() {
    let _turn = turn();
    assert!(Plain::supports_dtype(&PAPER, DType::BF16));
    launch_all::<Autodiff<Plain>>(&PAPER);
    launch_large();
    Plain::sync(&PAPER).unwrap();
    let mut sources = SOURCES.lock().unwrap().clone();
    // Burn's products of more numbers than 32 bits count; ours never are of so many.
    let known = |id: &str| id.contains("MatmulEntry") && id.contains("type: U64");
    sources.retain(|id, source| source.is_ok() || !known(id));
    for (id, source) in &sources {
        assert!(source.is_ok(), "{id}: {source:?}");
    }
    // For tests/python/check_cuda_source.py, which has NVIDIA's compiler read them.
    if let Some(folder) = std::env::var_os("EMBERLM_CUDA_SOURCE") {
        let folder = std::path::PathBuf::from(folder);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, (id, source)) in sources.iter().enumerate() {
            let text = format!("// {id}\n{}", source.as_ref().unwrap());
            std::fs::write(folder.join(format!("{number:03}.cu")), text).unwrap();
        }
    }
    let expected = kernels_of_ours();
    assert!(expected.len() >= 16, "{expected:?}");
    for kernel in expected {
        let mut found = sources.iter().filter(|(id, _)| id.contains(&kernel)).peekable();
        assert!(found.peek().is_some(), "{kernel} is not launched");
        for (id, source) in found {
            let source = source.as_ref().unwrap();
            assert!(source.contains("extern \"C\" __global__ void"), "{id}: {source}");
        }
        let never = [
            "embedding::link_kernel::",
            "loss::loss_and_gradient_kernel::",
            // Burn's products of so many keys do not compile.
            "blocks::add_kernel::",
        ];
        let counts = sources.keys().any(|id| id.contains(&kernel) && id.contains("type: U64"));
        assert!(counts || never.contains(&&*kernel), "{kernel} counts by 32 bits");
    }
}

/// What compiled kernels are kept under between runs; within a run each kernel is checked to have a key
/// of its own.
#[test]
fn another_process_finds_kernels_by_the_same_keys() {
    let _turn = turn();
    launch_all::<Autodiff<Plain>>(&PAPER);
    launches_of_a_step::<Autodiff<Fused>>(1, Precision::Bf16, &json!({}));
    let found = KEYS.lock().unwrap().clone();
    let variable = "EMBERLM_KEYS_OF_KERNELS";
    if let Some(path) = std::env::var_os(variable) {
        std::fs::write(path, serde_json::to_vec(&found).unwrap()).unwrap();
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let name = "cuda_source::another_process_finds_kernels_by_the_same_keys";
    let mut other = Command::new(std::env::current_exe().unwrap());
    let output = other.args(["--exact", name]).env(variable, file.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let others: BTreeMap<u128, Vec<String>> =
        serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap();
    assert!(others.len() > 100, "{}", others.len());
    for (key, lines) in others {
        assert!(found.get(&key) == Some(&lines), "{lines:#?}");
    }
}

/// 50 parameters of many sizes.
fn parameters<B: GptBackend>(device: &B::Device) -> Vec<Tensor<B, 1>> {
    (1..=50).map(|size| Tensor::zeros([size * size * 7], device)).collect()
}

fn parameters_are_taken_together<B: GptBackend<Device = Paper>>() {
    let updates = |begun: bool| {
        let mut all = [(); 4].map(|()| parameters::<B>(&PAPER).into_iter());
        let update = |_| {
            let [value, gradient, first, second] = all.each_mut().map(|it| it.next().unwrap());
            AdamwUpdate { value, gradient, moments: begun.then_some([first, second]), step: STEP }
        };
        (0..50).map(update).collect::<Vec<_>>()
    };
    let begun = updates(true);
    let mut updated = Vec::new();
    let found = launched::<B>(&PAPER, || updated = B::adamw(begun));
    // Nothing is copied.
    assert_eq!(found, ["AdamwKernel<all"; 3]);
    let all: Vec<Tensor<B, 1>> = updated.into_iter().flatten().collect();
    assert_eq!(all.len(), 150);
    let found = launched::<B>(&PAPER, || drop(B::sums_of_squares(all).into_data()));
    assert_eq!(found, ["SquaresKernel<all"; 5]);
    // Where somebody else has a gradient, that one is copied.
    let begun = updates(true);
    let other = begun[7].gradient.clone();
    let found = launched::<B>(&PAPER, || drop(B::adamw(begun)));
    assert_eq!(found.iter().filter(|name| *name != "AdamwKernel<all").count(), 1, "{found:?}");
    drop(other);
}

#[test]
fn many_parameters_share_a_launch() {
    let _turn = turn();
    parameters_are_taken_together::<Plain>();
    parameters_are_taken_together::<Fused>();
}

fn rows_are_taken_together<B: GptBackend<Device = Paper>>() {
    for (rows, launches) in [(1, 1), (2, 1), (33, 1), (64, 1), (70, 2)] {
        let heads = |heads, positions| Tensor::<B, 4>::zeros([rows, heads, positions, 16], &PAPER);
        let [room, query] = [heads(2, 40), heads(4, 1)];
        // As they come out of a projection.
        let new = Tensor::<B, 4>::zeros([rows, 1, 6, 16], &PAPER).swap_dims(1, 2).narrow(1, 4, 2);
        let places: Vec<[usize; 2]> = (0..rows).map(|row| [row, row % 40]).collect();
        let mut put = None;
        let found = launched::<B>(&PAPER, || put = Some(B::put(room, new, &places)));
        assert_eq!(found, vec!["PutKernel<all"; launches]);
        let lengths: Vec<usize> = (0..rows).map(|row| row % 40 + 1).collect();
        let (keys, options) = (put.unwrap(), AttentionOptions::causal(0.25));
        let attend = || drop(B::attend_rows(query, keys.clone(), keys, &lengths, &options));
        let found = launched::<B>(&PAPER, attend);
        assert_eq!(found, vec!["AttendRowsKernel<all"; launches]);
    }
}

#[test]
fn many_rows_share_a_launch() {
    let _turn = turn();
    rows_are_taken_together::<Plain>();
    rows_are_taken_together::<Fused>();
}

fn an_activation_is_one_launch<B: GptBackend<Device = Paper>>() {
    for kind in ACTIVATIONS {
        // Rows without gaps between them: those of CUDA are as long as a power of two.
        let tensor = || Tensor::<B, 2>::zeros([30, 64], &PAPER);
        let (input, gradient) = (tensor(), tensor());
        let mut output = None;
        let forward = || output = Some(B::activation(input.clone(), kind));
        assert_eq!(launched::<B>(&PAPER, forward).len(), 1, "{kind:?}");
        let backward = || output = Some(B::activation_backward(input.clone(), gradient, kind));
        assert_eq!(launched::<B>(&PAPER, backward).len(), 1, "{kind:?}");
        assert_eq!(output.unwrap().dims(), [30, 64]);
    }
}

/// In other threads than this one tensors come and go, which its own are beside.
#[test]
fn a_device_says_what_its_allocator_holds() {
    fn holds<B: GptBackend<Device = Paper>>() {
        let device = Paper::Computed;
        let bytes = 1 << 22;
        let tensor = Tensor::<B, 1>::ones([bytes / 4], &device) * 2.0;
        B::sync(&device).unwrap();
        let held = B::reserved_bytes(&device).unwrap();
        assert!((bytes as u64..1 << 40).contains(&held), "{held}");
        drop(tensor);
    }
    let _turn = turn();
    holds::<Plain>();
    holds::<Fused>();
}

#[test]
fn activations_are_one_launch_each() {
    let _turn = turn();
    // By kernels of ours, and by what burn's fusion makes of their composition.
    an_activation_is_one_launch::<Plain>();
    an_activation_is_one_launch::<Fused>();
}

/// What a training step launches on 8 windows of 1,024 tokens, of a model of GPT-2 XL's width with so
/// many layers.
fn launches_of_a_step<B: TrainBackend<Device = Paper>>(
    layers: usize,
    precision: Precision,
    feed_forward: &Value,
) -> Vec<Launch> {
    let model = json!({ "d_model": 1600, "n_heads": 25, "n_layers": layers, "context_length": 1024,
        "vocab_size": 50257, "feed_forward": feed_forward });
    let train = json!({ "precision": precision });
    let config = config::resolve(json!({ "name": "xl", "model": model, "train": train })).unwrap();
    let blank = Model::new("xl", &config.model, 50257, Initializer::Zeros, &PAPER);
    let model = LanguageModel::<B>::for_training(blank, &config).unwrap();
    let windows = [(); 8].map(|()| Window { start: 0, length: 1024 });
    let batch = window_batch(&[0; 1025], &windows, 1.0);
    launches::<B>(&PAPER, || {
        let output = TrainStep::step(&model, batch);
        drop((output.item.loss.read(), output.grads));
    })
}

/// That a layer launches no more kernels than so many, and gives them buffers of no more bytes.
fn a_layer_launches<B: TrainBackend<Device = Paper>>(
    precision: Precision,
    feed_forward: Value,
    most: usize,
    bytes: u64,
) {
    let [one, two] = [1, 2].map(|layers| launches_of_a_step::<B>(layers, precision, &feed_forward));
    let sum = |launches: &[Launch]| launches.iter().map(|launch| launch.bytes).sum::<u64>();
    let found = (two.len() - one.len(), sum(&two) - sum(&one));
    println!("{} {precision:?}: {found:?}", B::name(&PAPER));
    assert!(found.0 <= most && found.1 <= bytes, "{found:?}, not {most} and {bytes}");
}

#[test]
fn a_layer_of_gpt2_xl_launches_no_more_than_it_did() {
    let _turn = turn();
    let plain = || json!({});
    a_layer_launches::<Autodiff<Fused>>(Precision::F32, plain(), 110, 18_532_835_616);
    a_layer_launches::<Autodiff<Fused>>(Precision::Bf16, plain(), 43, 5_060_825_612);
    a_layer_launches::<Autodiff<Plain>>(Precision::Bf16, plain(), 57, 6_059_010_316);
    let swiglu = || json!({ "activation": "silu", "gated": true, "bias": false });
    a_layer_launches::<Autodiff<Fused>>(Precision::Bf16, swiglu(), 56, 6_471_000_844);
    a_layer_launches::<Autodiff<Plain>>(Precision::Bf16, swiglu(), 71, 7_481_141_772);
}
