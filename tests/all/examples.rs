//! The examples of `examples/`, as modules: each is run, and what it says of itself is checked.

use emberlm::train::Display;
use serde_json::{Value, json};
use std::fs;

use crate::support::repository;

// Their `main` is not called here, nor is everything read that it would print.
#[allow(dead_code)]
#[path = "../../examples/custom_block.rs"]
mod custom_block;
#[allow(dead_code)]
#[path = "../../examples/custom_data.rs"]
mod custom_data;
#[allow(dead_code)]
#[path = "../../examples/custom_family.rs"]
mod custom_family;
#[allow(dead_code)]
#[path = "../../examples/custom_tokenizer.rs"]
mod custom_tokenizer;
#[allow(dead_code)]
#[path = "../../examples/train_from_code.rs"]
mod train_from_code;

#[test]
fn a_run_is_made_opened_and_continued_from_code() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = train_from_code::run(folder.path(), Display::Silent).unwrap();
    assert!(outcome.after < 0.7 * outcome.before, "{outcome:?}");
    // The same weights, read from the disk.
    assert_eq!(outcome.opened, outcome.after);
    assert!(!outcome.text.trim().is_empty());
    let again = train_from_code::run(folder.path(), Display::Silent).unwrap_err();
    assert!(again.to_string().contains("from-code"), "{again}");
}

#[test]
fn a_model_learns_from_a_source_that_is_code() {
    let outcome = custom_data::run().unwrap();
    // The answer follows from what stands before it, but the question does not: ln 10 for each of
    // its two digits, over the 6.45 characters that a sum has on average.
    let floor = 2.0 * 10f64.ln() / 6.45;
    assert!(outcome.first > 2.0 * floor && outcome.last < 1.3 * floor, "{outcome:?}");
    // By chance, one or two answers in a hundred would be right.
    assert!(outcome.right >= 50, "{outcome:?}");
}

#[test]
fn a_tokenizer_of_ones_own_trains_a_model_and_is_read_again() {
    use emberlm::data::Stories;
    use emberlm::tokenizer::{Tokenizer, fingerprint};

    let text = Stories::new().unwrap().generate(200, 3, 0);
    let words = custom_tokenizer::WordTokenizer::train(&text);
    let ids = words.encode(&text).unwrap();
    assert_eq!(words.decode(&ids), text);
    assert!(3 * ids.len() < text.len(), "{} tokens of {} bytes", ids.len(), text.len());
    let restored = words.saved().restore().unwrap();
    assert_eq!(restored.encode(&text).unwrap(), ids);
    assert_eq!(fingerprint(restored.as_ref()), fingerprint(&words));
    let odd = " xyzzy";
    assert!(words.encode(odd).unwrap_err().to_string().contains("xyzzy"));
    assert!(restored.encode(odd).is_err());

    let outcome = custom_tokenizer::run().unwrap();
    assert!(outcome.after < 0.5 * outcome.before, "{outcome:?}");
}

#[test]
fn a_configuration_chooses_a_block_of_ones_own() {
    let file = repository().join("examples/custom_block.json");
    let outcome = custom_block::run(&file).unwrap();
    assert!(outcome.after < 0.8 * outcome.before, "{outcome:?}");
    assert_eq!(outcome.factors.len(), 8);
    assert!(outcome.factors.iter().all(|factor| *factor != 0.0), "{outcome:?}");

    let folder = tempfile::tempdir().unwrap();
    let mut value: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    value["recipe"]["train"]["steps"] = json!(3);
    let mut with = |block: Value| {
        value["block"] = block;
        let path = folder.path().join("block.json");
        fs::write(&path, value.to_string()).unwrap();
        custom_block::run(&path)
    };
    let standard = with(json!({"kind": "standard"})).unwrap();
    assert!(standard.factors.is_empty() && standard.after < standard.before, "{standard:?}");
    let unknown = with(json!({"kind": "rezer"})).unwrap_err();
    assert!(format!("{unknown:#}").contains("rezero"), "{unknown:#}");
    // What its loop does not do is refused.
    for (train, expected) in [
        (json!({ "epochs": 1 }), "counts its length in steps"),
        (json!({ "steps": 3, "accumulation": 2 }), "a step of this example is one batch"),
    ] {
        value["block"] = json!({ "kind": "standard" });
        value["recipe"]["train"] = train;
        let path = folder.path().join("block.json");
        fs::write(&path, value.to_string()).unwrap();
        let refused = custom_block::run(&path).unwrap_err();
        assert!(refused.to_string().contains(expected), "{refused}");
    }
}

#[test]
fn blocks_in_a_model_of_ones_own_are_those_of_the_library() {
    use burn::tensor::{Int, Tensor};
    use custom_block::{BlockConfig, CustomModel, Layer};
    use emberlm::config;
    use emberlm::model::{Gpt, Initializer};

    crate::on_each_backend!(|device: B| {
        let config = config::resolve(json!({"name": "same", "model": {
            "d_model": 16, "n_layers": 2, "n_heads": 2, "context_length": 8, "vocab_size": 11
        }}))
        .unwrap();
        let tokens = Tensor::<B, 2, Int>::from_data([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]], &device);
        let own = CustomModel::<B>::new(&config, BlockConfig::Standard {}, &device);
        let seed = Initializer::seeded(config.seed);
        let library = Gpt::<B>::new("same", &config.model, 11, seed, &device);
        let expected = library.forward(tokens.clone()).into_data();
        assert_eq!(own.forward(tokens.clone()).into_data(), expected);

        // Layers that are multiplied by zero leave nothing but the embedding.
        let rezero = CustomModel::<B>::new(&config, BlockConfig::Rezero {}, &device);
        let mut none = rezero.clone();
        none.layers.clear();
        assert!(matches!(rezero.layers[..], [Layer::Rezero(_), Layer::Rezero(_)]));
        let expected = none.forward(tokens.clone()).into_data();
        assert_eq!(rezero.forward(tokens).into_data(), expected);
    });
}

#[test]
fn a_family_outside_the_library_is_imported() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = custom_family::run(folder.path()).unwrap();
    assert_eq!((outcome.difference, &outcome.text[..]), (0.0, "a bad cab"));

    let theirs = folder.path().join("theirs");
    let settings = theirs.join("config.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&settings).unwrap()).unwrap();
    let mut refused = |key: &str, new: Value| {
        let old = std::mem::replace(&mut value[key], new);
        fs::write(&settings, value.to_string()).unwrap();
        let error = match custom_family::open(&theirs) {
            Ok(_) => panic!("{key} is not refused"),
            Err(error) => format!("{error:#}"),
        };
        value[key] = old;
        error
    };
    assert!(refused("voice_sharing", json!(true)).contains("voice_sharing"));
    assert!(refused("model_type", json!("clerk")).contains("clerk"));
    assert!(refused("pages", json!(3)).contains("page.2.calm_1"));
}
