use burn_train::Interrupter;
use burn_train::renderer::tui::TuiMetricsRendererWrapper;
use thread_priority::{ThreadPriority, set_current_thread_priority};

/// Opens burn-train's dashboard.
///
/// Its thread polls without ever sleeping, which on a CPU would cost training a whole core. A
/// thread inherits its priority, so it is started from one that stands behind all others.
pub(super) fn open(interrupter: Interrupter) -> TuiMetricsRendererWrapper {
    let opener = std::thread::spawn(|| {
        if let Err(error) = set_current_thread_priority(ThreadPriority::Min) {
            log::warn!("the dashboard keeps its priority: {error:?}");
        }
        TuiMetricsRendererWrapper::new(interrupter, None)
    });
    opener.join().expect("the dashboard opens on any terminal; the panic above says why not")
}
