//! Token files that are cut short while a run reads them: the run ends and says so, and goes on
//! once they are whole again.

#![cfg(unix)]

use emberlm::artifact::Run;
use std::fs::{self, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use crate::command_line::{TINY, emberlm, succeed};
use crate::resume::{left_by, path_of, refuse, resume, start, start_to_last_evaluation};

const PREPARED: &str = "datasets/text/character";
/// The smallest there is; less of a file than that can be cut off without taking away a page that
/// a program has mapped, which the system would end it for.
const PAGE: u64 = 4096;

/// A run that takes a few seconds, with checkpoints and evaluations all along.
fn arguments(run: &str) -> Vec<&str> {
    let own = [
        "train",
        "--data",
        PREPARED,
        "--run",
        run,
        "--set",
        "train.checkpoint_every=50",
        "--set",
        "train.evaluation_windows=4",
        "--set",
        "train.log_every=10000",
        "--set",
        "sample.max_tokens=5",
    ];
    let after = ["--set", "train.steps=1000", "--set", "train.evaluate_every=120"];
    [&own[..], &TINY, &after].concat()
}

fn cut(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

#[test]
fn a_token_file_cut_short_ends_the_run_which_can_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let text: String = (0..3000).map(|n| format!("{n} times 3 is {}\n", 3 * n)).collect();
    fs::write(folder.join("text.txt"), text).unwrap();
    succeed(&emberlm(folder, &["prepare", "text.txt", "--tokenizer", "character"]));
    succeed(&emberlm(folder, &arguments("whole")));
    let expected = left_by(folder, "whole");

    for (name, split, all) in
        [("training", "train", false), ("validation", "val", false), ("all", "train", true)]
    {
        let file = folder.join(PREPARED).join(format!("{split}.bin"));
        let whole = fs::read(&file).unwrap();
        let length = whole.len() as u64;
        assert_eq!((length - 2).div_ceil(PAGE), length.div_ceil(PAGE));

        let mut child = start(folder, &arguments(name));
        let metrics = path_of(folder, name).join("metrics.jsonl");
        while fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 160 {
            assert!(child.try_wait().unwrap().is_none(), "it ended before the file was cut");
            std::thread::sleep(Duration::from_millis(1));
        }
        cut(&file, if all { 0 } else { length - 2 });
        let status = child.wait().unwrap();
        let message = std::io::read_to_string(child.stderr.unwrap()).unwrap();
        // Where a page is taken away between the check of a file and its use, the system ends the run.
        if !(all && status.signal().is_some()) {
            assert_eq!(status.code(), Some(2), "{name}: {status}, {message}");
            assert_eq!(message.lines().count(), 1, "{message}");
            let expected = format!(
                "{PREPARED}/{split}.bin is damaged: it had {length} bytes when it was opened and has {} now",
                if all { 0 } else { length - 2 }
            );
            assert_eq!(message.matches(&expected).count(), 1, "{message}");
        }
        let run = Run::open(&folder.join("artifacts"), name).unwrap();
        let kept = run.checkpoints().steps().unwrap();
        assert!(kept.last().is_some_and(|step| (100..1000).contains(step)), "{name}: {kept:?}");

        refuse(&resume(folder, name, &[]), &format!("{split}.bin"));
        assert_eq!(run.checkpoints().steps().unwrap(), kept, "{name}");
        fs::write(&file, &whole).unwrap();
        succeed(&resume(folder, name, &[]));
        left_by(folder, name).must_be(&expected, name);
    }
}

#[test]
fn a_validation_file_cut_short_during_the_last_evaluation_gives_no_loss() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let text: String = (0..15_000).map(|n| format!("{n} times 3 is {}\n", 3 * n)).collect();
    fs::write(folder.join("text.txt"), text).unwrap();
    let most = ["--validation-fraction", "0.9"];
    let prepare = ["prepare", "text.txt", "--tokenizer", "character"];
    succeed(&emberlm(folder, &[&prepare[..], &most].concat()));
    let file = folder.join(PREPARED).join("val.bin");
    let whole = fs::read(&file).unwrap();
    let length = whole.len() as u64;
    assert_eq!((length - 2).div_ceil(PAGE), length.div_ceil(PAGE));

    let short = ["--set", "train.steps=3", "--set", "train.evaluate_every=3"];
    let args = [&arguments("cut")[..], &short].concat();
    let child = start_to_last_evaluation(folder, &args);
    cut(&file, length - 2);
    let output = child.wait_with_output().unwrap();
    refuse(&output, "val.bin is damaged: it had");
    let run = Run::open(&folder.join("artifacts"), "cut").unwrap();
    assert!(run.history().summary_so_far().unwrap().is_none());
    fs::write(&file, &whole).unwrap();
    succeed(&resume(folder, "cut", &[]));
    assert!(run.history().summary().unwrap().final_val_loss.is_some());
}
