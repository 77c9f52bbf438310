//! Runs that end before they are done: for want of a better evaluation, or by a signal in the last.

use emberlm::artifact::Run;
use emberlm::config::{self, NonFinite, SkipSpikes, Source};
use emberlm::train::{Guard, Objection, Refusal, Verdict, Watched};

#[cfg(unix)]
use crate::command_line::signal;
use crate::command_line::{SHORT, TINY, emberlm, stdout, succeed, train};
use crate::resume::{resume, start_to_last_evaluation};

#[test]
fn a_run_without_improvement_stops_early() {
    let folder = tempfile::tempdir().unwrap();
    let set = |patience: u32, least: f64| {
        format!(r#"train.early_stopping={{"patience":{patience},"min_improvement":{least}}}"#)
    };
    let run = |name: &str, stopping: &str| {
        // No sample is due, but for that of the end.
        let args = ["--run", name, "--set", stopping, "--set", "train.steps=30", "--set"];
        train(folder.path(), &[&args[..], &["train.sample_every=1000"]].concat())
    };
    // Evaluations come every three steps. No loss falls by a hundred.
    let output = run("hopeless", &set(2, 100.0));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = stdout(&output);
    assert!(text.contains("stopped early after 9 steps"), "{text}");
    assert!(text.contains("a sample:"), "{text}");
    let open = |name: &str| Run::open(&folder.path().join("artifacts"), name).unwrap();
    let summary = open("hopeless").history().summary().unwrap();
    assert_eq!(summary.steps, 9);
    assert!(summary.final_val_loss.is_some(), "it came to an end");
    assert!(open("hopeless").history().sample_path(9).exists());

    // It learns: thirty steps at least bring something every ten evaluations.
    let output = run("hopeful", &set(10, 0.0));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(open("hopeful").history().summary().unwrap().steps, 30);

    // What was stopped early goes on where it is asked to.
    let more = ["train", "--plain", "--resume", "hopeless", "--set", "train.early_stopping=null"];
    let output = emberlm(folder.path(), &more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(open("hopeless").history().summary().unwrap().steps, 30);
}

/// The time is up while a run evaluates or writes, which takes most of it here.
#[test]
fn a_run_of_minutes_has_its_end_whenever_its_time_is_up() {
    let folder = tempfile::tempdir().unwrap();
    let long_evaluations = [
        "train.evaluate_every=1",
        "train.sample_every=1000000",
        "data.validation_stories=400",
        "train.evaluation_windows=1000",
    ];
    let long_samples = [
        "train.evaluate_every=1000000",
        "train.sample_every=1",
        "sample.max_tokens=2000",
        "train.evaluation_windows=1",
    ];
    for (name, sets) in [("evaluations", long_evaluations), ("samples", long_samples)] {
        let sets = sets.map(|set| ["--set", set]).concat();
        let minutes = ["train.steps=null", "train.minutes=0.01", "train.schedule.kind=constant"];
        let minutes = minutes.map(|set| ["--set", set]).concat();
        succeed(&train(folder.path(), &[&["--run", name], &sets[..], &minutes].concat()));
        let run = Run::open(&folder.path().join("artifacts"), name).unwrap();
        let summary = run.history().summary().unwrap();
        assert!(summary.final_val_loss.is_some(), "{name}");
        assert!(run.history().sample_path(summary.steps).exists(), "{name}");
        assert_eq!(run.checkpoints().steps().unwrap().last(), Some(&summary.steps), "{name}");
        // The end of a run evaluates once.
        let points = run.history().losses().unwrap();
        let evaluated = points.iter().filter(|point| point.split == "valid");
        assert!(evaluated.map(|point| point.step).is_sorted_by(|a, b| a < b), "{name}");
    }
}

#[test]
fn a_refused_step_says_what_may_help() {
    let mut train = config::load(&Source::Builtin("stories"), &[]).unwrap().train;
    let refused = |verdict: Verdict| match verdict {
        Verdict::Stop(refusal) => refusal.to_string(),
        other => panic!("{other:?}"),
    };
    let message = refused(Guard::default().judge(&train, f64::NAN, 1.0));
    assert!(message.ends_with("or with --set train.non_finite=skip"), "{message}");
    assert!(!message.contains("skipped already"), "{message}");

    // It has been done, and does not help.
    train.non_finite = NonFinite::Skip;
    let mut guard = Guard::default();
    for _ in 0..50 {
        assert!(matches!(guard.judge(&train, f64::NAN, 1.0), Verdict::Skip(_)));
    }
    let message = refused(guard.judge(&train, f64::NAN, 1.0));
    assert!(message.contains("and the 50 steps before it were skipped already"), "{message}");
    assert!(message.ends_with("a lower train.schedule.learning_rate"), "{message}");

    // A spike was left out before it, which says nothing of what is no number.
    train.non_finite = NonFinite::Stop;
    train.skip_spikes = Some(SkipSpikes { window: 4, z_score: 3.0 });
    let mut guard = Guard::default();
    for loss in [1.0, 1.1, 0.9, 1.0] {
        assert_eq!(guard.judge(&train, loss, 1.0), Verdict::Take);
    }
    assert!(matches!(guard.judge(&train, 100.0, 1.0), Verdict::Skip(_)));
    let message = refused(guard.judge(&train, f64::NAN, 1.0));
    assert!(message.contains("and the step before it was skipped already"), "{message}");
    assert!(message.ends_with("or with --set train.non_finite=skip"), "{message}");

    let objection = Objection::Spike { watched: Watched::Loss, value: 9.0, z_score: 7.0 };
    let message = Refusal { objection, skips: true, skipped: 50 }.to_string();
    assert!(message.ends_with("or with --set train.skip_spikes=null"), "{message}");
}

#[test]
fn a_run_whose_evaluations_are_no_numbers_stops_early() {
    let folder = tempfile::tempdir().unwrap();
    // The first step ruins the weights, and all others are left out.
    let args = [
        "train.steps=30",
        "train.schedule.learning_rate=1e38",
        "train.schedule.warmup_steps=0",
        "train.non_finite=skip",
        r#"train.early_stopping={"patience":2}"#,
    ];
    let output = train(folder.path(), &args.map(|set| ["--set", set]).concat());
    let message = String::from_utf8_lossy(&output.stderr);
    let expected = "diverged: its validation loss is not a number after 6 steps";
    assert!(message.contains(expected), "{message}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
#[cfg(unix)]
fn a_signal_ends_the_last_evaluation_which_can_be_made_up_for() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let much = ["--run", "cut", "--set", "data.validation_stories=2000"];
    let few = ["--set", "train.evaluation_windows=4"];
    let args = [&["train"], &TINY[..], &SHORT, &much, &few].concat();
    let child = start_to_last_evaluation(folder, &args);
    signal(child.id(), "-INT");
    let output = child.wait_with_output().unwrap();
    succeed(&output);
    let run = Run::open(&folder.join("artifacts"), "cut").unwrap();
    let summary = run.history().summary().unwrap();
    assert_eq!((summary.steps, summary.final_val_loss), (6, None));
    let text = succeed(&resume(folder, "cut", &[]));
    assert!(text.contains("whole validation split: "), "{text}");
    assert!(run.history().summary().unwrap().final_val_loss.is_some());
}
