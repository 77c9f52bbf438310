//! Schedules against their closed forms, at their edges, and how a configuration names them.

use emberlm::config::{self, OptimizerConfig, ScheduleConfig, Source, Span};
use emberlm::train::{Schedule, planned_steps};
use serde_json::{Value, json};
use std::f64::consts::PI;

fn schedule(json: Value, steps: Option<usize>) -> Schedule {
    let config: ScheduleConfig = serde_json::from_value(json).unwrap();
    Schedule::new(&config, steps, 0)
}

#[track_caller]
fn follows(json: Value, steps: usize, after_warmup: impl Fn(f64) -> f64) {
    let schedule = schedule(json.clone(), Some(steps));
    for step in 0..2 * steps {
        let found = schedule.learning_rate(step);
        let expected = if step < 4 { (step + 1) as f64 / 5.0 } else { after_warmup(step as f64) };
        assert!((found - expected).abs() < 1e-12, "{json} {step}: {found}, not {expected}");
    }
}

#[test]
fn each_has_its_closed_form() {
    let of = |kind: &str| json!({"kind": kind, "learning_rate": 1, "warmup_steps": 4});
    let with = |kind: &str, more: Value| {
        let mut value = of(kind);
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        value
    };
    follows(of("constant"), 24, |_| 1.0);
    follows(of("linear"), 24, |s| (1.0 - (s - 4.0) / 20.0).max(0.0));
    follows(with("linear", json!({"final_learning_rate": 0.5, "decay_steps": 14})), 24, |s| {
        1.0 - 0.5 * ((s - 4.0) / 10.0).min(1.0)
    });
    follows(with("cosine", json!({"final_learning_rate": 0})), 24, |s| {
        0.5 * (1.0 + (PI * ((s - 4.0) / 20.0).min(1.0)).cos())
    });
    follows(of("inverse-sqrt"), 24, |s| (5.0 / (s + 1.0)).sqrt());
    // The last quarter of 24 steps.
    let stable = |shape: &str| {
        with("warmup-stable-decay", json!({"decay_fraction": 0.25, "decay_shape": shape}))
    };
    let share = |s: f64| ((s - 18.0) / 6.0).clamp(0.0, 1.0);
    follows(stable("linear"), 24, |s| 1.0 - share(s));
    follows(stable("1-sqrt"), 24, |s| 1.0 - share(s).sqrt());
    // Cycles of 5, 10 and 20 steps, which begin at 4, 9 and 19.
    let restarts = with("cosine-restarts", json!({"cycle_steps": 5, "cycle_factor": 2}));
    follows(restarts, 19, |s| {
        let (begin, length) = match s {
            s if s < 9.0 => (4.0, 5.0),
            s if s < 19.0 => (9.0, 10.0),
            _ => (19.0, 20.0),
        };
        0.5 * (1.0 + (PI * (s - begin) / length).cos())
    });
    let even = schedule(with("cosine-restarts", json!({"cycle_steps": 5})), None);
    for step in [4, 9, 14, 5004] {
        assert_eq!(even.learning_rate(step), 1.0, "a cycle begins at the peak");
    }
}

#[test]
fn spans_are_read_as_they_are_written() {
    for (text, expected) in [
        ("250 steps", Some(Span::Steps(250))),
        ("10M tokens", Some(Span::Tokens(10_000_000))),
        // Neither product is whole in floating point.
        ("1.001M tokens", Some(Span::Tokens(1_001_000))),
        ("2.01k steps", Some(Span::Steps(2010))),
        ("0.5 epochs", Some(Span::Epochs(0.5))),
        ("2.0001k steps", None),
        ("1000000000.5 tokens", None),
        ("0.5 steps", None),
        ("-1 epochs", None),
    ] {
        assert_eq!(text.parse().ok(), expected, "{text}");
    }
}

#[test]
fn steps_are_known_where_no_data_decides_them() {
    let steps = |assignments: &[&str]| {
        let assignments: Vec<String> = assignments.iter().map(ToString::to_string).collect();
        planned_steps(&config::load(&Source::Builtin("gpt2"), &assignments).unwrap())
    };
    let sizes = "train.batch_size=2";
    let accumulation = "train.accumulation=1";
    // Two windows of 1024 tokens a step; the last one is begun.
    let tokens = [sizes, accumulation, "train.steps=null", "train.tokens=20481"];
    assert_eq!(steps(&tokens), Some(11));
    let packed = |packing: &str| format!(r#"data={{"kind":"tokens","packing":"{packing}"}}"#);
    assert_eq!(steps(&[&tokens[..], &[&packed("stream")]].concat()), Some(11));
    assert_eq!(steps(&[&tokens[..], &[&packed("documents")]].concat()), None);
    let counted = [sizes, accumulation, "train.steps=7"];
    assert_eq!(steps(&[&counted[..], &[&packed("documents")]].concat()), Some(7));
}

#[test]
fn nothing_is_beyond_peak_and_end_at_any_edge() {
    let kinds =
        ["constant", "linear", "cosine", "cosine-restarts", "warmup-stable-decay", "inverse-sqrt"];
    for kind in kinds {
        for warmup in [0, 1, 5, usize::MAX] {
            for steps in [None, Some(0), Some(1), Some(5), Some(6), Some(usize::MAX)] {
                let mut json = json!({"kind": kind, "learning_rate": 1, "warmup_steps": warmup});
                if kind == "cosine-restarts" {
                    json["cycle_steps"] = json!(1);
                    json["cycle_factor"] = json!(3);
                }
                let schedule = schedule(json, steps);
                for step in [0, 1, 4, 5, 6, 7, 1000, usize::MAX] {
                    let rate = schedule.learning_rate(step);
                    let what = format!("{kind}, warmup {warmup}, {steps:?}, step {step}: {rate}");
                    assert!((0.0..=1.0 + 1e-15).contains(&rate), "{what}");
                }
            }
        }
    }
}

fn load(assignments: &[&str]) -> Result<config::RunConfig, String> {
    let assignments: Vec<String> = assignments.iter().map(|text| text.to_string()).collect();
    config::load(&Source::Builtin("stories"), &assignments).map_err(|error| error.to_string())
}

#[test]
fn a_change_of_kind_keeps_what_all_kinds_share() {
    let linear = load(&["train.schedule.kind=linear"]).unwrap().train.schedule;
    assert_eq!((linear.learning_rate(), linear.warmup_steps()), (3e-3, 100));
    assert_eq!(linear.final_learning_rate(), Some(0.0));
    // The kind comes first, whatever the order.
    let sgd = load(&["train.optimizer.momentum=0.5", "train.optimizer.kind=sgd"]).unwrap();
    let OptimizerConfig::Sgd(sgd) = sgd.train.optimizer else { panic!() };
    assert_eq!((sgd.momentum, sgd.weight_decay), (0.5, 0.0));
    // Naming the kind that it already is changes nothing.
    let named = load(&["train.optimizer.kind=adamw", "train.schedule.kind=cosine"]).unwrap();
    assert_eq!(named, load(&[]).unwrap());
    for kind in ["muon", "lion"] {
        let config = load(&[&format!("train.optimizer.kind={kind}")]).unwrap();
        let saved = serde_json::to_value(&config).unwrap();
        assert_eq!(config::resolve(saved).unwrap(), config);
    }
}

#[test]
fn refusals_name_the_keys() {
    for (assignments, expected) in [
        (&["train.minutes=5"][..], "train.minutes does not say at which step"),
        (&["train.minutes=5"], "train.schedule.decay_steps"),
        (&["train.schedule.decay_steps=100"], "must be above train.schedule.warmup_steps"),
        (&["train.schedule.kind=cosin"], "did you mean `cosine`?"),
        (&["train.schedule.kind=cosine-restarts"], "missing field `cycle_steps`"),
        (
            &["train.schedule.kind=cosine-restarts", "train.schedule.cycle_steps=0"],
            "`train.schedule.cycle_steps` = 0 is out of range",
        ),
        (
            &["train.schedule.kind=warmup-stable-decay", "train.schedule.decay_fraction=0"],
            "`train.schedule.decay_fraction` = 0 is out of range",
        ),
        (&["train.optimizer.kind=moun"], "did you mean `muon`?"),
        (&["train.optimizer.beta3=0"], "did you mean `beta"),
        (
            &[
                "train.optimizer.kind=sgd",
                "train.optimizer.nesterov=true",
                "train.optimizer.momentum=0",
            ],
            "above 0 where train.optimizer.nesterov is true",
        ),
        (&[r#"train.optimizer.groups=[{"parameters":"[a"}]"#], "`[a` is no pattern"),
    ] {
        let message = load(assignments).unwrap_err();
        assert!(message.contains(expected), "{assignments:?}: {message}");
    }
    assert!(load(&["train.minutes=5", "train.schedule.decay_steps=900"]).is_ok());
    assert!(load(&["train.minutes=5", "train.schedule.kind=constant"]).is_ok());
}
