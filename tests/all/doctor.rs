//! What `emberlm doctor` finds, of devices that work, of those that do not, and of systems that
//! lack something.

use emberlm::backend::{
    self, BackendError, BackendKind, Job, Requirement, System, TrainBackend, requirements,
};
use emberlm::commands::examine;
use emberlm::config::{Activation, NormKind, PositionConfig};
use emberlm::train::{GOLDEN_TOLERANCE, Golden, GoldenNumbers, goldens};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::command_line::{emberlm, refused, stdout};
use crate::support::{cpu_backends, on_cpu_backends};

#[derive(Clone)]
struct Compute(Golden);

impl Job for Compute {
    type Output = GoldenNumbers;

    fn run<B: TrainBackend>(self, device: B::Device) -> GoldenNumbers {
        self.0.compute::<B>(&device)
    }
}

#[test]
fn goldens_are_computed_on_each_backend() {
    assert_eq!(goldens().len(), 2);
    for golden in goldens() {
        for (backend, found) in on_cpu_backends(Compute(golden.clone())) {
            let error = found.error(&golden.expected);
            // 1e-4: sums of f32 are nearer than that to sums of f64.
            assert!(error < 1e-4, "{} on {backend}: {found:?} is {error:e} off", golden.name);
        }
    }
}

/// A device that left any of these out would be found out.
#[test]
fn goldens_depend_on_what_is_to_be_checked() {
    let backend = cpu_backends()[0];
    let [gpt2, llama] = goldens().try_into().unwrap();
    let changed = |golden: &Golden, change: fn(&mut Golden)| {
        let mut golden = golden.clone();
        change(&mut golden);
        golden
    };
    let others = [
        changed(&gpt2, |it| it.model.feed_forward.activation = Activation::Relu),
        changed(&gpt2, |it| it.model.norm.epsilon = 0.1),
        changed(&gpt2, |it| it.model.norm.kind = NormKind::Rms),
        changed(&gpt2, |it| it.model.n_heads = 2),
        changed(&gpt2, |it| it.model.position = PositionConfig::Sinusoidal {}),
        changed(&gpt2, |it| it.model.attention.scale = Some(1.0)),
        changed(&gpt2, |it| it.tokens[3][24] = 60 - it.tokens[3][24]),
        changed(&llama, |it| it.model.position = PositionConfig::Sinusoidal {}),
        changed(&llama, |it| it.model.feed_forward.activation = Activation::Gelu),
        changed(&llama, |it| it.model.norm.epsilon = 0.1),
        changed(&llama, |it| it.model.attention.window = Some(6)),
    ];
    for golden in others {
        let found = backend::dispatch(backend, Compute(golden.clone())).unwrap();
        let error = found.error(&golden.expected);
        assert!(error > 2.0 * GOLDEN_TOLERANCE, "{error:e}: {golden:?}");
    }
}

#[test]
fn numbers_that_are_none_are_infinitely_wrong() {
    let right = GoldenNumbers { loss: 4.0, gradient_norm: 2.0 };
    let error = |loss, gradient_norm| GoldenNumbers { loss, gradient_norm }.error(&right);
    assert_eq!(error(4.0, 2.0), 0.0);
    assert_eq!(error(4.0, 3.0), 0.5);
    assert_eq!(error(3.0, 2.0), 0.25);
    assert_eq!(error(f64::NAN, 2.0), f64::INFINITY);
    assert_eq!(error(4.0, f64::NAN), f64::INFINITY);
}

fn nowhere() -> System {
    System { root: "/nowhere".into(), variables: |_| None }
}

#[test]
fn a_device_that_computes_something_else_is_named_with_both_numbers() {
    let backend = cpu_backends()[0];
    let report = examine(backend.into(), &goldens(), &nowhere(), |_| ());
    assert_eq!(report.problem, None);

    let mut wrong = goldens();
    wrong[1].expected.gradient_norm *= 1.01;
    let mut tried = Vec::new();
    let report = examine(backend.into(), &wrong, &nowhere(), |target| tried.push(target));
    let expected: Vec<_> = cpu_backends().into_iter().map(|kind| kind.on(Some(0))).collect();
    assert_eq!(tried, expected);
    let problem = report.problem.unwrap();
    // The last digits of what it computes are rounding.
    let GoldenNumbers { loss, gradient_norm } =
        backend::dispatch(backend, Compute(goldens()[1].clone())).unwrap();
    let told = format!(
        "device 0 of backend `{backend}` does not work: it computes a wrong step of llama: loss {loss:.6}, expected"
    );
    assert!(problem.starts_with(&told), "{problem}");
    let told = format!("norm of the gradients {gradient_norm:.6}, expected 3.881182");
    assert!(problem.contains(&told), "{problem}");
    for report in report.backends.iter().filter(|report| report.is_compiled) {
        let check = &report.devices[0].check;
        assert!(!check.passed && check.error.unwrap() > 0.009, "{check:?}");
        assert!(check.problem.as_ref().unwrap().contains("llama"), "{check:?}");
    }
}

/// What a job does to its device.
#[derive(Clone, Copy)]
enum Fault {
    Panic,
    PanicElsewhere,
    Hang,
}

struct Faulty(Fault);

impl Job for Faulty {
    type Output = f32;

    fn run<B: TrainBackend>(self, _device: B::Device) -> f32 {
        match self.0 {
            Fault::Panic => panic!("libsomething.so is not there. It was looked for everywhere."),
            Fault::PanicElsewhere => {
                // As a device's own thread does, whose caller then reads garbage.
                let device = std::thread::spawn(|| panic!("a kernel failed: error 700"));
                assert!(device.join().is_err());
            }
            Fault::Hang => std::thread::sleep(Duration::from_secs(3)),
        }
        0.0
    }
}

#[test]
fn a_device_that_fails_does_not_end_the_program() {
    for (fault, seconds, expected) in [
        (Fault::Panic, 60, "libsomething.so is not there"),
        (Fault::PanicElsewhere, 60, "a kernel failed: error 700"),
        (Fault::Hang, 1, "it gives no answer within 1 seconds"),
    ] {
        let limit = Duration::from_secs(seconds);
        let outcome = backend::attempt(cpu_backends()[0], limit, Faulty(fault));
        match outcome {
            Err(BackendError::NoDevice { reason, .. }) => assert_eq!(reason, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_list_is_for_people_and_for_machines() {
    let folder = tempfile::tempdir().unwrap();
    let output = emberlm(folder.path(), &["doctor"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = stdout(&output);
    let first = cpu_backends()[0];
    assert!(text.contains("cuda: not in this program; build with --features cuda"), "{text}");
    assert!(text.contains(", on which a run computes"), "{text}");
    assert!(text.contains("check              passed in "), "{text}");
    assert!(text.ends_with(&format!("\na run computes on device 0 of {first}, which works\n")));

    let output = emberlm(folder.path(), &["doctor", "--json", "--backend", first.name()]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    assert_eq!(text.lines().count(), 1);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_keys(&report, "version system backend device problem backends");
    assert_eq!(report["backend"], first.name());
    let backends = report["backends"].as_array().unwrap();
    assert_eq!(backends.len(), BackendKind::ALL.len());
    for backend in backends {
        assert_keys(backend, "name is_compiled advice problem requirements devices");
        for requirement in backend["requirements"].as_array().unwrap() {
            assert_keys(requirement, "name found advice");
            assert!(!(requirement["found"].is_null() && requirement["advice"].is_null()));
        }
        assert_eq!(backend["is_compiled"], backend["advice"].is_null());
        for device in backend["devices"].as_array().unwrap() {
            assert_keys(device, "index name memory properties check");
            assert_keys(&device["check"], "passed problem seconds error tolerance");
            assert_keys(&device["memory"], "total_bytes available_bytes");
            assert_eq!(device["check"]["passed"], true);
            let [total, available] =
                ["total_bytes", "available_bytes"].map(|key| device["memory"][key].as_u64());
            assert!(available.unwrap() > 0 && available < total);
            let threads = std::thread::available_parallelism().unwrap().get();
            assert_eq!(device["properties"]["threads"], threads);
        }
    }
}

#[track_caller]
fn assert_keys(value: &Value, expected: &str) {
    let found: BTreeSet<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(found, expected.split(' ').collect());
}

#[test]
fn a_device_that_is_not_there_is_refused_with_those_that_are() {
    let folder = tempfile::tempdir().unwrap();
    let first = cpu_backends()[0];
    let expected = format!("backend `{first}` has no device 3; it has 0 (");
    for command in [&["train", "--plain"][..], &["bench", "train"], &["bench", "decode"]] {
        let args = [command, &["--backend", first.name(), "--device", "3"]].concat();
        refused(folder.path(), &args, &expected);
        refused(folder.path(), &args, "(see emberlm doctor)");
    }
    let output = emberlm(folder.path(), &["doctor", "--device", "3"]);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("error: backend `"), "{message}");
    assert!(message.contains("` has no device 3; what works: "), "{message}");
    assert!(stdout(&output).contains("device 0"), "all is told before");
    let output = emberlm(folder.path(), &["doctor", "--device", "0"]);
    assert_eq!(output.status.code(), Some(0));
}

/// Writes a file under a root, with the folders that it is in.
fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn cuda(root: &Path, variables: fn(&str) -> Option<String>) -> Vec<Requirement> {
    requirements(BackendKind::Cuda, &System { root: root.into(), variables })
}

fn named<'a>(requirements: &'a [Requirement], name: &str) -> (Option<&'a str>, &'a str) {
    let found = requirements.iter().find(|requirement| requirement.name == name).unwrap();
    (found.found.as_deref(), found.advice.as_deref().unwrap_or_default())
}

const DRIVER_535: &str = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n";
const DRIVER_580: &str = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (root@)\nGCC version:  gcc version 14.2.0\n";
const HEADERS: [&str; 5] = ["cuda_runtime.h", "cuda_bf16.h", "cuda_fp16.h", "mma.h", "crt/mma.h"];

/// The headers of a version, and NVRTC as packages install it: a link to the file that has the
/// whole version in its name.
fn put_toolkit(root: &Path, include: &str, number: u32, library: &str) {
    for header in HEADERS {
        put(root, &format!("{include}/{header}"), "");
    }
    let of_cpp = if number < 13000 { include.to_string() } else { format!("{include}/cccl") };
    put(root, &format!("{of_cpp}/cuda/barrier"), "");
    put(root, &format!("{include}/cooperative_groups.h"), "");
    put(root, &format!("{include}/cuda.h"), &format!("\n#define CUDA_VERSION {number}\n"));
    put(root, library, "");
    let (link, _) = library.rsplit_once('.').unwrap();
    let (link, _) = link.rsplit_once('.').unwrap();
    let name = Path::new(library).file_name().unwrap();
    std::os::unix::fs::symlink(name, root.join(link.trim_start_matches('/'))).unwrap();
}

#[test]
fn a_system_without_cuda_is_told_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    let found = cuda(folder.path(), |_| None);
    let names: Vec<&str> = found.iter().map(|requirement| requirement.name).collect();
    assert_eq!(
        names,
        ["NVIDIA device", "NVIDIA driver", "libcuda", "NVRTC", "CUDA headers", "NCCL"]
    );
    assert!(found.iter().all(|requirement| requirement.found.is_none()), "{found:?}");
    assert!(named(&found, "NVIDIA device").1.contains("--gpus all"));
    assert!(named(&found, "NVIDIA driver").1.contains("apt-get install nvidia-driver"));
    for name in ["NVRTC", "CUDA headers"] {
        assert!(named(&found, name).1.contains("apt-get install nvidia-cuda-toolkit"));
    }

    assert!(named(&found, "NCCL").1.ends_with("to have it: apt-get install libnccl-dev"));

    // Plugged in, without a driver.
    let root = folder.path();
    for (device, vendor, class) in [
        ("0", "0x10de", "0x030200"),
        ("1", "0x10de", "0x030000"),
        ("2", "0x10de", "0x040300"),
        ("3", "0x1002", "0x030000"),
    ] {
        put(root, &format!("/sys/bus/pci/devices/{device}/vendor"), &format!("{vendor}\n"));
        put(root, &format!("/sys/bus/pci/devices/{device}/class"), &format!("{class}\n"));
    }
    assert_eq!(named(&cuda(root, |_| None), "NVIDIA device").0, Some("2 are plugged in"));
}

#[test]
fn a_whole_toolkit_is_found_with_its_versions() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    put(root, "/proc/driver/nvidia/version", DRIVER_580);
    for device in ["0000:01:00.0", "0000:02:00.0"] {
        let file = format!("/proc/driver/nvidia/gpus/{device}/information");
        put(root, &file, "Model: \t\t NVIDIA H200\nIRQ:   \t\t 10\n");
    }
    let found = cuda(root, |_| None);
    assert_eq!(named(&found, "NVIDIA device"), (Some("NVIDIA H200, NVIDIA H200"), ""));
    assert_eq!(named(&found, "NVIDIA driver"), (Some("580.65.06"), ""));
    // The kernel's part is seen in a container, the library is not.
    assert!(named(&found, "libcuda").1.contains("--gpus all"));
    for name in ["NVRTC", "CUDA headers"] {
        let advice = named(&found, name).1;
        assert!(advice.contains("apt-get install cuda-toolkit-13-0"), "{advice}");
        assert!(advice.contains("pip install nvidia-cuda-nvrtc==13.0.* nvidia-cuda-runtime==13.0.* nvidia-cuda-crt==13.0.* nvidia-cuda-cccl==13.0.*"), "{advice}");
    }

    put(root, "/etc/ld.so.conf.d/cuda.conf", "# the toolkit\n/opt/toolkit/lib\n");
    let library = "/opt/toolkit/lib/libnvrtc.so.13.0.88";
    put_toolkit(root, "/usr/local/cuda/include", 13000, library);
    put(root, "/usr/lib64/libcuda.so.1", "");
    let found = cuda(root, |_| None);
    assert_eq!(named(&found, "libcuda"), (Some("/usr/lib64/libcuda.so.1"), ""));
    assert_eq!(named(&found, "NVRTC"), (Some("13.0.88 in /opt/toolkit/lib/libnvrtc.so.13"), ""));
    assert_eq!(named(&found, "CUDA headers"), (Some("13.0 in /usr/local/cuda/include"), ""));
}

#[test]
fn versions_that_do_not_fit_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    put(root, "/proc/driver/nvidia/version", DRIVER_535);
    put_toolkit(root, "/opt/cuda/include", 12080, "/usr/lib/libnvrtc.so.12.8.93");
    let found = cuda(root, |_| None);
    assert_eq!(named(&found, "NVIDIA driver").0, Some("535.183.01"));
    let (nvrtc, advice) = named(&found, "NVRTC");
    assert_eq!(nvrtc, Some("12.8.93 in /usr/lib/libnvrtc.so.12"));
    assert!(advice.starts_with("the driver takes CUDA 12.2 at most: update the driver, or install the toolkit: apt-get install cuda-toolkit-12-2 "), "{advice}");
    assert_eq!(named(&found, "CUDA headers"), (Some("12.8 in /opt/cuda/include"), ""));

    // CUDA_PATH comes first, whatever is in it.
    let set = |name: &str| (name == "CUDA_PATH").then(|| "/mine".to_string());
    let (headers, advice) = {
        let found = cuda(root, set);
        (found[4].found.clone(), found[4].advice.clone().unwrap())
    };
    assert_eq!(headers, None);
    assert!(advice.starts_with("/mine/include has no cuda_runtime.h; set CUDA_PATH"), "{advice}");
    put_toolkit(root, "/mine/include", 13000, "/mine/lib/libnvrtc.so.13.0.88");
    let found = cuda(root, set);
    let (headers, advice) = named(&found, "CUDA headers");
    assert_eq!(headers, Some("13.0 in /mine/include"));
    assert!(advice.starts_with("these are of CUDA 13, and NVRTC is of CUDA 12"), "{advice}");
    // Products would be computed, but slowly.
    fs::remove_file(root.join("opt/cuda/include/cuda/barrier")).unwrap();
    let found = cuda(root, |_| None);
    let (headers, advice) = named(&found, "CUDA headers");
    assert_eq!(headers, Some("12.8 in /opt/cuda/include"));
    assert!(advice.starts_with("/opt/cuda/include has no cuda/barrier, without which"), "{advice}");
    fs::remove_file(root.join("mine/include/crt/mma.h")).unwrap();
    let advice = cuda(root, set)[4].advice.clone().unwrap();
    assert!(advice.starts_with("/mine/include has no crt/mma.h;"), "{advice}");
}

#[test]
fn a_library_where_nobody_looks_is_pointed_at() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let lib = "/home/me/venv/lib/python3.13/site-packages/nvidia/cu13/lib";
    put(root, &format!("{lib}/libnvrtc.so.13"), "");
    let environment = |name: &str| (name == "VIRTUAL_ENV").then(|| "/home/me/venv".to_string());
    let expected =
        format!("it is in {lib}, where libraries are not looked for: export LD_LIBRARY_PATH={lib}");
    assert_eq!(named(&cuda(root, environment), "NVRTC"), (None, expected.as_str()));
    let told = |name: &str| {
        (name == "LD_LIBRARY_PATH").then(|| {
            "/none::/home/me/venv/lib/python3.13/site-packages/nvidia/cu13/lib".to_string()
        })
    };
    let found = cuda(root, told);
    let path = format!("13 in {lib}/libnvrtc.so.13");
    assert_eq!(named(&found, "NVRTC"), (Some(path.as_str()), ""));

    // A wheel says its version in the name of another file.
    put(root, &format!("{lib}/libnvrtc-builtins.so.13.5"), "");
    put(root, "/proc/driver/nvidia/version", DRIVER_580);
    let found = cuda(root, told);
    let (nvrtc, advice) = named(&found, "NVRTC");
    assert_eq!(nvrtc, Some(format!("13.5 in {lib}/libnvrtc.so.13").as_str()));
    assert!(advice.starts_with("the driver takes CUDA 13.0 at most"), "{advice}");
}

#[test]
fn nccl_is_found_by_the_name_that_is_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    // As Python's wheel has it, and as NVIDIA's package.
    let wheel = "/opt/venv/lib/python3.12/site-packages/nvidia/nccl/lib/libnccl.so.2";
    for path in [wheel, "/usr/lib/libnccl.so.2"] {
        put(root, path, "");
        let found = cuda(root, |_| None);
        let (library, advice) = named(&found, "NCCL");
        assert_eq!(library, None);
        let expected = format!("ln -s {path} /usr/local/lib/libnccl.so && ldconfig");
        assert!(advice.ends_with(&expected), "{advice}");
    }
    put(root, "/usr/lib/libnccl.so", "");
    assert_eq!(named(&cuda(root, |_| None), "NCCL"), (Some("/usr/lib/libnccl.so"), ""));
}

#[test]
fn vulkans_drivers_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let wgpu = |variables| {
        let system = System { root: root.into(), variables };
        requirements(BackendKind::Wgpu, &system)
    };
    let found = wgpu(|_| None);
    assert!(named(&found, "Vulkan loader").1.contains("apt-get install libvulkan1"));
    assert!(named(&found, "Vulkan drivers").1.contains("apt-get install mesa-vulkan-drivers"));
    put(root, "/usr/lib/libvulkan.so.1", "");
    put(root, "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json", "{}");
    put(root, "/etc/vulkan/icd.d/nvidia_icd.json", "{}");
    put(root, "/etc/vulkan/icd.d/readme.txt", "");
    let found = wgpu(|_| None);
    assert_eq!(named(&found, "Vulkan loader").0, Some("/usr/lib/libvulkan.so.1"));
    assert_eq!(named(&found, "Vulkan drivers").0, Some("nvidia_icd, lvp_icd.x86_64"));
    let found = wgpu(|name| {
        let list = "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json:/not/there.json";
        (name == "VK_ICD_FILENAMES").then(|| list.to_string())
    });
    assert_eq!(named(&found, "Vulkan drivers").0, Some("lvp_icd.x86_64"));
    let found = wgpu(|name| (name == "VK_DRIVER_FILES").then(|| "/not/there.json".to_string()));
    assert_eq!(named(&found, "Vulkan drivers").0, None);

    assert!(requirements(BackendKind::Flex, &nowhere()).is_empty());
}
