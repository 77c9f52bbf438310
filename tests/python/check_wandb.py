"""Checks the README's way of a run to Weights & Biases, without the service.

    python -m venv venv && venv/bin/pip install wandb==0.29.0 tensorboard 'setuptools<81'
    venv/bin/python tests/python/check_wandb.py target/debug/emberlm

Trains a few steps, runs the README's script offline, and compares what the client has written with
metrics.jsonl.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from wandb.proto import wandb_internal_pb2
from wandb.sdk.internal import datastore

from check_tensorboard import TINY, as_float, settings, start

README = pathlib.Path(__file__).parents[2] / "README.md"


def records(path):
    store = datastore.DataStore()
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        yield record


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("emberlm")
    program = os.path.abspath(parser.parse_args().emberlm)
    (script,) = [
        block
        for block in re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
        if "wandb.init" in block
    ]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "to_wandb.py").write_text(script)
        short = settings(*TINY, "train.steps=6", "train.evaluate_every=3")
        assert start(program, folder, "--run", "first", *short).wait() == 0
        command = [sys.executable, "to_wandb.py", "artifacts/first"]
        environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
        subprocess.run(command, cwd=folder, env=environment, check=True)

        expected = {}
        for line in (folder / "artifacts/first/metrics.jsonl").read_text().splitlines():
            line = json.loads(line)
            split, step = line.pop("split"), line.pop("step")
            row = {f"{split}/{key}": as_float(value) for key, value in line.items()}
            expected.setdefault(step, {}).update(row)
        (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
        found, name = {}, None
        for record in records(path):
            if record.WhichOneof("record_type") == "run":
                name = record.run.display_name
                config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            for item in record.history.item:
                key = item.key or ".".join(item.nested_key)
                if not key.startswith("_"):
                    row = found.setdefault(record.history.step.num, {})
                    row[key] = json.loads(item.value_json)
        assert found == expected, (found, expected)
        assert name == "first", name
        assert config["train"]["steps"] == 6, config
        print(f"{sum(map(len, found.values()))} values of {len(found)} steps as in metrics.jsonl")


if __name__ == "__main__":
    main()
