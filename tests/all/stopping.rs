//! Runs that end before they are done: for want of a better evaluation, or by a signal in the last.

use emberlm::artifact::Run;

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
