"""Weights that are divided among the processes of a training: the same numbers, and the same files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Dlcli
from tests.test_ranks import COMMON, record, rows, weights


def state(root: Path, number: int) -> dict[str, torch.Tensor]:
    newest = max((root / f"runs/{number}/checkpoints").glob("last-*"), key=lambda path: int(path.name[5:]))
    return load_file(newest / "training.safetensors")


def assert_same_bits(root: Path) -> None:
    """Runs 1 and 2."""
    assert rows(root, 1) == rows(root, 2)
    for read in (weights, state):
        one, other = read(root, 1), read(root, 2)
        assert one.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_the_files_are_those_of_whole_weights(dlcli: Dlcli, tmp_path: Path) -> None:
    """Bit for bit: with two processes, sums have one order. 144 samples of the validation split, in batches of 50, are
    an odd number of batches: one process has none in the last turn."""
    words = ("train", "mlp", *COMMON, "--processes", "2", "--steps", "9", "--eval-every", "4step")
    words += ("--ema", "0.9", "--batch-size", "100", "--accumulate", "2", "--eval-batch-size", "50")
    dlcli(*words)
    dlcli(*words, "--shard")
    assert_same_bits(tmp_path)
    assert "waiting" in record(tmp_path, 1)["ranks"] and "waiting" not in record(tmp_path, 2)["ranks"]
    one, other = (json.loads(dlcli("eval", run, "--json").stdout)["metrics"] for run in ("1", "2"))
    assert one == other
    done = dlcli("resume", "2", "--steps", "12", "--processes", "1", "--set", "shard=false")
    assert "exact: no (2 processes before, 1 now, shard True -> False)" in done.stderr


MODELS = {
    "attention": ("--set", "model.layers=2"), "cnn": (), "lenet": (), "linear": (), "logistic": (), "ngrams": (),
    "simple-cnn": (), "tabular": (), "mlp": ("--compress-gradients",),
    "resnet18": ("--data", "random", "--set", "data.shape=3,32,32", "--set", "data.samples=120", "--set",
                 "model.stem=small", "--freeze", "conv1", "--batch-size", "16"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_model(dlcli: Dlcli, tmp_path: Path, model: str) -> None:
    words = ("train", model, *MODELS[model], *COMMON, "--processes", "2", "--steps", "7", "--eval-every", "4step")
    dlcli(*words)
    dlcli(*words, "--shard")
    assert_same_bits(tmp_path)


@pytest.mark.slow
def test_a_norm_that_is_summed_in_parts(dlcli: Dlcli, tmp_path: Path) -> None:
    words = ("train", "rnn", *COMMON, "--processes", "2", "--steps", "7", "--clip-norm", "0.1")
    dlcli(*words)
    dlcli(*words, "--shard")
    for name, tensor in weights(tmp_path, 1).items():
        torch.testing.assert_close(weights(tmp_path, 2)[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_a_resume_is_exact(dlcli: Dlcli, tmp_path: Path, optimizer: str) -> None:
    words = ("train", "mlp", *COMMON, "--processes", "3", "--shard", "--optimizer", optimizer, "--weight-decay", "0.01")
    words += ("--ema", "0.9", "--set", "model.dropout=0.2")
    dlcli(*words, "--epochs", "3")
    dlcli(*words, "--epochs", "1")
    assert "exact: yes" in dlcli("resume", "2", "--epochs", "3", "--exact").stderr
    assert_same_bits(tmp_path)


PARTS = """
from torch import nn

class Parts(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(64, 40))
        self.rest = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(40, 7), nn.Linear(7, spec.outputs))
        self.last = nn.Linear(spec.outputs, spec.outputs)

    def forward(self, x):
        if hasattr(self.last.weight, "to_local"):
            with open("parts.txt", "a") as file:
                print(self.first[1].weight.shape[0], *self.last.weight.to_local().shape, file=file)
        return self.last(self.rest(self.first(x)))
"""


@pytest.mark.slow
def test_a_process_has_a_part_of_each_weight(dlcli: Dlcli, tmp_path: Path) -> None:
    """Of the last layer, 5 of 10 rows, while the first ones compute. Those are gathered together, since a layer of the
    second stage changes the output of the first in place."""
    (tmp_path / "parts.py").write_text(PARTS)
    words = ("train", "parts:Parts", "--data", "digits", *COMMON, "--processes", "2", "--steps", "3")
    dlcli(*words)
    assert not (tmp_path / "parts.txt").exists()
    dlcli(*words, "--shard")
    assert set((tmp_path / "parts.txt").read_text().splitlines()) == {"40 5 10"}
    assert_same_bits(tmp_path)


def test_stages_that_share_a_parameter_are_gathered_together() -> None:
    from torch import nn

    from dlcli import DataSpec
    from dlcli.experiment.probe import separable

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    spec = DataSpec("multiclass", "features", (4,), 3)
    assert separable(model, spec) == list(model)
    model[1].weight = model[0].weight
    assert separable(model, spec) == [model[2]]
