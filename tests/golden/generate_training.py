"""Makes the goldens of training: what PyTorch's optimizers do to a few matrices, and what learning-rate schedules of
PyTorch and of transformers are.

    pip install torch==2.15.0 transformers==5.23.0
    python tests/golden/generate_training.py tests/golden/training

The files there were made with these versions, on a CPU, in 64-bit floats.
"""

import argparse
import inspect
import json
import warnings
from pathlib import Path

import torch
import transformers
from torch.optim import _muon, lr_scheduler

STEPS = 8
RATE = 0.01
SHAPES = {"square": (6, 6), "wide": (6, 10), "tall": (10, 6)}

# PyTorch orthogonalises in bfloat16; in 64 bits its formula can be compared to more than two digits.
orthogonalize = inspect.getsource(_muon._zeropower_via_newtonschulz)
assert orthogonalize.count("torch.bfloat16") == 1
exec(orthogonalize.replace("torch.bfloat16", "grad.dtype"), _muon.__dict__)

# Our configuration, and the optimizer that it stands for.
OPTIMIZERS = [
    (
        {"kind": "muon", "weight_decay": 0.1},
        lambda matrices: torch.optim.Muon(
            matrices, lr=RATE, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"
        ),
    ),
    (
        {"kind": "muon", "momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
        lambda matrices: torch.optim.Muon(
            matrices, lr=RATE, weight_decay=0.0, momentum=0.9, nesterov=False, adjust_lr_fn="match_rms_adamw"
        ),
    ),
    (
        {"kind": "adamw", "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1},
        lambda matrices: torch.optim.AdamW(matrices, lr=RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1),
    ),
    # PyTorch adds the decay of SGD to the gradient, we do not: they are the same without.
    (
        {"kind": "sgd", "momentum": 0.0},
        lambda matrices: torch.optim.SGD(matrices, lr=RATE),
    ),
    (
        {"kind": "sgd", "momentum": 0.9},
        lambda matrices: torch.optim.SGD(matrices, lr=RATE, momentum=0.9),
    ),
    (
        {"kind": "sgd", "momentum": 0.9, "nesterov": True},
        lambda matrices: torch.optim.SGD(matrices, lr=RATE, momentum=0.9, nesterov=True),
    ),
]


def make_optimizers():
    torch.manual_seed(5)

    def matrix(shape):
        # 64ths are whole in 32-bit floats and short in JSON.
        return (torch.randn(shape, dtype=torch.float64) * 64).round() / 64

    start = {name: matrix(shape) for name, shape in SHAPES.items()}
    gradients = {name: [matrix(shape) for _ in range(STEPS)] for name, shape in SHAPES.items()}
    # As in training: every step has another rate.
    rates = [RATE / (1 + step) for step in range(STEPS)]
    cases = []
    for configuration, optimizer in OPTIMIZERS:
        matrices = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
        optimizer = optimizer(list(matrices.values()))
        for step, rate in enumerate(rates):
            for group in optimizer.param_groups:
                group["lr"] = rate
            for name, value in matrices.items():
                value.grad = gradients[name][step].clone()
            optimizer.step()
        after = {name: [round(x, 9) for x in value.flatten().tolist()] for name, value in matrices.items()}
        cases.append({"optimizer": configuration, "after": after})
    return {
        "rates": rates,
        "start": {name: value.flatten().tolist() for name, value in start.items()},
        "gradients": {name: [value.flatten().tolist() for value in all] for name, all in gradients.items()},
        "cases": cases,
    }


PEAK, WARMUP, LENGTH = 3e-3, 7, 45
# transformers begins its warmup at a rate of zero, ours begins where its second step is.
LATER = dict(num_warmup_steps=WARMUP + 1, num_training_steps=LENGTH + 1)


def after_warmup(rest):
    """PyTorch's own linear warmup, then `rest`."""

    def schedule(optimizer):
        warmup = lr_scheduler.LinearLR(optimizer, start_factor=1 / (WARMUP + 1), total_iters=WARMUP)
        return lr_scheduler.SequentialLR(optimizer, [warmup, rest(optimizer)], milestones=[WARMUP])

    return schedule


def stable_decay(decay_type, warmup, ratio):
    return lambda optimizer: transformers.get_wsd_schedule(
        optimizer,
        num_warmup_steps=warmup + 1,
        num_decay_steps=9,  # a fifth of 45
        num_training_steps=LENGTH + 1,
        decay_type=decay_type,
        min_lr_ratio=ratio,
    )


# Our configuration beside peak and warmup, the schedule that it stands for, and how many steps later that begins.
SCHEDULES = [
    ({"kind": "constant"}, lambda o: transformers.get_constant_schedule_with_warmup(o, WARMUP + 1), 1),
    ({"kind": "linear"}, lambda o: transformers.get_linear_schedule_with_warmup(o, **LATER), 1),
    (
        {"kind": "linear", "final_learning_rate": PEAK / 4},
        after_warmup(lambda o: lr_scheduler.LinearLR(o, 1.0, 0.25, total_iters=LENGTH - WARMUP)),
        0,
    ),
    (
        {"kind": "cosine", "final_learning_rate": 0.0},
        lambda o: transformers.get_cosine_schedule_with_warmup(o, **LATER),
        1,
    ),
    (
        {"kind": "cosine", "final_learning_rate": PEAK / 10},
        after_warmup(lambda o: lr_scheduler.CosineAnnealingLR(o, LENGTH - WARMUP, eta_min=PEAK / 10)),
        0,
    ),
    (
        {"kind": "cosine-restarts", "cycle_steps": 6, "cycle_factor": 2, "final_learning_rate": PEAK / 10},
        after_warmup(lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 6, 2, eta_min=PEAK / 10)),
        0,
    ),
    (
        {"kind": "cosine-restarts", "cycle_steps": (LENGTH - WARMUP) // 2},
        lambda o: transformers.get_cosine_with_hard_restarts_schedule_with_warmup(o, **LATER, num_cycles=2),
        1,
    ),
    ({"kind": "inverse-sqrt"}, lambda o: transformers.get_inverse_sqrt_schedule(o, WARMUP + 1), 1),
    (
        {"kind": "warmup-stable-decay", "decay_fraction": 0.2, "decay_shape": "1-sqrt"},
        stable_decay("1-sqrt", WARMUP, 0.0),
        1,
    ),
    # Where it does not end at zero, that of transformers does not begin there either.
    (
        {
            "kind": "warmup-stable-decay",
            "warmup_steps": 0,
            "decay_fraction": 0.2,
            "decay_shape": "linear",
            "final_learning_rate": PEAK / 5,
        },
        stable_decay("linear", 0, 0.2),
        1,
    ),
]


def make_schedules():
    cases = []
    for configuration, schedule, later in SCHEDULES:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
        schedule = schedule(optimizer)
        rates = []
        for _ in range(LENGTH + later):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        configuration = {"learning_rate": PEAK, "warmup_steps": WARMUP, **configuration}
        cases.append({"schedule": configuration, "steps": LENGTH, "rates": rates[later:]})
    return {"cases": cases}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(exist_ok=True)
    # SequentialLR calls its parts in a way that PyTorch itself warns of.
    warnings.simplefilter("ignore")
    for name, value in {"optimizers": make_optimizers(), "schedules": make_schedules()}.items():
        (folder / f"{name}.json").write_text(json.dumps(value) + "\n")


if __name__ == "__main__":
    main()
