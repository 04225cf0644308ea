"""Sweeps: many short trials against a process for each, and how soon a good setting is found."""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

from tests.benchmarks.noise import Guard
from tests.benchmarks.process import output
from tests.benchmarks.report import cells, markdown, run
from tests.benchmarks.rounds import compare

TITLE = "Sweeps"
ROUNDS = 3
ABOUT = """
*48 trials*: seconds of a whole `dlcli sweep mlp --epochs 2 --jobs 2` over 48 learning rates, against 48 processes of
`dlcli train`, two at a time, and against Optuna's random sampler with a process for each trial, two at a time; where
they are installed, against Ray Tune with its defaults and Hydra's joblib launcher with two jobs, whose trials train the
same network in a loop of ten lines and keep nothing but their result. *Beyond
training* is what a trial takes in a worker beside its steps and evaluations, from sweeps of 8 and of 48 trials.

*Search*: `cnn` on Fashion-MNIST, 120 steps a trial, over `lr`, `batch_size`, `model.dropout` and `weight_decay`. The
best validation accuracy of 20 random trials, and of tpe with asha within half of their steps; means of so many
repetitions, and the difference with its 95 % interval.
"""

TRIALS = 48
_PEERS = {"ray": "ray", "hydra": "hydra"}
COMMON = ("mlp", "--data", "digits", "--epochs", "2", "--device", "cpu", "--quiet")

_SPACE = ("lr=loguniform(1e-4,1)", "batch_size=32,64,128,256", "model.dropout=uniform(0,0.7)",
          "weight_decay=loguniform(1e-6,1e-1)")  # fmt: skip
_SEARCH = (
    "cnn",
    "--data",
    "fashion-mnist",
    "--steps",
    "120",
    "--eval-every",
    "24steps",
    "--val-fraction",
    "0.05",
    "--device",
    "cpu",
    "--quiet",
)
_RANDOM_TRIALS = 20


def rates(count: int) -> list[float]:
    return [round(10 ** (-3 + 2.5 * place / count), 6) for place in range(count)]


def sweep(count: int) -> float:
    """Seconds of a whole sweep."""
    with tempfile.TemporaryDirectory() as runs:
        began = time.perf_counter()
        values = ",".join(map(repr, rates(count)))
        output("-m", "dlcli", "sweep", *COMMON, "--over", f"lr={values}", "--jobs", "2", "--runs-dir", runs)
        seconds = time.perf_counter() - began
        _trained.append(statistics.mean(_seconds(Path(runs) / str(n)) for n in range(1, count + 1)))
        return seconds


# Mean seconds of steps and evaluations of a trial, of each sweep.
_trained: list[float] = []


def _seconds(run: Path) -> float:
    lines = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    place = lines[0].index("seconds")
    return sum(float(line[place]) for line in lines[1:])


def processes() -> float:
    """Seconds of a `dlcli train` for each rate, two at a time."""
    with tempfile.TemporaryDirectory() as runs, ThreadPoolExecutor(2) as two:
        began = time.perf_counter()
        jobs = [two.submit(_train, rate, runs) for rate in rates(TRIALS)]
        for job in jobs:
            job.result()
        return time.perf_counter() - began


def with_optuna() -> float:
    """As `processes`, with rates that Optuna suggests."""
    code = (
        "import optuna, subprocess, sys\n"
        "def objective(trial):\n"
        "    rate = trial.suggest_float('lr', 1e-3, 0.3, log=True)\n"
        f"    line = [sys.executable, '-m', 'dlcli', 'train', *{COMMON!r}, '--lr', repr(rate), '--json', '--runs-dir', "
        "sys.argv[1]]\n"
        "    import json\n"
        "    done = subprocess.run(line, capture_output=True, text=True, check=True)\n"
        "    return json.loads(done.stdout)['best']\n"
        "study = optuna.create_study(sampler=optuna.samplers.RandomSampler(), direction='maximize')\n"
        f"study.optimize(objective, n_trials={TRIALS}, n_jobs=2)\n"
    )
    with tempfile.TemporaryDirectory() as runs:
        began = time.perf_counter()
        output("-c", code, runs)
        return time.perf_counter() - began


def _train(rate: float, runs: str) -> None:
    line = [sys.executable, "-m", "dlcli", "train", *COMMON, "--lr", repr(rate), "--runs-dir", runs]
    subprocess.run(line, check=True, capture_output=True, env=os.environ)


def with_peer(name: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        output("-m", "tests.benchmarks.peers.tuning", name, json.dumps(rates(TRIALS)), folder)
        return time.perf_counter() - began


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    if only in "48 trials":
        jobs = {"it": partial(sweep, TRIALS), "few": partial(sweep, 8), "processes": processes, "optuna": with_optuna}
        peers = [name for name, package in _PEERS.items() if find_spec(package)]
        jobs |= {name: partial(with_peer, name) for name in peers}
        found = compare(jobs, rounds=rounds, guard=guard)
        a_trial = (found.median("it") - found.median("few")) * 2 / (TRIALS - 8)
        beyond = a_trial - statistics.median(_trained) if found.quiet else None
        ratios = {name: found.ratio("it", name) for name in ("processes", "optuna", *peers)}
        yield {"name": "48 trials", "beyond": beyond, **ratios, **found.as_dict()}
    if only in "search":
        pairs = [_search(seed) for seed in range(max(rounds, 5))]
        yield {"name": "search", "pairs": pairs, "quiet": True, "noise": 1.0}  # counts steps, not seconds


def _search(seed: int) -> dict[str, float]:
    """The best of random trials, and of tpe with asha within half of their steps."""
    at_random = _trials(seed, "--method", "random", "--trials", str(_RANDOM_TRIALS))
    steps = sum(one["steps"] for one in at_random)
    pruned = _trials(seed, "--method", "tpe", "--prune", "asha", "--trials", str(3 * _RANDOM_TRIALS))
    left, best = steps / 2, -math.inf
    for one in pruned:
        left -= one["steps"]
        if left < 0:
            break
        best = max(best, one["value"] if one["status"] == "finished" else -math.inf)
    return {"random": max(one["value"] or 0.0 for one in at_random), "tpe": best, "steps": steps}


def _trials(seed: int, *words: str) -> list[Mapping[str, Any]]:
    """The ends of the runs of a sweep, in their order."""
    seed = Random(seed).randrange(10_000)
    over = [word for text in _SPACE for word in ("--over", text)]
    with tempfile.TemporaryDirectory() as runs:
        line = [sys.executable, "-m", "dlcli", "sweep", *_SEARCH, *over, *words, "--jobs", "2", "--seed", str(seed)]
        subprocess.run([*line, "--runs-dir", runs], capture_output=True, check=False)  # a diverged trial gives code 8
        log = (Path(runs) / "sweeps" / "1" / "log.jsonl").read_text().splitlines()
        return [one for one in map(json.loads, log) if one["status"] != "running"]


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        if row["name"] == "search":
            from dlcli.runs.statistics import paired

            at_random, tpe = ([pair[name] for pair in row["pairs"]] for name in ("random", "tpe"))
            difference = paired(at_random, tpe)
            low, high = difference.interval or (math.nan, math.nan)
            means = f"random {statistics.mean(at_random):.4f}, tpe with asha {statistics.mean(tpe):.4f}"
            lines.append(
                [f"search, {len(tpe)} times", means, f"{difference.mean:+.4f} ({low:+.4f} to {high:+.4f})", ""]
            )
            continue
        against = [name for name in ("processes", "optuna", *_PEERS) if name in row]
        seconds = cells(row, [(row["median"][name], ".1f") for name in ("it", *against)])
        ratios = cells(row, [(row[name], ".2f") for name in against])
        beyond = "noisy" if row["beyond"] is None else f"{1000 * row['beyond']:.0f} ms"
        told = f"{seconds[0]} s; " + ", ".join(f"{name} {s}" for name, s in zip(against, seconds[1:], strict=True))
        lines.append([row["name"], told, f"{', '.join(ratios)}; beyond training {beyond}", f"{row['noise']:.2f}"])
    return markdown(["", "what", "ratio, difference", "noise"], lines)


if __name__ == "__main__":
    run(sys.modules[__name__])
