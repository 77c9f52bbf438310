use burn_train::TrainStep;
use emberlm::config::{self, ConfigError, DataConfig, OptimizerConfig, RunConfig, Source};
use emberlm::data::{Example, Split, Task, TokenBatch};
use emberlm::model::{Initializer, Model, parameter_count, parameter_shapes, parameters};
use emberlm::train::{LanguageModel, gradient_norm};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

fn load(name: &str, assignments: &[&str]) -> Result<RunConfig, ConfigError> {
    let assignments: Vec<String> = assignments.iter().map(|text| text.to_string()).collect();
    config::load(&Source::find(name, None)?, &assignments)
}

fn refusal(name: &str, assignments: &[&str]) -> String {
    load(name, assignments).unwrap_err().to_string()
}

/// Those that have a model of their own.
fn complete_names() -> impl Iterator<Item = &'static str> {
    config::builtin_names()
        .filter(|name| !matches!(load(name, &[]), Err(ConfigError::Inherited { .. })))
}

#[test]
fn every_shipped_configuration_loads_under_its_own_name() {
    for name in complete_names() {
        assert_eq!(load(name, &[]).unwrap().name, name);
    }
    assert_eq!(complete_names().count() + 1, config::builtin_names().count());
    let gpt2 = load("gpt2", &[]).unwrap();
    let mut finetune = config::load_value(&Source::Builtin("finetune-shakespeare")).unwrap();
    config::inherit(&mut finetune, &gpt2).unwrap();
    let finetune = config::resolve(finetune).unwrap();
    assert_eq!((finetune.model, finetune.tokenizer), (gpt2.model, gpt2.tokenizer));
    assert_eq!(finetune.name, "finetune-shakespeare");
    assert_eq!(finetune.train.schedule.learning_rate(), 3e-5);
    let folder = crate::support::repository().join("model-configs");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let builtin: BTreeSet<String> =
        config::builtin_names().map(|name| format!("{name}.json")).collect();
    assert_eq!(files, builtin);
}

#[test]
fn shipped_recipes_are_nanogpts() {
    let cpu = load("shakespeare-char-cpu", &[]).unwrap();
    assert_eq!((cpu.model.n_layers, cpu.model.n_heads, cpu.model.d_model), (4, 4, 128));
    assert_eq!((cpu.model.context_length, cpu.train.batch_size), (64, 12));
    assert_eq!((cpu.train.steps.unwrap(), cpu.model.dropout, cpu.model.bias), (2000, 0.0, false));
    let OptimizerConfig::Adamw(optimizer) = &cpu.train.optimizer else { panic!() };
    assert_eq!((optimizer.beta1, optimizer.beta2), (0.9, 0.99));
    assert_eq!((optimizer.weight_decay, cpu.train.clip_norm), (0.1, Some(1.0)));
    let schedule = &cpu.train.schedule;
    assert_eq!((schedule.learning_rate(), schedule.final_learning_rate()), (1e-3, Some(1e-4)));
    assert_eq!((schedule.warmup_steps(), schedule.decay_steps()), (100, None));
    let gpu = load("shakespeare-char", &[]).unwrap();
    assert_eq!(
        (gpu.train.steps.unwrap(), gpu.train.batch_size, gpu.model.dropout),
        (5000, 64, 0.2)
    );
}

#[test]
fn a_resolved_configuration_resolves_to_itself() {
    for name in complete_names() {
        let config = load(name, &[]).unwrap();
        let saved = serde_json::to_value(&config).unwrap();
        assert_eq!(config::resolve(saved).unwrap(), config);
    }
}

#[test]
fn assignments_change_what_they_name_and_nothing_else() {
    let mut expected = load("stories", &[]).unwrap();
    expected.train.steps = Some(7);
    expected.model.dropout = 0.25;
    expected.sample.prompt = "Once".into();
    expected.train.clip_norm = None;
    let found = load(
        "stories",
        &["train.steps=7", "model.dropout=0.25", "sample.prompt=Once", "train.clip_norm=null"],
    );
    assert_eq!(found.unwrap(), expected);
}

#[test]
fn another_kind_replaces_an_object_whole() {
    let config = load("stories", &[r#"data={"kind": "text", "path": "a.txt"}"#]).unwrap();
    let DataConfig::Text { path, .. } = config.data else {
        panic!("{:?}", config.data);
    };
    assert_eq!(path.unwrap(), Path::new("a.txt"));
}

#[test]
fn a_file_extends_files_and_names() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: Value| {
        std::fs::write(folder.path().join(name), value.to_string()).unwrap();
        folder.path().join(name).to_str().unwrap().to_string()
    };
    write("base.json", json!({"extends": "stories", "train": {"steps": 3, "batch_size": 2}}));
    let file = write("own.json", json!({"extends": "base.json", "train": {"steps": 4}}));
    let config = load(&file, &[]).unwrap();
    let stories = load("stories", &[]).unwrap();
    assert_eq!((config.train.steps.unwrap(), config.train.batch_size), (4, 2));
    assert_eq!(config.model, stories.model);

    write("a.json", json!({"extends": "b.json"}));
    let circle = write("b.json", json!({"extends": "a.json"}));
    assert!(matches!(load(&circle, &[]), Err(ConfigError::Cycle { .. })));
    let itself = write("c.json", json!({"extends": "c.json"}));
    assert!(matches!(load(&itself, &[]), Err(ConfigError::Cycle { .. })));
    std::fs::write(folder.path().join("bad.json"), "{\"name\": ").unwrap();
    let bad = folder.path().join("bad.json");
    assert!(refusal(bad.to_str().unwrap(), &[]).contains("is not valid JSON: EOF"));
}

#[test]
fn refusals_say_what_would_be_right() {
    for (name, assignments, expected) in [
        ("storys", &[][..], "no configuration `storys`; did you mean `stories`?"),
        ("nowhere.json", &[], "cannot read the configuration file nowhere.json"),
        ("stories", &["train.step=5"], "`train.step` is not a known key; did you mean `steps`?"),
        ("stories", &["modle.d_model=5"], "`modle` is not a known key; did you mean `model`?"),
        (
            "stories",
            &["data.train_story=5"],
            "`data.train_story` is not a known key; did you mean `train_stories`?",
        ),
        ("stories", &["model.feed_forward.activation=gelo"], "did you mean `gelu`?"),
        ("stories", &["tokenizer.kind=charakter"], "did you mean `character`?"),
        ("stories", &["train.steps=many"], "`train.steps`: invalid type: string \"many\""),
        ("stories", &["train.steps"], "--set train.steps: expected path.to.key=value"),
        ("stories", &["train..steps=5"], "expected path.to.key=value"),
        (
            "stories",
            &["train.steps.more=5"],
            "`train.steps` is not an object, so it has no key below it",
        ),
        (
            "stories",
            &["model.d_model=128", "model.n_heads=3"],
            "model.d_model = 128 is not divisible by model.n_heads = 3; the nearest widths that are: 126 and 129",
        ),
        (
            "stories",
            &["model.n_heads=0"],
            "`model.n_heads` = 0 is out of range: it must be at least 1",
        ),
        (
            "stories",
            &["model.d_model=9223372036854775807"],
            "`model.d_model` = 9223372036854775807 is out of range",
        ),
        (
            "stories",
            &["train.batch_size=4294967296", "model.context_length=4294967296", "model.depth=4"],
            "`model.context_length` = 4294967296 is out of range",
        ),
        (
            "stories",
            &["tokenizer={\"kind\":\"ids\",\"vocab_size\":0}"],
            "`tokenizer.vocab_size` = 0 is out of range",
        ),
        (
            "stories",
            &["tokenizer={\"kind\":\"bpe\",\"vocab_size\":259}"],
            "`tokenizer.vocab_size` = 259 is out of range: it must be at least 256 and the number of special tokens",
        ),
        ("stories", &["model.dropout=1"], "`model.dropout` = 1 is out of range"),
        (
            "stories",
            &["train.average={\"decay\":1}"],
            "`train.average.decay` = 1 is out of range: it must be between 0 and 1",
        ),
        ("stories", &["train.clip_norm=-1"], "`train.clip_norm` = -1 is out of range"),
        ("stories", &["name=../x"], "`name` = ../x is out of range"),
    ] {
        let message = refusal(name, assignments);
        assert!(message.contains(expected), "{assignments:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn every_shipped_architecture_runs_forward_and_backward() {
    // GPT-2's sizes differ in nothing but their numbers; the largest would take minutes.
    let large = ["gpt2-medium", "gpt2-large", "gpt2-xl"];
    for name in complete_names().filter(|name| !large.contains(name)) {
        // Only the vocabulary is smaller, which is up to the tokenizer.
        let config = load(name, &["model.vocab_size=300"]).unwrap();
        struct Pass(RunConfig);
        impl emberlm::backend::Job for Pass {
            type Output = (f64, usize);
            fn run<B: emberlm::backend::TrainBackend>(self, device: B::Device) -> Self::Output {
                let Pass(config) = self;
                let initializer = Initializer::seeded(config.seed);
                let model = Model::new("pass", &config.model, 300, initializer, &device);
                let model = LanguageModel::<B>::new(model, &config.model);
                let task = Task::new(config.model.architecture, 298, config.seed);
                let split = Split::text((0..40).map(|id| id * 7 % 290).collect::<Vec<u32>>(), 40);
                let places = split.order(12, 1);
                let examples: Vec<Example> =
                    (0..2).map(|index| Example::read(&split, task, places.at(index))).collect();
                let output = TrainStep::step(&model, TokenBatch::new(&examples, 1.0));
                let norm = gradient_norm::<B, _>(&model, &output.grads);
                assert!(norm.is_finite() && norm > 0.0, "gradient norm {norm}");
                let with_gradients = parameters(&model.model)
                    .iter()
                    .filter(|parameter| match parameter.shape.len() {
                        1 => output.grads.get::<B::InnerBackend, 1>(parameter.id).is_some(),
                        _ => output.grads.get::<B::InnerBackend, 2>(parameter.id).is_some(),
                    })
                    .count();
                (output.item.loss.read(), with_gradients)
            }
        }
        let count = parameter_shapes(&config.model, 300).len();
        let experts = config.model.feed_forward.experts.is_some();
        let backend = crate::support::cpu_backends()[0];
        let (loss, with_gradients) = emberlm::backend::dispatch(backend, Pass(config)).unwrap();
        // It knows nothing yet: about the loss of a uniform guess, ln 300 = 5.7. With a tied head
        // the masked places of a new encoder resemble the mask most, which is never right.
        assert!((5.0..9.0).contains(&loss), "{name}: {loss}");
        // An expert that no token went to has no gradient.
        assert!(with_gradients == count || experts, "{name}: {with_gradients} of {count}");
    }
}

#[test]
fn depth_is_a_dial() {
    let modern = load("modern", &[]).unwrap();
    assert_eq!((modern.model.n_layers, modern.model.d_model, modern.model.n_heads), (4, 256, 4));
    assert_eq!(modern.model.context_length, 256);
    // 20 tokens for each of the 12 L D^2 parameters of the layers.
    assert_eq!(modern.train.steps.unwrap(), 20 * 12 * 4 * 256 * 256 / (16 * 256));
    let deeper = load("modern", &["model.depth=12"]).unwrap();
    assert_eq!((deeper.model.n_layers, deeper.model.d_model), (12, 768));
    assert!((deeper.train.schedule.learning_rate() - 6e-4).abs() < 1e-12);
    assert!(deeper.train.steps > modern.train.steps);
    let layers = parameter_count(&deeper.model, 0);
    let formula = 12 * 12 * 768 * 768;
    assert!((layers as f64 / formula as f64 - 1.0).abs() < 0.01, "{layers}, about {formula}");
    // What is said beside it stays, and what is said after it counts.
    let own = load("modern", &["model.depth=6", "model.n_heads=3", "train.steps=5"]).unwrap();
    assert_eq!((own.model.d_model, own.model.n_heads, own.train.steps.unwrap()), (384, 3, 5));
    // Whichever comes first.
    let own = load("modern", &["train.steps=5", "model.n_heads=3", "model.depth=6"]).unwrap();
    assert_eq!((own.model.d_model, own.model.n_heads, own.train.steps.unwrap()), (384, 3, 5));
    // From any other decoder too, whatever that was.
    let plain = load("grok", &["model.depth=2", "model.vocab_size=null"]).unwrap().model;
    assert_eq!(plain.feed_forward.experts, None);
    assert_eq!((plain.attention.soft_cap, plain.scale_embedding), (None, false));
    for bad in ["model.depth=0", "model.depth=many", "model.depth=1.5", "model.depth=1000"] {
        let message = refusal("modern", &[bad]);
        assert!(message.contains("`model.depth` = "), "{message}");
    }
}
