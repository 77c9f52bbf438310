"""What benches/compare.sh runs: training steps and decoding of emberlm and of PyTorch, in turns.

train   A step is forward, mean cross-entropy, backward, clipping the gradient's norm at 1, AdamW,
        and the loss read by the host; the median of a run's steps counts, after some that are not
        measured.
dropout The same with nanoGPT's dropout of 0.2, of embeddings, attention and both branches.
decode  One sequence is continued greedily, from one token on; the median of a run's tokens counts,
        of which it makes all a second time. Where the program can, also with int8 weights.
engine  A whole training of emberlm beside its bare steps, written by hand.

Each run is a process of its own, and the programs take turns: A B A B. A ratio is that of the
medians over the runs, emberlm's to those of PyTorch's fastest variant. Memory is the most that a
process has had.
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
TRAIN_STEPS = {"s": 100, "m": 12, "l": 8, "xl": 8}
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
    found = call([args.emberlm, "bench", "engine", "--rounds", "20", "--json"])
    print(
        f"engine: {found['whole_step_ms']:.2f} ms a step of a whole training, "
        f"{found['bare_step_ms']:.2f} ms bare: {found['ratio']:.3f} times",
        flush=True,
    )
    return found


def train(args, options=()):
    def compare(shape):
        own = {"emberlm": ["train", "--shape", shape, *options]}
        steps = TRAIN_STEPS[shape]
        return alternate(args, "train", shape, steps, own, args.train_variants, options)

    shapes = [compare(shape) for shape in args.shapes]
    return {"pairs": args.pairs, "shapes": shapes}


def dropout(args):
    return train(args, ("--dropout", "0.2"))


def decode(args):
    usage = subprocess.run(
        [args.emberlm, "bench", "decode", "--help"], check=True, capture_output=True, text=True
    )
    has_int8 = "--quantize" in usage.stdout

    def compare(shape):
        own = {"emberlm": ["decode", "--shape", shape]}
        if has_int8:
            own["emberlm, int8"] = ["decode", "--shape", shape, "--quantize", "int8"]
        return alternate(args, "decode", shape, DECODE_STEPS[shape], own, args.decode_variants)

    shapes = [compare(shape) for shape in args.shapes]
    return {"pairs": args.pairs, "shapes": shapes}


def alternate(args, mode, shape, steps, own, variants, options=()):
    """Runs of emberlm's commands and of PyTorch's variants, `pairs` times in turn."""
    programs = {
        name: [args.emberlm, "bench", *command, "--steps", str(steps), "--json"]
        for name, command in own.items()
    }
    for variant in variants:
        command = [sys.executable, PEER, mode, "--shape", shape, "--variant", variant, *options]
        programs[variant] = [*command, "--steps", str(steps)]
    runs = {name: [] for name in programs}
    for _ in range(args.pairs):
        for name, command in programs.items():
            result = call(command)
            runs[name].append(measured(result))
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
        show(mode, shape, name, medians[name], best, medians[best], ratios[name])
    return {
        "shape": shape,
        "steps": steps,
        "peer": peer,
        "best_variant": best,
        "medians": medians,
        "ratios": ratios,
        "runs": runs,
    }


def show(mode, shape, name, own, variant, peer, ratios):
    memory = f"{own['peak_mib']:.0f} MiB to {peer['peak_mib']:.0f}: {ratios['memory']:.2f} times"
    match mode:
        case "train":
            figures = (
                f"{own['step_ms']:.1f} ms a step, PyTorch ({variant}) {peer['step_ms']:.1f} ms: "
                f"{ratios['time']:.2f} times"
            )
        case _:
            figures = (
                f"{1e3 / own['step_ms']:.1f} tokens/s, PyTorch ({variant}) "
                f"{1e3 / peer['step_ms']:.1f}: {ratios['speed']:.2f} times"
            )
    print(f"{mode} {shape}, {name}: {figures}; {memory}", flush=True)


def measured(result):
    """The numbers of a run of either program, under the same names."""
    if "peer" in result:
        return {"step_ms": result["ms_per_step"], "peak_mib": result["peak_rss_mib"]}
    return {"step_ms": result["step_ms"], "peak_mib": result["peak_mib"]}


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
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
