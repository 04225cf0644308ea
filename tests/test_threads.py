"""The number of threads that compute, and the cores to which they are bound."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from dlcli import TrainConfig, evaluate, train
from dlcli.compute import threads
from dlcli.core.spec import DataSpec
from dlcli.experiment.build import build
from dlcli.runs.run import Run
from dlcli.training.records import Row
from dlcli.training.session import begun
from dlcli.training.train import fit
from tests.conftest import Dlcli

CPU = torch.device("cpu")
PLACE = "sum(len(os.sched_getaffinity(int(t))) == 1 for t in os.listdir('/proc/self/task'))"


def choice(setting: int | str, flops: float, device: torch.device = CPU) -> int:
    return threads.choose_threads(setting, device=device, flops=flops)


def test_threads_follow_from_the_work_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    assert choice("auto", 9e7) == 1
    assert choice("auto", 2e8) == 8
    assert choice("auto", 1e10, device=torch.device("cuda")) == 1
    assert choice(3, 1.0) == 3


@pytest.mark.parametrize(
    ("model", "batch_size", "several"),
    [("lenet", 64, True), ("lenet", 16, False), ("mlp", 100, False), ("rnn", 64, True), ("rnn", 16, False)],
)
def test_a_time_step_of_a_recurrent_model_counts_by_itself(
    model: str, batch_size: int, several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    settings = {"data": "random", "data_options": {"shape": (1, 28, 28), "samples": 300}} if model != "rnn" else {}
    built = build(TrainConfig(model=model, batch_size=batch_size, device="cpu", **settings))  # type: ignore[arg-type]
    assert built.threads == 1 + several


def test_an_accumulated_batch_counts_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    shape = {"shape": (1, 28, 28), "samples": 300}
    settings = TrainConfig(model="mlp", data="random", data_options=shape, batch_size=100, device="cpu")
    assert build(settings.replace(accumulate=3)).threads == 1
    assert build(settings.replace(batch_size=300)).threads == 2


def test_an_evaluation_chooses_by_its_own_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    shape = {"shape": (1, 28, 28), "samples": 300}
    settings = TrainConfig(model="mlp", data="random", data_options=shape, batch_size=100, device="cpu")
    few, many = settings.replace(eval_batch_size=100), settings.replace(batch_size=300, eval_batch_size=1)
    built = [build(made) for made in (settings, few, settings.replace(threads=1), many)]
    assert [(b.threads, b.eval_threads) for b in built] == [(1, 2), (1, 1), (1, 1), (2, 2)]


class Counting(nn.Module):
    """Records the number of threads that compute it."""

    seen: ClassVar[list[tuple[bool, int]]] = []

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.layer = nn.Linear(784, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:  # not in the trials before the run exists
            self.seen.append((self.training, torch.get_num_threads()))
        return self.layer(x.flatten(1))  # type: ignore[no-any-return]


def test_training_and_evaluation_take_the_threads_they_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    monkeypatch.setattr(threads, "_FLOPS_WORTH_A_THREAD", 7e6)
    settings = TrainConfig(
        model="tests.test_threads:Counting", data="random", data_options={"shape": (1, 28, 28), "samples": 1000},
        batch_size=100, eval_batch_size=500, epochs=2, device="cpu",
    )  # fmt: skip
    monkeypatch.setattr(Counting, "seen", [])
    rows = list(train(settings, runs_dir=tmp_path))
    assert set(Counting.seen) == {(True, 1), (False, 2)}
    run = Run(tmp_path, 1)
    assert (run.info()["threads"], run.info()["eval_threads"]) == (1, 2)
    monkeypatch.setattr(threads, "usable_cores", lambda: 1)  # as on a machine with one core
    monkeypatch.setattr(Counting, "seen", [])
    report = evaluate(run, split="val", checkpoint="last")
    assert Counting.seen[-1] == (False, 2)
    assert report.metrics["loss"] == rows[-1].metrics["val/loss"]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_usable_cores_are_those_of_this_process() -> None:
    before = os.sched_getaffinity(0)
    assert 1 <= threads.usable_cores() <= len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert threads.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def affinities() -> dict[int, set[int]]:
    return {int(name): os.sched_getaffinity(int(name)) for name in os.listdir("/proc/self/task")}


@pytest.fixture
def cores() -> Iterator[int]:
    """As many threads as cores."""
    number = len(threads._cores())
    torch.set_num_threads(number)
    yield number
    torch.set_num_threads(1)


def test_threads_that_take_all_cores_are_kept_on_one_each_and_let_go(cores: int) -> None:
    torch.ones(cores << 20).sum()  # so that the threads exist
    before = affinities()
    with threads.bound(threads.places(cores)):
        inside = affinities()
        moved = {thread: cpus for thread, cpus in inside.items() if cpus != before[thread]}
        assert cores == 1 or len(moved) == cores, "this thread and the others of OpenMP"
        assert sum(map(len, moved.values())) == len(set().union(*moved.values())), "no core has two"
        with threads.bound(threads.places(cores)):  # bound already: it sees one core
            assert affinities() == inside
        assert affinities() == inside
    assert affinities() == before


def test_who_takes_the_records_is_let_go_in_between(
    cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: set[int] = set()
    forward = nn.Linear.forward

    def spy(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        inside.update(os.sched_getaffinity(0))
        return forward(self, x)

    monkeypatch.setattr(nn.Linear, "forward", spy)
    before = os.sched_getaffinity(0)
    settings = {"data": "digits", "epochs": 2, "device": "cpu", "threads": cores}
    built = build(TrainConfig("mlp", **settings))
    inside.clear()
    with begun(built, runs_dir=tmp_path) as session, contextlib.closing(fit(session)) as records:
        for record in records:
            assert os.sched_getaffinity(0) == before
            assert len(inside) == 1 or cores == 1
            if isinstance(record, Row):
                break
        session.info["stop"] = "enough was seen"
    assert os.sched_getaffinity(0) == before
    assert Run(tmp_path, 1).info()["status"] == "interrupted"


def test_they_are_let_go_after_an_error(cores: int) -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(KeyError), threads.bound(threads.places(cores)):
        raise KeyError
    assert os.sched_getaffinity(0) == before


def test_fewer_threads_than_cores_are_left_to_the_system(cores: int) -> None:
    before = affinities()
    for number in {1, cores - 1, cores + 1}:
        with threads.bound(threads.places(number)):
            assert affinities() == before


@pytest.mark.parametrize("name", ["OMP_PROC_BIND", "GOMP_CPU_AFFINITY"])
def test_what_the_user_says_about_places_is_left_as_it_is(
    name: str, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "0")
    before = affinities()
    with threads.bound(threads.places(cores)):
        assert affinities() == before


def test_nothing_is_bound_where_one_cannot_tell_whose_threads_work(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_team", lambda: list(range(10**6, 10**6 + cores)))
    before = affinities()
    with threads.bound(threads.places(cores)):
        assert affinities() == before


OWN = f"""
import os
from torch import Tensor, nn

class Where(nn.Sequential):
    def __init__(self, spec):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x):
        with open("places.txt", "a") as file:
            print({PLACE}, "train" if self.training else "eval", file=file)
        return super().forward(x)
"""


@pytest.mark.parametrize("taken", [True, False], ids=["all cores", "one core"])
def test_train_and_eval_keep_their_threads_in_place(taken: bool, dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    number = len(threads._cores()) if taken else 1
    words = ["--data", "digits", "--epochs", "1", "--device", "cpu", "--threads", str(number)]
    dlcli("train", "own:Where", *words)
    dlcli("eval", "1")
    places = [line.split() for line in (tmp_path / "places.txt").read_text().splitlines()]
    last = {mode: int(count) for count, mode in places}
    bound = number if number > 1 else sum(len(cpus) == 1 for cpus in [os.sched_getaffinity(0)])
    assert last["train"] >= bound and last["eval"] == bound  # the thread that saves inherits a binding
    if number == 1 and bound == 0:
        assert last == {"train": 0, "eval": 0}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, "5000"), ({"OMP_WAIT_POLICY": "active"}, None), ({"GOMP_SPINCOUNT": "7"}, "7")],
    ids=["nothing", "a policy", "a count"],
)
def test_threads_wait_a_short_while_unless_the_user_says_otherwise(
    environment: Mapping[str, str], expected: str | None
) -> None:
    program = "import json, os; from dlcli.cli import main; main._limit_spinning(); print(json.dumps(dict(os.environ)))"
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")}
    done = subprocess.run([sys.executable, "-c", program], env=clean | environment, capture_output=True, text=True)
    assert json.loads(done.stdout).get("GOMP_SPINCOUNT") == expected
