//! GGUF files, read back by a reader that shares nothing with the writer.

use burn::tensor::TensorData;
use burn::tensor::f16;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::Path;

use emberlm::backend::{self, Job, TrainBackend};
use emberlm::config::{
    Activation, AttentionConfig, FeedForwardConfig, ModelConfig, NormConfig, NormKind,
    NormPlacement, PositionConfig, RotaryPairing, RotaryScaling,
};
use emberlm::interop::gguf::{
    self, DataType, GgufError, Note, TokenKind, Vocabulary, Written, huggingface_vocabulary,
};
use emberlm::model::{Gpt, Initializer, parameters};
use emberlm::tokenizer::SavedTokenizer;

use crate::golden::Golden;
use crate::support::{Inner, cpu_backends, floats, golden, numbers};

/// Our parameters by name.
type Tensors = HashMap<String, TensorData>;

/// A GGUF file by its specification (docs/gguf.md of ggml).
struct File {
    metadata: BTreeMap<String, Json>,
    /// Shape with the slowest dimension first, ggml's code of the type, bytes.
    tensors: BTreeMap<String, (Vec<usize>, u32, Vec<u8>)>,
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.at += N;
        self.bytes[self.at - N..self.at].try_into().unwrap()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> usize {
        u64::from_le_bytes(self.take()) as usize
    }

    fn string(&mut self) -> String {
        let length = self.u64();
        self.at += length;
        String::from_utf8(self.bytes[self.at - length..self.at].to_vec()).unwrap()
    }

    fn value(&mut self, code: u32) -> Json {
        match code {
            4 => self.u32().into(),
            5 => i32::from_le_bytes(self.take()).into(),
            6 => f32::from_le_bytes(self.take()).into(),
            7 => (self.take::<1>() != [0]).into(),
            8 => self.string().into(),
            9 => {
                let (code, count) = (self.u32(), self.u64());
                (0..count).map(|_| self.value(code)).collect()
            }
            _ => panic!("value of type {code}"),
        }
    }
}

impl File {
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let mut cursor = Cursor { bytes: &bytes, at: 0 };
        assert_eq!(&cursor.take(), b"GGUF");
        assert_eq!(cursor.u32(), 3, "version");
        let (n_tensors, n_keys) = (cursor.u64(), cursor.u64());
        let mut metadata = BTreeMap::new();
        for _ in 0..n_keys {
            let (key, code) = (cursor.string(), cursor.u32());
            assert!(metadata.insert(key, cursor.value(code)).is_none(), "a key twice");
        }
        let mut infos = Vec::new();
        for _ in 0..n_tensors {
            let (name, rank) = (cursor.string(), cursor.u32());
            let mut shape: Vec<usize> = (0..rank).map(|_| cursor.u64()).collect();
            shape.reverse();
            infos.push((name, shape, cursor.u32(), cursor.u64()));
        }
        let data = cursor.at.next_multiple_of(32);
        assert!(bytes[cursor.at..data].iter().all(|byte| *byte == 0));
        let (mut tensors, mut end) = (BTreeMap::new(), data);
        for (name, shape, code, offset) in infos {
            assert_eq!(data + offset, end.next_multiple_of(32), "{name} follows the one before");
            let values: usize = shape.iter().product();
            let size = match code {
                0 => 4 * values,
                1 => 2 * values,
                8 => {
                    assert!(shape.last().unwrap().is_multiple_of(32), "{name}");
                    values / 32 * 34
                }
                _ => panic!("{name} has type {code}"),
            };
            end = data + offset + size;
            let bytes = bytes[data + offset..end].to_vec();
            assert!(tensors.insert(name, (shape, code, bytes)).is_none(), "a tensor twice");
        }
        assert_eq!(bytes.len(), end.next_multiple_of(32), "the last tensor is padded too");
        Self { metadata, tensors }
    }

    fn shape(&self, name: &str) -> &[usize] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}")).0
    }

    fn code(&self, name: &str) -> u32 {
        self.tensors[name].1
    }

    fn values(&self, name: &str) -> Vec<f32> {
        let (_, code, bytes) = self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}"));
        let half = |bytes: &[u8]| f16::from_le_bytes(bytes.try_into().unwrap()).to_f32();
        match code {
            0 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            1 => bytes.chunks_exact(2).map(half).collect(),
            _ => bytes
                .chunks_exact(34)
                .flat_map(|block| {
                    let scale = half(&block[..2]);
                    block[2..].iter().map(move |byte| scale * f32::from(*byte as i8))
                })
                .collect(),
        }
    }

    /// # Shapes
    /// - `values` `[rows, columns]`, as our linear layers have them -> `[columns, rows]`
    #[track_caller]
    fn assert_is_transposed(&self, name: &str, values: &TensorData, columns: &[usize]) {
        let [rows, width] = [values.shape[0], values.shape[1]];
        let values = floats(values.clone());
        let found = self.values(name);
        assert_eq!(self.shape(name), [columns.len(), rows], "{name}");
        for (row, &column) in columns.iter().enumerate() {
            for input in 0..rows {
                let (found, expected) = (found[row * rows + input], values[input * width + column]);
                assert_eq!(found, expected, "{name}[{row}][{input}]");
            }
        }
    }

    #[track_caller]
    fn assert_is(&self, name: &str, values: &TensorData) {
        assert_eq!(self.shape(name), values.shape.to_vec(), "{name}");
        assert_eq!(self.values(name), floats(values.clone()), "{name}");
    }
}

/// The names and shapes of a model's parameters, filled with numbers.
fn random_tensors(config: &ModelConfig, vocab_size: usize) -> Tensors {
    #[derive(Clone)]
    struct Shapes(ModelConfig, usize);
    impl Job for Shapes {
        type Output = Vec<(String, Vec<usize>)>;
        fn run<B: TrainBackend>(self, device: B::Device) -> Self::Output {
            let model: Gpt<Inner<B>> =
                Gpt::new("shapes", &self.0, self.1, Initializer::Zeros, &device);
            parameters(&model).into_iter().map(|found| (found.name, found.shape)).collect()
        }
    }
    let shapes = backend::dispatch(cpu_backends()[0], Shapes(config.clone(), vocab_size)).unwrap();
    let fill = |(seed, (name, shape)): (usize, (String, Vec<usize>))| {
        let values = numbers(shape.iter().product(), seed as u64 + 1);
        (name, TensorData::new(values, shape))
    };
    shapes.into_iter().enumerate().map(fill).collect()
}

fn missing(name: &str) -> io::Error {
    io::Error::other(format!("no tensor {name}"))
}

fn characters(text: &str) -> SavedTokenizer {
    SavedTokenizer::Character { characters: text.into() }
}

/// Writes a model, reads it back, and checks that nothing of it was left out.
fn round_trip(
    config: &ModelConfig,
    tensors: &Tensors,
    tokenizer: &SavedTokenizer,
    data_type: DataType,
) -> (Written, File) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut asked = BTreeSet::new();
    let read = |name: &str| {
        asked.insert(name.to_string());
        tensors.get(name).cloned().ok_or_else(|| missing(name))
    };
    let written = gguf::write(&path, "a name", config, read, tokenizer, data_type).unwrap();
    assert_eq!(asked, tensors.keys().cloned().collect(), "all parameters are in the file");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    (written, File::read(&path))
}

fn refused(config: &ModelConfig, tokenizer: &SavedTokenizer) -> GgufError {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let error = gguf::write(&path, "", config, |name| Err(missing(name)), tokenizer, DataType::F32);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
    error.unwrap_err()
}

fn gpt2_golden() -> (ModelConfig, Tensors) {
    let golden = Golden::open("gpt2-tiny");
    let tensors = golden.tensors();
    (golden.config, tensors)
}

/// Two layers of width 64; 4 heads of 16 share 2 keys and values.
fn llama(pairing: RotaryPairing) -> ModelConfig {
    ModelConfig {
        n_kv_heads: Some(2),
        d_ff: Some(96),
        bias: false,
        tied_head: false,
        position: PositionConfig::Rotary {
            theta: 500_000.0,
            pairing,
            fraction: 1.0,
            scaling: None,
        },
        norm: NormConfig { kind: NormKind::Rms, epsilon: 1e-6, ..NormConfig::default() },
        feed_forward: FeedForwardConfig {
            activation: Activation::Silu,
            gated: true,
            ..FeedForwardConfig::default()
        },
        ..ModelConfig::new(64, 2, 4, 32)
    }
}

const LETTERS: &str = "\n !abc\\~";

/// Queries, keys and values as llama.cpp's conversion orders them:
/// `weights.reshape(heads, 2, K / 2).swapaxes(1, 2)`.
fn permuted(first: usize, heads: usize, k: usize) -> Vec<usize> {
    let mut columns = Vec::new();
    for head in 0..heads {
        for pair in 0..k / 2 {
            for half in 0..2 {
                columns.push(first + head * k + half * (k / 2) + pair);
            }
        }
    }
    columns
}

#[test]
fn gpt2_is_llama_cpps_gpt2() {
    let (config, tensors) = gpt2_golden();
    let (written, file) = round_trip(&config, &tensors, &characters(LETTERS), DataType::F32);
    assert_eq!(written, Written { architecture: "gpt2", notes: Vec::new() });
    let expected = json!({
        "general.architecture": "gpt2",
        "general.type": "model",
        "general.name": "a name",
        "general.file_type": 0,
        "general.quantization_version": 2,
        "gpt2.vocab_size": 199,
        "gpt2.context_length": 64,
        "gpt2.embedding_length": 48,
        "gpt2.block_count": 3,
        "gpt2.feed_forward_length": 192,
        "gpt2.attention.head_count": 4,
        "gpt2.attention.head_count_kv": 4,
        "gpt2.attention.layer_norm_epsilon": 1e-5f32,
    });
    let settings: BTreeMap<_, _> =
        file.metadata.iter().filter(|(key, _)| !key.starts_with("tokenizer.")).collect();
    assert_eq!(json!(settings), expected);

    file.assert_is("token_embd.weight", &tensors["embedding.token"]);
    file.assert_is("position_embd.weight", &tensors["embedding.position"]);
    file.assert_is("output_norm.bias", &tensors["decoder.final_norm.bias"]);
    for layer in 0..3 {
        for (theirs, ours, is_matrix) in [
            ("attn_norm", "attention_norm", false),
            ("attn_qkv", "attention.qkv", true),
            ("attn_output", "attention.output", true),
            ("ffn_norm", "feed_forward_norm", false),
            ("ffn_up", "feed_forward.up", true),
            ("ffn_down", "feed_forward.down", true),
        ] {
            let weight = &tensors[&format!("decoder.blocks.{layer}.{ours}.weight")];
            let name = format!("blk.{layer}.{theirs}.weight");
            match is_matrix {
                true => {
                    let columns: Vec<usize> = (0..weight.shape[1]).collect();
                    file.assert_is_transposed(&name, weight, &columns);
                }
                false => file.assert_is(&name, weight),
            }
            let bias = &tensors[&format!("decoder.blocks.{layer}.{ours}.bias")];
            file.assert_is(&format!("blk.{layer}.{theirs}.bias"), bias);
        }
    }
    assert_eq!(file.tensors.len(), 2 + 3 * 12 + 2);
}

#[test]
fn gpt2_without_biases_gets_zeros_and_without_factors_ones() {
    let config = ModelConfig {
        bias: false,
        norm: NormConfig { affine: false, ..NormConfig::default() },
        ..ModelConfig::new(32, 1, 2, 16)
    };
    let tensors = random_tensors(&config, 8);
    let (written, file) = round_trip(&config, &tensors, &characters(LETTERS), DataType::F32);
    assert_eq!(written.notes, [Note::GeluApproximated]);
    assert_eq!(file.values("blk.0.attn_qkv.bias"), [0.0; 96]);
    assert_eq!(file.values("blk.0.ffn_up.bias"), [0.0; 128]);
    assert_eq!(file.values("output_norm.weight"), [1.0; 32]);
    assert_eq!(file.values("output_norm.bias"), [0.0; 32]);
}

#[test]
fn llamas_heads_are_interleaved_unless_they_are_already() {
    for pairing in [RotaryPairing::Half, RotaryPairing::Interleaved] {
        let config = llama(pairing);
        let tensors = random_tensors(&config, 8);
        let (written, file) = round_trip(&config, &tensors, &characters(LETTERS), DataType::F32);
        assert_eq!(written, Written { architecture: "llama", notes: Vec::new() });
        let metadata = |key: &str| file.metadata[&format!("llama.{key}")].clone();
        assert_eq!(metadata("attention.head_count_kv"), 2);
        assert_eq!(metadata("attention.layer_norm_rms_epsilon"), json!(1e-6f32));
        assert_eq!(metadata("rope.dimension_count"), 16);
        assert_eq!(metadata("rope.freq_base"), json!(500_000f32));
        assert!(!file.metadata.contains_key("llama.attention.key_length"));

        let (q, k) = match pairing {
            RotaryPairing::Half => (permuted(0, 4, 16), permuted(64, 2, 16)),
            RotaryPairing::Interleaved => ((0..64).collect(), (64..96).collect()),
        };
        let qkv = &tensors["decoder.blocks.1.attention.qkv.weight"];
        file.assert_is_transposed("blk.1.attn_q.weight", qkv, &q);
        file.assert_is_transposed("blk.1.attn_k.weight", qkv, &k);
        let v: Vec<usize> = (96..128).collect();
        file.assert_is_transposed("blk.1.attn_v.weight", qkv, &v);
        let gate = &tensors["decoder.blocks.1.feed_forward.gate.weight"];
        let all: Vec<usize> = (0..96).collect();
        file.assert_is_transposed("blk.1.ffn_gate.weight", gate, &all);
        let all: Vec<usize> = (0..8).collect();
        file.assert_is_transposed("output.weight", &tensors["head.weight"], &all);
        assert_eq!(file.tensors.len(), 1 + 2 * 9 + 2, "no biases");
    }
}

#[test]
fn biases_and_norms_of_heads_choose_the_architecture() {
    let biased = ModelConfig {
        attention: AttentionConfig { qkv_bias: Some(true), ..AttentionConfig::default() },
        ..llama(RotaryPairing::Half)
    };
    let tensors = random_tensors(&biased, 8);
    let (written, file) = round_trip(&biased, &tensors, &characters(LETTERS), DataType::F32);
    assert_eq!(written.architecture, "qwen2");
    // Qwen's heads are in halves in llama.cpp too.
    let bias = floats(tensors["decoder.blocks.0.attention.qkv.bias"].clone());
    assert_eq!(file.values("blk.0.attn_k.bias"), bias[64..96]);

    let all_biases = ModelConfig { bias: true, ..llama(RotaryPairing::Half) };
    let tensors = random_tensors(&all_biases, 8);
    let (written, file) = round_trip(&all_biases, &tensors, &characters(LETTERS), DataType::F32);
    assert_eq!(written.architecture, "llama");
    let bias = floats(tensors["decoder.blocks.0.attention.qkv.bias"].clone());
    let expected: Vec<f32> = permuted(64, 2, 16).into_iter().map(|column| bias[column]).collect();
    assert_eq!(file.values("blk.0.attn_k.bias"), expected);

    let norm = llama(RotaryPairing::Half).norm;
    for pairing in [RotaryPairing::Half, RotaryPairing::Interleaved] {
        let normed = ModelConfig {
            head_dim: Some(8),
            attention: AttentionConfig { qk_norm: Some(norm), ..AttentionConfig::default() },
            ..llama(pairing)
        };
        let tensors = random_tensors(&normed, 8);
        let (written, file) = round_trip(&normed, &tensors, &characters(LETTERS), DataType::F32);
        assert_eq!(written.architecture, "qwen3");
        assert_eq!(file.metadata["qwen3.attention.key_length"], 8);
        assert_eq!(file.metadata["qwen3.attention.value_length"], 8);
        let columns = match pairing {
            RotaryPairing::Half => [0, 1, 2, 3, 4, 5, 6, 7],
            RotaryPairing::Interleaved => [0, 2, 4, 6, 1, 3, 5, 7],
        };
        let factors = floats(tensors["decoder.blocks.0.attention.key_norm.weight"].clone());
        assert_eq!(file.values("blk.0.attn_k_norm.weight"), columns.map(|column| factors[column]));
        let second_head: Vec<usize> = columns.iter().map(|column| column + 32).collect();
        let qkv = &tensors["decoder.blocks.0.attention.qkv.weight"];
        let keys: Vec<usize> =
            second_head.iter().copied().chain(second_head.iter().map(|c| c + 8)).collect();
        file.assert_is_transposed("blk.0.attn_k.weight", qkv, &keys);
    }
}

#[test]
fn stretched_positions_are_stored_as_llama_cpp_reads_them() {
    let scaled = |scaling| {
        let mut config = llama(RotaryPairing::Half);
        let theta = 100.0;
        let (pairing, scaling) = (RotaryPairing::Half, Some(scaling));
        config.position = PositionConfig::Rotary { theta, pairing, fraction: 1.0, scaling };
        let tensors = random_tensors(&config, 8);
        round_trip(&config, &tensors, &characters(LETTERS), DataType::Q8_0).1
    };
    let file = scaled(RotaryScaling::Linear { factor: 4.0 });
    assert_eq!(file.metadata["llama.rope.scaling.type"], "linear");
    assert_eq!(file.metadata["llama.rope.scaling.factor"], 4.0);
    assert!(!file.tensors.contains_key("rope_freqs.weight"));

    let file = scaled(RotaryScaling::Llama3 {
        factor: 8.0,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_context_length: 32,
    });
    let found = file.values("rope_freqs.weight");
    let expected: Vec<f64> = (0..8)
        .map(|pair| {
            let wavelength = 2.0 * std::f64::consts::PI * 100f64.powf(f64::from(pair) / 8.0);
            if wavelength < 32.0 / 4.0 {
                1.0
            } else if wavelength > 32.0 {
                8.0
            } else {
                let smooth = (32.0 / wavelength - 1.0) / (4.0 - 1.0);
                1.0 / ((1.0 - smooth) / 8.0 + smooth)
            }
        })
        .collect();
    assert!(expected.contains(&1.0) && expected.contains(&8.0), "all three bands are there");
    crate::support::assert_close(&found, &expected, 1e-6, "rope_freqs");
}

#[test]
fn quantised_weights_are_within_their_formats_bound() {
    // Half a unit in the last of f16's 11 bits, of which small numbers have fewer.
    let half_unit = |value: f32| (value.abs() / 2048.0).max(2f32.powi(-25));
    // Rows of 64 are whole blocks, rows of 48 are not.
    let config = ModelConfig { d_ff: Some(48), ..ModelConfig::new(64, 1, 2, 16) };
    let mut tensors = random_tensors(&config, 8);
    let embedding = tensors.get_mut("embedding.token").unwrap();
    let mut values = floats(embedding.clone());
    values[..32].fill(0.0); // a block without a scale
    values[32..64].iter_mut().for_each(|value| *value *= 1e-3);
    *embedding = TensorData::new(values, embedding.shape.clone());

    let (_, exact) = round_trip(&config, &tensors, &characters(LETTERS), DataType::F32);
    for (data_type, file_type) in [(DataType::F16, 1), (DataType::Q8_0, 7)] {
        let (_, file) = round_trip(&config, &tensors, &characters(LETTERS), data_type);
        assert_eq!(file.metadata["general.file_type"], file_type);
        for (name, (shape, code, _)) in &file.tensors {
            let expected_code = match shape.as_slice() {
                [_] => 0,
                _ if name == "position_embd.weight" => 0,
                [_, 48] => 1,
                _ => [1, 8][usize::from(data_type == DataType::Q8_0)],
            };
            assert_eq!(*code, expected_code, "{name}");
            let (found, expected) = (file.values(name), exact.values(name));
            for (found, expected) in found.chunks(32).zip(expected.chunks(32)) {
                let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                for (found, expected) in found.iter().zip(expected) {
                    let bound = match code {
                        0 => 0.0,
                        1 => half_unit(*expected),
                        // Half a step, and a scale that is itself rounded.
                        _ => largest / 127.0 / 2.0 + 127.0 * half_unit(largest / 127.0),
                    };
                    let error = (found - expected).abs();
                    // The bound itself is rounded.
                    assert!(error <= bound * 1.0001, "{name}: {expected} became {found}");
                }
            }
        }
    }
    let (_, file) = round_trip(&config, &tensors, &characters(LETTERS), DataType::Q8_0);
    assert_eq!(file.values("token_embd.weight")[..32], [0.0; 32]);
    assert_eq!(file.code("blk.0.ffn_down.weight"), 1);
}

#[test]
fn what_f16_cannot_hold_is_an_error() {
    let config = ModelConfig::new(32, 1, 2, 16);
    for (value, refusing) in [
        (70_000.0, &[DataType::F16][..]),
        (1e7, &[DataType::F16, DataType::Q8_0]),
        (f32::NAN, &[DataType::F16, DataType::Q8_0]),
    ] {
        let mut tensors = random_tensors(&config, 8);
        let name = "decoder.blocks.0.feed_forward.up.weight";
        let mut values = floats(tensors[name].clone());
        values[100] = value;
        tensors.insert(name.into(), TensorData::new(values, tensors[name].shape.clone()));
        for data_type in DataType::ALL {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("model.gguf");
            let read = |name: &str| tensors.get(name).cloned().ok_or_else(|| missing(name));
            let result = gguf::write(&path, "", &config, read, &characters(LETTERS), data_type);
            assert_eq!(result.is_err(), refusing.contains(&data_type), "{value} as {data_type}");
            if let Err(error) = result {
                let text = error.to_string();
                assert!(text.contains("blk.0.ffn_up.weight") && text.contains("as f32"), "{text}");
            }
        }
    }
}

#[test]
fn options_that_llama_cpp_does_not_have_are_named() {
    let plain = ModelConfig::new(64, 2, 4, 32);
    let rotary = llama(RotaryPairing::Half);
    let half = RotaryPairing::Half;
    let turned =
        |fraction| PositionConfig::Rotary { theta: 1e4, pairing: half, fraction, scaling: None };
    let cases = [
        ("model.position", ModelConfig { position: PositionConfig::Alibi {}, ..plain.clone() }),
        ("model.norm.kind", ModelConfig { norm: rotary.norm, ..plain.clone() }),
        ("model.norm.kind", ModelConfig { norm: plain.norm, ..rotary.clone() }),
        (
            "model.norm_placement",
            ModelConfig { norm_placement: NormPlacement::Post, ..plain.clone() },
        ),
        ("model.final_norm", ModelConfig { final_norm: Some(false), ..plain.clone() }),
        ("model.scale_embedding", ModelConfig { scale_embedding: true, ..plain.clone() }),
        ("model.head_bias", ModelConfig { head_bias: true, ..plain.clone() }),
        ("model.logit_soft_cap", ModelConfig { logit_soft_cap: Some(30.0), ..rotary.clone() }),
        ("model.head_dim", ModelConfig { head_dim: Some(8), ..plain.clone() }),
        (
            "model.feed_forward.activation",
            ModelConfig {
                feed_forward: FeedForwardConfig {
                    activation: Activation::Relu,
                    ..FeedForwardConfig::default()
                },
                ..plain.clone()
            },
        ),
        (
            "model.feed_forward.gated",
            ModelConfig { feed_forward: FeedForwardConfig::default(), ..rotary.clone() },
        ),
        ("model.position.fraction", ModelConfig { position: turned(0.5), ..rotary.clone() }),
        (
            "model.attention.window",
            ModelConfig {
                attention: AttentionConfig { window: Some(8), ..AttentionConfig::default() },
                ..rotary.clone()
            },
        ),
        (
            "model.attention.scale",
            ModelConfig {
                attention: AttentionConfig { scale: Some(1.0), ..AttentionConfig::default() },
                ..rotary.clone()
            },
        ),
        (
            "model.attention.qk_norm",
            ModelConfig {
                attention: AttentionConfig {
                    qk_norm: Some(NormConfig { epsilon: 1e-3, ..rotary.norm }),
                    ..AttentionConfig::default()
                },
                ..rotary.clone()
            },
        ),
    ];
    for (option, config) in cases {
        let error = refused(&config, &characters(LETTERS));
        let text = error.to_string();
        assert!(
            matches!(error, GgufError::Option { option: found, .. } if found == option),
            "{text}"
        );
        assert!(text.contains(&format!("`{option}` = ")), "{text}");
    }
    // A window that is never reached is none.
    let attention = AttentionConfig { window: Some(32), ..AttentionConfig::default() };
    let config = ModelConfig { attention, ..rotary };
    round_trip(&config, &random_tensors(&config, 8), &characters(LETTERS), DataType::F16);
}

#[test]
fn tensors_are_checked() {
    let config = ModelConfig::new(32, 1, 2, 16);
    let error = refused(&config, &characters(LETTERS));
    assert!(matches!(&error, GgufError::Read { name, .. } if name == "embedding.token"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let write = |data: TensorData| {
        let read = |_: &str| Ok::<_, io::Error>(data.clone());
        gguf::write(&path, "", &config, read, &characters(LETTERS), DataType::F32).unwrap_err()
    };
    let error = write(TensorData::new(vec![0f32; 16], [4, 4]));
    assert!(matches!(error, GgufError::ShapeMismatch { .. }), "{error}");
    let error = write(TensorData::new(vec![0i64; 8 * 32], [8, 32]));
    assert!(matches!(error, GgufError::NotF32 { .. }), "{error}");

    let small = ModelConfig { vocab_size: Some(3), ..config.clone() };
    let error = refused(&small, &characters(LETTERS));
    assert!(matches!(error, GgufError::TooManyTokens { tokens: 8, rows: 3 }), "{error}");
    let error = refused(&ModelConfig { n_heads: 3, ..config }, &characters(LETTERS));
    assert!(matches!(error, GgufError::Config(_)), "{error}");
}

#[test]
fn characters_are_a_trie_of_bytes() {
    let config = ModelConfig { vocab_size: Some(12), ..ModelConfig::new(32, 1, 2, 16) };
    let tensors = random_tensors(&config, 12);
    let tokenizer = characters("\n\u{7f} !abc\\~");
    let (_, file) = round_trip(&config, &tensors, &tokenizer, DataType::F32);
    let metadata = |key: &str| file.metadata[&format!("tokenizer.ggml.{key}")].clone();
    assert_eq!(metadata("model"), "rwkv");
    let expected =
        ["\\n", "\\x7f", " ", "!", "a", "b", "c", "\\\\", "~", "\\xff9", "\\xff10", "\\xff11"];
    assert_eq!(metadata("tokens"), json!(expected));
    assert_eq!(metadata("token_type"), json!([1, 1, 1, 1, 1, 1, 1, 1, 1, 5, 5, 5]));
    assert_eq!(metadata("add_bos_token"), false);
    assert!(!file.metadata.contains_key("tokenizer.ggml.eos_token_id"));

    let (written, file) = round_trip(&config, &tensors, &characters("abcé"), DataType::F32);
    assert!(matches!(written.notes[..], [Note::GeluApproximated, Note::NoTokenizer { .. }]));
    assert_eq!(file.metadata["tokenizer.ggml.model"], "no_vocab");
    assert_eq!(file.metadata["gpt2.vocab_size"], 12);
}

/// Byte-pair encoding by a list of merges, of one word in the byte alphabet.
fn merge(word: &str, ranks: &HashMap<(String, String), usize>) -> Vec<String> {
    let mut parts: Vec<String> = word.chars().map(String::from).collect();
    loop {
        let rank = |at: usize| ranks.get(&(parts[at].clone(), parts[at + 1].clone())).copied();
        let best = (1..parts.len()).filter_map(|at| Some((rank(at - 1)?, at - 1))).min();
        let Some((_, at)) = best else {
            return parts;
        };
        let right = parts.remove(at + 1);
        parts[at].push_str(&right);
    }
}

fn ranks(merges: &Json) -> HashMap<(String, String), usize> {
    let pair = |text: &str| {
        let (left, right) = text.split_once(' ').unwrap();
        (left.to_string(), right.to_string())
    };
    let merges = merges.as_array().unwrap().iter().enumerate();
    merges.map(|(rank, merge)| (pair(merge.as_str().unwrap()), rank)).collect()
}

#[test]
fn gpt2s_merges_are_those_it_was_published_with() {
    // The rows beyond the tokenizer's are padding.
    let config = ModelConfig { vocab_size: Some(50_304), ..ModelConfig::new(8, 1, 1, 4) };
    let tensors = random_tensors(&config, 50_304);
    let tokenizer = SavedTokenizer::Tiktoken { encoding: "gpt2".into() };
    let (_, file) = round_trip(&config, &tensors, &tokenizer, DataType::F32);
    let metadata = |key: &str| file.metadata[&format!("tokenizer.ggml.{key}")].clone();
    assert_eq!(metadata("model"), "gpt2");
    assert_eq!(metadata("pre"), "gpt-2");
    assert_eq!(metadata("eos_token_id"), 50256);
    assert_eq!(metadata("bos_token_id"), 50256);
    let (tokens, merges, kinds) = (metadata("tokens"), metadata("merges"), metadata("token_type"));
    assert_eq!(tokens[50256], "<|endoftext|>");
    assert_eq!(kinds[50256], 3);
    assert_eq!(tokens[50303], "[PAD50303]");
    assert_eq!(kinds[50303], 5);
    let distinct: BTreeSet<&str> =
        tokens.as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(distinct.len(), 50_304, "llama.cpp requires distinct texts");

    // The first and the last of OpenAI's vocab.bpe; each makes the token of its own rank.
    assert_eq!(merges.as_array().unwrap().len(), 50_000);
    for (at, expected) in [(0, "Ġ t"), (1, "Ġ a"), (2, "h e"), (3, "i n"), (49_999, "Ġg azed")] {
        assert_eq!(merges[at], expected);
    }
    for (at, merge) in merges.as_array().unwrap().iter().enumerate() {
        assert_eq!(merge.as_str().unwrap().replace(' ', ""), tokens[256 + at].as_str().unwrap());
    }

    // The same ids come out of the merges as out of the ranks.
    let ranks = ranks(&merges);
    let encoder = tokenizer.restore().unwrap();
    let words = ["Shakespeare", " antidisestablishmentarianism", " x86_64", "日本語", "\u{1f525}"];
    for word in words {
        let alphabet = |byte: &u8| {
            // Single bytes are tokens themselves.
            let id = (0..256).find(|id| encoder.token_bytes(*id).unwrap() == [*byte]).unwrap();
            tokens[id as usize].as_str().unwrap().to_string()
        };
        let text: String = word.as_bytes().iter().map(alphabet).collect();
        let found: Vec<String> = merge(&text, &ranks);
        let expected: Vec<&str> = encoder
            .encode(word)
            .unwrap()
            .into_iter()
            .map(|id| tokens[id as usize].as_str().unwrap())
            .collect();
        assert_eq!(found, expected, "{word}");
    }
}

/// A `tokenizer.json` of four bytes, two merges and an added token.
fn small_json() -> Json {
    json!({
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "use_regex": true },
        "post_processor": null,
        "added_tokens": [{ "id": 7, "content": "<|end|>", "special": true }],
        "model": {
            "type": "BPE",
            "vocab": { "a": 0, "b": 1, "Ġ": 2, "c": 3, "ab": 4, "Ġab": 5 },
            "merges": [["a", "b"], ["Ġ", "ab"]],
        },
    })
}

fn from_json(json: &Json) -> Result<Vocabulary, GgufError> {
    huggingface_vocabulary(json, 10, Some(7), &mut Vec::new())
}

#[test]
fn huggingface_tokenizers_become_token_lists() {
    let mut json = small_json();
    let found = from_json(&json).unwrap();
    use TokenKind::{Control, Normal, Unused};
    let expected = Vocabulary {
        model: "gpt2",
        pre: "gpt-2",
        tokens: ["a", "b", "Ġ", "c", "ab", "Ġab", "[PAD6]", "<|end|>", "[PAD8]", "[PAD9]"]
            .map(String::from)
            .to_vec(),
        kinds: vec![
            Normal, Normal, Normal, Normal, Normal, Normal, Unused, Control, Unused, Unused,
        ],
        merges: vec!["a b".into(), "Ġ ab".into()],
        end_of_text: Some(7),
        beginning_of_text: None,
    };
    assert_eq!(found, expected);
    json["model"]["merges"] = json!(["a b", "Ġ ab"]);
    assert_eq!(from_json(&json).unwrap(), expected, "both forms of merges");

    json["post_processor"] = json!({
        "type": "Sequence",
        "processors": [
            { "type": "ByteLevel" },
            { "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "<|end|>" } }] },
        ],
    });
    assert_eq!(from_json(&json).unwrap().beginning_of_text, Some(7));

    json["normalizer"] = json!({ "type": "NFC" });
    let mut notes = Vec::new();
    let found = huggingface_vocabulary(&json, 10, None, &mut notes).unwrap();
    assert_eq!(notes, [Note::NotNormalised { normalizer: "NFC".into() }]);
    assert_eq!(found.end_of_text, Some(6), "a row that never comes up");
}

#[test]
fn other_tokenizers_are_refused_by_what_they_have() {
    type Change = fn(&mut Json);
    let changes: [(&str, Change); 10] = [
        ("not \"BPE\"", |json| json["model"]["type"] = json!("Unigram")),
        ("byte_fallback", |json| json["model"]["byte_fallback"] = json!(true)),
        ("end_of_word_suffix", |json| json["model"]["end_of_word_suffix"] = json!("</w>")),
        ("no model.vocab", |json| json["model"]["vocab"] = json!(null)),
        ("both have the id 1", |json| json["model"]["vocab"]["a"] = json!(1)),
        ("has the id -1", |json| json["model"]["vocab"]["a"] = json!(-1)),
        ("are both \"a\"", |json| json["added_tokens"][0]["content"] = json!("a")),
        ("not a pair", |json| json["model"]["merges"] = json!(["ab"])),
        ("does not end in ByteLevel", |json| {
            json["pre_tokenizer"] = json!({ "type": "Metaspace" })
        }),
        ("not one of GPT-2", |json| {
            json["pre_tokenizer"] = json!({
                "type": "Sequence",
                "pretokenizers": [
                    { "type": "Split", "pattern": { "Regex": "." }, "behavior": "Isolated" },
                    { "type": "ByteLevel", "use_regex": false },
                ],
            });
        }),
    ];
    for (expected, change) in changes {
        let mut json = small_json();
        change(&mut json);
        let error = from_json(&json).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, GgufError::TokenizerJson { .. }), "{text}");
        assert!(text.contains(expected), "{text}");
    }
    let mut json = small_json();
    json["added_tokens"][0]["id"] = json!(10);
    let error = from_json(&json).unwrap_err();
    assert!(matches!(error, GgufError::TooManyTokens { tokens: 11, rows: 10 }), "{error}");
}

#[test]
fn a_real_tokenizer_json_encodes_as_its_maker_says() {
    let path = golden("tokenizer-tiny/tokenizer.json");
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return;
    }
    let read = |path| serde_json::from_str::<Json>(&fs::read_to_string(path).unwrap()).unwrap();
    let found = huggingface_vocabulary(&read(path), 300, Some(299), &mut Vec::new()).unwrap();
    assert_eq!((found.pre, found.tokens.len()), ("gpt-2", 300));
    assert_eq!(found.tokens[299], "<|endoftext|>");
    let ranks = ranks(&json!(found.merges));
    let id = |text: &String| found.tokens.iter().position(|token| token == text).unwrap();
    // Texts of words with a space between: what splits others is llama.cpp's part.
    let mut cases = 0;
    for case in read(golden("tokenizer-tiny/expected.json")).as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let words: Vec<&str> = text.split(' ').collect();
        let is_word = |word: &&str| {
            !word.is_empty() && word.chars().all(|character| character.is_ascii_alphabetic())
        };
        if words.iter().all(is_word) {
            let ids: Vec<usize> = text
                .replace(' ', " Ġ")
                .split(' ')
                .flat_map(|word| merge(word, &ranks))
                .map(|token| id(&token))
                .collect();
            assert_eq!(json!(ids), case["ids"], "{text}");
            cases += 1;
        }
    }
    assert!(cases > 0, "no text of words");
}
