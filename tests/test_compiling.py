"""Whether compilation paid for itself is reported; measuring it does not change the training."""

from pathlib import Path

import pytest
import torch

from dlcli import TrainConfig, train
from dlcli.checkpoints import checkpoint
from dlcli.cli.training import _compilation
from dlcli.runs.run import Run
from dlcli.training import compiling


def test_the_run_tells_what_compilation_cost_and_is_otherwise_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda model: model)
    monkeypatch.setattr(compiling, "seconds_of_an_eager_step", _ten_seconds_after(compiling.seconds_of_an_eager_step))
    config = TrainConfig(model="cnn", model_options={"dropout": 0.5}, epochs=2, accumulate=2, device="cpu")
    records = list(train(config.replace(compile=True), runs_dir=tmp_path))
    list(train(config, runs_dir=tmp_path))
    compiled, plain = Run(tmp_path, 1), Run(tmp_path, 2)
    seconds = sum(r.seconds for r in records)
    assert compiled.info()["compile"] == {"seconds": round(seconds, 3), "eager_seconds": 22 * 10.0, "paid": True}
    assert compiled.info()["step"] == 22
    assert "compile" not in plain.info()
    one, other = (checkpoint.load(run.checkpoints, "last").weights for run in (compiled, plain))
    assert all(torch.equal(one[name], other[name]) for name in one)


def _ten_seconds_after(original: object) -> object:
    def measure(built: object) -> float:
        assert 0 < original(built) < 10  # type: ignore[operator]
        return 10.0

    return measure


def test_the_sentence() -> None:
    found = compiling.verdict(seconds=31.0, steps=200, eager_step=0.1)
    assert found == {"seconds": 31.0, "eager_seconds": 20.0, "paid": False}
    assert _compilation(dict(found)) == [
        "compile did not pay for itself: 31.0s of training, about 20.0s without"
    ]  # fmt: skip
    assert _compilation({"seconds": 4.0, "eager_seconds": 70.0, "paid": True}) == [
        "compile paid for itself: 4.0s of training, about 1m10s without"
    ]
    assert _compilation(None) == []
