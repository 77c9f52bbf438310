"""What benches/compare.sh runs: training steps and decoding of emberlm and of PyTorch, in turns.

train   A step is forward, mean cross-entropy, backward, clipping the gradient's norm at 1, AdamW,
        and the loss read by the host; the median of a run's steps counts, after some that are not
        measured.
dropout The same with nanoGPT's dropout of 0.2, of embeddings, attention and both branches.
decode  A sequence, or as many as --decode-batches says, is continued greedily, from one token on; the
        median of a run's tokens counts, of which it makes all a second time. Where the program can,
        also with int8 weights. In f32, for which a GPU may take TF32.
engine  A whole training of emberlm beside its bare steps, written by hand.

Each run is a process of its own, and the programs take turns: A B A B. A ratio is that of the
medians over the runs, emberlm's to those of PyTorch's fastest variant. Memory is the most that a
process has had; on a GPU, the most that the allocators have held of it.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path

# Such that a run of either takes some seconds. No more tokens than the context is long.
TRAIN_STEPS = {"s": 100, "m": 12, "l": 8, "xl": 50}
DECODE_STEPS = {"s": 64, "m": 256, "l": 128, "xl": 128}
PEER = Path(__file__).parent / "torch_gpt.py"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--emberlm", required=True)
    parts = ["engine", "train", "dropout", "decode"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--shapes", nargs="+", choices=TRAIN_STEPS, required=True)
    parser.add_argument("--train-variants", nargs="+", required=True)
    parser.add_argument("--decode-variants", nargs="+", required=True)
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="of training")
    parser.add_argument("--batches", nargs="+", type=int, default=[None], help="of training; a shape's own where absent")
    parser.add_argument("--decode-batches", nargs="+", type=int, default=[1])
    parser.add_argument("--peak-tflops", type=float, help="what the device can do at most, by its maker")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    compare = {"engine": engine, "train": train, "dropout": dropout, "decode": decode}
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    for part in args.only:
        results[part] = {"date": date.today().isoformat(), "machine": machine(), **compare[part](args)}
        # After each part: the next one may take an hour.
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=2) + "\n")
    print(f"results: {args.out}")


def engine(args):
    found = call([args.emberlm, "bench", "engine", "--rounds", "20", "--json", *backend(args)])
    print(
        f"engine: {found['whole_step_ms']:.2f} ms a step of a whole training, "
        f"{found['bare_step_ms']:.2f} ms bare: {found['ratio']:.3f} times",
        flush=True,
    )
    return found


def train(args, dropout=0.0):
    def compare(shape, batch):
        settings = {"train.precision": args.precision, "train.batch_size": batch, "model.dropout": dropout}
        settings = [f"{key}={value}" for key, value in settings.items() if value]
        own = {"emberlm": ["train", "--shape", shape, *(f"--set={setting}" for setting in settings)]}
        options = ["--dropout", str(dropout), "--dtype", args.precision, *of_batch(batch)]
        return alternate(args, "train", shape, TRAIN_STEPS[shape], own, args.train_variants, options)

    shapes = [compare(shape, batch) for shape in args.shapes for batch in args.batches]
    return {"pairs": args.pairs, "precision": args.precision, "shapes": shapes}


def dropout(args):
    return train(args, dropout=0.2)


def of_batch(batch):
    return ["--batch", str(batch)] if batch else []


def backend(args):
    return ["--backend", "cuda"] if args.device == "cuda" else []


def decode(args):
    usage = subprocess.run(
        [args.emberlm, "bench", "decode", "--help"], check=True, capture_output=True, text=True
    )
    has_int8 = "--quantize" in usage.stdout

    def compare(shape, batch):
        own = {"emberlm": ["decode", "--shape", shape, *of_batch(batch)]}
        if has_int8:
            own["emberlm, int8"] = [*own["emberlm"], "--quantize", "int8"]
        options = of_batch(batch)
        return alternate(args, "decode", shape, DECODE_STEPS[shape], own, args.decode_variants, options)

    shapes = [compare(shape, batch) for shape in args.shapes for batch in args.decode_batches]
    return {"pairs": args.pairs, "shapes": shapes}


def alternate(args, mode, shape, steps, own, variants, options):
    """Runs of emberlm's commands and of PyTorch's variants, `pairs` times in turn."""
    options = [*options, "--device", args.device]
    programs = {
        name: [args.emberlm, "bench", *command, "--steps", str(steps), "--json", *backend(args)]
        for name, command in own.items()
    }
    for variant in variants:
        command = [sys.executable, PEER, mode, "--shape", shape, "--variant", variant, *options]
        programs[variant] = [*command, "--steps", str(steps)]
    runs = {name: [] for name in programs}
    flops = None
    for _ in range(args.pairs):
        for name, command in programs.items():
            result = call(command)
            runs[name].append(measured(result))
            if "flops_per_step" in result:
                flops = result["flops_per_step"]
            if "peer" not in result:
                batch = result["batch_size"]
    peer = result["peer"]  # the last one is PyTorch's
    medians = {
        name: {key: statistics.median(run[key] for run in of_program) for key in of_program[0]}
        for name, of_program in runs.items()
    }
    best = min(variants, key=lambda variant: medians[variant]["step_ms"])
    ratios = {}
    for name in own:
        ratio = lambda key: medians[name][key] / medians[best][key]
        ratios[name] = {"time": ratio("step_ms"), "speed": 1 / ratio("step_ms"), "memory": ratio("peak_mib")}
        ratios[name] = {key: round(value, 3) for key, value in ratios[name].items()}
        label = f"{mode} {shape}, batch {batch}, {name}"
        show(mode, label, medians[name], best, medians[best], ratios[name])
    # Of the operations that the model has to do, for all programs alike.
    tflops = {name: round(flops / of_program["step_ms"] / 1e9, 3) for name, of_program in medians.items()} if flops else {}
    for name, rate in tflops.items():
        share = f", {100 * rate / args.peak_tflops:.1f}% of {args.peak_tflops:.0f}" if args.peak_tflops else ""
        print(f"    {name}: {rate:.2f} TFLOP/s{share}", flush=True)
    return {
        "shape": shape,
        "batch_size": batch,
        "steps": steps,
        "peer": peer,
        "best_variant": best,
        "medians": medians,
        "ratios": ratios,
        "tflops": tflops,
        "runs": runs,
    }


def show(mode, label, own, variant, peer, ratios):
    memory = f"{own['peak_mib']:.0f} MiB to {peer['peak_mib']:.0f}: {ratios['memory']:.2f} times"
    match mode:
        case "train":
            figures = (
                f"{own['step_ms']:.1f} ms a step, PyTorch ({variant}) {peer['step_ms']:.1f} ms: "
                f"{ratios['time']:.2f} times"
            )
        case _:
            figures = (
                f"{own['tokens_per_s']:.1f} tokens/s, PyTorch ({variant}) "
                f"{peer['tokens_per_s']:.1f}: {ratios['speed']:.2f} times"
            )
    print(f"{label}: {figures}; {memory}", flush=True)


def measured(result):
    """The numbers of a run of either program, under the same names."""
    if "peer" in result:
        times = {"step_ms": result["ms_per_step"], "tokens_per_s": result["tokens_per_s"]}
        return {**times, "peak_mib": result["peak_gpu_reserved_mib"] or result["peak_rss_mib"]}
    kept = ["step_ms", "tokens_per_s", "reserved_mib_after_warmup", "utilisation_percent", "peak_gflops"]
    numbers = {key: result[key] for key in kept if key in result}
    return {**numbers, "peak_mib": result.get("reserved_mib", result["peak_mib"])}


def call(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def machine():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    gpu = "".join(f"{line}; " for line in gpus())
    return f"{gpu}{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def gpus():
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


if __name__ == "__main__":
    main()
