//! Models of other projects: imported, computed with, and handed back.

use burn::tensor::{DType, ElementConversion, Int, Tensor, TensorData};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tempfile::TempDir;

use emberlm::artifact::{Run, read_tensors, write_tensors};
use emberlm::backend::{GptBackend, Job, TrainBackend};
use emberlm::config::{Architecture, ModelConfig, PositionConfig, Residual};
use emberlm::generate::{Sampler, Sampling};
use emberlm::interop::{Export, Family};
use emberlm::model::{Gpt, Model, parameter_shapes};
use emberlm::tokenizer::{self, HuggingFaceTokenizer, MergesTokenizer, SavedTokenizer, Tokenizer};
use emberlm::train::LanguageModel;

use crate::command_line::{emberlm, refused, stdout};
use crate::on_each_backend;
use crate::support::{Inner, assert_close, floats, golden, golden_batch, on_cpu_backends, shared};

const FAMILIES: [&str; 10] = [
    "gpt2-tiny",
    "llama-tiny",
    "llama3-tiny",
    "mistral-tiny",
    "qwen2-tiny",
    "qwen3-tiny",
    "gemma-tiny",
    "gemma2-tiny",
    "gpt-neox-tiny",
    "phi-tiny",
];

#[track_caller]
fn import(folder: &Path, model: &Path) -> String {
    let output = emberlm(folder, &["import", model.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    stdout(&output)
}

/// A folder with a run of each golden family.
static RUNS: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let text = import(folder.path(), &golden(family));
        assert!(text.contains(&format!("run: artifacts/{family}")), "{text}");
    }
    folder
});

fn load<B: GptBackend>(folder: &Path, run: &str, device: &B::Device) -> Gpt<B> {
    let run = Run::open(&folder.join("artifacts"), run).unwrap();
    match run.load_model(device).unwrap() {
        Model::Gpt(model) => model,
        other => panic!("imported as {other:?}"),
    }
}

fn ids<B: GptBackend>(ids: &[u32], device: &B::Device) -> Tensor<B, 2, Int> {
    let values: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    Tensor::from_data(TensorData::new(values, [1, ids.len()]), device)
}

/// Logits and loss of a run against the reference that transformers computed.
fn check<B: GptBackend>(folder: &Path, run: &str, family: &str, device: &B::Device) {
    let reference = read_tensors(&golden(family).join("reference.safetensors")).unwrap();
    let model: Gpt<B> = load(folder, run, device);
    let batch = golden_batch(&reference);
    let expected: Vec<f64> = reference["logits"].iter::<f64>().collect();
    let found = floats(model.forward(batch.inputs(device)).into_data());
    // 2e-5: f32 sums are added in another order here.
    assert_close(&found, &expected, 2e-5, &format!("logits of {run}"));
    let model = LanguageModel::new(Model::Gpt(model), &ModelConfig::new(8, 1, 1, 1));
    let loss: f64 = model.loss(&batch).into_scalar().elem();
    let expected: f64 = reference["loss"].iter::<f64>().next().unwrap();
    // 1e-5: the loss is a mean over logits.
    assert!((loss - expected).abs() < 1e-5, "{run}: loss {loss}, expected {expected}");
}

#[test]
fn each_family_computes_what_transformers_does() {
    on_each_backend!(|device: B| {
        for family in FAMILIES {
            check::<B::InnerBackend>(RUNS.path(), family, family, &device);
        }
    });
}

/// A copy of a golden's model whose files may be changed.
fn copy(folder: &Path, family: &str, name: &str) -> PathBuf {
    let to = folder.join(name);
    fs::create_dir(&to).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::write(to.join(file), fs::read(golden(family).join(file)).unwrap()).unwrap();
    }
    to
}

fn change(folder: &Path, file: &str, key: &str, value: Value) {
    let path = folder.join(file);
    let mut settings: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    settings[key] = value;
    fs::write(path, settings.to_string()).unwrap();
}

#[test]
fn half_precision_is_widened() {
    let folder = tempfile::tempdir().unwrap();
    let weights = read_tensors(&golden("llama-tiny/model.safetensors")).unwrap();
    // A name, a type, what a number is in a file, and what it is afterwards.
    type Kind = (&'static str, Dtype, fn(f32) -> [u8; 2], fn(f32) -> f32);
    let kinds: [Kind; 2] = [
        ("f16", Dtype::F16, |x| f16::from_f32(x).to_le_bytes(), |x| f16::from_f32(x).to_f32()),
        ("bf16", Dtype::BF16, |x| bf16::from_f32(x).to_le_bytes(), |x| bf16::from_f32(x).to_f32()),
    ];
    for (name, dtype, narrow, rounded) in kinds {
        let model = copy(folder.path(), "llama-tiny", name);
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = weights
            .iter()
            .map(|(name, data)| {
                let bytes = data.iter::<f32>().flat_map(narrow).collect();
                (name.clone(), data.shape.to_vec(), bytes)
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            (name, TensorView::new(dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &model.join("model.safetensors")).unwrap();
        import(folder.path(), &model);

        let path = folder.path().join("artifacts").join(name);
        let path = path.join("checkpoints/step-00000000/model.safetensors");
        let found = floats(read_tensors(&path).unwrap()["embedding.token"].clone());
        let expected: Vec<f32> =
            weights["model.embed_tokens.weight"].iter::<f32>().map(rounded).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn shards_are_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy(folder.path(), "llama-tiny", "shards");
    let mut weights: Vec<_> =
        read_tensors(&model.join("model.safetensors")).unwrap().into_iter().collect();
    weights.sort_by(|a, b| a.0.cmp(&b.0));
    fs::remove_file(model.join("model.safetensors")).unwrap();
    let (first, second) = weights.split_at(weights.len() / 2);
    let mut map = serde_json::Map::new();
    for (shard, number) in [(first, 1), (second, 2)] {
        let name = format!("model-0000{number}-of-00002.safetensors");
        write_tensors(&model.join(&name), shard, HashMap::new()).unwrap();
        map.extend(shard.iter().map(|(tensor, _)| (tensor.clone(), name.clone().into())));
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(model.join("model.safetensors.index.json"), index).unwrap();
    import(folder.path(), &model);
    let read = |folder: &Path, run: &str| {
        let path = folder.join("artifacts").join(run);
        fs::read(path.join("checkpoints/step-00000000/model.safetensors")).unwrap()
    };
    assert!(read(folder.path(), "shards") == read(RUNS.path(), "llama-tiny"));

    fs::remove_file(model.join("model-00002-of-00002.safetensors")).unwrap();
    let lost = emberlm(folder.path(), &["import", "shards", "--run", "lost"]);
    let message = String::from_utf8_lossy(&lost.stderr).into_owned();
    assert_eq!(lost.status.code(), Some(2), "{message}");
    assert!(message.contains("model-00002-of-00002.safetensors"), "{message}");
    assert!(!folder.path().join("artifacts/lost").exists());
}

/// A copy of a golden with one thing wrong, which import must name.
#[track_caller]
fn import_refuses(family: &str, spoil: impl Fn(&Path), expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let model = copy(folder.path(), family, "model");
    spoil(&model);
    refused(folder.path(), &["import", "model"], expected);
}

#[test]
fn options_without_a_counterpart_are_refused_by_name() {
    let set = |key: &'static str, value: Value| {
        move |model: &Path| change(model, "config.json", key, value.clone())
    };
    let rope = |value: Value| set("rope_parameters", value);
    import_refuses(
        "llama-tiny",
        set("model_type", json!("mamba")),
        "model_type `mamba` is not supported; supported are gpt2, llama, mistral",
    );
    import_refuses("llama-tiny", set("model_type", json!(null)), "model_type `(missing)`");
    import_refuses(
        "llama-tiny",
        rope(json!({"rope_type": "yarn", "factor": 4.0})),
        "`rope_parameters.rope_type` = yarn is not supported: default, linear and llama3 are",
    );
    import_refuses(
        "llama-tiny",
        rope(json!({"full_attention": {"rope_type": "default"}})),
        "`rope_parameters.full_attention`",
    );
    import_refuses("llama-tiny", rope(json!({"rope_type": "linear"})), "rope_parameters.factor");
    import_refuses(
        "llama-tiny",
        rope(json!({"rope_type": "default", "rope_theta": "500000"})),
        "`rope_parameters.rope_theta` = \"500000\" is not supported: a number is needed",
    );
    import_refuses("llama-tiny", rope(json!({"rope_type": "linear", "factor": -1.0})), "factor");
    import_refuses("llama-tiny", set("hidden_act", json!("tanh")), "`hidden_act` = tanh");
    import_refuses(
        "llama-tiny",
        set("hidden_size", json!("many")),
        "config.json cannot be used: invalid type",
    );
    import_refuses("llama-tiny", set("num_attention_heads", json!(0)), "model.n_heads");
    import_refuses(
        "llama-tiny",
        set("quantization_config", json!({"bits": 4})),
        "`quantization_config` = {\"bits\":4} is not supported: its weights are quantized",
    );
    import_refuses(
        "gpt2-tiny",
        set("scale_attn_by_inverse_layer_idx", json!(true)),
        "`scale_attn_by_inverse_layer_idx` = true is not supported",
    );
    import_refuses("gpt2-tiny", set("add_cross_attention", json!(true)), "add_cross_attention");
    import_refuses(
        "gemma2-tiny",
        set("layer_types", json!(["full_attention", "sliding_attention", "full_attention"])),
        "`layer_types` = full sliding full is not supported",
    );
    import_refuses(
        "gemma2-tiny",
        set("layer_types", json!(["sliding_attention"])),
        "the model has 3 layers",
    );
    import_refuses(
        "gemma-tiny",
        set("use_bidirectional_attention", json!(true)),
        "use_bidirectional_attention",
    );
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let with_weights = |edit: fn(&mut HashMap<String, TensorData>)| {
        move |model: &Path| {
            let path = model.join("model.safetensors");
            let mut weights = read_tensors(&path).unwrap();
            edit(&mut weights);
            let weights: Vec<_> = weights.into_iter().collect();
            write_tensors(&path, &weights, HashMap::new()).unwrap();
        }
    };
    import_refuses(
        "llama-tiny",
        with_weights(|weights| {
            weights.remove("model.layers.1.self_attn.k_proj.weight");
        }),
        "tensor `model.layers.1.self_attn.k_proj.weight` is missing; the configuration says it has shape [16, 48]",
    );
    import_refuses(
        "llama-tiny",
        with_weights(|weights| {
            let zeros = TensorData::new(vec![0f32; 15 * 48], [15, 48]);
            weights.insert("model.layers.1.self_attn.k_proj.weight".into(), zeros);
        }),
        "tensor `model.layers.1.self_attn.k_proj.weight` is [15, 48], the configuration says [16, 48]",
    );
    import_refuses(
        "llama-tiny",
        with_weights(|weights| {
            weights.insert("model.extra".into(), TensorData::new(vec![0f32; 6], [2, 3]));
        }),
        "tensor `model.extra` [2, 3] has no place",
    );
    let truncate = |model: &Path| {
        let path = model.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 4]).unwrap();
    };
    import_refuses("llama-tiny", truncate, "is not a whole safetensors file");
    let pickle = |model: &Path| {
        fs::rename(model.join("model.safetensors"), model.join("pytorch_model.bin")).unwrap();
    };
    import_refuses("llama-tiny", pickle, "only as pytorch_model.bin, a pickle");
    let none = |model: &Path| fs::remove_file(model.join("model.safetensors")).unwrap();
    import_refuses("llama-tiny", none, "has neither config.json with model.safetensors");
}

#[test]
fn what_is_no_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    refused(folder.path(), &["import", "empty"], "has neither config.json");
    refused(folder.path(), &["import", "nothing"], "there is no folder nothing");
    refused(folder.path(), &["import", "a/b/c"], "there is no folder a/b/c");
    fs::write(folder.path().join("empty/model.safetensors"), "").unwrap();
    let weights = "empty/model.safetensors";
    let expected =
        format!("{weights} is a file; give the folder that it is in: emberlm import empty");
    refused(folder.path(), &["import", weights], &expected);
}

#[test]
fn buffers_of_older_programs_and_missing_prefixes_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy(folder.path(), "gpt2-tiny", "bare");
    let path = model.join("model.safetensors");
    let mut weights: Vec<_> = read_tensors(&path)
        .unwrap()
        .into_iter()
        .map(|(name, data)| (name.strip_prefix("transformer.").unwrap().to_string(), data))
        .collect();
    weights.push(("h.0.attn.bias".into(), TensorData::new(vec![1f32; 4], [1, 1, 2, 2])));
    let head = weights.iter().find(|(name, _)| name == "wte.weight").unwrap().1.clone();
    weights.push(("lm_head.weight".into(), head));
    write_tensors(&path, &weights, HashMap::new()).unwrap();
    import(folder.path(), &model);
    let model: Vec<u8> =
        fs::read(folder.path().join("artifacts/bare/checkpoints/step-00000000/model.safetensors"))
            .unwrap();
    let expected = RUNS.path().join("artifacts/gpt2-tiny/checkpoints/step-00000000");
    assert!(model == fs::read(expected.join("model.safetensors")).unwrap());
}

#[test]
fn an_imported_run_can_be_used_like_any_other() {
    let text = succeed(
        RUNS.path(),
        &["generate", "llama-tiny", "--prompt", "<1><2>", "--max-tokens", "3"],
    );
    assert!(text.starts_with("<1><2><"), "{text}");
    let path = RUNS.path().join("ids.txt");
    fs::write(&path, "<1><2><3><4><5><6><7><8>".repeat(40)).unwrap();
    let text = succeed(RUNS.path(), &["eval", "llama-tiny", "--data", path.to_str().unwrap()]);
    assert!(text.contains("nats a token"), "{text}");
    let output = emberlm(RUNS.path(), &["generate", "llama-tiny", "--prompt", "words"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("this model came without a tokenizer"), "{message}");
    let again = emberlm(
        RUNS.path(),
        &["import", golden("llama-tiny").to_str().unwrap(), "--run", "llama-tiny"],
    );
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists already"));
}

#[track_caller]
fn succeed(folder: &Path, args: &[&str]) -> String {
    let output = emberlm(folder, args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    stdout(&output)
}

/// Logits at all positions, `[T, V]` in one row.
#[derive(Clone)]
struct Logits<'a>(&'a Path, &'a str, &'a [u32]);

impl Job for Logits<'_> {
    type Output = Vec<f32>;

    fn run<B: TrainBackend>(self, device: B::Device) -> Vec<f32> {
        let model: Gpt<Inner<B>> = load(self.0, self.1, &device);
        floats(model.forward(ids(self.2, &device)).into_data())
    }
}

#[test]
fn the_logits_command_prints_what_the_model_computes() {
    let run = ["logits", "llama-tiny", "--tokens", "5, 17,200,3"];
    for (kind, expected) in on_cpu_backends(Logits(RUNS.path(), "llama-tiny", &[5, 17, 200, 3])) {
        let text =
            succeed(RUNS.path(), &[&run[..], &["--json", "--backend", kind.name()]].concat());
        let document: Value = serde_json::from_str(&text).unwrap();
        let rows = document["logits"].as_array().unwrap();
        assert_eq!(rows.len(), 4);
        let found: Vec<f32> = rows
            .iter()
            .flat_map(|row| row.as_array().unwrap())
            .map(|logit| logit.as_f64().unwrap() as f32)
            .collect();
        assert_eq!(found, expected, "{kind}");
    }
    let table = succeed(RUNS.path(), &run);
    assert_eq!(table.lines().count(), 5, "{table}");
}

#[test]
fn the_logits_command_refuses_what_is_no_token() {
    let long = vec!["1"; 65].join(",");
    for (tokens, expected) in [
        ("", "--tokens is empty"),
        ("1,,2", "`` is not a token id"),
        ("1,x", "`x` is not a token id"),
        ("-1", "`-1` is not a token id"),
        ("1,211", "there is no token 211; the vocabulary has 0 to 210"),
        ("99999999999999999999999", "is not a token id"),
        (long.as_str(), "--tokens has 65 ids, and the model sees at most 64"),
    ] {
        let output = emberlm(RUNS.path(), &["logits", "llama-tiny", &format!("--tokens={tokens}")]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected) && message.lines().count() == 1, "{message}");
    }
}

/// The model of templateGPT's author, imported, and what PyTorch computes with it.
static TEMPLATE: LazyLock<Option<(TempDir, Value)>> = LazyLock::new(|| {
    let model = shared("checkpoints/templategpt-llama3-1m")?;
    let folder = tempfile::tempdir().unwrap();
    let output = emberlm(folder.path(), &["import", model.to_str().unwrap(), "--run", "template"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = fs::read_to_string(model.join("expected.json")).unwrap();
    Some((folder, serde_json::from_str(&expected).unwrap()))
});

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn token_ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn template_gpts_tokenizer_gives_its_ids() {
    let Some((folder, expected)) = &*TEMPLATE else { return };
    let run = Run::open(&folder.path().join("artifacts"), "template").unwrap();
    let tokenizer = run.tokenizer().unwrap();
    assert_eq!(tokenizer.vocab_size(), 2048);
    let (begin, end) = (tokenizer.beginning_of_text().unwrap(), tokenizer.end_of_text().unwrap());
    assert_eq!(expected["bos_id"], begin);
    assert_eq!(expected["eos_id"], end);
    let text = expected["text"].as_str().unwrap();
    let ids = tokenizer.encode(text).unwrap();
    assert_eq!([&[begin], &ids[..], &[end]].concat(), token_ids(&expected["token_ids"]));
    assert_eq!(tokenizer.decode(&token_ids(&expected["token_ids"])), text);
}

#[test]
fn template_gpts_model_computes_what_it_did() {
    if TEMPLATE.is_none() {
        return;
    }
    on_each_backend!(|device: B| {
        let Some((folder, expected)) = &*TEMPLATE else { return };
        let model: Gpt<B::InnerBackend> = load(folder.path(), "template", &device);
        let all = token_ids(&expected["token_ids"]);
        let logits = floats(model.forward(ids(&all, &device)).into_data());
        let rows: Vec<&[f32]> = logits.chunks(2048).collect();
        // 1e-3: PyTorch ran it with other sums, and its logits reach 20.
        let (first, last) = ("logits_first_position", "logits_last_position");
        assert_close(rows[0], &numbers(&expected[first]), 1e-3, first);
        assert_close(rows[rows.len() - 1], &numbers(&expected[last]), 1e-3, last);

        let losses = rows.iter().zip(&all[1..]).map(|(row, target)| {
            let largest = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
            let sum: f64 = row.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
            largest + sum.ln() - f64::from(row[*target as usize])
        });
        let mean = losses.sum::<f64>() / (all.len() - 1) as f64;
        let known = expected["mean_cross_entropy_nats"].as_f64().unwrap();
        assert!((mean - known).abs() < 1e-4, "{mean}, expected {known}");

        let greedy = Sampling { temperature: 0.0, top_k: None, top_p: None, min_p: None };
        let continuation = token_ids(&expected["greedy_ids"]);
        let sampler = Sampler::new(greedy, 0).unwrap();
        let prompt = token_ids(&expected["prompt_ids"]);
        assert_eq!(model.generate(&prompt, continuation.len(), sampler), continuation);
    });
}

#[test]
fn template_gpts_run_continues_a_story() {
    let Some((folder, expected)) = &*TEMPLATE else { return };
    let prompt = expected["prompt"].as_str().unwrap();
    let args = ["generate", "template", "--temperature", "0", "--max-tokens", "48", "--prompt"];
    let text = succeed(folder.path(), &[&args[..], &[prompt]].concat());
    assert_eq!(text.trim_end(), expected["greedy_text"].as_str().unwrap());
}

#[test]
fn hugging_faces_tokenizers_give_its_ids_and_come_back() {
    let path = golden("tokenizer-tiny");
    let expected = fs::read_to_string(path.join("expected.json")).unwrap();
    let expected: Vec<Value> = serde_json::from_str(&expected).unwrap();
    for file in ["tokenizer.json", "vocab.json"] {
        let saved = tokenizer::read(&path.join(file)).unwrap();
        // As it is kept in a run.
        let json = serde_json::to_string(&saved).unwrap();
        let saved: SavedTokenizer = serde_json::from_str(&json).unwrap();
        let tokenizer = saved.restore().unwrap();
        assert_eq!(tokenizer.vocab_size(), 300);
        assert_eq!(tokenizer.token_bytes(299).unwrap(), b"<|endoftext|>");
        assert_eq!(tokenizer.token_bytes(300), None);
        for case in &expected {
            let text = case["text"].as_str().unwrap();
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(ids, token_ids(&case["ids"]), "{file}: {text:?}");
            assert_eq!(tokenizer.decode_bytes(&ids), text.as_bytes(), "{file}: {text:?}");
        }
    }
}

/// A small vocabulary in the manner of SentencePiece, as Llama 2 has it.
fn sentence_piece() -> String {
    let mut vocabulary: Vec<(String, u32)> =
        ["<unk>", "<s>", "</s>"].into_iter().map(String::from).zip(0..).collect();
    vocabulary.extend((0..=255).map(|byte: u32| (format!("<0x{byte:02X}>"), byte + 3)));
    for (id, piece) in (259..).zip(["▁", "a", "b", "▁a", "ab", "▁ab"]) {
        vocabulary.push((piece.into(), id));
    }
    let vocabulary: serde_json::Map<String, Value> =
        vocabulary.into_iter().map(|(token, id)| (token, id.into())).collect();
    let special = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    json!({
        "version": "1.0",
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocabulary, "merges": ["▁ a", "a b", "▁ ab"],
        },
    })
    .to_string()
}

#[test]
fn sentence_pieces_are_bytes_too() {
    let tokenizer = HuggingFaceTokenizer::new(&sentence_piece(), Some(2)).unwrap();
    assert_eq!(tokenizer.beginning_of_text(), Some(1));
    assert_eq!(tokenizer.end_of_text(), Some(2));
    assert_eq!(tokenizer.encode("ab é").unwrap(), [262, 261, 259, 3 + 0xC3, 3 + 0xA9]);
    // The space before a text is the tokenizer's own.
    for text in ["ab é", "a\nb", "日本", " ab"] {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids), format!(" {text}"));
    }
    assert_eq!(tokenizer.token_bytes(2).unwrap(), b"</s>");
}

#[test]
fn tokenizers_that_cannot_be_used_are_refused() {
    let wordpiece = sentence_piece().replace("\"ByteFallback\"", "\"WordPiece\"");
    for (json, expected) in [
        ("{", "EOF"),
        ("{}", "cannot be used as a tokenizer"),
        (wordpiece.as_str(), "its decoder `WordPiece`"),
    ] {
        let error = HuggingFaceTokenizer::new(json, None).unwrap_err().to_string();
        assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
    }
    for merges in [vec![(97, 300)], vec![(97, 98), (97, 98)], vec![(256, 97)]] {
        assert!(MergesTokenizer::new(merges).is_err());
    }
}

#[test]
fn merges_are_made_in_their_order_from_left_to_right() {
    let tokenizer = MergesTokenizer::new(vec![(97, 97), (256, 97), (98, 256)]).unwrap();
    for (text, expected) in [
        ("", &[][..]),
        ("a", &[97]),
        ("aaa", &[257]),
        ("aaaa", &[256, 256]),
        ("aaaaa", &[256, 257]),
        ("baa", &[258]),
        ("é", &[0xC3, 0xA9]),
    ] {
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text}");
    }
    assert_eq!(tokenizer.decode(&[259, 258, 260]), "baa");
}

#[test]
fn token_ids_are_text_where_there_is_no_tokenizer() {
    let tokenizer = SavedTokenizer::Ids { vocab_size: 20 }.restore().unwrap();
    assert_eq!(tokenizer.encode("<0><19>").unwrap(), [0, 19]);
    assert_eq!(tokenizer.decode(&[0, 19]), "<0><19>");
    assert!(tokenizer.encode("").unwrap().is_empty());
    for text in ["<20>", "<>", "<1", "1", "<01>", "<+1>", "<1> <2>", "<é>"] {
        assert!(tokenizer.encode(text).is_err(), "{text}");
    }
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn what_is_exported_is_what_was_imported() {
    let folder = tempfile::tempdir().unwrap();
    for (family, class) in [
        ("gpt2-tiny", "GPT2LMHeadModel"),
        ("llama-tiny", "LlamaForCausalLM"),
        ("llama3-tiny", "LlamaForCausalLM"),
        ("mistral-tiny", "MistralForCausalLM"),
        ("qwen2-tiny", "Qwen2ForCausalLM"),
        ("qwen3-tiny", "Qwen3ForCausalLM"),
    ] {
        let to = folder.path().join("exported").join(family);
        let arguments = ["export", family, "--to", "huggingface", to.to_str().unwrap()];
        let text = succeed(RUNS.path(), &arguments);
        assert!(text.contains(&format!("{family}: exported as {class}")), "{text}");
        assert!(text.contains("tokenizer.json was left out: the model has none"), "{text}");
        let found = read_tensors(&to.join("model.safetensors")).unwrap();
        let expected = read_tensors(&golden(family).join("model.safetensors")).unwrap();
        assert_eq!(found.len(), expected.len(), "{family}");
        for (name, expected) in expected {
            // Bit by bit: nothing is computed on the way.
            assert!(found[&name] == expected, "{family}: {name}");
        }
        let (found, golden) =
            (read_json(&to.join("config.json")), read_json(&golden(family).join("config.json")));
        assert_eq!(found["architectures"], golden["architectures"]);
        assert_eq!(found["model_type"], golden["model_type"]);

        import(folder.path(), &to);
        let config = |root: &Path| {
            let run = Run::open(&root.join("artifacts"), family).unwrap();
            let mut config = run.config().model.clone();
            // What was left open is filled in.
            (config.n_kv_heads, config.head_dim, config.d_ff) =
                (Some(config.n_kv_heads()), Some(config.head_dim()), Some(config.d_ff()));
            config
        };
        assert_eq!(config(folder.path()), config(RUNS.path()), "{family}");
    }
    let again = folder.path().join("exported/gpt2-tiny");
    let output = emberlm(
        RUNS.path(),
        &["export", "gpt2-tiny", "--to", "huggingface", again.to_str().unwrap()],
    );
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("exists already; choose another folder"), "{message}");
}

/// The same numbers in two bytes each.
#[test]
fn parameters_are_made_of_numbers_of_any_kind() {
    for name in ["gpt2-tiny", "llama-tiny", "gemma-tiny", "gpt-neox-tiny"] {
        let family = Family::find(&read_json(&golden(name).join("config.json"))).unwrap();
        let config = family.model_config(&read_json(&golden(name).join("config.json"))).unwrap();
        let theirs = read_tensors(&golden(name).join("model.safetensors")).unwrap();
        for (parameter, shape) in parameter_shapes(&config, config.vocab_size.unwrap()) {
            let assembled = |is_half: bool| {
                let read = |name: &str| {
                    let half = theirs[name].clone().convert::<bf16>();
                    Ok::<_, Infallible>(if is_half { half } else { half.convert::<f32>() })
                };
                family.assemble(&config, &parameter, &shape, read).unwrap().unwrap()
            };
            let (found, expected) = (assembled(true), assembled(false));
            assert_eq!((found.dtype, &found.shape), (DType::F32, &expected.shape));
            assert!(found == expected, "{name}: {parameter}");
        }
    }
}

#[test]
fn what_no_class_has_is_refused_by_name() {
    let mut plain = ModelConfig::new(16, 2, 2, 8);
    plain.vocab_size = Some(10);
    assert_eq!(Export::new(&plain).unwrap().class(), "GPT2LMHeadModel");
    // Without biases it is a GPT-2 whose biases are zero.
    let bare = ModelConfig { bias: false, ..plain.clone() };
    assert_eq!(Export::new(&bare).unwrap().class(), "GPT2LMHeadModel");
    // A window that hides nothing is none.
    let mut wide = plain.clone();
    wide.attention.window = Some(8);
    assert_eq!(Export::new(&wide).unwrap().class(), "GPT2LMHeadModel");
    type Edit = fn(&mut ModelConfig);
    let cases: [(Edit, &str); 6] = [
        (|model| model.attention.window = Some(7), "model.attention.window = 7"),
        (|model| model.position = PositionConfig::Alibi {}, "model.position.kind = \"alibi\""),
        (|model| model.logit_soft_cap = Some(30.0), "model.logit_soft_cap = 30.0"),
        (|model| model.residual = Residual::Parallel, "model.residual = \"parallel\""),
        (|model| model.architecture = Architecture::Encoder, "model.architecture = \"encoder\""),
        (|model| model.feed_forward.gated = true, "model.feed_forward.gated = true"),
    ];
    for (edit, expected) in cases {
        let mut config = plain.clone();
        edit(&mut config);
        let message = Export::new(&config).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("GPT2LMHeadModel"), "{message}");
    }
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("gemma2");
    let output = emberlm(
        RUNS.path(),
        &["export", "gemma2-tiny", "--to", "huggingface", to.to_str().unwrap()],
    );
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("the run gemma2-tiny cannot be exported: no class"), "{message}");
    assert!(message.contains("model.attention.soft_cap = 1.5"), "{message}");
    assert!(!to.exists());
}

#[test]
fn exported_tokenizers_give_the_same_ids() {
    let text = "It's a test:\n\n  12 naïve  cats\tsaw 日本 's 🐈! ";
    let mut characters: Vec<char> = text.chars().collect();
    characters.sort_unstable();
    characters.dedup();
    let merges = vec![(32, 97), (97, 116), (256, 257), (10, 10)];
    for saved in [
        SavedTokenizer::Character { characters: characters.into_iter().collect() },
        SavedTokenizer::Tiktoken { encoding: "gpt2".into() },
        SavedTokenizer::Merges { merges },
    ] {
        let exported = tokenizer::to_hugging_face(&saved).unwrap();
        let ours = saved.restore().unwrap();
        let theirs = HuggingFaceTokenizer::new(&exported.json, exported.eos()).unwrap();
        assert_eq!(theirs.vocab_size(), ours.vocab_size());
        assert_eq!(theirs.end_of_text(), ours.end_of_text());
        assert_eq!(exported.bos(), ours.beginning_of_text());
        let ids = ours.encode(text).unwrap();
        assert_eq!(theirs.encode(text).unwrap(), ids);
        assert_eq!(theirs.decode(&ids), text);
    }
    let no =
        tokenizer::to_hugging_face(&SavedTokenizer::Tiktoken { encoding: "o200k_base".into() });
    assert!(no.unwrap_err().to_string().contains("o200k_base"));
    // Two ways to the same bytes.
    let merges = vec![(97, 97), (256, 97), (97, 256)];
    let no = tokenizer::to_hugging_face(&SavedTokenizer::Merges { merges });
    assert!(no.unwrap_err().to_string().contains("the same bytes"));
}

#[test]
fn a_run_becomes_a_file_for_llama_cpp() {
    let folder = tempfile::tempdir().unwrap();
    import(folder.path(), &golden("qwen3-tiny"));
    let export = |file: &str, extra: &[&str]| {
        let args = [&["export", "qwen3-tiny", "--to", "gguf", file][..], extra].concat();
        let text = succeed(folder.path(), &args);
        assert!(text.contains("exported for llama.cpp's qwen3"), "{text}");
        assert!(text.contains("token ids only"), "{text}");
        let bytes = fs::read(folder.path().join(file)).unwrap();
        assert_eq!(&bytes[..8], b"GGUF\x03\0\0\0");
        bytes.len()
    };
    let whole = export("model.gguf", &[]);
    assert!(export("half.gguf", &["--type", "f16"]) < whole);
    assert!(export("small.gguf", &["--type", "q8_0"]) < whole);
    let again = ["export", "qwen3-tiny", "--to", "gguf", "small.gguf"];
    let output = emberlm(folder.path(), &again);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("small.gguf exists already"), "{message}");
    import(folder.path(), &golden("gemma2-tiny"));
    let output = emberlm(folder.path(), &["export", "gemma2-tiny", "--to", "gguf", "x.gguf"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(!folder.path().join("x.gguf").exists());
    let output = emberlm(
        folder.path(),
        &["export", "gemma2-tiny", "--to", "huggingface", "x", "--type", "f16"],
    );
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("--type is for --to gguf"), "{message}");
}

#[test]
fn a_damaged_pytorch_file_is_refused() {
    let Some(folder) = shared("checkpoints/templategpt-llama3-1m") else {
        return;
    };
    let whole = fs::read(folder.join("model.pth")).unwrap();
    let spoiled = |spoil: &dyn Fn(&mut Vec<u8>), expected: &str| {
        let work = tempfile::tempdir().unwrap();
        let model = work.path().join("model");
        fs::create_dir(&model).unwrap();
        for file in ["model_config.json", "merges.json"] {
            fs::write(model.join(file), fs::read(folder.join(file)).unwrap()).unwrap();
        }
        let mut bytes = whole.clone();
        spoil(&mut bytes);
        fs::write(model.join("model.pth"), bytes).unwrap();
        refused(work.path(), &["import", "model"], expected);
    };
    spoiled(&|bytes| bytes[2_000_000] ^= 1, "model.pth: it is damaged or cut off: ");
    spoiled(&|bytes| bytes.truncate(2_000_000), "model.pth: it is damaged or cut off: ");
    spoiled(&Vec::clear, "model.pth: ");
}
