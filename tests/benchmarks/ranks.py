"""One training in two processes: its speed, its start-up and its memory."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.noise import Guard
from tests.benchmarks.report import cells, markdown, run
from tests.benchmarks.rounds import compare

TITLE = "Several processes"
ROUNDS = 5
ABOUT = """
Samples per second of one training after its first quarter: in one process with one thread and with two, in two
processes with a thread each, and in two processes of a hand-written loop with DistributedDataParallel. Then seconds of
a whole `dlcli train mlp` of one step, and the memory (proportional set size, in MB) of `dlcli train mlp --data mnist`
with all its processes.
"""

_STEPS = {"cnn 64": 400, "resnet18 64, 64 pixels": 30}
_WORDS = {
    "cnn 64": ["model=cnn", "data=fashion-mnist", "batch_size=64", "lr=0.001"],
    "resnet18 64, 64 pixels": [
        "model=resnet18", "data=random", "data.shape=3,64,64", "data.samples=2000", "batch_size=64", "lr=0.001",
    ],
}  # fmt: skip
_COMMON = ["--device", "cpu", "--quiet"]


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    for name, words in _WORDS.items():
        if only in name:
            jobs = {
                "1 thread": partial(_rate, words, _STEPS[name], threads=1),
                "2 threads": partial(_rate, words, _STEPS[name], threads=2),
                "2 processes": partial(_rate, words, _STEPS[name], threads=1, processes=2),
                "DDP": partial(_ddp, words, _STEPS[name]),
            }
            found = compare(jobs, rounds=rounds, guard=guard)
            yield {"name": name, "ratio": {to: found.ratio("2 processes", to) for to in jobs if to != "2 processes"},
                   **found.as_dict()}  # fmt: skip
    if only in "start-up":
        jobs = {"1 thread": partial(_seconds, 1), "2 processes": partial(_seconds, 2)}
        found = compare(jobs, rounds=rounds, guard=guard)
        yield {"name": "start-up", "ratio": {"1 thread": found.ratio("2 processes", "1 thread")}, **found.as_dict()}
    if only in "memory":
        values = {"1 thread": _memory(1), "2 processes": _memory(2)}
        ratio = {"1 thread": values["2 processes"] / values["1 thread"]}
        yield {"name": "memory", "ratio": ratio, "median": values, "noise": 1.0, "quiet": True}


def _train(*words: str, processes: int = 1, runs: str) -> list[str]:
    return [sys.executable, "-m", "dlcli", "train", *words, *_COMMON, "--processes", str(processes), "--runs-dir", runs]


def _rate(words: list[str], steps: int, *, threads: int, processes: int = 1) -> float:
    options = ["--set" if k % 2 == 0 else word for word in words[1:] for k in range(2)]
    model = words[0].removeprefix("model=")
    with tempfile.TemporaryDirectory() as runs:
        length = ["--steps", str(steps), "--eval-every", f"{steps // 4}step", "--threads", str(threads)]
        length += ["--val-fraction", "0.02"]
        command = _train(model, *options, *length, processes=processes, runs=runs)
        subprocess.run(command, check=True, capture_output=True, env=os.environ)
        *_, second, third, fourth = Path(runs, "1", "metrics.csv").read_text().splitlines()
        rates = [float(line.rpartition(",")[2]) for line in (second, third, fourth)]
        return len(rates) / sum(1 / rate for rate in rates)


def _ddp(words: list[str], steps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.benchmarks.peers.ddp", *words, "threads=1", "device=cpu", "--size", "2"]
        command += ["--steps", str(steps), "--meeting", str(Path(folder, "meeting"))]
        other = subprocess.Popen([*command, "--rank", "1"], stderr=subprocess.DEVNULL)
        done = subprocess.run([*command, "--rank", "0"], check=True, capture_output=True, text=True)
        other.wait()
        return float(done.stdout)


def _seconds(processes: int) -> float:
    with tempfile.TemporaryDirectory() as runs:
        began = time.perf_counter()
        command = _train("mlp", "--steps", "1", processes=processes, runs=runs)
        subprocess.run(command, check=True, capture_output=True, env=os.environ)
        return time.perf_counter() - began


def _memory(processes: int) -> float:
    with tempfile.TemporaryDirectory() as runs:
        command = _train("mlp", "--data", "mnist", "--steps", "1500", processes=processes, runs=runs)
        process, most = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), 0.0
        while process.poll() is None:
            most = max(most, sum(map(_share, [process.pid, *_children(process.pid)])))
            time.sleep(0.05)
        assert process.returncode == 0
        return most


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _share(pid: int) -> float:
    """Memory of a process in MB; what it shares with others counts in parts."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def table(rows: list[dict[str, Any]]) -> str:
    names, lines = ("1 thread", "2 threads", "2 processes", "DDP"), []
    for row in rows:
        shape = ",.0f" if row["name"] != "start-up" else ".2f"
        values = cells(row, [(row["median"].get(name), shape) for name in names])
        ratios = cells(row, [(row["ratio"].get(name), ".2f") for name in ("1 thread", "2 threads", "DDP")])
        lines.append([row["name"], *values, *ratios, f"{row['noise']:.2f}"])
    header = ["", *names, "2 processes / 1 thread", "/ 2 threads", "/ DDP", "noise"]
    return markdown(header, lines)


if __name__ == "__main__":
    run(sys.modules[__name__])
