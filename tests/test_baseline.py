"""What a training says when it learns nothing, explodes, or watches a metric that is undefined."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import accuracy_score, log_loss, r2_score

from dlcli import TrainConfig
from dlcli.data.batches import full
from dlcli.evaluation.baseline import baseline, explodes, learned
from dlcli.experiment.build import build
from dlcli.runs.run import Run
from tests.conftest import Dlcli

MINE = """import torch
from dlcli import DataSpec, Source

def rare(data_dir) -> Source:
    y = torch.zeros(200).long()
    y[:3] = 1
    x = torch.arange(800).view(200, 4).float().sin()
    return Source(DataSpec("binary", "features", (4,), 1), x, y)
"""


def parts(config: TrainConfig) -> tuple[np.ndarray, np.ndarray]:
    """The targets of the training and the validation split, in their own units."""
    data = build(config).dataset
    assert data.val is not None
    about = data.preprocessing
    train, val = (full(s).y.double().numpy() * about.target_std + about.target_mean for s in (data.train, data.val))
    return train, val


def test_the_baseline_of_classes_is_scikit_learns() -> None:
    config = TrainConfig(model="mlp", data="wine", device="cpu")
    train, val = parts(config)
    found = baseline(build(config))
    dummy = DummyClassifier(strategy="most_frequent").fit(train[:, None], train)
    assert found["val/accuracy"] == accuracy_score(val, dummy.predict(val[:, None]))
    frequency = (np.bincount(train.astype(int)) + 1) / (len(train) + 3)
    assert found["val/loss"] == pytest.approx(log_loss(val, np.tile(frequency, (len(val), 1))), rel=1e-6)


def test_the_baseline_of_two_classes_has_no_auc_but_a_half() -> None:
    config = TrainConfig(model="mlp", data="breast-cancer", device="cpu")
    train, val = parts(config)
    found = baseline(build(config))
    assert found["val/auc"] == 0.5
    assert found["val/accuracy"] == max(val.mean(), 1 - val.mean())


def test_the_baseline_of_a_regression_is_scikit_learns() -> None:
    config = TrainConfig(model="mlp", data="diabetes", device="cpu")
    train, val = parts(config)
    found = baseline(build(config))
    guess = DummyRegressor().fit(train[:, None], train).predict(val[:, None])
    assert found["val/r2"] == pytest.approx(r2_score(val, guess), abs=1e-6)
    assert found["val/mse"] == pytest.approx(np.mean((guess - val) ** 2), rel=1e-6)


def test_the_baseline_of_a_text_is_the_entropy_of_its_characters(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcaab" * 500)
    config = TrainConfig(model="rnn", data=f"text:{tmp_path / 'a.txt'}", device="cpu", data_options={"length": 10})
    data = build(config).dataset
    train, val = (full(s).y.flatten().numpy() for s in (data.train, data.val) if s is not None)
    frequency = (np.bincount(train, minlength=data.spec.outputs) + 1) / (len(train) + data.spec.outputs)
    assert baseline(build(config))["val/loss"] == pytest.approx(-np.log(frequency[val]).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("metrics", "better"),
    [
        ({"val/accuracy": 0.15, "val/loss": 2.303}, False),  # 0.1 + 2 sqrt(0.1 * 0.9 / 144)
        ({"val/accuracy": 0.1501, "val/loss": 2.303}, True),
        ({"val/accuracy": 0.1, "val/loss": 2.28}, False),
        ({"val/accuracy": 0.1, "val/loss": 2.27}, True),  # 1 % below
        ({"val/accuracy": None, "val/loss": None}, False),
    ],
)
def test_what_counts_as_learned(metrics: dict[str, float | None], better: bool) -> None:
    assert learned(metrics, {"val/accuracy": 0.1, "val/loss": 2.3}, 144) is better


def test_a_loss_that_is_not_finite_or_a_hundred_times_the_baselines_explodes() -> None:
    than = {"val/loss": 2.0}
    assert [explodes({"val/loss": loss}, than) for loss in (200.0, 200.1, None)] == [False, True, True]


def test_a_training_at_chance_says_so_while_it_runs_and_at_the_end(dlcli: Dlcli, tmp_path: Path) -> None:
    done = dlcli("train", "cnn", "--lr", "1", "--epochs", "4", "--quiet")
    info, rows = Run(tmp_path / "runs", 1).info(), Run(tmp_path / "runs", 1).metrics()
    third, best = rows[2]["val/accuracy"], info["best"]["value"]
    guess = info["baseline"]["val/accuracy"]
    assert done.stderr.splitlines() == [
        f"warning: nothing learned after 3 evaluations: val/accuracy is {third:.4g}, and {guess:.4g} without looking "
        "at the input",
        f"warning: nothing learned: val/accuracy is {best:.4g}, and {guess:.4g} without looking at the input; try "
        "another lr or more epochs",
    ]
    assert info["warning"] == done.stderr.splitlines()[1]
    log = (tmp_path / "runs/1/log.txt").read_text()
    assert all(line in log for line in done.stderr.splitlines())


def test_a_training_that_explodes_says_so_and_a_resume_does_not_repeat_it(dlcli: Dlcli, tmp_path: Path) -> None:
    done = dlcli("train", "linear", "--lr", "1.5", "--epochs", "5", "--json")
    exploding = [line for line in done.stderr.splitlines() if line.startswith("warning")]
    assert len(exploding) == 2
    assert exploding[0].startswith("warning: val/loss is ")
    assert exploding[0].endswith(" without looking at the input: the training explodes; lower lr or set clip_norm")
    assert json.loads(done.stdout)["warning"] == exploding[1]
    again = dlcli("resume", "1", "--epochs", "6")
    assert "the training explodes" not in again.stderr and "warning: nothing learned: " in again.stderr


def test_a_training_that_learns_gives_no_warning(dlcli: Dlcli, tmp_path: Path) -> None:
    done = dlcli("train", "mlp", "--epochs", "4")
    assert "warning" not in done.stderr
    assert Run(tmp_path / "runs", 1).info()["warning"] is None


def test_a_monitored_metric_that_is_undefined_is_replaced_by_the_loss(dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    done = dlcli(
        "train", "mlp", "--data", "mine:rare", "--monitor", "auc", "--patience", "2", "--epochs", "6", "--quiet"
    )
    assert done.stderr.splitlines()[0] == (
        "warning: val/auc is undefined, since not every class has samples: val/loss selects the best checkpoint"
    )
    rows = Run(tmp_path / "runs", 1).metrics()
    losses = [row["val/loss"] for row in rows]
    best = Run(tmp_path / "runs", 1).info()["best"]
    assert {row["val/auc"] for row in rows} == {None}
    assert len(losses) == 6 and losses == sorted(losses, reverse=True)  # it did not stop early
    assert (best["metric"], best["value"], best["epoch"]) == ("val/loss", losses[-1], 6)
    measured = json.loads(dlcli("eval", "1", "--split", "val", "--json").stdout)
    assert measured["epoch"] == 6 and measured["metrics"]["loss"] == pytest.approx(losses[-1], rel=1e-12)
    compared = dlcli("eval", "1", "--split", "val", "--baseline", "1")
    assert compared.stderr.splitlines()[-1].startswith("loss ")


COLUMN = """import torch
from dlcli import DataSpec, Source

def _source(column: bool) -> Source:
    x = torch.arange(600).view(200, 3).float().sin()
    y = 5 + x @ torch.tensor([1.0, -2.0, 3.0])
    return Source(DataSpec("regression", "features", (3,), 1), x, y[:, None] if column else y)

def column(data_dir) -> Source:
    return _source(True)

def row(data_dir) -> Source:
    return _source(False)
"""


def test_targets_in_a_column_are_those_in_a_row(dlcli: Dlcli, tmp_path: Path) -> None:
    """(N, 1) targets once broadcast to an r2 near 0. The expected value is scikit-learn's, of the predictions."""
    (tmp_path / "mine.py").write_text(COLUMN)
    found = []
    for run, data in enumerate(("mine:column", "mine:row"), 1):
        dlcli("train", "linear", "--data", data, "--optimizer", "sgd", "--epochs", "20", "--quiet")
        found.append(json.loads(dlcli("eval", str(run), "--json").stdout)["metrics"])
    assert found[0] == found[1]
    x = torch.arange(600).view(200, 3).float().sin()
    y = 5 + x @ torch.tensor([1.0, -2.0, 3.0])
    test = torch.randperm(200, generator=torch.Generator().manual_seed(20240229))[:40].sort().values
    (tmp_path / "new.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in x[test].tolist()))
    answers = [row["value"] for row in json.loads(dlcli("predict", "1", "new.csv", "--json").stdout)]
    assert found[0]["r2"] == pytest.approx(r2_score(y[test].numpy(), answers), rel=1e-5)
    assert found[0]["r2"] > 0.9
