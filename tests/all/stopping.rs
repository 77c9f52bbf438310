//! Runs that end before their length, for want of a better evaluation.

use emberlm::artifact::Run;

use crate::command_line::{emberlm, stdout, train};

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
