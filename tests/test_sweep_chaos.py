"""Two hundred trials while workers and drivers are killed: each ends once, with the bits of an undisturbed one."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlcli.core.errors import DlcliError
from dlcli.runs.run import Run, all_runs
from dlcli.runs.sweeps import Sweep
from tests.sweeping import sweeping
from tests.test_sweeps import same, weights

TRIALS, DRIVER_KILLS, SECONDS = 200, 5, 2.0

COMMON = (
    "--data",
    "digits",
    "--epochs",
    "4",
    "--device",
    "cpu",
    "--set",
    "model.hidden=8",
    "--checkpoint-every",
    "20steps",
)


def command(root: Path, *words: str) -> "subprocess.Popen[bytes]":
    line = [sys.executable, "-m", "dlcli", *words, "--jobs", "2", "--runs-dir", str(root), "--quiet"]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})


def busy(root: Path) -> list[int]:
    """The processes that train a run now."""
    found = []
    for run in all_runs(root):
        with contextlib.suppress(DlcliError):
            info = run.info()
            if info["status"] == "running":
                found.append(info["pid"])
    return found


@pytest.mark.slow
def test_chaos(tmp_path: Path) -> None:
    root, dice = tmp_path / "runs", random.Random(0)
    over = ["--over", "lr=loguniform(0.01,0.3)", "--method", "random", "--trials", str(TRIALS)]
    process = command(root, "sweep", "mlp", *COMMON, *over)
    killed, drivers, started = 0, 0, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS)
            if process.returncode == 0:
                break
            assert process.returncode in (0, -signal.SIGKILL), process.returncode
            process = command(root, "sweep", "resume", "1")
            continue
        ended = sum(one.status == "finished" for one in Sweep(root, 1).trials())
        if drivers < DRIVER_KILLS and ended > TRIALS * (drivers + 1) / (DRIVER_KILLS + 1):
            drivers += 1
            process.kill()
        elif there := busy(root):
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(there), signal.SIGKILL)
                killed += 1
        assert time.monotonic() - started < 1500
    found = json.loads(sweeping(root, "sweep", "show", "1", "--json"))
    print(f"{killed} workers and {drivers} drivers killed in {time.monotonic() - started:.0f} s")
    assert drivers == DRIVER_KILLS and killed >= 10 and found["status"] == "finished"
    numbers = [run["run"] for trial in found["trials"] for run in trial["runs"]]
    assert len(found["trials"]) == TRIALS and len(set(numbers)) == len(numbers) == TRIALS
    assert {Run(root, number).info()["status"] for number in numbers} == {"finished"}
    assert [run.number for run in all_runs(root) if (run.path / "run.json").exists()] == sorted(numbers, reverse=True)
    resumed = [number for number in numbers if Run(root, number).info().get("resumes")]
    rates = {number: Run(root, number).settings()["lr"] for number in [*resumed[:10], *dice.sample(numbers, 10)]}
    assert len(resumed) >= 10
    for place, (number, rate) in enumerate(rates.items(), start=1):
        twins = tmp_path / "twins"
        sweeping(twins, "train", "mlp", *COMMON, "--lr", repr(rate), "--set", "threads=1")
        assert same(weights(Run(root, number)), weights(Run(twins, place))), f"run {number}"
