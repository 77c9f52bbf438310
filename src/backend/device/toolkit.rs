//! What the backend `cuda` needs: NVIDIA's driver, and of the CUDA toolkit the library NVRTC and
//! the headers, from which CubeCL compiles kernels while the program runs. Each is looked for where
//! cudarc and CubeCL do.

use std::path::{Path, PathBuf};

use super::nvidia::{devices, driver_version, newest_cuda};
use super::{Requirement, System};

/// What the names of libraries may end with.
const VERSIONS: [&str; 5] = ["13", "12", "11", "10", "1"];
/// Where toolkits install themselves.
const TOOLKITS: [&str; 3] = ["/usr/local/cuda", "/opt/cuda", "/usr/local/cuda-*"];
/// Where libraries are in a toolkit.
const LIBRARIES: [&str; 3] = ["lib64", "lib", "targets/*/lib"];
/// Where Python's packages are, whose wheels of CUDA are whole but not registered.
const SITE_PACKAGES: [&str; 3] = [
    "/usr/lib/python3*/*-packages",
    "/usr/local/lib/python3*/*-packages",
    "/opt/*/lib/python3*/site-packages",
];
/// Folders of these wheels that hold libraries.
const WHEELS: [&str; 3] = ["nvidia/cu1*/lib", "nvidia/cuda_nvrtc/lib", "nvidia/nccl/lib"];
/// As cudarc calls it.
const NCCL: &str = "libnccl.so";
/// What NVRTC loads itself.
const BUILTINS: &str = "libnvrtc-builtins.so.";
/// What kernels include, in the order in which they do.
const HEADERS: [&str; 5] = ["cuda_runtime.h", "cuda_bf16.h", "cuda_fp16.h", "mma.h", "crt/mma.h"];
/// What kernels include that copy asynchronously; CubeCL does without them where they cannot be
/// compiled.
const FASTER: [&str; 2] = ["cooperative_groups.h", "cuda/barrier"];
/// Where a number tells what version the headers are of.
const VERSION_MACROS: [(&str, &str); 2] =
    [("cuda.h", "#define CUDA_VERSION "), ("cuda_runtime_api.h", "#define CUDART_VERSION ")];

const NO_DEVICE: &str =
    "no NVIDIA device is plugged in; a container sees one if it is started with --gpus all";
const NO_DRIVER: &str = "install NVIDIA's driver: apt-get install nvidia-driver (Debian, non-free), ubuntu-drivers install (Ubuntu), or https://www.nvidia.com/drivers";
const NO_LIBCUDA: &str = "the driver's library is not where libraries are looked for; start a container with --gpus all (https://github.com/NVIDIA/nvidia-container-toolkit), or install the driver again";

pub(super) fn requirements(system: &System) -> Vec<Requirement> {
    let driver = driver_version(system);
    let newest = driver.as_deref().and_then(newest_cuda);
    let libcuda = system.library("libcuda.so", &VERSIONS);
    let nvrtc = nvrtc(system, newest);
    let mut headers = headers(system, newest);
    let (of_nvrtc, of_headers) = (major(&nvrtc), major(&headers));
    if let (Some(of_nvrtc), Some(of_headers)) = (of_nvrtc, of_headers)
        && of_nvrtc != of_headers
    {
        headers.advice = Some(format!(
            "these are of CUDA {of_headers}, and NVRTC is of CUDA {of_nvrtc}; set CUDA_PATH to the toolkit that NVRTC is of"
        ));
    }
    vec![
        match devices(system) {
            Some(devices) => Requirement::found("NVIDIA device", devices),
            None => Requirement::missing("NVIDIA device", NO_DEVICE),
        },
        match (driver, &libcuda) {
            (Some(version), _) => Requirement::found("NVIDIA driver", version),
            // As under Windows, whose driver is no part of the Linux in it.
            (None, Some(_)) => Requirement::found("NVIDIA driver", "its library alone"),
            (None, None) => Requirement::missing("NVIDIA driver", NO_DRIVER),
        },
        match libcuda {
            Some(path) => Requirement::found("libcuda", system.name(&path)),
            None => Requirement::missing("libcuda", NO_LIBCUDA),
        },
        nvrtc,
        headers,
        nccl(system),
    ]
}

/// Whether [`nccl`] finds it.
#[cfg(feature = "cuda")]
pub(in crate::backend) fn has_nccl(system: &System) -> bool {
    nccl(system).found.is_some()
}

/// What several devices send each other tensors by.
fn nccl(system: &System) -> Requirement {
    let name = "NCCL";
    if let Some(path) = system.library(NCCL, &VERSIONS) {
        return Requirement::found(name, system.name(&path));
    }
    let use_of_it =
        "only `train --devices` of several GPUs uses it, and goes over the host without";
    let versioned = system.library(NCCL, &["2"]).or_else(|| {
        let mut folders = elsewhere(system).into_iter();
        folders.find_map(|folder| library_in(&folder, NCCL, &["2"]))
    });
    let advice = match versioned {
        // cudarc does not look for the name that NVIDIA's packages give it.
        Some(path) => format!(
            "{use_of_it}; it is looked for by the name {NCCL}: ln -s {} /usr/local/lib/{NCCL} && ldconfig",
            system.name(&path)
        ),
        None => format!("{use_of_it}; to have it: apt-get install libnccl-dev"),
    };
    Requirement::missing(name, advice)
}

/// The compiler, as a library.
fn nvrtc(system: &System, newest: Option<(u32, u32)>) -> Requirement {
    let name = "NVRTC";
    let Some(path) = system.library("libnvrtc.so", &VERSIONS) else {
        let elsewhere = elsewhere(system).into_iter().find_map(|folder| {
            library_in(&folder, "libnvrtc.so", &VERSIONS).map(|_| system.name(&folder))
        });
        let advice = match elsewhere {
            Some(folder) => format!(
                "it is in {folder}, where libraries are not looked for: export LD_LIBRARY_PATH={folder}"
            ),
            None => install(newest),
        };
        return Requirement::missing(name, advice);
    };
    let version = version_in(&path);
    let mut found = Requirement::found(name, described(system, &path, version.as_deref()));
    let numbers = version.as_deref().and_then(|version| {
        let mut parts = version.split('.').map(|part| part.parse().ok());
        Some((parts.next()??, parts.next()??))
    });
    if let (Some(of_nvrtc), Some(newest)) = (numbers, newest)
        && of_nvrtc > newest
    {
        let (major, minor) = newest;
        found.advice = Some(format!(
            "the driver takes CUDA {major}.{minor} at most: update the driver, or {}",
            install(Some(newest))
        ));
    }
    found
}

/// The headers, where CubeCL has the compiler look for them.
fn headers(system: &System, newest: Option<(u32, u32)>) -> Requirement {
    let name = "CUDA headers";
    let Some(toolkit) = toolkit(system) else {
        return Requirement::missing(name, install(newest));
    };
    let folder = system.path(&toolkit).join("include");
    let shown = toolkit.join("include").display().to_string();
    let missing = HEADERS.iter().find(|header| !folder.join(header).exists());
    if let Some(header) = missing {
        let advice = match (system.variables)("CUDA_PATH") {
            Some(_) => format!(
                "{shown} has no {header}; set CUDA_PATH to a folder whose include has it, or {}",
                install(newest)
            ),
            None => format!("{shown} has no {header}; {}", install(newest)),
        };
        return Requirement::missing(name, advice);
    }
    let version = VERSION_MACROS.iter().find_map(|(file, definition)| {
        let text = std::fs::read_to_string(folder.join(file)).ok()?;
        let number = text.lines().find_map(|line| line.strip_prefix(definition))?;
        let number: u32 = number.trim().parse().ok()?;
        Some(format!("{}.{}", number / 1000, number % 1000 / 10))
    });
    let mut found = Requirement::found(name, described(system, &folder, version.as_deref()));
    // Since CUDA 13 those of C++ have a folder of their own.
    let is_there =
        |header: &str| ["", "cccl"].iter().any(|part| folder.join(part).join(header).exists());
    if let Some(header) = FASTER.iter().find(|header| !is_there(header)) {
        found.advice = Some(format!(
            "{shown} has no {header}, without which the fastest matrix products are left out; {}",
            install(newest)
        ));
    }
    found
}

/// The folder of the toolkit, as CubeCL chooses it.
fn toolkit(system: &System) -> Option<PathBuf> {
    if let Some(path) = (system.variables)("CUDA_PATH") {
        return Some(path.into());
    }
    let exists = |path: &&&str| system.path(path).exists();
    if let Some(path) = TOOLKITS[..2].iter().find(exists) {
        return Some(path.into());
    }
    // As distributions install it.
    system.path("/usr/bin/nvcc").exists().then(|| "/usr".into())
}

/// Folders where NVRTC may be although the system does not look for libraries there.
fn elsewhere(system: &System) -> Vec<PathBuf> {
    let set = ["CUDA_PATH", "CUDA_HOME", "CONDA_PREFIX"];
    let toolkits = set.iter().filter_map(|name| (system.variables)(name));
    let toolkits = toolkits.chain(TOOLKITS.map(String::from));
    let libraries = toolkits.flat_map(|path| LIBRARIES.map(|lib| format!("{path}/{lib}")));
    let environment = (system.variables)("VIRTUAL_ENV")
        .or_else(|| (system.variables)("CONDA_PREFIX"))
        .map(|path| format!("{path}/lib/python3*/site-packages"));
    let packages = environment.into_iter().chain(SITE_PACKAGES.map(String::from));
    let wheels = packages.flat_map(|path| WHEELS.map(|wheel| format!("{path}/{wheel}")));
    libraries.chain(wheels).flat_map(|pattern| system.matching(&pattern)).collect()
}

/// The exact words to install NVRTC and the headers by.
fn install(newest: Option<(u32, u32)>) -> String {
    match newest {
        // Where the wheels of a release share a folder, which then is a toolkit.
        Some((major @ 13.., minor)) => format!(
            "install the toolkit: apt-get install cuda-toolkit-{major}-{minor} (from https://developer.nvidia.com/cuda-downloads); or, into a virtual environment, {}",
            wheels(major, minor)
        ),
        Some((major, minor)) => format!(
            "install the toolkit: apt-get install cuda-toolkit-{major}-{minor} (from https://developer.nvidia.com/cuda-toolkit-archive), or apt-get install nvidia-cuda-toolkit (Debian, Ubuntu)"
        ),
        None => "install the toolkit: https://developer.nvidia.com/cuda-downloads, or apt-get install nvidia-cuda-toolkit (Debian, Ubuntu)".into(),
    }
}

fn wheels(major: u32, minor: u32) -> String {
    let packages = ["nvrtc", "runtime", "crt", "cccl"]
        .map(|part| format!("nvidia-cuda-{part}=={major}.{minor}.*"))
        .join(" ");
    format!(
        "pip install {packages}, and export CUDA_PATH=$(echo $VIRTUAL_ENV/lib/python3*/site-packages/nvidia/cu{major}) LD_LIBRARY_PATH=$CUDA_PATH/lib"
    )
}

fn described(system: &System, path: &Path, version: Option<&str>) -> String {
    let path = system.name(path);
    match version {
        Some(version) => format!("{version} in {path}"),
        None => path,
    }
}

/// The major version that a description begins with.
fn major(requirement: &Requirement) -> Option<&str> {
    let (version, _) = requirement.found.as_ref()?.split_once(" in ")?;
    version.split('.').next()
}

/// The version of NVRTC: what follows `.so.` in the name of the file that it is a link to, or where
/// that is a number alone, as in Python's wheels, in the name of the other half of NVRTC beside it.
fn version_in(library: &Path) -> Option<String> {
    let version = |path: &Path| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        Some(name.split_once(".so.")?.1.to_string())
    };
    let real = std::fs::canonicalize(library).ok()?;
    let own = version(&real)?;
    if own.contains('.') {
        return Some(own);
    }
    let beside = real.with_file_name(format!("{BUILTINS}{own}.*"));
    let mut beside = glob::glob(&beside.to_string_lossy()).ok()?.flatten();
    beside.next().and_then(|path| version(&path)).or(Some(own))
}

/// A library in a folder, by its bare name or with one of these versions.
fn library_in(folder: &Path, name: &str, versions: &[&str]) -> Option<PathBuf> {
    let versioned = versions.iter().map(|version| format!("{name}.{version}"));
    let mut names = std::iter::once(name.to_string()).chain(versioned);
    names.find_map(|name| {
        let path = folder.join(name);
        path.exists().then_some(path)
    })
}

impl System {
    /// A library where the system's loader looks for it: the first that has the bare name or,
    /// after that, one of these versions.
    pub(super) fn library(&self, name: &str, versions: &[&str]) -> Option<PathBuf> {
        let folders = self.library_folders();
        let names = std::iter::once(name.into())
            .chain(versions.iter().map(|version| format!("{name}.{version}")));
        let mut paths = names.flat_map(|name: String| {
            folders.iter().map(move |folder| folder.join(&name)).collect::<Vec<_>>()
        });
        paths.find(|path| path.exists())
    }

    /// Where the loader looks for libraries, in its order (ld.so(8)).
    fn library_folders(&self) -> Vec<PathBuf> {
        let mut folders = self.folders("LD_LIBRARY_PATH");
        let configured = std::iter::once(self.path("/etc/ld.so.conf"))
            .chain(self.matching("/etc/ld.so.conf.d/*.conf"));
        for text in configured.filter_map(|file| std::fs::read_to_string(file).ok()) {
            folders.extend(
                text.lines().map(str::trim).filter(|line| line.starts_with('/')).map(PathBuf::from),
            );
        }
        let architecture = format!("{}-linux-gnu", std::env::consts::ARCH);
        for folder in ["/lib", "/usr/lib", "/lib64", "/usr/lib64"] {
            folders.push(folder.into());
            folders.push(Path::new(folder).join(&architecture));
        }
        folders.into_iter().map(|folder| self.path(folder)).collect()
    }

    /// The paths that match a pattern under the root.
    fn matching(&self, pattern: &str) -> Vec<PathBuf> {
        let pattern = self.path(pattern);
        let found = glob::glob(&pattern.to_string_lossy()).ok();
        found.into_iter().flatten().flatten().collect()
    }
}
