"""Checks the event files of a training with TensorBoard's own reader.

    python -m venv venv && venv/bin/pip install tensorboard 'setuptools<81'     (2.21.0 was used)
    venv/bin/python tests/python/check_tensorboard.py target/debug/emberlm

Trains a few steps and compares every value with metrics.jsonl; kills a run some steps after its
checkpoint and resumes it: TensorBoard must show each step once, with the values of the second time.
"""

import argparse
import json
import os
import pathlib
import signal
import struct
import subprocess
import tempfile
import time

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TINY = """model.d_model=16 model.n_layers=1 model.context_length=32 train.batch_size=2
data.train_stories=50 data.validation_stories=5 sample.max_tokens=5
train.loggers.tensorboard=true""".split()


def start(program, folder, *arguments):
    return subprocess.Popen(
        [program, "train", "--plain", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def settings(*values):
    return [word for value in values for word in ("--set", value)]


def as_float(value):
    """Scalars are 32 bits wide in an event file."""
    return struct.unpack("f", struct.pack("f", value))[0]


def compare(run):
    """Every value of metrics.jsonl, in its order, and nothing else."""
    expected, values = {}, 0
    for line in (run / "metrics.jsonl").read_text().splitlines():
        line = json.loads(line)
        for key, value in line.items():
            if key not in ("split", "step") and not isinstance(value, list):
                pairs = expected.setdefault(f"{line['split']}/{key}", [])
                pairs.append((line["step"], as_float(value)))
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    found = events.Tags()["scalars"]
    assert set(found) == set(expected), set(found) ^ set(expected)
    for tag, pairs in expected.items():
        assert [(event.step, event.value) for event in events.Scalars(tag)] == pairs, tag
        values += len(pairs)
    (text,) = events.Tensors("config")[-1].tensor_proto.string_val
    assert text.decode().startswith(f"# {run.name}\n"), text
    return values


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("emberlm")
    program = os.path.abspath(parser.parse_args().emberlm)
    with tempfile.TemporaryDirectory() as folder:
        check(program, pathlib.Path(folder))


def check(program, folder):
    short = settings(*TINY, "train.steps=6", "train.evaluate_every=3")
    assert start(program, folder, *short).wait() == 0
    print(f"a run: {compare(folder / 'artifacts/stories')} values as in metrics.jsonl")

    run = folder / "artifacts/killed"
    long = settings(*TINY, "train.evaluate_every=400", "train.steps=1000000")
    process = start(program, folder, "--run", "killed", *long)
    step = 0
    # Until it is past a checkpoint, and has not reached the next one.
    while not (step > 400 and step % 400 > 50) or not (run / "checkpoints/step-00000400").exists():
        assert process.poll() is None
        time.sleep(0.01)
        if (run / "metrics.jsonl").exists():
            step = (run / "metrics.jsonl").read_text().count('"split":"train"')
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-2])["step"]
    saved = max(int(path.name[5:]) for path in (run / "checkpoints").glob("step-????????"))
    assert saved < last, (saved, last)
    further = settings(f"train.steps={saved + 500}", "train.schedule.decay_steps=1000")
    assert start(program, folder, "--resume", "killed", *further).wait() == 0
    files = len(list(run.glob("events.out.tfevents.*")))
    assert files == 2, files
    print(f"killed after step {last}, resumed from {saved}: {compare(run)} values, each step once")


if __name__ == "__main__":
    main()
