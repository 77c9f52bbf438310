//! Sweeps: what is written, which trials follow from it, and which of them go on.

use emberlm::config;
use emberlm::sweep::{
    Distribution, Ended, Leaderboard, Ledger, Measured, Method, Metric, Rung, Status, Sweep, Trial,
    builtin_sweeps, rungs, short_names, survivors,
};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::BTreeSet;

use crate::support::{numbers, repository};

fn parse(document: &Value) -> Result<Sweep, String> {
    Sweep::parse(&document.to_string(), "mine.json", None).map_err(|error| error.to_string())
}

fn random(search: Value, trials: usize, seed: u64) -> Vec<Trial> {
    let method = json!({ "kind": "random", "trials": trials, "seed": seed });
    parse(&json!({ "name": "mine", "search": search, "method": method })).unwrap().trials()
}

/// The values of a key over all trials.
fn values(trials: &[Trial], path: &str) -> Vec<f64> {
    let of = |trial: &Trial| {
        let setting = trial.settings.iter().find(|setting| setting.path == path).unwrap();
        setting.value.as_f64().unwrap()
    };
    trials.iter().map(of).collect()
}

#[test]
fn a_grid_has_every_combination() {
    let search = json!({
        "model.n_layers": [1, 2, 3],
        "train.schedule.learning_rate": { "kind": "choice", "values": [1e-3, 1e-2] },
        "train.optimizer": [{ "kind": "sgd" }, { "kind": "lion" }],
    });
    let sweep = parse(&json!({ "name": "mine", "search": search })).unwrap();
    assert_eq!((sweep.method, sweep.metric), (Method::Grid {}, Metric::Loss));
    let mut expected = Vec::new();
    for layers in [1, 2, 3] {
        for kind in ["sgd", "lion"] {
            for rate in [1e-3, 1e-2] {
                expected.push(vec![
                    format!("model.n_layers={layers}"),
                    format!(r#"train.optimizer={{"kind":"{kind}"}}"#),
                    format!("train.schedule.learning_rate={rate}"),
                ]);
            }
        }
    }
    let trials = sweep.trials();
    let found: Vec<Vec<String>> = trials
        .iter()
        .map(|trial| trial.settings.iter().map(|setting| setting.assignment()).collect())
        .collect();
    assert_eq!(found, expected);
    let names: Vec<String> = trials.iter().map(|trial| trial.run("mine")).collect();
    assert_eq!((names[0].as_str(), names[11].as_str()), ("mine-001", "mine-012"));
    assert_eq!(sweep.rungs(12), [Rung { steps: None, trials: 12 }]);
    // What is tried is a configuration.
    for trial in trials {
        let mut value = sweep.base.clone();
        let set: Vec<String> = trial.settings.iter().map(|it| it.assignment()).collect();
        config::override_values(&mut value, &set).unwrap();
        config::resolve(value).unwrap();
    }
}

/// The largest distance between the share of draws below a number and what it should be
/// (Kolmogorov), times the root of how many there are: above 1.95 once in a thousand times.
fn kolmogorov(mut drawn: Vec<f64>, share: impl Fn(f64) -> f64) -> f64 {
    drawn.sort_by(f64::total_cmp);
    let count = drawn.len() as f64;
    let distance = |(place, value): (usize, &f64)| {
        let below = share(*value);
        (below - place as f64 / count).abs().max((below - (place + 1) as f64 / count).abs())
    };
    drawn.iter().enumerate().map(distance).fold(0.0, f64::max) * count.sqrt()
}

#[test]
fn draws_are_distributed_as_they_should_be() {
    let search = json!({
        "train.schedule.learning_rate": { "kind": "log-uniform", "low": 1e-5, "high": 1e-1 },
        "model.dropout": { "kind": "uniform", "low": 0.1, "high": 0.5 },
        "model.n_layers": [1, 2, 4, 8],
        "model.d_model": { "kind": "uniform", "low": 30, "high": 130, "step": 32 },
        "train.z_loss": { "kind": "log-uniform", "low": 0.001, "high": 0.1, "step": 0.001 },
    });
    let count = 4000;
    let trials = random(search.clone(), count, 7);
    let rates = values(&trials, "train.schedule.learning_rate");
    assert!(rates.iter().all(|rate| (1e-5..=1e-1).contains(rate)));
    assert!(kolmogorov(rates.clone(), |rate| (rate / 1e-5).ln() / 1e4f64.ln()) < 1.95);
    // It is not just any distribution that passes.
    assert!(kolmogorov(rates.clone(), |rate| (rate - 1e-5) / (1e-1 - 1e-5)) > 20.0);
    let dropouts = values(&trials, "model.dropout");
    assert!(kolmogorov(dropouts.clone(), |dropout| (dropout - 0.1) / 0.4) < 1.95);

    // Shares of the values, each within four deviations.
    let share = |path: &str, value: f64, expected: f64| {
        let found = values(&trials, path).iter().filter(|it| **it == value).count() as f64;
        let deviation = (count as f64 * expected * (1.0 - expected)).sqrt();
        assert!((found - count as f64 * expected).abs() < 4.0 * deviation, "{path} {value}");
    };
    for layers in [1.0, 2.0, 4.0, 8.0] {
        share("model.n_layers", layers, 0.25);
    }
    // The multiples between 30 and 130, by how much of that is nearest to each.
    for (width, nearest) in [(32.0, 18.0), (64.0, 32.0), (96.0, 32.0), (128.0, 18.0)] {
        share("model.d_model", width, nearest / 100.0);
    }
    let widths = trials.iter().flat_map(|trial| &trial.settings);
    let mut widths = widths.filter(|setting| setting.path == "model.d_model");
    assert!(widths.all(|setting| setting.value.is_i64()), "a width is a whole number");
    for value in values(&trials, "train.z_loss") {
        assert!((0.001..=0.1).contains(&value));
        assert!(((value / 0.001).round() * 0.001 - value).abs() < 1e-12, "{value}");
    }
    // Keys know nothing of each other.
    let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
    let logs: Vec<f64> = rates.iter().map(|rate| rate.ln()).collect();
    let (a, b) = (mean(&logs), mean(&dropouts));
    let products = logs.iter().zip(&dropouts).map(|(x, y)| (x - a) * (y - b)).sum::<f64>();
    let squares = |all: &[f64], mean: f64| all.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    let correlation = products / (squares(&logs, a) * squares(&dropouts, b)).sqrt();
    assert!(correlation.abs() < 4.0 / (count as f64).sqrt(), "{correlation}");

    // Same seed, same trials, and more of them begin with fewer.
    assert_eq!(random(search.clone(), 50, 7), trials[..50]);
    assert_ne!(random(search, 50, 8), trials[..50]);
    let one = Distribution::Choice { values: vec![json!("only")] };
    assert_eq!(one.draw(&mut ChaCha8Rng::seed_from_u64(1)), "only");
}

/// Li et al. 2018, table 1: the brackets of their example with more than one rung.
#[test]
fn rungs_are_those_of_the_paper() {
    for (trials, steps, expected) in [
        (81, 1, &[(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)][..]),
        (34, 3, &[(34, 3), (11, 9), (3, 27), (1, 81)]),
        (15, 9, &[(15, 9), (5, 27), (1, 81)]),
        (8, 27, &[(8, 27), (2, 81)]),
    ] {
        let expected: Vec<Rung> = expected
            .iter()
            .map(|(trials, steps)| Rung { steps: Some(*steps), trials: *trials })
            .collect();
        assert_eq!(rungs(trials, steps, 3), expected);
    }
    let halved: Vec<usize> = rungs(16, 100, 2).iter().map(|rung| rung.trials).collect();
    assert_eq!(halved, [16, 8, 4, 2, 1]);
}

#[test]
fn the_best_go_on() {
    for seed in 0..40 {
        let count = 3 + seed as usize % 20;
        // Coarse, so that some are equal.
        let losses: Vec<(usize, f64)> = numbers(count, seed + 1)
            .into_iter()
            .enumerate()
            .map(|(place, x)| (2 * place + 1, (f64::from(x) * 5.0).round()))
            .collect();
        for wanted in 0..=count + 1 {
            // Those of which fewer than so many are better.
            let better = |(trial, loss): &(usize, f64)| {
                let is_better = |other: &&(usize, f64)| {
                    other.1 < *loss || (other.1 == *loss && other.0 < *trial)
                };
                losses.iter().filter(is_better).count()
            };
            let expected: Vec<usize> =
                losses.iter().filter(|it| better(it) < wanted).map(|it| it.0).collect();
            assert_eq!(survivors(&losses, wanted), expected);
        }
    }
    let odd = [(1, f64::NAN), (2, 3.0), (3, f64::INFINITY), (4, 1.0)];
    assert_eq!(survivors(&odd, 3), [2, 4]);
}

#[test]
fn built_in_sweeps_are_of_configurations_that_can_be() {
    let folder = repository().join("sweep-configs");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let builtin: BTreeSet<String> = builtin_sweeps().map(|name| format!("{name}.json")).collect();
    assert_eq!(files, builtin);
    for name in builtin_sweeps() {
        let sweep = Sweep::load(name).unwrap();
        assert_eq!(sweep.name, name);
        for trial in sweep.trials() {
            let mut value = sweep.base.clone();
            let set: Vec<String> = trial.settings.iter().map(|it| it.assignment()).collect();
            config::override_values(&mut value, &set).unwrap();
            config::resolve(value).unwrap();
        }
    }
    let error = Sweep::load("learning-rat").unwrap_err().to_string();
    assert!(
        error.contains("no sweep `learning-rat`; built in are learning-rate, shape"),
        "{error}"
    );
    let error = Sweep::load("nowhere.json").unwrap_err().to_string();
    assert!(error.starts_with("cannot read the sweep nowhere.json: "), "{error}");
}

#[test]
fn what_makes_no_sense_is_named() {
    let search = json!({ "train.z_loss": [0.1, 0.2] });
    let base = json!({ "name": "mine", "search": search });
    assert!(parse(&base).is_ok());
    let with = |key: &str, value: Value| {
        let mut document = base.clone();
        document[key] = value;
        parse(&document).unwrap_err()
    };
    let searching = |value: Value| with("search", json!({ "train.z_loss": value }));
    let random = |value: Value| json!({ "kind": "random", "trials": value });
    let halving = |trials: usize, steps: u64, factor: usize| json!({ "kind": "successive-halving", "trials": trials, "steps": steps, "factor": factor });
    for (error, expected) in [
        (with("serach", json!({})), "`serach` is not a known key; did you mean `search`?"),
        (with("name", json!("a/b")), "`name` = a/b is out of range: it must be letters"),
        (with("name", json!("")), "`name` =  is out of range"),
        (with("config", json!("storys")), "no configuration `storys`; did you mean `stories`?"),
        (with("search", json!({})), "`search` = {} is out of range"),
        (with("metric", json!("los")), "unknown variant `los`"),
        (with("method", json!({ "kind": "gird" })), "did you mean `grid`?"),
        (with("method", json!({ "kind": "random" })), "missing field `trials`"),
        (with("method", random(json!(0))), "`method.trials` = 0 is out of range"),
        (with("method", halving(1, 5, 2)), "`method.trials` = 1 is out of range"),
        (with("method", halving(9, 0, 3)), "`method.steps` = 0 is out of range"),
        (with("method", halving(9, 5, 1)), "`method.factor` = 1 is out of range"),
        (with("method", halving(9, 5, 10)), "`method.factor` = 10 is out of range"),
        (with("set", json!({ "train.z_loss": 1 })), "say the same key"),
        (with("set", json!({ "name.x": 1 })), "`name` is not an object"),
        (searching(json!([])), "`search.train.z_loss.values` = [] is out of range"),
        (searching(json!(5)), "search.train.z_loss"),
        (
            searching(json!({ "kind": "uniform", "low": 1, "hihg": 2 })),
            "`search.train.z_loss.hihg` is not a known key; did you mean `high`?",
        ),
        (searching(json!({ "kind": "normal" })), "unknown variant `normal`"),
        (
            searching(json!({ "kind": "uniform", "low": 1, "high": 2 })),
            "a grid tries all values, and `train.z_loss` has none but bounds",
        ),
        (
            searching(json!({ "kind": "log-uniform", "low": 0, "high": 2 })),
            "`search.train.z_loss.low` = 0 is out of range: it must be above 0",
        ),
        (
            searching(json!({ "kind": "uniform", "low": 2, "high": 2 })),
            "`search.train.z_loss.high` = 2 is out of range",
        ),
        (
            searching(json!({ "kind": "uniform", "low": 1, "high": 2, "step": 5 })),
            "`search.train.z_loss.step` = 5 is out of range",
        ),
    ] {
        assert!(error.contains(expected), "{error}");
        assert!(error.starts_with("mine.json: ") && !error.contains('\n'), "{error}");
    }
    let method = halving(9, 5, 3);
    let search = json!({ "train.steps": [5, 6] });
    let error = parse(&json!({ "name": "a", "search": search, "method": method })).unwrap_err();
    assert!(error.contains("`method.steps` and `search.train.steps` say the same key"), "{error}");
    let search = json!({ "train": [{}], "train.z_loss": [1] });
    let error = parse(&json!({ "name": "a", "search": search })).unwrap_err();
    assert!(error.contains("`train` and `train.z_loss` say the same key"), "{error}");
    let many: Vec<usize> = (0..101).collect();
    let search = json!({ "train.batch_size": many, "model.n_layers": many });
    let error = parse(&json!({ "name": "a", "search": search })).unwrap_err();
    assert!(error.contains("the grid has 10201 trials, and 10000 are the most"), "{error}");
    let error = Sweep::parse("{", "mine.json", None).unwrap_err().to_string();
    assert!(error.starts_with("mine.json is not valid JSON: "), "{error}");
}

#[test]
fn keys_are_shortened_as_far_as_they_stay_apart() {
    let paths =
        ["model.dropout", "train.optimizer.weight_decay", "train.optimizer.adamw.weight_decay"];
    let short = short_names(&paths.map(String::from));
    assert_eq!(short, ["dropout", "optimizer.weight_decay", "adamw.weight_decay"]);
}

#[test]
fn what_was_not_measured_is_no_good() {
    let measured =
        Measured { steps: 1, loss: 2.0, bits_per_byte: Some(3.0), params: 4, seconds: 5.0 };
    assert_eq!((measured.score(Metric::Loss), measured.score(Metric::BitsPerByte)), (2.0, 3.0));
    let pairs = Measured { bits_per_byte: None, ..measured };
    assert_eq!(survivors(&[(1, pairs.score(Metric::BitsPerByte))], 1), [0; 0]);
}

/// In floating point 0.3 / 0.1 is less than 3, and 3 * 0.1 more than 0.3.
#[test]
fn bounds_that_are_multiples_of_a_step_are_drawn() {
    for (low, high, step, expected) in [
        (0.0, 0.3, 0.1, &[0.0, 0.1, 0.2, 0.3][..]),
        (0.25, 0.3, 0.1, &[0.3]),
        (0.7, 0.9, 0.1, &[0.7, 0.8, 0.9]),
        (-0.3, 0.1, 0.2, &[-0.2, 0.0]),
    ] {
        let search = json!({ "train.z_loss": { "kind": "uniform", "low": low, "high": high, "step": step } });
        let mut found = values(&random(search, 200, 1), "train.z_loss");
        found.sort_by(f64::total_cmp);
        found.dedup();
        assert_eq!(found, expected, "{low} to {high} by {step}");
    }
}

fn measured(loss: f64, bits_per_byte: Option<f64>) -> Ended {
    Ended::Finished(Measured { steps: 1, loss, bits_per_byte, params: 1, seconds: 1.0 })
}

#[test]
fn a_ledger_knows_what_it_was_told_in_any_order() {
    let root = tempfile::tempdir().unwrap();
    let search = json!({ "model.n_layers": [1, 2, 3] });
    let sweep = parse(&json!({ "name": "mine", "search": search })).unwrap();
    let mut ledger = Ledger::open(root.path(), &sweep).unwrap();
    let told = [(3, 0), (1, 1), (1, 0), (3, 1), (1, 2)];
    for (number, (trial, rung)) in told.into_iter().enumerate() {
        ledger.record(trial, rung, measured(number as f64, None)).unwrap();
    }
    ledger.record(1, 1, measured(9.0, None)).unwrap();
    for _ in 0..2 {
        assert_eq!(ledger.result(3, 0), Some(&measured(0.0, None)));
        assert_eq!(ledger.result(1, 1), Some(&measured(9.0, None)));
        assert_eq!([(2, 0), (3, 2), (0, 0), (4, 0)].map(|(a, b)| ledger.result(a, b)), [None; 4]);
        assert_eq!(ledger.last(1), Some((2, &measured(4.0, None))));
        assert_eq!(ledger.last(3), Some((1, &measured(3.0, None))));
        assert_eq!([0, 2, 4].map(|trial| ledger.last(trial)), [None; 3]);
        // Also from the disk, where another order may be.
        drop(ledger);
        let path = root.path().join("sweeps/mine/sweep.json");
        let mut kept: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        kept["results"].as_array_mut().unwrap().reverse();
        std::fs::write(&path, kept.to_string()).unwrap();
        ledger = Ledger::open(root.path(), &sweep).unwrap();
    }
}

#[test]
fn what_was_not_measured_has_no_rank_and_the_metric_stays() {
    let root = tempfile::tempdir().unwrap();
    let search = json!({ "model.n_layers": [1, 2, 3, 4] });
    let document = json!({ "name": "mine", "search": search, "metric": "bits-per-byte" });
    let sweep = parse(&document).unwrap();
    let mut ledger = Ledger::open(root.path(), &sweep).unwrap();
    ledger.record(1, 0, measured(0.1, None)).unwrap();
    ledger.record(2, 0, measured(0.2, Some(2.0))).unwrap();
    ledger.record(3, 0, measured(0.3, Some(1.5))).unwrap();
    let board = Leaderboard::new("mine", sweep.paths(), &ledger);
    let rows = board.rows.iter().map(|row| (row.trial.number, row.rank, row.status));
    let expected = [
        (3, Some(1), Status::Finished),
        (2, Some(2), Status::Finished),
        (1, None, Status::Finished),
        (4, None, Status::Open),
    ];
    assert_eq!(rows.collect::<Vec<_>>(), expected);
    assert_eq!(board.best().unwrap().trial.number, 3);

    drop(ledger);
    let other = Sweep { metric: Metric::Loss, ..sweep.clone() };
    let error = Ledger::open(root.path(), &other).unwrap_err().to_string();
    assert!(error.contains("was begun as another one: its metric was another one"), "{error}");
    let mut ledger = Ledger::open(root.path(), &sweep).unwrap();
    assert_eq!(Leaderboard::new("mine", sweep.paths(), &ledger), board);

    ledger.record(2, 0, measured(0.2, None)).unwrap();
    ledger.record(3, 0, measured(0.3, None)).unwrap();
    assert_eq!(Leaderboard::new("mine", sweep.paths(), &ledger).best(), None);
}
