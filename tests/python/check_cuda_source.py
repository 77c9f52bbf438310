"""Has NVRTC, NVIDIA's compiler at run time, compile every kernel of ours as CubeCL writes it. No GPU is
needed, nor a driver.

    python -m venv venv
    venv/bin/pip install 'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cuda-runtime==13.0.*' \\
        'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-cccl==13.0.*'
    EMBERLM_CUDA_SOURCE=/tmp/cuda cargo test --no-default-features --features ndarray,cuda-source \\
        --test all cuda_source::
    venv/bin/python tests/python/check_cuda_source.py /tmp/cuda

The options are those that cubecl-cuda 0.10 gives, for the architectures of an A100, an H100 and a
B200. It exits with 1 if a kernel is refused, and prints what the compiler says.
"""

import ctypes
import pathlib
import sys

import nvidia.cu13

ARCHITECTURES = ["sm_80", "sm_90a", "sm_100a"]

home = pathlib.Path(next(iter(nvidia.cu13.__path__)))
# NVRTC opens its builtins by their name alone; what is loaded already is found by that.
ctypes.CDLL(str(next(home.glob("lib/libnvrtc-builtins.so.*"))))
nvrtc = ctypes.CDLL(str(next(home.glob("lib/libnvrtc.so.*"))))
include = home / "include"
# cubecl-cuda asks for libcu++ beside CUDA's own headers, where it is installed.
includes = [f"--include-path={include}", f"--include-path={include / 'cccl'}"]


def compiled(source: bytes, architecture: str) -> str | None:
    """What is wrong with a source; nothing if it was compiled."""
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, None, 0, None, None) == 0
    options = [f"--gpu-architecture={architecture}", *includes, "-lineinfo"]
    texts = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    failed = nvrtc.nvrtcCompileProgram(program, len(options), texts)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    if not failed:
        nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
        failed = size.value < 100
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return log.value.decode() or "no code came out" if failed else None


files = sorted(pathlib.Path(sys.argv[1]).glob("*.cu"))
assert files, f"there are no sources in {sys.argv[1]}"
refused = 0
for path in files:
    source = path.read_bytes()
    name = source.split(b"\n", 1)[0].decode()
    for architecture in ARCHITECTURES:
        log = compiled(source, architecture)
        if log is not None:
            refused += 1
            print(f"{path.name} for {architecture}: {name}\n{log}")
print(f"{len(files)} kernels, {len(ARCHITECTURES)} architectures, {refused} refused")
sys.exit(refused > 0)
