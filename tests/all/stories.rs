//! The built-in corpus, and grammars in general.

use emberlm::data::{Grammar, GrammarError, Stories};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

fn document() -> Value {
    serde_json::from_str(include_str!("../../datasets/stories/grammar.json")).unwrap()
}

type Kept = BTreeMap<String, (String, usize)>;

/// All texts of a rule with their probabilities: an interpreter of its own, straight from the
/// description in datasets/stories/README.md.
fn enumerate(document: &Value, rule: &str) -> Vec<(String, f64)> {
    fn extend(
        document: &Value,
        template: &str,
        text: String,
        kept: Kept,
        probability: f64,
        out: &mut Vec<(String, Kept, f64)>,
    ) {
        let Some((before, rest)) = template.split_once('{') else {
            out.push((text + template, kept, probability));
            return;
        };
        let (inside, rest) = rest.split_once('}').unwrap();
        let text = text + before;
        let Some((head, form)) = inside.split_once('.') else {
            for (inner, kept, p) in rule_texts(document, inside, kept) {
                extend(document, rest, text.clone() + &inner, kept, probability * p, out);
            }
            return;
        };
        let Some((name, list)) = head.split_once('=') else {
            let (list, entry) = kept[head].clone();
            let word = document["entities"][&list][entry][form].as_str().unwrap();
            return extend(document, rest, text + word, kept, probability, out);
        };
        let (list, except) = list.split_once('-').unwrap_or((list, ""));
        let entries = document["entities"][list].as_array().unwrap();
        let taken = kept.get(except).map(|(_, entry)| *entry);
        let choices = entries.len() - usize::from(taken.is_some());
        for (entry, forms) in entries.iter().enumerate().filter(|(entry, _)| Some(*entry) != taken)
        {
            let mut kept = kept.clone();
            kept.insert(name.into(), (list.into(), entry));
            let text = text.clone() + forms[form].as_str().unwrap();
            extend(document, rest, text, kept, probability / choices as f64, out);
        }
    }
    fn rule_texts(document: &Value, rule: &str, kept: Kept) -> Vec<(String, Kept, f64)> {
        let alternatives = document["rules"][rule].as_array().unwrap();
        let total: f64 = alternatives.iter().map(|a| a["weight"].as_f64().unwrap()).sum();
        let mut out = Vec::new();
        for alternative in alternatives {
            let p = alternative["weight"].as_f64().unwrap() / total;
            let template = alternative["text"].as_str().unwrap();
            extend(document, template, String::new(), kept.clone(), p, &mut out);
        }
        out
    }
    let texts = rule_texts(document, rule, Kept::new());
    texts.into_iter().map(|(text, _, p)| (text, p)).collect()
}

#[test]
fn probabilities_of_all_texts_sum_to_one_and_each_has_one_derivation() {
    // The rules that need nothing drawn before them can be enumerated whole.
    for rule in ["opening", "waking", "meeting"] {
        let document = document();
        let grammar = Grammar::parse(&document.to_string(), rule).unwrap();
        let texts = enumerate(&document, rule);
        let distinct: BTreeSet<&String> = texts.iter().map(|(text, _)| text).collect();
        assert_eq!(distinct.len(), texts.len());
        let total: f64 = texts.iter().map(|(_, p)| p).sum();
        assert!((total - 1.0).abs() < 1e-9, "{rule}: {total}");
        let entropy: f64 = texts.iter().map(|(_, p)| -p * p.ln()).sum();
        assert!((entropy - grammar.entropy()).abs() < 1e-9, "{rule}");
        let length: f64 = texts.iter().map(|(text, p)| p * text.len() as f64).sum();
        assert!((length - grammar.expected_length()).abs() < 1e-9, "{rule}");
        for (text, p) in texts.iter().step_by(97) {
            let derivations = grammar.derivations(text);
            assert_eq!(derivations.len(), 1, "{text}");
            assert!((derivations[0] - p.ln()).abs() < 1e-9, "{text}");
        }
    }
}

#[test]
fn the_mean_log_probability_of_stories_is_the_entropy_of_the_source() {
    let stories = Stories::new().unwrap();
    let count = 4000;
    let text = stories.generate(count, 11, 0);
    let log_probabilities: Vec<f64> = text
        .split_inclusive('\n')
        .map(|story| {
            let derivations = stories.grammar().derivations(story);
            assert_eq!(derivations.len(), 1, "{story}");
            derivations[0]
        })
        .collect();
    assert_eq!(log_probabilities.len(), count);
    let mean = -log_probabilities.iter().sum::<f64>() / count as f64;
    let variance = log_probabilities.iter().map(|l| (l + mean).powi(2)).sum::<f64>() / count as f64;
    let error = (variance / count as f64).sqrt();
    let entropy = stories.grammar().entropy();
    assert!((mean - entropy).abs() < 5.0 * error, "{mean}, entropy {entropy}, error {error}");
    let length = text.len() as f64 / count as f64;
    let expected = stories.grammar().expected_length();
    assert!((length - expected).abs() < 0.02 * expected, "{length}, expected {expected}");
    assert!((stories.entropy_per_character() - entropy / expected).abs() < 1e-12);
}

#[test]
fn stories_are_plain_and_varied() {
    let stories = Stories::new().unwrap();
    let text = stories.generate(3000, 1, 0);
    assert!(text.is_ascii());
    let words: BTreeSet<&str> =
        text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty()).collect();
    assert!(words.len() >= 300, "{} words", words.len());
    for story in text.lines() {
        assert!(!story.contains("  ") && !story.contains(['{', '}']), "{story}");
        assert!(story.matches('.').count() >= 6, "several sentences: {story}");
        assert!(story.ends_with(['.', '"']), "{story}");
    }
    assert_eq!(text, stories.generate(3000, 1, 0));
    assert_ne!(text, stories.generate(3000, 1, 1));
    assert_ne!(text, stories.generate(3000, 2, 0));
    let train: BTreeSet<&str> = text.lines().collect();
    let other = stories.generate(500, 1, 1);
    assert_eq!(other.lines().filter(|story| train.contains(story)).count(), 0);
}

#[test]
fn other_texts_have_no_derivation() {
    let stories = Stories::new().unwrap();
    let story = stories.generate(1, 5, 0);
    let hero = story.split(|c: char| !c.is_alphabetic()).find(|word| {
        document()["entities"]["person"]
            .as_array()
            .unwrap()
            .iter()
            .any(|person| person["name"] == **word)
    });
    let hero = hero.unwrap();
    // Another hero in the last sentence only: grammatical sentences that contradict each other.
    let at = story.rfind(hero).unwrap();
    let changed = format!("{}Zoe{}", &story[..at], &story[at + hero.len()..]);
    for text in ["", "\n", &story[1..], &story[..story.len() - 1], &changed, &story.repeat(2)] {
        assert!(stories.grammar().derivations(text).is_empty(), "{text}");
    }
}

#[test]
fn faults_of_a_grammar_are_found() {
    let parse = |rules: Value| {
        let entities = json!({"animal": [{"name": "cat"}, {"name": "dog"}],
            "thing": [{"name": "cap"}, {"name": "caps"}]});
        Grammar::parse(&json!({"entities": entities, "rules": rules}).to_string(), "s").err()
    };
    let one = |text: &str| json!([{"weight": 1, "text": text}]);
    let two = |a: &str, b: &str| json!([{"weight": 1, "text": a}, {"weight": 2, "text": b}]);
    assert_eq!(parse(json!({"s": two("a {x=animal.name}", "b")})), None);
    let rule = || "s".to_string();
    for (rules, expected) in [
        (json!({"s": one("{t}")}), GrammarError::NoRule { rule: rule(), name: "t".into() }),
        (json!({"s": one("{s}")}), GrammarError::Recursive { rule: rule() }),
        (
            json!({"s": one("{x.name}")}),
            GrammarError::NoForm { rule: rule(), list: "x".into(), form: "name".into() },
        ),
        (
            json!({"s": one("{x.name} {x=animal.name}")}),
            GrammarError::NotDrawn { rule: rule(), name: "x".into() },
        ),
        (
            json!({"s": one("{x=animal.age}")}),
            GrammarError::NoForm { rule: rule(), list: "x".into(), form: "age".into() },
        ),
        (json!({"s": one("a {x")}), GrammarError::OpenBrace { rule: rule(), text: "a {x".into() }),
        (
            json!({"s": two("a", "ab")}),
            GrammarError::Ambiguous { rule: rule(), first: 1, second: 2 },
        ),
        (
            json!({"s": two("cat sat", "{x=animal.name} ran")}),
            GrammarError::Ambiguous { rule: rule(), first: 1, second: 2 },
        ),
        (
            json!({"s": one("{x=thing.name}")}),
            GrammarError::UnclearDraw { rule: rule(), name: "x".into(), form: "name".into() },
        ),
        (json!({"s": []}), GrammarError::NoAlternative { rule: rule() }),
    ] {
        assert_eq!(parse(rules), Some(expected));
    }
}
