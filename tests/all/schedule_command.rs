//! `emberlm schedule`: what it says is what a training does, and what it draws is the curve.

use serde_json::Value;
use std::fs;
use std::path::Path;

use crate::command_line::{SHORT, TINY, emberlm, refused, stdout};

const COLUMNS: usize = 80;

/// Calls the command with assignments.
#[track_caller]
fn schedule(folder: &Path, config: &str, assignments: &[&str], extra: &[&str]) -> String {
    let set = assignments.iter().flat_map(|assignment| ["--set", *assignment]);
    let args: Vec<&str> = ["schedule", config].into_iter().chain(set).collect();
    let output = emberlm(folder, &[&args[..], extra].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    stdout(&output)
}

/// The steps and the learning rates of JSON lines.
fn rates<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(u64, f64)> {
    lines
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line.get("learning_rate").is_some())
        .map(|line| (line["step"].as_u64().unwrap(), line["learning_rate"].as_f64().unwrap()))
        .collect()
}

#[test]
fn it_has_the_steps_and_rates_of_a_training() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (length, steps) in [
        ("train.steps=9", Some(9)),
        // 2 windows of 32 tokens a step: 8 steps are enough, 7 are not.
        ("train.tokens=500", Some(8)),
        // However many these are, the two agree.
        ("train.epochs=0.1", None),
    ] {
        let sets = [length, "train.schedule.warmup_steps=3"];
        let own = ["--set", sets[0], "--set", sets[1], "--run", length];
        let output = emberlm(path, &[&["train"], &TINY[..], &SHORT, &own].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let run = path.join("artifacts").join(length);
        let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let expected = rates(metrics.lines());
        assert!(steps.is_none_or(|steps| steps == expected.len()), "{length}: {}", expected.len());
        assert!(expected.len() > 3);

        // Of the settings, and of the configuration that the run keeps.
        let kept = run.join("config.json");
        let found = schedule(path, kept.to_str().unwrap(), &[], &["--json"]);
        assert_eq!(rates(found.lines()), expected, "{length}");
        let sets: Vec<&str> = TINY[1..].iter().chain(&SHORT).copied().chain(sets).collect();
        let sets: Vec<&str> = sets.into_iter().filter(|argument| *argument != "--set").collect();
        let found = schedule(path, "stories", &sets, &["--json"]);
        assert_eq!(rates(found.lines()), expected, "{length}");
    }
}

/// The dots of a plot's curve, right and up from the corner, and the dots that there is room for.
fn dots(plot: &str) -> (Vec<(usize, usize)>, usize, usize) {
    let rows: Vec<Vec<char>> =
        plot.lines().filter_map(|line| Some(line.split_once('│')?.1.chars().collect())).collect();
    let axis = plot.lines().find_map(|line| Some(line.split_once('└')?.1)).unwrap();
    let (width, height) = (2 * axis.chars().count(), 4 * rows.len());
    let mut dots = Vec::new();
    for (row, cells) in rows.iter().enumerate() {
        for (column, cell) in cells.iter().enumerate() {
            let Some(pattern) = (*cell as u32).checked_sub(0x2800).filter(|bits| *bits < 256)
            else {
                continue;
            };
            // Unicode's order of the eight dots of a Braille pattern.
            for (bit, (right, down)) in
                [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]
                    .into_iter()
                    .enumerate()
            {
                if pattern & 1 << bit != 0 {
                    dots.push((2 * column + right, height - 1 - (4 * row + down)));
                }
            }
        }
    }
    (dots, width, height)
}

#[test]
fn the_plot_is_the_curve() {
    let folder = tempfile::tempdir().unwrap();
    let set = ["train.steps=1001", "train.schedule.warmup_steps=0"];
    type Curve = fn(f64) -> f64;
    let curves: [(&[&str], Curve); 3] = [
        (&["train.schedule.kind=linear"], |share| 1.0 - share),
        (&["train.schedule.final_learning_rate=0"], |share| {
            0.5 * (1.0 + (std::f64::consts::PI * share).cos())
        }),
        (
            &[
                "train.schedule.kind=warmup-stable-decay",
                "train.schedule.decay_shape=linear",
                "train.schedule.decay_fraction=0.5",
            ],
            |share| (2.0 - 2.0 * share).min(1.0),
        ),
    ];
    for (kind, curve) in curves {
        let plot = schedule(folder.path(), "stories", &[&set[..], kind].concat(), &[]);
        let (dots, width, height) = dots(&plot);
        for column in 0..width {
            let up: Vec<usize> =
                dots.iter().filter(|dot| dot.0 == column).map(|dot| dot.1).collect();
            let expected = curve(column as f64 / (width - 1) as f64) * (height - 1) as f64;
            assert!(!up.is_empty(), "nothing in column {column}:\n{plot}");
            for up in up {
                // A dot is half a dot from where it should be, in both directions; the curves are
                // no steeper than two dots up for one to the right.
                let apart = (up as f64 - expected).abs();
                assert!(apart <= 2.0, "column {column}: {up}, not {expected}\n{plot}");
            }
        }
    }
}

#[test]
fn below_the_plot_are_its_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let set = [
        "train.steps=200",
        "train.schedule.kind=linear",
        "train.schedule.learning_rate=0.004",
        "train.schedule.warmup_steps=50",
        "train.optimizer.kind=muon",
        "train.optimizer.adamw.learning_rate=0.5",
        r#"train.optimizer.groups=[{"parameters":"embedding.*","learning_rate":0.25}]"#,
    ];
    let text = schedule(folder.path(), "stories", &set, &[]);
    for expected in [
        "learning rate of stories",
        "4.00e-3│",
        "2.00e-3│",
        "step 1 ",
        " 200\n",
        "kind          linear",
        "steps         200",
        "warmup        50 steps, which end at the dotted line",
        "highest rate  4.000e-3 at step 51",
        // One of 150 steps before zero.
        "last rate     2.667e-5",
        "what is not Muon's: 0.5 times the rate, 2.000e-3 at most",
        "embedding.*: 0.25 times the rate, 1.000e-3 at most",
    ] {
        assert!(text.contains(expected), "{expected}:\n{text}");
    }
    // A quarter to the right, which is where the warmup ends, in every row.
    let rows: Vec<&str> = text.lines().filter(|line| line.contains('│')).collect();
    for row in &rows {
        let area: Vec<char> = row.split_once('│').unwrap().1.chars().collect();
        let width = COLUMNS - "4.00e-3│".chars().count();
        let column = area.iter().position(|cell| *cell == '┊').unwrap();
        assert!((column as f64 - width as f64 * 50.0 / 199.0).abs() <= 1.0, "{column}:\n{text}");
    }
    let none = schedule(folder.path(), "stories", &["train.schedule.warmup_steps=0"], &[]);
    assert!(none.contains("warmup        none") && !none.contains('┊'), "{none}");
    let long = schedule(folder.path(), "stories", &["train.steps=40"], &[]);
    assert!(long.contains("100 steps, of which the run has 40"), "{long}");
    assert!(!long.contains('┊'), "{long}");
}

#[test]
fn every_plot_fits() {
    let folder = tempfile::tempdir().unwrap();
    let fits = |config: &str, assignments: &[&str]| {
        let text = schedule(folder.path(), config, assignments, &[]);
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!((60..=COLUMNS).contains(&widest), "{config} {assignments:?}: {widest}\n{text}");
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    };
    for name in emberlm::config::builtin_names().filter(|name| *name != "finetune-shakespeare") {
        fits(name, &[]);
    }
    let kinds = ["linear", "cosine", "cosine-restarts", "warmup-stable-decay", "inverse-sqrt"];
    for kind in kinds.into_iter().chain(["constant"]) {
        let kind = format!("train.schedule.kind={kind}");
        let cycle = match kind.ends_with("restarts") {
            true => &["train.schedule.cycle_steps=7"][..],
            false => &[],
        };
        for edge in [
            "train.steps=1",
            "train.steps=2",
            "train.steps=1000000000000000000",
            "train.schedule.learning_rate=1e300",
            "train.schedule.learning_rate=1e-320",
            "train.schedule.warmup_steps=1000000000000000000",
        ] {
            fits("stories", &[&[kind.as_str()], cycle, &[edge]].concat());
        }
    }
    // A last rate above the peak is odd, and nobody forbids it.
    fits("stories", &["train.schedule.final_learning_rate=1e300"]);
}

#[test]
fn runs_of_tokens_are_as_long_as_their_targets_say() {
    let folder = tempfile::tempdir().unwrap();
    let size = ["train.batch_size=4", "train.accumulation=1", "model.context_length=100"];
    let steps = |config: &str, tokens: &str| {
        let length = format!("train.tokens={tokens}");
        let set = [&size[..], &["train.steps=null", &length]].concat();
        let text = schedule(folder.path(), config, &set, &[]);
        let line = text.lines().find_map(|line| line.strip_prefix("steps")).unwrap().trim();
        line.parse::<usize>().unwrap()
    };
    assert_eq!(steps("stories", "40000"), 100);
    // Fifteen of a hundred are asked for.
    assert_eq!(steps("bert-small", "6000"), 100);
}

#[test]
fn what_cannot_be_plotted_is_refused_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let constant = ["--set", "train.schedule.kind=constant", "--set", "train.minutes=5"];
    for (args, expected) in [
        (&["storeis"][..], "did you mean `stories`?"),
        (&["missing.json"], "missing.json"),
        (&["stories", "--set", "train.stesp=5"], "did you mean `steps`?"),
        (&["stories", "--set", "train.schedule.warmup_steps=-1"], "train.schedule"),
        (&["finetune-shakespeare"], "has the model of the run `gpt2` (init_from)"),
        (&["stories", "--set", "train.minutes=5"], "train.schedule.decay_steps"),
        (
            &["shakespeare-char", "--set", "train.epochs=2"],
            "how many steps 2 epochs are depends on the data; say how many with --set train.steps=N",
        ),
        (&[&["stories"], &constant[..]].concat(), "say how many to plot with --set train.steps=N"),
    ] {
        refused(folder.path(), &[&["schedule"], args].concat(), expected);
    }
    // What it asks for helps.
    let set = ["train.schedule.kind=constant", "train.minutes=5", "train.steps=30"];
    assert!(schedule(folder.path(), "stories", &set, &[]).contains("steps         30"));
}
