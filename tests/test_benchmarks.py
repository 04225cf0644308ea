"""The benchmarks: they compare equal models, reject noisy measurements, and write the results."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dlcli import TrainConfig, evaluate, train
from dlcli.core.spec import DataSpec
from dlcli.models.attention import Attention
from dlcli.models.cnn import CNN
from dlcli.models.lenet import LeNet
from dlcli.models.mlp import MLP
from dlcli.models.rnn import RNN
from dlcli.runs.run import Run
from tests.benchmarks import accuracy, busy, data, loops, memory, models, report, rounds, tables, throughput
from tests.benchmarks.noise import Guard

IMAGE = DataSpec("multiclass", "image", (1, 28, 28), 10)
PAIRS: dict[str, tuple[Callable[[], torch.nn.Module], dict[str, int]]] = {
    "cnn": (lambda: CNN(IMAGE), {}),
    "lenet": (lambda: LeNet(IMAGE), {}),
    "mlp": (lambda: MLP(IMAGE), {}),
    "rnn": (lambda: RNN(DataSpec("next-token", "tokens", (12,), 30, vocabulary=30)), {"vocabulary": 30}),
    "attention": (
        lambda: Attention(DataSpec("multiclass", "tokens", (9,), 8, vocabulary=30)),
        {"vocabulary": 30, "steps": 9, "outputs": 8},
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_plain_model_is_dlclis(name: str) -> None:
    """With the same weights, the output and the gradient of the first parameter are the same."""
    torch.manual_seed(0)
    make, options = PAIRS[name]
    ours, plain = make(), models.plain(name, **options)
    theirs, weights = list(plain.parameters()), list(ours.parameters())
    if name == "attention":  # there, query, key and value are one layer, and the norms are in other places
        layer = ours.layers[0]
        parts = (layer.query, layer.key, layer.value)
        named = {
            "embedding.weight": ours.embedding.weight, "positions": ours.positions,
            "norm1.weight": ours.norms[0].weight, "norm1.bias": ours.norms[0].bias,
            "qkv.weight": torch.cat([p.weight for p in parts]), "qkv.bias": torch.cat([p.bias for p in parts]),
            "mixed.weight": layer.output.weight, "mixed.bias": layer.output.bias,
            "norm2.weight": ours.norm.weight, "norm2.bias": ours.norm.bias,
            "output.weight": ours.output.weight, "output.bias": ours.output.bias,
        }  # fmt: skip
        plain.load_state_dict(named)
    else:
        with torch.no_grad():
            for p, q in zip(theirs, weights, strict=True):
                p.copy_(q)
    assert sum(p.numel() for p in theirs) == sum(p.numel() for p in weights)
    tokens = torch.randint(30, (3, 9 if name == "attention" else 12))
    x = torch.randn(3, 1, 28, 28) if name in loops.IMAGES else tokens
    torch.testing.assert_close(plain(x), ours(x), rtol=1e-4, atol=1e-5)
    plain(x).square().sum().backward()
    ours(x).square().sum().backward()
    torch.testing.assert_close(theirs[0].grad, weights[0].grad, rtol=1e-3, atol=1e-4)


def waiting(times: list[float], monkeypatch: pytest.MonkeyPatch, patience: float = 0.0) -> Guard:
    """A guard whose fixed work takes these times, repeatedly."""
    clock = SimpleNamespace(now=0.0, calls=0)

    def work() -> None:
        clock.now += times[clock.calls % len(times)]
        clock.calls += 1

    monkeypatch.setattr("tests.benchmarks.noise.time.perf_counter", lambda: clock.now)
    monkeypatch.setattr("tests.benchmarks.noise.time.sleep", lambda seconds: setattr(clock, "now", clock.now + seconds))
    return Guard(work=work, patience=patience)


def test_a_quiet_machine_gets_a_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([10.0, 5.0, 40.0, 10.0, 30.0, 10.0])
    jobs = {"ours": lambda: next(values), "theirs": lambda: next(values)}
    found = rounds.compare(jobs, rounds=3, guard=waiting([1.0, 1.1], monkeypatch))
    assert (found.quiet, found.noise) == (True, pytest.approx(1.1))
    assert found.values == {"ours": [10.0, 40.0, 30.0], "theirs": [5.0, 10.0, 10.0]}
    assert found.ratio("ours", "theirs") == 3.0  # the median of 2, 4, 3, not 30 / 10
    assert found.as_dict()["median"] == {"ours": 30.0, "theirs": 10.0}


def test_a_noisy_machine_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tries twice the requested number of rounds, then reports noise in place of each number."""
    calls: list[int] = []
    jobs = {"it": lambda: {"train": float(calls.append(1) or 1.0)}}
    found = rounds.compare(jobs, rounds=3, guard=waiting([1.0, 1.0, 1.0, 2.0], monkeypatch))
    assert (found.quiet, found.noise, len(calls)) == (False, 2.0, 6)
    assert found.ratio("it train", "it train") is None
    row = found.as_dict()
    assert report.cells(row, [(row["median"]["it train"], ".1f"), (None, ".2f")]) == ["noisy", "noisy"]


def test_only_the_noisy_rounds_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = iter(range(100))
    # Three probes per round, one of them before it; each is five times after one that does not count. Round 2 is noisy.
    guard = waiting([1.0] * 24 + [1.0, 3.0] * 6 + [1.0] * 36, monkeypatch)
    found = rounds.compare({"it": lambda: float(next(counted))}, rounds=3, guard=guard)
    assert (found.quiet, found.values["it"]) == (True, [0.0, 2.0, 3.0])


def test_a_round_waits_for_a_quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its patience ends: six probes of 26 s and the pauses between them, or the two rounds that it may try."""
    times = [1.0, 1.0, 1.0, 1.0, 11.0, 11.0] * 6 + [1.0] * 100
    for patience, quiet in ((200.0, True), (10.0, False)):
        guard = waiting(times, monkeypatch, patience)
        found = rounds.compare({"it": lambda: 1.0}, rounds=1, guard=guard)
        assert (found.quiet, len(found.values["it"])) == (True, 1) if quiet else (False, 2)


def test_a_machine_that_gets_slower_is_noisy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constantly slow is not quiet: times are compared with the fastest of the whole benchmark."""
    guard = waiting([1.0] * 18 + [2.0] * 100, monkeypatch)
    found = rounds.compare({"it": lambda: 1.0}, rounds=1, guard=guard)
    assert found.quiet
    assert not rounds.compare({"it": lambda: 1.0}, rounds=1, guard=guard).quiet


@pytest.mark.parametrize(("times", "quiet"), [([1.0], True), ([1.0, 2.0], False)])
def test_a_busy_core_is_measured_in_turn(times: list[float], quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    states = ["quiet"]
    monkeypatch.setattr(busy, "a_busy_core", lambda: nullcontext(states.append("busy")))
    jobs = {"a": lambda: 8.0 if states[-1] == "quiet" else 6.0, "b": lambda: 2.0}

    def single() -> float:
        states.append("quiet")
        return 4.0

    row = busy.alternate(jobs, single, 2, waiting(times, monkeypatch))
    assert row["quiet"] is quiet
    wanted = {"quiet": {"a": 2.0, "b": 0.5}, "busy": {"a": 1.5, "b": 0.5}} if quiet else None
    assert row["relative"] == wanted
    assert states.count("busy") == (2 if quiet else 4)


def test_the_page_holds_what_was_measured(tmp_path: Path) -> None:
    row = {"name": "mlp 100, 60,000 images", "peak_mb": {"tight": 900.0, "dlcli": 911.6}, "noise": 1.0, "quiet": True}
    report.save("memory", {"machine": "a CPU, 2 cores", "date": "2026-01-01", "rows": [row]}, docs=tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    table = "| mlp 100, 60,000 images | 900 | 912 | +12 |\n"
    assert page.endswith(f"a CPU, 2 cores; 2026-01-01.\n\n{report.markdown(HEADER, [])}{table}")
    assert [line for line in page.splitlines() if line.startswith("## ")] == [f"## {memory.TITLE}"]
    report.save("throughput", {"machine": "another", "date": "2026-01-02", "rows": [noisy_row()]}, docs=tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    titles = [line for line in page.splitlines() if line.startswith("## ")]
    assert titles == [f"## {throughput.TITLE}", f"## {memory.TITLE}"]  # in the order of the parts
    assert table in page and "| cnn 64 | 2 | noisy | noisy |" in page
    assert list(json.loads((tmp_path / "benchmarks.json").read_text())) == ["throughput", "memory"]
    report.save("memory", {"machine": "a CPU, 4 cores", "date": "2026-01-03", "rows": []}, docs=tmp_path)
    report.save("memory", {"machine": "a CPU, 4 cores", "date": "2026-01-04", "rows": []}, docs=tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()  # the newest first, one table per machine
    assert page.count(f"## {memory.TITLE}") == 1 and "2026-01-03" not in page
    assert page.index("a CPU, 4 cores; 2026-01-04.") < page.index("a CPU, 2 cores; 2026-01-01.") < page.index(table)


HEADER = ["model, batch, data", "tight", "dlcli", "dlcli - tight"]


def noisy_row() -> dict[str, Any]:
    names = ["textbook", "textbook-2", "tight", "compute", "dlcli"]
    names += [f"evaluate {name}" for name in ("textbook", "tight", "dlcli")]
    ratio = dict.fromkeys(("textbook", "tight", "compute", "evaluate"))
    return {"name": "cnn 64", "threads": 2, "ratio": ratio, "noise": 1.9, "quiet": False,
            "median": dict.fromkeys(names, 1.0)}  # fmt: skip


def test_the_machine_is_described_without_its_name() -> None:
    import socket

    told = report.machine()
    assert torch.__version__ in told and " cores, " in told
    assert socket.gethostname() not in told and "/" not in told


def test_the_loops_train_the_same_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them make the same number of steps, and each evaluates its own model."""
    monkeypatch.setattr(data, "CACHE", tmp_path)
    work = loops.Work("mlp", 20, samples=50, epochs=2, threads=1, test=30)
    for name in ("tight", "compute", "dlcli"):
        steps: list[int] = []
        made = loops.make(name, work, after_step=lambda steps=steps: steps.append(1))
        made.train()
        assert len(steps) == 6, name
        x, y = data.images(data.folder(50, 30), "t10k")
        with torch.no_grad():
            expected = (made.model.eval()(data.inputs(x)).argmax(1) == y).float().mean().item()
        # dlcli normalises with the statistics of these 50 images
        assert made.evaluate() == pytest.approx(expected, abs=0.1 if name == "dlcli" else 1e-6), name


@pytest.mark.slow
def test_models_on_a_table_are_measured_beside_those_of_scikit_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"a": generator.normal(size=300), "c": generator.choice(["u", "v", "w"], 300)})
    frame["median_house_value"] = 1000 * frame["a"] + 500 * (frame["c"] == "u")
    (tmp_path / "own").mkdir()
    frame.to_csv(tmp_path / "own" / "housing.csv", index=False)
    monkeypatch.setenv("DLCLI_DATA_DIR", str(tmp_path))
    (row,) = tables.measure("housing", 2, Guard(bound=1e9))
    names = (
        "dlcli tabular",
        "dlcli mlp",
        "dlcli linear",
        *(f"scikit-learn {n}" for n in ("MLP", "boosting", "linear")),
    )
    assert tuple(row["runs"]) == names
    deviation = frame["median_house_value"].std()
    for name in ("dlcli tabular", "dlcli linear", "scikit-learn boosting", "scikit-learn linear"):
        assert all(0 < found["rmse"] < 0.8 * deviation for found in row["runs"][name]), name
    row["runs"] = {"dlcli tabular": [{"rmse": 47_000.0}, {"rmse": 48_000.0}]}
    assert tables.table([row]).splitlines()[2] == "| dlcli tabular | 2 | 47,500 ± 707 |"
    row = {"name": "adult", "metrics": ("accuracy",), "runs": {"dlcli mlp": [{"accuracy": 0.5}]}}
    assert tables.table([row]).splitlines()[2] == "| dlcli mlp | 1 | 0.5000 |"


@pytest.mark.slow
def test_accuracy_is_that_of_whole_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "_ROWS", {"small": ("mlp", "--data", "digits", "--epochs", "2", "--device", "cpu")})
    monkeypatch.setattr(data, "there", lambda name: name == "FashionMNIST")
    (row,) = accuracy.measure("", 2, Guard(bound=1e9))
    for seed, found in enumerate(row["runs"]):
        records = list(train(TrainConfig("mlp", data="digits", epochs=2, device="cpu", seed=seed), runs_dir=tmp_path))
        assert found["accuracy"] == evaluate(Run(tmp_path, seed + 1)).metrics["accuracy"]
        assert 0 < found["seconds"] < 100 * sum(record.seconds for record in records)
    row["noise"], row["runs"] = 1.0, [{"accuracy": 0.991, "seconds": 5.04}, {"accuracy": 0.993, "seconds": 6.0}]
    assert accuracy.table([row]).splitlines()[2] == ("| small | 2 | 99.20 [99.10, 99.30] | 5.5 [5.0, 6.0] | 1.00 |")
    noisy = {**row, "quiet": False, "noise": 2.0}
    assert accuracy.table([noisy]).splitlines()[2] == "| small | 2 | 99.20 [99.10, 99.30] | noisy | 2.00 |"
