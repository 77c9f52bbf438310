use serde::Serialize;
use std::time::{Duration, Instant};

use crate::backend::{
    self, BackendError, BackendKind, DeviceInfo, Job, Requirement, System, Target, TrainBackend,
    requirements,
};
use crate::train::{GOLDEN_TOLERANCE, Golden, GoldenNumbers};

/// The longest that a device may take for all goldens. The first time, a GPU compiles and tries
/// kernels for them: one that is only played by a processor takes minutes.
const LIMIT: Duration = Duration::from_secs(600);

/// What can be computed on.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub version: &'static str,
    pub system: String,
    /// The backend of a run that is started with the same flags.
    pub backend: &'static str,
    /// Its device.
    pub device: usize,
    /// Why it would not work; none where it would.
    pub problem: Option<String>,
    pub backends: Vec<BackendReport>,
}

#[derive(Debug, Clone, Serialize)]
pub struct BackendReport {
    pub name: &'static str,
    pub is_compiled: bool,
    /// What to do to have it.
    pub advice: Option<String>,
    /// Why it finds no devices.
    pub problem: Option<String>,
    pub requirements: Vec<Requirement>,
    pub devices: Vec<DeviceReport>,
}

#[derive(Debug, Clone, Serialize)]
pub struct DeviceReport {
    #[serde(flatten)]
    pub info: DeviceInfo,
    pub check: CheckReport,
}

/// What came of a training step whose result is known.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    pub passed: bool,
    /// Why not.
    pub problem: Option<String>,
    pub seconds: f64,
    /// The largest difference from what is expected, as a share of it; none where the device
    /// failed before.
    pub error: Option<f64>,
    pub tolerance: f64,
}

/// Looks at all backends, and has each of their devices compute `goldens`; `begin` is told of each
/// before.
pub fn examine(
    chosen: Target,
    goldens: &[Golden],
    system: &System,
    mut begin: impl FnMut(Target),
) -> Report {
    let backends = BackendKind::ALL.map(|kind| {
        let (devices, problem, advice) = match backend::devices(kind) {
            Ok(devices) => (devices, None, None),
            Err(BackendError::NotCompiled { .. }) => {
                let advice = format!("build with --features {kind}");
                (Vec::new(), None, Some(advice))
            }
            Err(BackendError::NoDevice { reason, .. }) => (Vec::new(), Some(reason), None),
            Err(error) => (Vec::new(), Some(error.to_string()), None),
        };
        let devices = devices.into_iter().map(|info| {
            let target = kind.on(Some(info.index));
            begin(target);
            DeviceReport { info, check: check(target, goldens) }
        });
        BackendReport {
            name: kind.name(),
            is_compiled: backend::compiled().any(|compiled| compiled == kind),
            advice,
            problem,
            requirements: requirements(kind, system),
            devices: devices.collect(),
        }
    });
    let device = chosen.device.unwrap_or_default();
    Report {
        version: env!("CARGO_PKG_VERSION"),
        system: format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH),
        backend: chosen.kind.name(),
        device,
        problem: problem(chosen.kind, device, &backends),
        backends: backends.into(),
    }
}

/// Why a run would not work on a device of a backend.
fn problem(kind: BackendKind, device: usize, backends: &[BackendReport]) -> Option<String> {
    let is_usable = |device: &DeviceReport| device.check.passed;
    let usable: Vec<&str> = backends
        .iter()
        .filter(|backend| backend.devices.iter().any(is_usable))
        .map(|backend| backend.name)
        .collect();
    let instead = match usable.is_empty() {
        true => String::new(),
        false => format!("; what works: {}", usable.join(", ")),
    };
    let backend = backends.iter().find(|backend| backend.name == kind.name())?;
    let found = backend.devices.iter().find(|found| found.info.index == device);
    match (found, &backend.problem) {
        (Some(found), _) => {
            let problem = found.check.problem.as_ref()?;
            Some(format!("device {device} of backend `{kind}` does not work: {problem}{instead}"))
        }
        (None, Some(problem)) => {
            Some(format!("backend `{kind}` finds no device: {problem}{instead}"))
        }
        (None, None) if backend.devices.is_empty() => {
            Some(format!("backend `{kind}` finds no device{instead}"))
        }
        (None, None) => Some(format!("backend `{kind}` has no device {device}{instead}")),
    }
}

fn check(target: Target, goldens: &[Golden]) -> CheckReport {
    let started = Instant::now();
    let computed = backend::attempt(target, LIMIT, Compute { goldens: goldens.to_vec() });
    let seconds = started.elapsed().as_secs_f64();
    let (error, problem) = match computed {
        Ok(found) => judge(&found, goldens),
        Err(BackendError::NoDevice { reason, .. }) => (None, Some(reason)),
        Err(error) => (None, Some(error.to_string())),
    };
    CheckReport { passed: problem.is_none(), problem, seconds, error, tolerance: GOLDEN_TOLERANCE }
}

/// The largest error, and what to say of the first one that is too large.
fn judge(found: &[GoldenNumbers], goldens: &[Golden]) -> (Option<f64>, Option<String>) {
    let pairs = || found.iter().zip(goldens);
    let errors = pairs().map(|(found, golden)| found.error(&golden.expected));
    let wrong = pairs().find(|(found, golden)| found.error(&golden.expected) > GOLDEN_TOLERANCE);
    let problem = wrong.map(|(found, golden)| {
        let expected = golden.expected;
        format!(
            "it computes a wrong step of {}: loss {:.6}, expected {:.6}; norm of the gradients {:.6}, expected {:.6}",
            golden.name, found.loss, expected.loss, found.gradient_norm, expected.gradient_norm
        )
    });
    (errors.reduce(f64::max), problem)
}

struct Compute {
    goldens: Vec<Golden>,
}

impl Job for Compute {
    type Output = Vec<GoldenNumbers>;

    fn run<B: TrainBackend>(self, device: B::Device) -> Vec<GoldenNumbers> {
        self.goldens.iter().map(|golden| golden.compute::<B>(&device)).collect()
    }
}
