"""Tests that a GPU gives the results of the CPU. `pytest -m cuda` runs them on a machine with a GPU, in minutes."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli import TrainConfig, train
from dlcli.compute import devices
from dlcli.config.recipe import recipes
from dlcli.config.toml import read_file
from dlcli.evaluation.measure import evaluate
from dlcli.experiment.build import build
from dlcli.models.mlp import MLP
from dlcli.runs.run import Run
from dlcli.training import loop, saver, watch
from dlcli.training.train import resume
from tests.conftest import Dlcli
from tests.test_resume import assert_same, stopping_at

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when CUDA is first used

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

DOWNLOADED = ("mnist", "fashion-mnist")
RECIPES = [name for name, found in sorted(recipes().items()) if found["settings"]["data"] not in DOWNLOADED]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    devices.set_deterministic(False)
    devices.set_precision("fp32")


def recipe(name: str, **changes: Any) -> TrainConfig:
    """A recipe on the GPU, with settings replaced before what depends on them is derived."""
    values = read_file(f"recipe:{name}") | {"epochs": 1, "eval_every": 1, "device": "cuda"} | changes
    return TrainConfig.from_flat(values)


def close(found: dict[str, float | None], expected: dict[str, float | None]) -> None:
    """Sums are rounded differently: losses may differ by 1e-3, relative, and a borderline sample may change class."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        kind = name.rpartition("/")[2]
        if value is None or found[name] is None:
            assert found[name] is value, name
        elif kind in ("accuracy", "top5_accuracy", "macro_f1", "auc"):
            assert found[name] == pytest.approx(value, abs=0.01), name
        else:
            assert found[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_evaluates_to_the_same_numbers_as_on_the_cpu(name: str, tmp_path: Path) -> None:
    records = list(train(recipe(name), runs_dir=tmp_path))
    run = Run(tmp_path, 1)
    assert [record.epoch for record in records] == [1]
    assert records[0].loss is not None and records[0].loss < float("inf")
    assert run.info()["status"] == "finished"
    assert run.info()["device"] == f"cuda ({torch.cuda.get_device_name()})"
    split = recipes()[name]["split"]
    here, there = (evaluate(run, split=split, device=device) for device in ("cuda", "cpu"))
    close(here.metrics, there.metrics)


@pytest.mark.parametrize("model", ["mlp", "cnn", "lenet", "attention", "linear"])
def test_an_epoch_is_the_one_of_the_cpu(model: str, tmp_path: Path) -> None:
    """No random numbers are drawn on the device here: order and weights are those of the CPU, and so are the losses."""
    data = {"attention": "recall", "linear": "diabetes"}.get(model, "digits")
    losses = []
    for device in ("cuda", "cpu"):
        made = TrainConfig(model, data=data, epochs=2, device=device, lr=0.01)
        losses.append([record.loss for record in train(made, runs_dir=tmp_path)])
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


@pytest.mark.parametrize("stop", [3, "epoch"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_resumed_run_is_exact(name: str, stop: Any, tmp_path: Path) -> None:
    """With --deterministic: every tensor of every checkpoint and every row is that of the run that never stopped."""
    made = recipe(name, epochs=3, deterministic=True)
    list(train(made, runs_dir=tmp_path))
    steps_per_epoch = build(made).steps_per_epoch
    after = steps_per_epoch + 1 if stop == "epoch" else min(stop, 3 * steps_per_epoch - 1)
    list(train(made, runs_dir=tmp_path, stop=stopping_at(after)))
    stopped = Run(tmp_path, 2)
    assert stopped.info()["status"] == "interrupted"
    torch.manual_seed(1234)  # earlier work of the process must not matter, on either device
    list(resume(stopped))
    assert_same(Run(tmp_path, 1), stopped)


@pytest.mark.parametrize("options", [{"augment": ("shift=1", "flip", "erase", "noise")}, {"ema": 0.9, "accumulate": 2}])
def test_a_resumed_run_is_exact_with_all_that_draws_numbers(options: dict[str, Any], tmp_path: Path) -> None:
    made = TrainConfig("cnn", epochs=3, device="cuda", deterministic=True, model_options={"dropout": 0.3}, **options)
    list(train(made, runs_dir=tmp_path))
    list(train(made, runs_dir=tmp_path, stop=stopping_at(14)))
    list(resume(Run(tmp_path, 2)))
    assert_same(Run(tmp_path, 1), Run(tmp_path, 2))


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize("model", ["cnn", "mlp"])
def test_another_precision_learns_as_much(model: str, precision: str, tmp_path: Path) -> None:
    accuracy = []
    for chosen in ("fp32", precision):
        made = TrainConfig(model, epochs=5, lr=0.05, device="cuda", precision=chosen)
        accuracy.append(list(train(made, runs_dir=tmp_path))[-1].metrics["val/accuracy"])
    assert accuracy[0] is not None and accuracy[0] > 0.85
    assert accuracy[1] == pytest.approx(accuracy[0], abs=0.05)


@contextlib.contextmanager
def waiting(mode: str) -> Iterator[None]:
    """mode: what happens if the host waits for the device: `default` nothing, `error` a RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def allow(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Let this function wait for the device."""
    original = getattr(owner, name)

    def wrapper(*given: Any, **named: Any) -> Any:
        with waiting("default"):
            return original(*given, **named)

    monkeypatch.setattr(owner, name, wrapper)


class Peeking(MLP):
    """Waits for the device in every step."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + float(x.sum()) * 0)


# Mixup's permutation and weight come from the host; the others draw on the device.
STEPS: dict[str, dict[str, Any]] = {
    "cnn": {"model": "cnn", "augment": ("shift=2", "flip", "rotate", "erase", "noise", "mixup")},
    "lenet": {"model": "lenet", "optimizer": "adam", "ema": 0.9, "accumulate": 2},
    "mlp": {"model": "mlp", "weight_decay": 0.1, "schedule": "cosine"},
    "rnn": {
        "model": "rnn", "data": f"text:{__file__}", "data_options": {"length": 16}, "model_options": {"dropout": 0.1},
    },
    "attention": {"model": "attention", "data": "recall", "optimizer": "adamw"},
}  # fmt: skip


def train_without_waiting(made: TrainConfig, runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """From the second step on, only work once per epoch, or in a look, may wait for the device."""
    monkeypatch.setattr(watch, "_EARLY_STEPS", 1)
    monkeypatch.setattr(loop, "_PROGRESS_SECONDS", float("inf"))
    for owner, name in (
        (watch.Watch, "look"), (loop, "measure"), (saver.Saver, "write"), (saver.Saver, "keep_best"),
        (loop.batches, "epoch_order"),
    ):  # fmt: skip
        allow(monkeypatch, owner, name)

    def after_a_step() -> None:
        torch.cuda.set_sync_debug_mode("error")

    with waiting("default"):
        return list(train(made, runs_dir=runs_dir, stop=after_a_step))


@pytest.mark.parametrize("kind", STEPS)
def test_no_step_waits_for_the_device(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = TrainConfig(**STEPS[kind], epochs=2, device="cuda")
    assert build(made).steps_per_epoch > 3
    assert len(train_without_waiting(made, tmp_path, monkeypatch)) == 2


def test_a_step_that_waits_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = TrainConfig("tests.test_cuda:Peeking", epochs=2, device="cuda")
    with pytest.raises(RuntimeError, match="synchroniz"):
        train_without_waiting(made, tmp_path, monkeypatch)


def test_gradients_are_those_of_the_cpu(dlcli: Dlcli) -> None:
    report = json.loads(dlcli("gradcheck", "all", "--device", "cuda", "--json").stdout)
    assert report["passed"] is True


@pytest.mark.parametrize("model", ["cnn", "attention"])
def test_a_run_of_the_gpu_is_exported(model: str, dlcli: Dlcli) -> None:
    data = {"attention": "recall"}.get(model, "digits")
    dlcli("train", model, "--data", data, "--epochs", "1", "--device", "cuda", "--quiet")
    dlcli("export", "1", "--format", "pt2,safetensors")


def test_a_batch_too_large_for_the_device_says_so(dlcli: Dlcli) -> None:
    """The output of the first convolution alone, 512 channels of 8x8, needs more memory than there is."""
    samples = int(1.1 * torch.cuda.get_device_properties(0).total_memory) // (512 * 64 * 4)
    words = [
        "--data",
        "random",
        "--set",
        "data.shape=1,8,8",
        "--set",
        f"data.samples={samples}",
        "--batch-size",
        "full",
    ]
    done = dlcli("train", "cnn", "--device", "cuda", *words, "--set", "model.channels=512", check=6)
    assert "error: there is not enough memory for another " in done.stderr
