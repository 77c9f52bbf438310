"""What benches/compare.sh runs: training steps of emberlm and of PyTorch, in turns.

A step is forward, mean cross-entropy, backward, clipping the gradient's norm at 1, AdamW, and the
loss read by the host; each run is a process of its own and reports the median of its steps, after
some that are not counted. The ratio is emberlm's median over its runs to that of PyTorch's faster
variant. Memory is the most that the process has had, PyTorch's with that variant.
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

# Such that a run of either takes some seconds.
STEPS = {"s": 100, "m": 12, "l": 8, "xl": 8}
PEER = Path(__file__).parent / "torch_gpt.py"


def run(command):
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def ours(program, shape):
    result = run([program, "bench", "train", "--shape", shape, "--steps", str(STEPS[shape]), "--json"])
    return result["step_ms"], result["peak_mib"]


def theirs(shape, variant):
    command = [sys.executable, PEER, "train", "--shape", shape, "--variant", variant]
    result = run([*command, "--steps", str(STEPS[shape])])
    return result["ms_per_step"], result["peak_rss_mib"], result["peer"]


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def compare(program, shape, variants, pairs):
    own, peers, peer = [], {variant: [] for variant in variants}, ""
    for _ in range(pairs):
        own.append(ours(program, shape))
        for variant in variants:
            *measured, peer = theirs(shape, variant)
            peers[variant].append(measured)
    median = lambda runs: statistics.median(run[0] for run in runs)
    best = min(variants, key=lambda variant: median(peers[variant]))
    memory = max(run[1] for run in own), max(run[1] for run in peers[best])
    return {
        "shape": shape,
        "steps": STEPS[shape],
        "peer": peer,
        "best_variant": best,
        "step_ms": median(own),
        "peer_step_ms": {variant: median(peers[variant]) for variant in variants},
        "time_ratio": round(median(own) / median(peers[best]), 3),
        "peak_mib": memory[0],
        "peer_peak_mib": memory[1],
        "memory_ratio": round(memory[0] / memory[1], 3),
        "runs": {"emberlm": own, **peers},
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--emberlm", required=True)
    parser.add_argument("--shapes", nargs="+", choices=STEPS, required=True)
    parser.add_argument("--variants", nargs="+", required=True)
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results = {
        "date": date.today().isoformat(),
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "pairs": args.pairs,
        "engine": run([args.emberlm, "bench", "engine", "--rounds", "20", "--json"]),
        "training": [],
    }
    engine = results["engine"]
    print(
        f"engine: {engine['whole_step_ms']:.2f} ms a step of a whole training, "
        f"{engine['bare_step_ms']:.2f} ms bare: {engine['ratio']:.3f} times"
    )
    for shape in args.shapes:
        result = compare(args.emberlm, shape, args.variants, args.pairs)
        results["training"].append(result)
        print(
            f"{shape}: {result['step_ms']:.1f} ms a step, PyTorch ({result['best_variant']}) "
            f"{result['peer_step_ms'][result['best_variant']]:.1f} ms: {result['time_ratio']:.2f} times; "
            f"{result['peak_mib']:.0f} MiB to {result['peer_peak_mib']}: {result['memory_ratio']:.2f} times",
            flush=True,
        )
    args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
