"""Cached features: a training on them is the training without them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from dlcli import TrainConfig, resume, train
from dlcli.checkpoints import checkpoint
from dlcli.cli.main import app
from dlcli.core.errors import ConfigError, ResourceError
from dlcli.experiment import features
from dlcli.experiment.build import build
from dlcli.runs.run import Run
from tests.test_resume import assert_same, stopping_at

TIMES = ("seconds", "samples_per_second")


class Pretrained(nn.Module):
    """(B, 1, 8, 8) -> (B, outputs), shaped like the models of torchvision: features, and a classifier with dropout."""

    def __init__(self, spec: Any, *, dropout: float = 0.2, early: float = 0.0, calls: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(288, spec.outputs))
        self.early, self.calls = nn.Dropout(early), calls
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        x = nn.functional.dropout(self.features(x), self.early.p, self.training)
        for _ in range(self.calls - 1):
            self.classifier(x)
        return self.classifier(x)  # type: ignore[no-any-return]


def config(**settings: Any) -> TrainConfig:
    """647 divides the 1,294 training samples of digits, so that all batches have one size."""
    given = {"model": "tests.test_features:Pretrained", "freeze": "backbone", "epochs": 4, "batch_size": 647}
    return TrainConfig(**(given | {"device": "cpu", "lr": 0.1} | settings))


def trained(root: Path, **settings: Any) -> Run:
    list(train(config(**settings), runs_dir=root))
    return Run(root, max(int(path.name) for path in root.iterdir()))


@pytest.mark.parametrize(
    "settings", [{}, {"ema": 0.9, "optimizer": "adam", "eval_every": 1, "precision": "bf16"}], ids=["plain", "all"]
)
def test_with_batches_of_one_size_every_bit_is_that_of_a_training_without_them(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """With dropout in the head, which is drawn anew in each step: the same random numbers."""
    plain, cached = (trained(tmp_path, cache_features=cache, **settings) for cache in (False, True))
    rows = [[{k: v for k, v in row.items() if k not in TIMES} for row in run.metrics()] for run in (plain, cached)]
    assert rows[0] == rows[1]
    weights = [checkpoint.load(run.checkpoints, "last").weights for run in (plain, cached)]
    assert [name for name, value in weights[0].items() if not torch.equal(value, weights[1][name])] == []
    assert not torch.equal(weights[0]["classifier.1.weight"], build(config()).model.state_dict()["classifier.1.weight"])


def test_with_a_last_batch_of_another_size_the_numbers_agree_to_the_rounding(tmp_path: Path) -> None:
    plain, cached = (trained(tmp_path, cache_features=cache, batch_size=100) for cache in (False, True))
    for row, other in zip(plain.metrics(), cached.metrics(), strict=True):
        assert row["val/loss"] == pytest.approx(other["val/loss"], rel=1e-4)


def test_the_frozen_part_runs_once_for_each_sample_whatever_the_number_of_epochs(tmp_path: Path) -> None:
    from tests.trained import fit_new

    built = build(config(cache_features=True, epochs=5, eval_batch_size=144))
    assert isinstance(built.model, Pretrained)
    built.model.passes = 0
    list(fit_new(built, tmp_path))
    assert built.model.passes == 3  # two batches of the training, one of the validation
    assert built.trained_part == "classifier"


class Nested(nn.Module):
    """As VGG in a wrapper: a classifier with dropout between a frozen layer and the head."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten()),
            nn.Sequential(nn.Linear(144, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, spec.outputs)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


def test_the_smallest_part_is_trained_whose_features_stay() -> None:
    nested = config(model="tests.test_features:Nested", cache_features=True)
    assert build(nested).trained_part == "net.1"  # dropout before the head: the frozen layer before that runs each time
    assert build(nested.replace(freeze="net.0")).trained_part == "net.1"
    assert build(config(cache_features=True)).trained_part == "classifier"


def test_a_resume_is_exact(tmp_path: Path) -> None:
    made = config(cache_features=True, optimizer="adam", batch_size=200)
    list(train(made, runs_dir=tmp_path))
    list(train(made, runs_dir=tmp_path, stop=stopping_at(10)))
    list(resume(Run(tmp_path, 2), exact=True))
    assert_same(Run(tmp_path, 1), Run(tmp_path, 2))


def test_eval_measures_the_whole_model(tmp_path: Path) -> None:
    from dlcli import evaluate

    run = trained(tmp_path, cache_features=True)
    best = run.info()["best"]
    assert evaluate(run, split="val").metrics["accuracy"] == best["value"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": "none"}, "cache_features needs something that is frozen: freeze = backbone"),
        (
            {"augment": ("flip", "shift=1")},
            "cache_features does not go with augment = flip,shift=1, which changes the samples in each epoch: leave "
            "one out",
        ),
        ({"unfreeze_at": 2}, "cache_features does not go with unfreeze_at = 2: leave one out"),
        (
            {"model_options": {"early": 0.3}},
            "cache_features needs a frozen backbone whose features never change: what model "
            "tests.test_features:Pretrained does before classifier is random or depends on the batch; set its dropout "
            "to 0, or freeze more of it",
        ),
        (
            {"freeze": "features.0"},
            "cache_features needs a frozen backbone whose features never change: model tests.test_features:Pretrained "
            "has no last module that holds all that is trained",
        ),
        (
            {"model_options": {"calls": 2}},
            "cache_features needs a frozen backbone whose features never change: model tests.test_features:Pretrained "
            "has no last module that holds all that is trained",
        ),
    ],
)
def test_what_cannot_be_cached_is_refused_before_there_is_a_run(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        list(train(config(**({"cache_features": True} | settings)), runs_dir=tmp_path / "runs"))
    assert str(caught.value) == message
    assert not (tmp_path / "runs").exists()


def test_features_that_do_not_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "memory", lambda device: 3_000_000)
    with pytest.raises(ResourceError) as caught:
        build(config(cache_features=True))
    assert str(caught.value) == (
        "cache_features would keep 0.0 GB, more than half of the memory, which is 0.0 GB: leave it out, or freeze more"
    )


def test_every_built_in_model_with_a_backbone_can_be_trained_on_features(tmp_path: Path) -> None:
    for name, words in {"cnn": (), "lenet": (), "mlp": (), "attention": ("--set", "data.samples=300")}.items():
        done = CliRunner().invoke(
            app,
            ["train", name, "--freeze", "backbone", "--cache-features", "--epochs", "1", "--device", "cpu", *words,
             "--runs-dir", str(tmp_path)],
        )  # fmt: skip
        assert done.exit_code == 0, done.stderr
