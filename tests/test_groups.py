"""Learning rates of parts of a model: which part has which, compared with torch's parameter groups."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from dlcli import TrainConfig, train
from dlcli.checkpoints import checkpoint
from dlcli.cli.main import app
from dlcli.core.errors import ConfigError
from dlcli.data.batches import epoch_order
from dlcli.experiment.build import build
from dlcli.runs.run import Run

STAGES = ("conv1", "conv2", "fc1", "fc2", "fc3")


def lenet(**settings: Any) -> TrainConfig:
    return TrainConfig(**({"model": "lenet", "epochs": 2, "device": "cpu", "batch_size": 300, "lr": 0.05} | settings))


def factors(**settings: Any) -> dict[str, float]:
    return {group.name: group.factor for group in build(lenet(**settings)).groups}


def test_the_factors_of_the_backbone_and_of_its_stages() -> None:
    assert factors() == {}
    assert factors(lr_backbone="0.1x") == {"backbone": 0.1}
    assert factors(lr_backbone=0.01) == {"backbone": pytest.approx(0.2)}
    assert factors(layer_decay=0.5) == {"conv1": 1 / 16, "conv2": 1 / 8, "fc1": 1 / 4, "fc2": 1 / 2}
    assert factors(layer_decay=0.5, lr_backbone="0.1x")["conv2"] == pytest.approx(0.1 / 8)
    assert list(factors(layer_decay=0.5, freeze="2")) == ["fc1", "fc2"]
    assert list(factors(layer_decay=0.5, freeze="2", unfreeze_at=2)) == list(STAGES[:4])


@pytest.mark.parametrize(
    ("given", "read"), [("0.1x", "0.1x"), ("1e-2x", "0.01x"), ("0.003", 0.003), (0.003, 0.003), ("none", None)]
)
def test_a_rate_is_a_number_or_a_multiple(given: Any, read: Any) -> None:
    made = lenet(lr_backbone=given)
    assert made.lr_backbone == read and ("lr_backbone" in made.given) == (read is not None)


@pytest.mark.parametrize("given", ["x", "0x", "-1x", "0", 0, "nan", "infx", "1..x", True, "fast"])
def test_what_is_no_rate_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        lenet(lr_backbone=given)
    assert str(caught.value) == f"lr_backbone = {given!r} is not a number above 0, or a multiple of lr such as 0.1x"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("lenet", "--lr-backbone", "0.1x", "--freeze", "backbone"),
            "lr_backbone has no effect, since freeze leaves only the head to train: leave it out",
        ),
        (
            ("linear", "--layer-decay", "0.5"),
            "layer_decay has no effect, since model linear has only a head: leave it out",
        ),
    ],
)
def test_a_rate_of_nothing_is_refused(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", *words, "--runs-dir", str(tmp_path / "runs")])
    assert (done.exit_code, done.stderr.strip()) == (2, f"error: {message}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_a_training_is_that_of_torch_with_parameter_groups(optimizer: str, tmp_path: Path) -> None:
    """Layer decay, weight decay and a schedule together; bit for bit."""
    made = lenet(layer_decay=0.5, optimizer=optimizer, weight_decay=0.1, schedule="cosine", epochs=1, lr=0.01)
    theirs = build(made)
    model, data, total = theirs.model, theirs.dataset, theirs.total_steps
    kinds = {
        "sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop,
    }  # fmt: skip
    groups = []
    for place, stage in enumerate(STAGES):
        for parameter in model.get_submodule(stage).parameters():
            decay = 0.1 if parameter.dim() >= 2 else 0.0
            groups.append({"params": [parameter], "weight_decay": decay, "factor": 0.5 ** (4 - place)})
    how: Any = {"momentum": 0.9} if optimizer == "sgd" else {}
    reference = kinds[optimizer](groups, lr=0.01, **how)
    order = epoch_order(data.train, seed=0, epoch=1)
    for step in range(total):
        x, y = data.train.rows.take(order[300 * step : 300 * (step + 1)])
        assert y is not None
        reference.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        rate = 0.01 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / total, dtype=torch.float64)).item())
        for group in reference.param_groups:
            group["lr"] = rate * group["factor"]
        reference.step()
    list(train(made, runs_dir=tmp_path))
    found = checkpoint.load(Run(tmp_path, 1).checkpoints, "last").weights
    for name, value in model.state_dict().items():
        assert torch.equal(found[name], value), name


def test_the_rates_are_columns_of_metrics_csv(tmp_path: Path) -> None:
    made = lenet(layer_decay=0.5, freeze="conv1", unfreeze_at=2, schedule="step", step_epochs=1)
    list(train(made, runs_dir=tmp_path))
    with open(Run(tmp_path, 1).metrics_file, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith("lr")]
    assert names == ["lr", "lr/conv1", "lr/conv2", "lr/fc1", "lr/fc2"]
    assert rows[0]["lr/conv1"] == ""  # frozen
    assert [float(rows[0][name] or 0) for name in names] == pytest.approx([0.05, 0, 0.05 / 8, 0.05 / 4, 0.05 / 2])
    assert float(rows[1]["lr"]) == pytest.approx(0.005)
    assert float(rows[1]["lr/conv1"]) == pytest.approx(0.005 / 16)
