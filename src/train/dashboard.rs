use burn_train::Interrupter;
use burn_train::renderer::tui::TuiMetricsRendererWrapper;
use thread_priority::{ThreadPriority, set_current_thread_priority};

/// Opens burn-train's dashboard.
///
/// Its thread polls without ever sleeping, which on a CPU would cost training a whole core. A
/// thread inherits its priority, so it is started from one that stands behind all others.
pub(super) fn open(interrupter: Interrupter) -> TuiMetricsRendererWrapper {
    #[cfg(unix)]
    terminal::remember();
    let opener = std::thread::spawn(|| {
        if let Err(error) = set_current_thread_priority(ThreadPriority::Min) {
            log::warn!("the dashboard keeps its priority: {error:?}");
        }
        let dashboard = TuiMetricsRendererWrapper::new(interrupter, None);
        #[cfg(unix)]
        terminal::keep_interrupt_key();
        dashboard
    });
    opener.join().expect("the dashboard opens on any terminal; the panic above says why not")
}

/// Gives the terminal back, where the process ends without closing the dashboard.
pub(super) fn abandon() {
    #[cfg(unix)]
    terminal::restore();
}

#[cfg(unix)]
mod terminal {
    use rustix::stdio::stdin;
    use rustix::termios::{
        LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
    };
    use std::io::Write;
    use std::sync::OnceLock;
    use std::time::Duration;

    /// The modes before the dashboard.
    static BEFORE: OnceLock<Termios> = OnceLock::new();
    /// `_POSIX_VDISABLE`
    const NO_KEY: u8 = if cfg!(target_os = "linux") { 0 } else { 0xff };
    /// Leaves the alternate screen and shows the cursor.
    const LEAVE: &[u8] = b"\x1b[?1049l\x1b[?25h";

    pub(super) fn remember() {
        if let Ok(modes) = tcgetattr(stdin()) {
            BEFORE.get_or_init(|| modes);
        }
    }

    /// The dashboard's raw mode takes Ctrl-C for a key like any other, and does nothing with it.
    /// Lets it send its signal again; Ctrl-Z and Ctrl-\ stay keys, since they would leave the
    /// screen as it is.
    pub(super) fn keep_interrupt_key() {
        // The dashboard's own thread enters raw mode, soon.
        for _ in 0..100 {
            match tcgetattr(stdin()) {
                Ok(mut modes) if !modes.local_modes.contains(LocalModes::ICANON) => {
                    modes.local_modes.insert(LocalModes::ISIG);
                    modes.special_codes[SpecialCodeIndex::VSUSP] = NO_KEY;
                    modes.special_codes[SpecialCodeIndex::VQUIT] = NO_KEY;
                    if let Err(error) = tcsetattr(stdin(), OptionalActions::Now, &modes) {
                        log::warn!("Ctrl-C has no effect in the dashboard: {error}");
                    }
                    return;
                }
                Ok(_) => std::thread::sleep(Duration::from_millis(10)),
                Err(_) => return,
            }
        }
    }

    pub(super) fn restore() {
        let mut screen = std::io::stdout();
        // Whatever fails here, the process is about to end.
        let _ = screen.write_all(LEAVE).and_then(|()| screen.flush());
        if let Some(modes) = BEFORE.get() {
            let _ = tcsetattr(stdin(), OptionalActions::Now, modes);
        }
    }
}
