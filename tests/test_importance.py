"""Permutation importance of columns, compared with scikit-learn's."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.inspection import permutation_importance
from torch import Tensor
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.config.settings import TrainConfig
from dlcli.core.seeds import derive
from dlcli.data.dataset import Split
from dlcli.evaluation.importance import columns_of, importance
from dlcli.evaluation.measure import evaluate
from dlcli.experiment.load import load_data
from dlcli.experiment.restore import restore
from dlcli.runs.run import Run


def invoke(root: Path, *words: str, exit_code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, [*words, "--runs-dir", str(root)])
    assert result.exit_code == exit_code, result.output
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: 1 on a table with a category, 2 on features without names, 3 on images, 4 on named features."""
    rng = np.random.default_rng(0)
    x, city = rng.normal(size=(400, 2)), rng.choice(["a", "b", "c"], 400)
    y = 3 * x[:, 0] + 2 * (city == "a") + 0.1 * rng.normal(size=400)
    folder = tmp_path_factory.mktemp("runs")
    pd.DataFrame({"size": x[:, 0], "city": city, "noise": x[:, 1], "price": y}).to_csv(folder / "a.csv", index=False)
    np.savez(folder / "a.npz", x=x.astype(np.float32), y=(x[:, 0] > 0).astype(np.int64))
    quick = ("--epochs", "20", "--device", "cpu", "--quiet", "--lr", "0.05")
    invoke(folder, "train", "linear", "--data", f"table:{folder / 'a.csv'}", "--target", "price", *quick)
    invoke(folder, "train", "mlp", "--data", f"arrays:{folder / 'a.npz'}", *quick)
    invoke(folder, "train", "mlp", "--epochs", "1", "--device", "cpu", "--quiet")
    invoke(folder, "train", "linear", "--data", "diabetes", *quick)
    return folder


class Estimator:
    """A run, as scikit-learn sees it."""

    def __init__(self, run: Run) -> None:
        self.restored = restore(run)

    def fit(self, x: Any, y: Any) -> "Estimator":
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.restored.answer(torch.from_numpy(x)).cpu().numpy()[:, 0]


def negative_error(estimator: Estimator, x: np.ndarray, y: np.ndarray) -> float:
    return -float(np.square(estimator.predict(x) - y).mean())


def test_it_is_scikit_learns_up_to_the_draw(root: Path) -> None:
    """Of normalised targets the squared error is the loss of the run."""
    run = Run(root, 4)
    estimator = Estimator(run)
    about = estimator.restored.preprocessing
    data = load_data(run.config(), device="cpu", preprocessing=about.without_normalisation())
    split = data.split("test")
    x, y = split.rows.take(slice(None) if split.index is None else split.index)
    assert y is not None
    target = ((y - about.target_mean) / about.target_std).numpy()
    theirs = permutation_importance(estimator, x.numpy(), target, scoring=negative_error, n_repeats=60, random_state=0)
    found = evaluate(run, importances=True).importance
    assert found is not None and found.metric == "loss"
    ours = {row["column"]: row for row in found.columns}
    assert list(ours) != list(about.feature_names) and set(ours) == set(about.feature_names)
    for place, name in enumerate(about.feature_names):
        spread = theirs.importances_std[place]
        assert ours[name]["importance"] == pytest.approx(theirs.importances_mean[place], abs=2 * spread + 1e-9)
        assert ours[name]["std"] < 3 * spread + 1e-9
    assert max(ours.values(), key=lambda row: row["importance"])["column"] == found.columns[0]["column"]


def test_it_is_the_mean_drop_over_five_shuffles_of_all_features_of_a_column() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, generator=generator)
    seen: list[Tensor] = []

    def score(split: Split) -> float:
        x, _ = split.rows.take(slice(None))
        seen.append(x.clone())
        return float((x[:, 0] * x[:, 1] + x[:, 2]).abs().mean())

    columns = [("a", slice(0, 2)), ("b", slice(2, 3))]
    y = torch.zeros(50)
    found = importance(Split.of(x, y), columns, score, metric="accuracy", seed=7)
    base, *shuffled = seen
    assert torch.equal(base, x) and len(shuffled) == 10
    for repeat, values in enumerate(shuffled[:5]):
        order = torch.randperm(50, generator=torch.Generator().manual_seed(derive(7, "importance", 0, repeat)))
        assert torch.equal(values, torch.cat([x[order, :2], x[:, 2:]], 1))
    for values in shuffled[5:]:
        assert torch.equal(values[:, :2], x[:, :2]) and not torch.equal(values[:, 2], x[:, 2])
    drops = {
        name: [score(Split.of(x, y)) - score(Split.of(values, y)) for values in part]
        for name, part in (("a", shuffled[:5]), ("b", shuffled[5:10]))
    }
    rows = {row["column"]: row for row in found.columns}
    for name, values in drops.items():
        assert rows[name]["importance"] == pytest.approx(np.mean(values))
        assert rows[name]["std"] == pytest.approx(np.std(values))
    worse = importance(Split.of(x, y), columns, score, metric="loss", seed=7)
    assert {row["column"]: -row["importance"] for row in worse.columns} == pytest.approx(
        {name: row["importance"] for name, row in rows.items()}
    )


def test_columns_of_a_table_and_not_their_features(root: Path) -> None:
    places = columns_of(restore(Run(root, 1)).preprocessing, run="runs/1")
    assert places == [("size", slice(0, 1)), ("city", slice(1, 4)), ("noise", slice(4, 5))]
    document = json.loads(invoke(root, "eval", "1", "--importance", "--json")[0])
    found = document["importance"]
    assert (found["metric"], found["repeats"]) == ("loss", 5)
    assert [row["column"] for row in found["columns"]] == ["size", "city", "noise"]
    assert abs(found["columns"][2]["importance"]) < 0.01 < found["columns"][1]["importance"]
    assert json.loads((root / "1" / "eval" / "test.json").read_text())["importance"] == found
    again = json.loads(invoke(root, "eval", "1", "--importance", "--json")[0])
    assert again["importance"] == found
    assert "importance" not in json.loads(invoke(root, "eval", "1", "--json")[0])


def test_it_is_shown_as_a_table_and_as_csv(root: Path) -> None:
    out, _ = invoke(root, "eval", "1", "--importance")
    assert (
        "importance: how much worse loss becomes when a column is shuffled\ncolumn  importance        std\nsize  "
        in out
    )
    rows = list(csv.DictReader(io.StringIO(invoke(root, "eval", "1", "--importance", "--csv")[0])))
    assert [row["column"] for row in rows] == ["size", "city", "noise"]
    assert float(rows[0]["importance"]) > float(rows[0]["std"]) > 0
    assert invoke(root, "eval", "1", "--importance", "--md")[0].startswith("| column | importance | std |\n")


def test_features_without_names_are_numbered(root: Path) -> None:
    found = evaluate(Run(root, 2), importances=True).importance
    assert found is not None and [row["column"] for row in found.columns] == ["0", "1"]


def test_images_have_no_columns(root: Path) -> None:
    _, err = invoke(root, "eval", "3", "--importance", exit_code=2)
    assert err == f"error: --importance is for columns of tables and for features, and {root}/3 expects image\n"


def test_a_metric_without_a_value_has_no_importance(tmp_path: Path) -> None:
    rows = [f"{n},{'ab'[n % 2]},{'test' if n > 40 and n % 2 else 'train'}" for n in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["x,y,part", *rows]))
    options = {"target": "y", "split_column": "part", "numbers": ["x"]}
    from dlcli.training.train import train

    config = TrainConfig("logistic", data=f"table:{tmp_path / 'a.csv'}", data_options=options, monitor="auc", epochs=1)
    list(train(config, runs_dir=tmp_path))
    _, err = invoke(tmp_path, "eval", "1", "--importance", exit_code=3)
    assert err.splitlines()[-1] == (
        "error: the importance of columns cannot be measured: auc is undefined, since not every class has samples"
    )


def test_a_metric_that_has_no_value_without_a_column_is_null_for_it(tmp_path: Path) -> None:
    """Without x, class 1 is never predicted."""
    x = torch.tensor([[5.0, 1.0], [-5.0, 2.0], [-5.0, 3.0]])

    def precision(split: Split) -> float | None:
        x, _ = split.rows.take(slice(None))
        return 1.0 if x[0, 0] > 0 else None

    columns = [("x", slice(0, 1)), ("y", slice(1, 2))]
    found = importance(Split.of(x, torch.zeros(3)), columns, precision, metric="precision", seed=0)
    assert found.columns == [
        {"column": "y", "importance": 0.0, "std": 0.0}, {"column": "x", "importance": None, "std": None},
    ]  # fmt: skip
    assert found.undefined == ["x"] and json.dumps(found.as_dict(), allow_nan=False)
