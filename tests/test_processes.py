"""Several processes for one training, as torchrun starts them, are refused: this is not supported."""

import os
from pathlib import Path

import pytest

from dlcli import TrainConfig, train
from dlcli.core.errors import ConfigError
from tests.conftest import Dlcli

IRIS = ("--data", "iris", "--epochs", "1", "--device", "cpu", "--quiet")
REFUSED = "WORLD_SIZE = {}, but one run on several processes is not built yet: leave torchrun out"


@pytest.mark.parametrize("words", [("train", "mlp", *IRIS), ("train", "mlp", *IRIS, "--dry-run")])
def test_one_of_several_processes_trains_nothing(dlcli: Dlcli, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = dlcli(*words, check=2, WORLD_SIZE="2", RANK="0", LOCAL_RANK="0")
    assert (done.stdout, done.stderr) == ("", f"error: {REFUSED.format(2)}\n")
    assert not (tmp_path / "runs").exists()


def test_nor_does_it_resume(dlcli: Dlcli) -> None:
    dlcli("train", "mlp", *IRIS)
    done = dlcli("resume", "1", "--epochs", "2", check=2, WORLD_SIZE="8")
    assert (done.stdout, done.stderr) == ("", f"error: {REFUSED.format(8)}\n")


@pytest.mark.parametrize("size", ["1", "", "many"])
def test_a_process_of_its_own_trains(dlcli: Dlcli, size: str) -> None:
    dlcli("train", "mlp", *IRIS, WORLD_SIZE=size)
    dlcli("eval", "1", WORLD_SIZE="2")  # harmless


def test_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    with pytest.raises(ConfigError) as caught:
        next(train(TrainConfig("mlp", data="iris", device="cpu"), runs_dir=tmp_path / "runs"))
    assert str(caught.value) == REFUSED.format(2)
    assert not (tmp_path / "runs").exists()
