"""Checks what an MLflow server has of a training, through MLflow's own client.

    python -m venv venv && venv/bin/pip install mlflow     (a gigabyte; 3.17.2 is what was used)
    venv/bin/python tests/python/check_mlflow.py target/debug/emberlm

Starts `mlflow server` on a free port with a store of its own, and
  - trains a few steps, and compares every value with metrics.jsonl, and every setting;
  - resumes them, which goes on with the same run;
  - ends the server in the middle of a run, which must end well and say what is missing;
  - starts the server again and resumes that run; and
  - pauses the server during a run, ends it and starts it again, and stops the run by a signal:
    nothing may be missing.
"""

import argparse
import json
import math
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import mlflow

TINY = """model.d_model=16 model.n_layers=1 model.context_length=32 train.batch_size=2
data.train_stories=50 data.validation_stories=5 sample.max_tokens=5""".split()


class Server:
    def __init__(self, folder, port):
        self.uri = f"http://127.0.0.1:{port}"
        self.folder, self.port = folder, port

    def start(self):
        self.process = subprocess.Popen(
            [
                os.path.join(os.path.dirname(sys.executable), "mlflow"),
                "server",
                "--host=127.0.0.1",
                f"--port={self.port}",
                "--workers=1",
                f"--backend-store-uri=sqlite:///{self.folder}/mlflow.db",
                f"--artifacts-destination={self.folder}/stored",
            ],
            stdout=open(self.folder / "server.log", "a"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for _ in range(240):
            try:
                # Its first answers take long.
                experiments = f"{self.uri}/api/2.0/mlflow/experiments/search?max_results=1"
                for _ in range(5):
                    urllib.request.urlopen(experiments, timeout=30).read()
                return
            except OSError:
                time.sleep(0.5)
        raise SystemExit(f"no server: {(self.folder / 'server.log').read_text()}")

    def signal(self, number):
        """To its workers too."""
        os.killpg(self.process.pid, number)

    def end(self):
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait()


def start(program, folder, *arguments):
    return subprocess.Popen(
        [program, "train", "--plain", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, (process.returncode, error)
    return out, error


def settings(*values):
    return [word for value in values for word in ("--set", value)]


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def flat(path, value):
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(f"{path}.{key}" if path else key, inner)
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def compare(client, run, without=()):
    """Every value of metrics.jsonl but those `without`, and nothing else. The last one counts of a
    step that was computed again."""
    kept = json.loads((run / "mlflow.json").read_text())
    tracked = client.get_run(kept["run_id"])
    expected, values = {}, 0
    for line in lines(run):
        for key, value in line.items():
            if key not in ("split", "step") and not isinstance(value, list):
                expected.setdefault(f"{line['split']}/{key}", {})[line["step"]] = value
    assert set(tracked.data.metrics) == set(expected), set(tracked.data.metrics) ^ set(expected)
    missing = set()
    for key, steps in expected.items():
        history = sorted(client.get_metric_history(kept["run_id"], key), key=lambda m: m.timestamp)
        found = {metric.step: metric.value for metric in history}
        missing |= {(key.split("/")[0], step) for step in set(steps) - set(found)}
        for step, value in found.items():
            if value != steps[step]:
                # A fraction is the same to the last bit; what is not a number is null in a line.
                assert steps[step] is None and math.isnan(value), (key, step, value, steps[step])
            values += 1
    assert missing == set(without), (missing, without)
    return tracked, values


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("emberlm")
    program = os.path.abspath(parser.parse_args().emberlm)
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        folder = pathlib.Path(folder)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        server = Server(folder, port)
        try:
            check(program, folder, server)
        finally:
            server.end()


def check(program, folder, server):
    server.start()
    client = mlflow.MlflowClient(server.uri)
    track = f"train.loggers.mlflow.uri={server.uri}"

    short = settings(*TINY, "train.steps=6", "train.evaluate_every=3", track)
    out, error = finish(start(program, folder, *short))
    run = folder / "artifacts/stories"
    tracked, values = compare(client, run)
    assert error == "", error
    assert f"{server.uri}/#/experiments/{tracked.info.experiment_id}/runs/" in out, out
    assert client.get_experiment(tracked.info.experiment_id).name == "emberlm"
    assert (tracked.info.run_name, tracked.info.status) == ("stories", "FINISHED")
    configuration = json.loads((run / "config.json").read_text())
    expected = dict(flat("", configuration))
    found = tracked.data.params
    assert set(found) == set(expected), set(found) ^ set(expected)
    for key, value in expected.items():
        same = found[key] == value or float(found[key]) == float(value)
        assert same, (key, found[key], value)
    print(f"a run: {values} metrics and {len(expected)} settings as in its folder")

    finish(start(program, folder, "--resume", "stories", *settings("train.steps=9")))
    again, values = compare(client, run)
    assert again.info.run_id == tracked.info.run_id and again.info.status == "FINISHED"
    assert again.data.tags["train.steps"] == "9" and again.data.params["train.steps"] == "6"
    print(f"resumed: {values} metrics in the same run")

    # Slow enough for the server.
    long = settings(*TINY, "train.batch_size=64", "train.evaluate_every=1000", track)
    lost = folder / "artifacts/lost"
    process = start(program, folder, "--run", "lost", *long, *settings("train.steps=2000"))
    wait_for_server(client, lost, 200)
    server.end()
    ended = time.monotonic()
    _, error = finish(process)
    assert error.startswith("mlflow: ") and error.count("\n") == 1, error
    missing = int(error.split()[1])
    assert " steps and evaluations were not logged at " in error, error
    total = len(lines(lost))
    assert total == 2002 and 0 < missing <= total - 200, (total, missing)
    print(f"the server ends in the middle: {error.strip()}")
    print(f"  the training went on for {time.monotonic() - ended:.1f} s and has all {total} rows")

    server.start()
    # A batch on its way when the server ended may be there.
    rows = [(line["split"], line["step"]) for line in lines(lost)][total - missing :]
    finish(start(program, folder, "--resume", "lost", *settings("train.steps=2100")))
    # The evaluation of the last step is made again.
    tracked, values = compare(client, lost, set(rows) - {("valid", 2000)})
    assert tracked.info.status == "FINISHED"
    print(f"the server is back, and the run goes on: {values} metrics, {missing} rows missing")

    paused = folder / "artifacts/paused"
    process = start(program, folder, "--run", "paused", *long, *settings("train.steps=100000"))
    wait_for_server(client, paused, 100)
    server.signal(signal.SIGSTOP)
    steps = len(lines(paused))
    while len(lines(paused)) < steps + 500:
        time.sleep(0.1)
    server.signal(signal.SIGCONT)
    wait_for_server(client, paused, steps + 500)
    server.end()
    steps = len(lines(paused))
    server.start()
    wait_for_server(client, paused, steps + 100)
    process.send_signal(signal.SIGINT)
    _, error = finish(process)
    assert "mlflow" not in error, error
    tracked, values = compare(client, paused)
    assert tracked.info.status == "KILLED", tracked.info.status
    print(f"the server pauses and is restarted during a run: {values} metrics, none missing")


def wait_for_server(client, run, steps):
    """Until the server has so many steps of a run."""
    for _ in range(600):
        if (run / "mlflow.json").exists():
            run_id = json.loads((run / "mlflow.json").read_text())["run_id"]
            tokens = client.get_run(run_id).data.metrics.get("train/tokens", 0)
            if tokens >= steps * 64 * 32:
                return
        time.sleep(0.2)
    raise SystemExit(f"{run} does not get to {steps} steps on the server")


if __name__ == "__main__":
    main()
