//! A panic on any thread ends the process: what was installed for that is tried in a process of
//! its own, which is this test program once more.

use emberlm::commands::end_on_panic;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Names what the other process is to do.
const CASE: &str = "EMBERLM_TEST_PANIC";
/// What the other process ends with where the panic did not end it.
const SURVIVED: i32 = 3;

/// What is done in the other process; none of it may come to its end.
#[test]
#[ignore = "runs in the process that the other test starts"]
fn in_another_process() {
    let Ok(case) = std::env::var(CASE) else { return };
    if case != "no hook" {
        end_on_panic();
    }
    match case.as_str() {
        // On a thread that nobody waits for, while this one goes on.
        "thread" => {
            std::thread::spawn(|| panic!("a batch of nothing"));
            std::thread::sleep(Duration::from_secs(20));
        }
        // As burn does with the tasks of a device.
        "caught" | "no hook" => {
            let _ = std::panic::catch_unwind(|| panic!("a batch of nothing"));
        }
        "pool" => {
            use rayon::prelude::*;
            let _ = std::panic::catch_unwind(|| {
                (0..100).into_par_iter().for_each(|number| assert!(number != 70, "not {number}"));
            });
        }
        // The words of burn-train's dashboard.
        "dashboard" => {
            let _ = std::panic::catch_unwind(|| panic!("Killing training from user input."));
        }
        other => unreachable!("{other}"),
    }
    std::process::exit(SURVIVED);
}

fn other_process(case: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["panics::in_another_process", "--exact", "--ignored", "--nocapture"])
        .env(CASE, case)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn a_panic_on_any_thread_ends_the_process() {
    for (case, code, expected) in [
        ("thread", 101, "emberlm stops: panicked at "),
        ("thread", 101, "a batch of nothing"),
        ("caught", 101, "a batch of nothing"),
        ("pool", 101, "not 70"),
        ("dashboard", 130, "killed from the dashboard"),
        // What would happen otherwise.
        ("no hook", SURVIVED, "a batch of nothing"),
    ] {
        let output = other_process(case);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{case}: {message}");
        assert!(message.contains(expected), "{case}: {message}");
    }
}

#[test]
fn the_program_installs_it_before_anything_else() {
    let main = std::fs::read_to_string(crate::support::repository().join("src/main.rs")).unwrap();
    let (_, body) = main.split_once("fn main() -> ExitCode {\n").unwrap();
    assert_eq!(body.lines().next().unwrap().trim(), "commands::end_on_panic();");
}
