use std::io::Write;

use super::signals::STOPPED;

/// A mistake of ours, on whatever thread.
pub(super) const PANIC: i32 = 101;

/// Lets a panic on any thread end the process from here on, even one that would be caught: burn
/// catches those of device tasks and only logs them, and a run would go on with garbage.
pub fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        // This is how burn's dashboard ends a program on its user's word.
        if panic.payload_as_str().is_some_and(|text| text.contains("from user input")) {
            let _ = writeln!(std::io::stderr(), "killed from the dashboard");
            std::process::exit(STOPPED);
        }
        let _ = writeln!(std::io::stderr(), "emberlm stops: {panic}");
        std::process::exit(PANIC);
    }));
}
