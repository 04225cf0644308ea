"""Several processes in one runs folder: starting, resuming, listing and moving runs at the same time."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dlcli import TrainConfig
from dlcli.cli.main import app
from dlcli.core import files
from dlcli.runs import table as summary
from dlcli.runs import trash
from dlcli.runs.run import Run, all_runs
from dlcli.training.train import train
from tests.faults import Dlcli, forked_away
from tests.test_crash import found, save
from tests.test_resume import assert_same
from tests.test_runs import make

TRAIN = ("train", "linear", "--data", "line", "--device", "cpu")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_trainings_that_start_at_once_get_a_folder_each(tmp_path: Path, root: Path) -> None:
    forks = [Dlcli(root, *TRAIN, "--epochs", "2", "--print", "run", "--quiet") for _ in range(6)]
    words = [sys.executable, "-m", "dlcli", *TRAIN, "--epochs", "2", "--print", "run", "--quiet"]
    processes = [subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    numbers = []
    for fork in forks:
        assert fork.wait() == 0, fork.told
        numbers.append(int(fork.told))
    for process in processes:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        numbers.append(int(out))
    assert sorted(numbers) == list(range(1, 9))
    assert [row["status"] for row in summary.rows(root)] == ["finished"] * 8
    for number in numbers[1:]:
        assert_same(Run(root, numbers[0]), Run(root, number))


def test_no_number_is_given_twice_while_runs_are_removed_and_purged(tmp_path: Path, root: Path) -> None:
    ready = multiprocessing.get_context("fork").Barrier(16)
    taken = tmp_path / "taken"

    def take_and_remove() -> None:
        ready.wait(60)
        for _ in range(4):
            run = Run.create(root)
            files.append_line(taken, str(run.number))
            trash.remove([run])
            if run.number % 2:
                trash.purge([Run(root / ".trash", run.number)], root)

    processes = [forked_away(take_and_remove) for _ in range(16)]
    assert [os.waitpid(pid, 0)[1] for pid in processes] == [0] * 16
    numbers = [int(line) for line in taken.read_text().splitlines()]
    assert len(numbers) == len(set(numbers)) == 64
    assert [run.number for run in all_runs(root / ".trash")] == sorted((n for n in numbers if n % 2 == 0), reverse=True)
    assert all_runs(root) == []


@pytest.mark.parametrize("met", ["at the lock", "in passing"])
def test_of_two_resumes_at_once_one_goes_on(met: str, root: Path) -> None:
    config = TrainConfig("linear", data="line", epochs=100_000, device="cpu")
    next(train(config, runs_dir=root))  # the caller reads no more rows: interrupted
    run = Run(root, 1)
    assert run.info()["status"] == "interrupted"
    together = multiprocessing.get_context("fork").Barrier(2)
    original = Run.locked

    def locked(self: Run) -> Any:
        together.wait(60)
        return original(self)

    def before() -> None:
        if met == "at the lock":
            Run.locked = locked  # type: ignore[method-assign]

    both = [Dlcli(root, "resume", "1", before=before) for _ in range(2)]
    while not any(process.ended() for process in both):
        time.sleep(0.02)
    refused, going = sorted(both, key=lambda process: not process.ended())
    assert refused.wait() == 9
    by = f"process {going.pid} on .*|another process"
    assert re.search(rf"^error: {run} is being trained by ({by})$", refused.told, re.M), refused.told
    while run.info()["status"] != "running":  # the lock comes before the record
        assert not going.ended(), going.told
        time.sleep(0.02)
    os.kill(going.pid, signal.SIGTERM)
    assert going.wait() == 143, going.told
    assert (run.info()["status"], len(run.info()["resumes"])) == ("interrupted", 1)
    steps = [row["step"] for row in run.metrics()]
    assert steps == sorted(set(steps))


def test_two_trainings_and_one_who_lists(root: Path) -> None:
    """Each listing is complete; a listed run stays; it is `running` until it is `finished`, and never `dead`."""
    words = (*TRAIN, "--batch-size", "full", "--eval-every", "1", "--checkpoint-every", "3steps", "--epochs", "400")
    trainings = [Dlcli(root, *words, "--quiet") for _ in range(2)]
    seen: dict[int, list[str]] = {}
    done = False
    while not done:
        done = all(process.ended() for process in trainings)
        listed = json.loads(CliRunner().invoke(app, ["runs", "--json", "--runs-dir", str(root)]).stdout)
        assert seen.keys() <= {row["run"] for row in listed}
        for row in listed:
            before = seen.setdefault(row["run"], [])
            if not before or before[-1] != row["status"]:
                before.append(row["status"])
            if row["status"] == "broken":  # between the creation of its folder and its lock
                assert row["reason"] == f"{root}/{row['run']}/run.json is missing"
            else:
                shown = CliRunner().invoke(app, ["runs", "show", str(row["run"]), "--json", "--runs-dir", str(root)])
                assert shown.exit_code in (0, 4 if row["status"] == "starting" else 0), shown.output
    assert [process.wait() for process in trainings] == [0, 0], trainings[0].told + trainings[1].told
    assert sorted(seen) == [1, 2]
    for statuses in seen.values():
        assert re.fullmatch("(broken )?(starting )?running finished", " ".join(statuses))


def test_who_reads_a_checkpoint_while_it_is_replaced_gets_one(tmp_path: Path) -> None:
    save(tmp_path, 1)

    def replace() -> None:
        for step in range(2, 120):
            save(tmp_path, step)

    pid, newest = forked_away(replace), 1
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        step = max(found(tmp_path, "best"), found(tmp_path, "last"))
        assert step >= newest
        newest = step
    assert found(tmp_path, "last") == 119


def test_a_run_that_is_removed_while_it_is_listed_is_no_broken_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        make(root)
    original = summary.row

    def removed_meanwhile(run: Run) -> dict[str, Any]:
        if run.number == 2:
            trash.remove([run])
        return original(run)

    monkeypatch.setattr(summary, "row", removed_meanwhile)
    assert [(row["run"], row["status"]) for row in summary.rows(root)] == [(3, "finished"), (1, "finished")]
