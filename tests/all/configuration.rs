use emberlm::config::{self, ConfigError, DataConfig, RunConfig, Source};
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

#[test]
fn every_shipped_configuration_loads_under_its_own_name() {
    for name in config::builtin_names() {
        assert_eq!(load(name, &[]).unwrap().name, name);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("model-configs");
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
    assert_eq!((cpu.train.steps, cpu.model.dropout, cpu.model.bias), (2000, 0.0, false));
    assert_eq!((cpu.train.optimizer.beta1, cpu.train.optimizer.beta2), (0.9, 0.99));
    assert_eq!((cpu.train.optimizer.weight_decay, cpu.train.clip_norm), (0.1, Some(1.0)));
    let schedule = &cpu.train.schedule;
    assert_eq!((schedule.learning_rate, schedule.final_learning_rate), (1e-3, 1e-4));
    assert_eq!((schedule.warmup_steps, schedule.decay_steps), (100, None));
    let gpu = load("shakespeare-char", &[]).unwrap();
    assert_eq!((gpu.train.steps, gpu.train.batch_size, gpu.model.dropout), (5000, 64, 0.2));
}

#[test]
fn a_resolved_configuration_resolves_to_itself() {
    for name in config::builtin_names() {
        let config = load(name, &[]).unwrap();
        let saved = serde_json::to_value(&config).unwrap();
        assert_eq!(config::resolve(saved).unwrap(), config);
    }
}

#[test]
fn assignments_change_what_they_name_and_nothing_else() {
    let mut expected = load("stories", &[]).unwrap();
    expected.train.steps = 7;
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
    assert_eq!((config.train.steps, config.train.batch_size), (4, 2));
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
        ("stories", &["model.dropout=1"], "`model.dropout` = 1 is out of range"),
        ("stories", &["train.clip_norm=-1"], "`train.clip_norm` = -1 is out of range"),
        ("stories", &["name=../x"], "`name` = ../x is out of range"),
    ] {
        let message = refusal(name, assignments);
        assert!(message.contains(expected), "{assignments:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}
