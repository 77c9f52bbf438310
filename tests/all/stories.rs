//! The built-in corpus, and grammars in general.

use emberlm::data::{Grammar, GrammarError, Stories, StoryScore, StoryVerdict};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
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

/// The most bytes that the rules can write, straight from the description.
fn longest(document: &Value, rule: &str) -> usize {
    let forms = |list: &str, form: &str| -> usize {
        let entries = document["entities"][list].as_array().unwrap().iter();
        entries.map(|entry| entry[form].as_str().unwrap().len()).max().unwrap()
    };
    // Each name is drawn from one list everywhere.
    let text = document["rules"].to_string();
    let list_of = |name: &str| -> String {
        let at = text.find(&format!("{{{name}=")).unwrap() + name.len() + 2;
        text[at..].chars().take_while(char::is_ascii_alphabetic).collect()
    };
    let of_text = |template: &str| -> usize {
        let mut pieces = template.split('{');
        let before = pieces.next().unwrap().len();
        pieces.fold(before, |sum, piece| {
            let (inside, after) = piece.split_once('}').unwrap();
            let inner = match inside.split_once('.') {
                None => longest(document, inside),
                Some((head, form)) => forms(&list_of(head.split('=').next().unwrap()), form),
            };
            sum + inner + after.len()
        })
    };
    let alternatives = document["rules"][rule].as_array().unwrap().iter();
    alternatives.map(|it| of_text(it["text"].as_str().unwrap())).max().unwrap()
}

/// Names, objects and colours, and what is right about each story that the grammar writes.
#[test]
fn every_story_is_judged_right() {
    let stories = Stories::new().unwrap();
    let expected = StoryVerdict { grammatical: true, names: true, object: true };
    let most = stories.longest();
    assert_eq!(most, longest(&document(), "story"));
    for seed in 0..40 {
        for story in stories.documents(100, seed, 5) {
            assert_eq!(stories.judge(&story), expected, "{story}");
            assert!(story.len() <= most);
        }
    }
    let text: Vec<String> = stories.documents(20, 1, 0).collect();
    let broken = ["no story\n".to_string(), String::new()];
    let found = stories.score(text.iter().chain(&broken));
    assert_eq!(found, StoryScore { stories: 22, grammatical: 20, names: 20, object: 20 });
}

/// A story's words and where they begin.
fn words_of(story: &str) -> Vec<(usize, &str)> {
    let words = story.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
    words.map(|word| (word.as_ptr() as usize - story.as_ptr() as usize, word)).collect()
}

/// Each of these leaves the language: a character that no text has; a story without its end or its
/// beginning, or twice, since each has one line break, and that at its end; and another child,
/// object or colour in one place of several, since a story draws two, one and one.
#[test]
fn stories_that_were_changed_are_not_accepted() {
    let stories = Stories::new().unwrap();
    let entries = |list: &str| -> Vec<String> {
        let entries = document()["entities"][list].as_array().unwrap().clone();
        entries.iter().map(|entry| entry["name"].as_str().unwrap().to_string()).collect()
    };
    let [children, objects, colors] = ["person", "object", "color"].map(entries);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut changes = [0, 0, 0];
    for story in stories.documents(1500, 8, 0) {
        let at = rng.random_range(0..story.len());
        let inserted = format!("{}#{}", &story[..at], &story[at..]);
        let twice = format!("{story}{story}");
        for changed in [&inserted, &story[..at], &twice, story.trim_end(), &format!(" {story}")] {
            assert!(!stories.judge(changed).grammatical, "{changed}");
        }
        // One of several mentions of a word becomes a word that the story has not; and whether the
        // word after it is an object.
        let words = words_of(&story);
        let mut change = |known: &[String]| {
            let of_list = |word: &str| known.iter().any(|entry| entry == word);
            let used = words.iter().enumerate().filter(|(_, (_, word))| of_list(word));
            let count = |word: &str| words.iter().filter(|(_, other)| *other == word).count();
            let used: Vec<_> = used.filter(|(_, (_, word))| count(word) > 1).collect();
            let unused: Vec<&String> = known.iter().filter(|entry| count(entry) == 0).collect();
            if used.is_empty() {
                return None;
            }
            let (number, (place, word)) = used[rng.random_range(0..used.len())];
            let new = unused[rng.random_range(0..unused.len())];
            let changed = format!("{}{new}{}", &story[..*place], &story[place + word.len()..]);
            let next =
                words.get(number + 1).is_some_and(|(_, next)| objects.iter().any(|it| it == next));
            Some((changed, next))
        };
        let colored = words.windows(2).filter(|pair| {
            let is = |known: &[String], word: &str| known.iter().any(|entry| entry == word);
            is(&colors, pair[0].1) && is(&objects, pair[1].1)
        });
        let colored = colored.count();
        let found = [&children, &objects, &colors].map(|known| change(known));
        for (number, (changed, before_object)) in
            found.into_iter().enumerate().filter_map(|(number, found)| Some((number, found?)))
        {
            let expected = StoryVerdict {
                grammatical: false,
                names: number != 0,
                object: number == 0 || (number == 2 && !(before_object && colored > 1)),
            };
            assert_eq!(stories.judge(&changed), expected, "{changed}");
            changes[number] += 1;
        }
    }
    assert!(changes.iter().all(|count| *count > 500), "{changes:?}");
}
