"""--batch-size auto: sizes are measured, one is taken and recorded, and nothing is measured again."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dlcli import Run, TrainConfig, resume, train
from dlcli.cli.main import app
from dlcli.core.errors import ConfigError
from dlcli.training import batch_size
from dlcli.training.batch_size import Measured, find_batch_size
from tests.evil import set_in

AUTO = ("--batch-size", "auto", "--device", "cpu", "--threads", "1")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Size -> samples per second, in place of what would be measured; each takes a megabyte for each sample."""
    known = {16: 100.0, 32: 150.0, 64: 190.0, 128: 200.0, 256: 205.0, 512: 206.0}
    monkeypatch.setattr(batch_size, "_measure", lambda built, size: Measured(size, known[size], size * 10**6))
    return known


def config(**settings: Any) -> TrainConfig:
    return TrainConfig("mlp", **{"device": "cpu", "threads": 1, "batch_size": "auto", **settings})


def dlcli(*words: str, check: int = 0) -> Any:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == check, done.output
    return done


@pytest.mark.usefixtures("speeds")
def test_the_smallest_size_of_nearly_the_highest_speed_is_taken() -> None:
    found = find_batch_size(config())
    assert [m.size for m in found.measured] == [16, 32, 64, 128]  # 256 would leave less than ten batches of 1,294
    assert found.config == config(batch_size=64)  # 190 is 0.95 of the highest
    assert found.line == (
        "batch size 64, of 16 100/s, 32 150/s, 64 190/s, 128 200/s; no larger one, since an epoch would have less than "
        "10 batches"
    )


def test_the_search_ends_when_the_speed_no_longer_rises(speeds: dict[int, float]) -> None:
    speeds |= {32: 101.0, 64: 102.0}
    found = find_batch_size(config())
    assert [m.size for m in found.measured] == [16, 32, 64] and found.config.batch_size == 16
    assert found.reason == "the speed has stopped rising"


@pytest.mark.usefixtures("speeds")
def test_a_fifth_of_the_memory_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    # 16 and 32 have taken 16 and 32 MB: 64 would take 64, and 128 128.
    monkeypatch.setattr("dlcli.compute.devices.memory", lambda device=None: 150 * 10**6)
    found = find_batch_size(config())
    assert [m.size for m in found.measured] == [16, 32, 64]
    assert found.reason == "128 would take 0.1 of 0.1 GB of memory"


def test_what_does_not_fit_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(built: Any, size: int) -> Measured:
        if size > 32:
            raise MemoryError
        return Measured(size, float(size), size)

    monkeypatch.setattr(batch_size, "_measure", measure)
    found = find_batch_size(config())
    assert (found.config.batch_size, found.reason) == (32, "64 do not fit in memory")


def test_real_steps_are_measured_and_no_run_is_made(tmp_path: Path) -> None:
    found = find_batch_size(config())
    assert all(m.rate > 0 and m.memory > 10**7 for m in found.measured) and len(found.measured) >= 3
    best = max(m.rate for m in found.measured)
    taken = next(m for m in found.measured if m.size == found.config.batch_size)
    assert taken.rate >= 0.9 * best
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("speeds")
def test_the_run_records_the_size_is_that_of_a_number_and_is_resumed_without_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = json.loads(dlcli("train", "mlp", *AUTO, "--epochs", "1", "--json").stdout)
    run = Run(tmp_path / "runs", document["run"])
    stored = json.loads((run.path / "config.json").read_text())
    assert stored["batch_size"] == 64
    assert "batch size 64, of 16 100/s" in (run.path / "log.txt").read_text()
    *_, last = train(config(batch_size=64, epochs=2), runs_dir=tmp_path / "other")

    def never(*given: Any, **named: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(batch_size, "_measure", never)
    *_, resumed = resume(run, exact=True, epochs=2)
    assert resumed.metrics == last.metrics
    with pytest.raises(ConfigError) as caught:
        list(resume(run, epochs=3, batch_size="auto"))
    assert str(caught.value) == "batch_size = auto is measured by dlcli train for a new run alone: give a number here"


@pytest.mark.usefixtures("speeds")
def test_python_measures_too(tmp_path: Path) -> None:
    list(train(config(epochs=1), runs_dir=tmp_path / "runs"))
    assert Run(tmp_path / "runs", 1).config().batch_size == 64


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("train", "mlp", *AUTO, "--optimizer", "gd"),
         "batch_size = auto does not go with optimizer = gd, which takes all data at once: use optimizer = sgd or "
         "batch_size = full"),
        (("train", "mlp", *AUTO, "--seeds", "2"),
         "batch_size = auto would measure a size for each run, which then differ by it: give the number that dlcli "
         "train MODEL --batch-size auto takes"),
        (("sweep", "mlp", "--over", "batch_size=32,auto"),
         "batch_size = auto would measure a size for each run, which then differ by it: give the number that dlcli "
         "train MODEL --batch-size auto takes"),
        (("profile", "mlp", *AUTO),
         "batch_size = auto is measured by dlcli train for a new run alone: give a number here"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_combination_is_told_in_a_sentence(words: tuple[str, ...], error: str, tmp_path: Path) -> None:
    assert dlcli(*words, check=2).stderr.splitlines()[-1] == f"error: {error}"
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("speeds")
def test_a_run_that_says_auto_is_damaged(tmp_path: Path) -> None:
    list(train(config(epochs=1), runs_dir=tmp_path / "runs"))
    set_in(tmp_path / "runs" / "1" / "config.json", "batch_size", to="auto")
    told = dlcli("eval", "1", check=4).stderr
    assert told.endswith("batch_size = auto, where the size that was taken should be\n")
