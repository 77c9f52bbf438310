"""The loss of every step of a training of GPT-2, of emberlm and of PyTorch, from the same weights and
on the same batches: AdamW with clipped gradients, on prepared tokens of the built-in stories.

    python benches/compare_curves.py --emberlm PATH [--config NAME|FILE] [--steps 1000] [--batch 8]
        [--precision bf16] [--device cuda] [--data FOLDER] [--out FILE]

emberlm begins with a run whose one step has changed nothing, which is exported for PyTorch. PyTorch
cuts the token files into the same windows by arithmetic of its own, and takes the learning rates that
emberlm prints. It exits with 1 where the curves, each a mean over 50 steps, lie more than 0.02 nats
apart, or a loss is not a number.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file
from torch_gpt import Gpt

TOLERANCE = 0.02
# Steps that a point of a curve is the mean of: the batches are the same, and so is their noise.
MEAN_OVER = 50
MASK = 2**64 - 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--emberlm", required=True)
    parser.add_argument("--config", default="gpt2")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--data", type=Path, help="token files made by `emberlm prepare --tokenizer gpt2`")
    parser.add_argument("--compile", action="store_true", help="PyTorch's model by torch.compile")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.device == "cuda":
        torch.set_float32_matmul_precision("high")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        own, config = of_emberlm(args, folder)
        peer = of_pytorch(args, folder / "start", config, own)
    losses = [step["loss"] for step in own]
    apart = [abs(ours - theirs) for ours, theirs in zip(means(losses), means(peer))]
    result = {
        "steps": len(losses),
        "batch_size": args.batch,
        "precision": args.precision,
        "device": args.device,
        "peer": f"torch {torch.__version__}",
        "largest_difference": max(apart, default=math.nan),
        "largest_difference_of_a_step": max(abs(a - b) for a, b in zip(losses, peer)),
        "first_losses": [losses[0], peer[0]],
        "last_means": [means(losses)[-1], means(peer)[-1]],
        "memory_mib": [own[min(10, len(own) - 1)]["memory_mib"], own[-1]["memory_mib"]],
        "emberlm": losses,
        "pytorch": peer,
    }
    print(json.dumps({key: value for key, value in result.items() if not isinstance(value, list) or len(value) == 2}))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result) + "\n")
    finite = all(map(math.isfinite, [*losses, *peer]))
    sys.exit(not (finite and result["largest_difference"] <= TOLERANCE))


def of_emberlm(args, folder):
    """What it prints of each step, and the configuration of the run."""
    data = args.data.resolve() if args.data else folder / "data"
    if not args.data:
        emberlm(args, folder, "prepare", "stories", "--tokenizer", "gpt2", "--out", data)
    settings = {
        "data": {"kind": "tokens", "path": str(data)},
        "train.steps": args.steps,
        "train.batch_size": args.batch,
        "train.accumulation": 1,
        "train.precision": args.precision,
        "train.evaluate_every": args.steps,
        "train.evaluation_windows": 8,
        "train.checkpoint_every": args.steps,
        "train.schedule.warmup_steps": max(args.steps // 10, 1),
    }
    # Weights of a number that is lost in f32 beside any other.
    still = {"train.steps": 1, "train.schedule.warmup_steps": 0, "train.schedule.learning_rate": 1e-30, "train.schedule.final_learning_rate": 0}
    train(args, folder, "start", {**settings, **still})
    emberlm(args, folder, "export", "start", "--to", "huggingface", folder / "start")
    lines = train(args, folder, "curve", {**settings, "init_from": "start"})
    steps = [line for line in map(json.loads, lines) if line.get("split") == "train"]
    return steps, json.loads((folder / "artifacts/curve/config.json").read_text())


def train(args, folder, run, settings):
    config = Path(args.config)
    config = config.resolve() if config.exists() else args.config
    values = [f"--set={key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]
    backend = ["--backend", "cuda"] if args.device == "cuda" else []
    return emberlm(args, folder, "train", "--config", config, "--run", run, "--json", *backend, *values).splitlines()


def emberlm(args, folder, *words):
    done = subprocess.run([Path(args.emberlm).resolve(), *map(str, words)], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        # Without a word where it was killed, as for memory.
        reason = done.stderr.strip() or f"it ended with {done.returncode}"
        sys.exit(f"emberlm {' '.join(map(str, words))}: {reason}")
    return done.stdout


def of_pytorch(args, exported, config, own):
    """The loss of each step, before the step."""
    model, train = config["model"], config["train"]
    layers, heads, width, context = (model[key] for key in ["n_layers", "n_heads", "d_model", "context_length"])
    tensors = load_file(exported / "model.safetensors")
    gpt = Gpt(layers, heads, width, context, tensors["transformer.wte.weight"].shape[0], 0.0)
    gpt.head.weight = gpt.tok.weight
    load(gpt, tensors, layers)
    gpt.to(args.device)
    optimizer = train["optimizer"]
    parameters = list(gpt.parameters())
    groups = [
        {"params": [it for it in parameters if it.dim() >= 2], "weight_decay": optimizer["weight_decay"]},
        {"params": [it for it in parameters if it.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (optimizer["beta1"], optimizer["beta2"])
    adamw = torch.optim.AdamW(groups, betas=betas, eps=optimizer["epsilon"], fused=True)
    data = Path(config["data"]["path"])
    meta = json.loads((data / "meta.json").read_text())
    kind = {"u16": "<u2", "u32": "<u4"}[meta["token_type"]]
    stream = numpy.concatenate([numpy.fromfile(data / shard["file"], kind) for shard in meta["train"]["shards"]])
    run = torch.compile(gpt) if args.compile else gpt
    losses = []
    for number, step in enumerate(own):
        examples = range(number * args.batch, (number + 1) * args.batch)
        starts = [window(len(stream), context, config["seed"], example) for example in examples]
        rows = numpy.stack([stream[start : start + context + 1] for start in starts]).astype(numpy.int64)
        ids = torch.from_numpy(rows).to(args.device)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            logits = run(ids[:, :-1])
            loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        for group in adamw.param_groups:
            group["lr"] = step["learning_rate"]
        adamw.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, train["clip_norm"])
        adamw.step()
        losses.append(loss.item())
    return losses


def load(gpt, tensors, layers):
    """GPT-2's names and layout, which has the factors of a product the other way round."""
    names = {"tok": "wte", "pos": "wpe", "norm": "ln_f"}
    for layer in range(layers):
        parts = {"norm1": "ln_1", "norm2": "ln_2", "qkv": "attn.c_attn", "out": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}
        names |= {f"blocks.{layer}.{ours}": f"h.{layer}.{theirs}" for ours, theirs in parts.items()}
    state = {}
    for ours, theirs in names.items():
        for part in ["weight", "bias"]:
            tensor = tensors.get(f"transformer.{theirs}.{part}")
            if tensor is not None:
                is_product = tensor.dim() == 2 and ours not in ["tok", "pos"]
                state[f"{ours}.{part}"] = tensor.T if is_product else tensor
    missing, unknown = gpt.load_state_dict(state, strict=False)
    assert not unknown and missing == ["head.weight"], (missing, unknown)


def means(losses):
    count = min(MEAN_OVER, len(losses))
    return [sum(losses[at : at + count]) / count for at in range(len(losses) - count + 1)]


def window(tokens, context, seed, example):
    """Where the window of an example begins: passes over the stream, each cut at another phase and taken
    in another order (see `WindowOrder` in src/data/windows.rs)."""
    count = max((tokens - context) // context, 1)
    number, place = divmod(example, count)
    key = mix(seed ^ mix(number))
    slack = tokens - 1 - count * context
    phase = mix(key) % (min(slack, context - 1) + 1)
    half_bits = (max((count - 1).bit_length(), 1) + 1) // 2
    while True:
        left, right = place >> half_bits, place & ((1 << half_bits) - 1)
        for turn in range(6):
            mixed = mix(key ^ mix(right ^ (turn << 56)))
            left, right = right, left ^ (mixed & ((1 << half_bits) - 1))
        place = left << half_bits | right
        if place < count:
            return phase + place * context


def mix(value):
    """SplitMix64's finaliser."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


if __name__ == "__main__":
    main()
