"""`dlcli explain` of tables: columns against scikit-learn's partial dependence, rows against captum, neighbours."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.inspection import partial_dependence
from typer.testing import CliRunner, Result

from dlcli.analysis.explain.rows import mean_row
from dlcli.analysis.explain.subject import Subject
from dlcli.cli.main import app
from dlcli.evaluation.measure import data_of
from dlcli.experiment.restore import restore
from dlcli.runs.run import Run


def explain(root: Path, *words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, ["explain", *words, "--runs-dir", str(root / "runs")])
    assert done.exit_code == code, done.output
    return done


def document(root: Path, *words: str) -> Any:
    return json.loads(explain(root, *words, "--json").stdout)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: 1 a regression on a table, 2 classes of it with quantiles and dates, 3 iris, 4 a cnn on digits."""
    root = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    size, noise, city = 100 + 20 * rng.normal(size=400), rng.normal(size=400), rng.choice(["Rome", "Oslo", "Lima"], 400)
    price = 0.15 * size + 2 * (city == "Rome") + 0.1 * rng.normal(size=400)
    frame = pd.DataFrame({"size": size, "city": city, "noise": noise, "price": price})
    frame.to_csv(root / "a.csv", index=False)
    when = pd.date_range("2020-01-01", periods=400, freq="3D").strftime("%Y-%m-%d")
    known = frame.assign(when=when, owned=np.where(noise > 0, "yes", "no"), cheap=np.where(price > 16, "no", "sure"))
    known.loc[::7, "size"] = np.nan
    known.drop(columns="price").to_csv(root / "b.csv", index=False)
    for words in (
        ["mlp", "--data", f"table:{root / 'a.csv'}", "--target", "price", "--epochs", "20", "--lr", "0.05"],
        ["tabular", "--data", f"table:{root / 'b.csv'}", "--target", "cheap", "--set", "data.scale=quantile",
         "--set", "model.width=16", "--epochs", "5"],
        ["logistic", "--data", "iris", "--epochs", "20"],
        ["cnn", "--set", "model.channels=4,8", "--set", "model.hidden=16", "--epochs", "1"],
    ):  # fmt: skip
        words = ["train", *words, "--device", "cpu", "--quiet", "--runs-dir", str(root / "runs")]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    return root


class Estimator:
    """A run on numbers, as scikit-learn sees it: in the units of the file."""

    _estimator_type = "regressor"

    def __init__(self, root: Path) -> None:
        self.restored = restore(Run(root / "runs", 1))
        self.fitted_ = True

    def __sklearn_tags__(self) -> Any:
        from sklearn.base import BaseEstimator, RegressorMixin

        class Regressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
            pass

        return Regressor().__sklearn_tags__()

    def fit(self, x: Any, y: Any) -> "Estimator":
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        output = self.restored.answer(torch.from_numpy(np.asarray(x, dtype=np.float32)))
        return self.restored.task.in_units(output)[:, 0].numpy()


def test_the_dependence_on_a_number_is_scikit_learns(root: Path) -> None:
    found = document(root, "1", "--columns")
    estimator = Estimator(root)
    about = estimator.restored.preprocessing
    part = data_of(estimator.restored, None, None).split("test")
    x, _ = part.rows.take(slice(None) if part.index is None else part.index)
    raw = (x.double() * torch.tensor(about.std) + torch.tensor(about.mean)).numpy()
    theirs = partial_dependence(estimator, raw, [0], kind="average", grid_resolution=1000)
    (ours,) = [each for each in found["dependence"] if each["column"] == "size"]
    assert ours["answer"] == "predicted price" and ours["rows"] == len(x) == 80
    assert len(ours["points"]) == 20
    means = dict(zip(theirs["grid_values"][0].round(3), theirs["average"][0], strict=True))
    for point in ours["points"]:
        if (at := round(point["value"], 3)) in means:
            assert point["mean"] == pytest.approx(means[at], rel=1e-4)
        assert point["low"] <= point["mean"] <= point["high"]
    assert sum(round(point["value"], 3) in means for point in ours["points"]) >= 15


def test_importance_is_that_of_eval_and_writes_nothing(root: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in (root / "runs/1").rglob("*")}
    found = document(root, "1", "--columns")
    assert {file: file.stat().st_mtime_ns for file in (root / "runs/1").rglob("*")} == before
    words = ["eval", "1", "--importance", "--json", "--runs-dir", str(root / "runs")]
    assert found["importance"] == json.loads(CliRunner().invoke(app, words).stdout)["importance"]
    assert [each["column"] for each in found["dependence"]] == ["size", "city", "noise"]
    cities = {point["value"]: point["mean"] for point in found["dependence"][1]["points"]}
    assert max(cities, key=cities.__getitem__) == "Rome" and set(cities) == {"Rome", "Oslo", "Lima"}
    assert cities["Rome"] - cities["Oslo"] == pytest.approx(2, abs=0.5)
    table = list(csv.DictReader(io.StringIO(explain(root, "1", "--columns", "--csv").stdout)))
    assert table[1]["column"] == "city" and table[1]["at_highest"] == "Rome"


def test_columns_of_every_kind_are_told_in_their_own_words(root: Path) -> None:
    found = {each["column"]: each for each in document(root, "2", "--columns", "--class", "sure")["dependence"]}
    assert {each["answer"] for each in found.values()} == {"probability of sure"}
    values = {name: [point["value"] for point in each["points"]] for name, each in found.items()}
    assert set(values["owned"]) == {"yes", "no"} and set(values["city"]) == {"Rome", "Oslo", "Lima"}
    assert values["size"][-1] == "missing" and all(40 < value < 180 for value in values["size"][:-1])
    assert all(value.startswith(("year ", "month ", "day")) for value in values["when"])
    other = {each["column"]: each for each in document(root, "2", "--columns", "--class", "no")["dependence"]}
    one, same = (each["city"]["points"][0]["mean"] for each in (found, other))
    assert one + same == pytest.approx(1)


def test_a_row_is_divided_among_its_columns_as_captum_does(root: Path) -> None:
    theirs = pytest.importorskip("captum.attr", reason="captum is not installed: pip install 'dlcli[dev]'")
    (root / "row.csv").write_text("city,noise,size\nRome,0.25,130\n")
    (ours,) = document(root, "1", str(root / "row.csv"))["inputs"]
    restored = restore(Run(root / "runs", 1))
    subject = Subject.of(restored)
    data = data_of(restored, None, None)
    about = restored.preprocessing
    assert about.encoding is not None
    raw = torch.tensor([[130.0, *(float(level == "Rome") for level in about.encoding.columns[1].levels), 0.25]])
    x = about.apply(raw)
    train, _ = data.train.rows.take(data.train.index)
    assert torch.allclose(mean_row(data), train.mean(0), atol=1e-6)
    found = theirs.IntegratedGradients(lambda x: subject.model(x) * about.target_std).attribute(
        x, train.mean(0, keepdim=True), target=0, n_steps=400
    )[0]
    columns = {each["column"]: each for each in ours["columns"]}
    expected = {"size": found[0], "city": found[1:4].sum(), "noise": found[4]}
    for name, value in expected.items():
        assert columns[name]["attribution"] == pytest.approx(float(value), abs=0.02)
    assert [columns[name]["value"] for name in ("size", "city", "noise")] == [130, "Rome", 0.25]
    assert sum(each["attribution"] for each in ours["columns"]) == pytest.approx(ours["difference"], rel=0.011)
    mean = float(subject.scores_of(train.mean(0, keepdim=True), 0))
    assert ours["difference"] == pytest.approx(ours["value"] - mean, rel=1e-4)


def test_rows_of_a_split_and_what_is_said(root: Path) -> None:
    done = explain(root, "2", "--samples", "0,3", "--class", "no")
    assert done.stdout.splitlines()[0].split() == ["input", "column", "value", "attribution"]
    assert len(done.stdout.splitlines()) == 1 + 2 * 5
    assert done.stderr.count("; the attributions sum to ") == 2
    assert "and its logit and that of the mean training row differ by " in done.stderr
    assert document(root, "2", "--samples", "3") == document(root, "2", "--samples", "3")
    assert document(root, "3", "--samples", "0")["inputs"][0]["columns"][0]["column"] == "sepal length"


def test_the_nearest_are_those_with_the_highest_cosine(root: Path) -> None:
    """Of a logistic regression the last layer gets the features themselves."""
    found = document(root, "3", "--samples", "0,4", "--split", "val", "--nearest", "6")
    data = data_of(restore(Run(root / "runs", 3)), None, None)
    assert data.val is not None and found["layer"] == "linear"
    train, y = (each.numpy() for each in data.train.rows.take(data.train.index))
    val = data.val.rows.take(data.val.index)[0].numpy()
    for place, each in zip((0, 4), found["inputs"], strict=True):
        cosine = train @ val[place] / np.linalg.norm(train, axis=1) / np.linalg.norm(val[place])
        best = np.argsort(-cosine, kind="stable")[:6]
        names = ["setosa", "versicolor", "virginica"]
        assert [near["place"] for near in each["nearest"]] == best.tolist()
        assert [near["row"] for near in each["nearest"]] == data.train.index[best].tolist()
        assert [near["similarity"] for near in each["nearest"]] == pytest.approx(cosine[best].tolist(), abs=1e-5)
        assert [near["target"] for near in each["nearest"]] == [names[int(y[k])] for k in best]
        assert each["nearest"][0]["sample"].startswith("sepal length ")


def test_a_training_sample_is_nearest_to_itself_and_shown_as_an_image(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = explain(root, "4", "--samples", "11", "--split", "train", "--nearest", "3", "-o", str(out), "--json")
    assert done.stderr.splitlines()[:2] == [
        "similarity: the cosine between what output gets of both", "row: of the training sample, in the data, from 0"
    ]  # fmt: skip
    near = json.loads(done.stdout)["inputs"][0]["nearest"]
    assert near[0]["place"] == 11 and near[0]["similarity"] == pytest.approx(1)
    drawn = (out / "explanation.svg").read_text()
    assert drawn.count("<image ") == 4 and f"row {near[1]['row']}" in drawn
    explain(root, "1", "--columns", "-o", str(tmp_path / "columns"))
    drawn = (tmp_path / "columns" / "explanation.svg").read_text()
    assert "importance: how much worse loss becomes" in drawn and "predicted price over size" in drawn


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["1", "--columns", "--nearest", "2"], "--columns and --nearest exclude each other: choose one"),
        (["1", "--columns", "a.csv"], "--columns takes no inputs: leave out a.csv, or --columns"),
        (["1", "--columns", "--method", "gradient"],
         "--method gradient does not go with --columns: leave out one of them"),
        (["4", "--columns"], "--columns is for columns of tables and for features, and {}/4 expects image of 1x8x8"),
        (["1", "--attention", "a"], "--attention is for texts, and {}/1 expects features of 5: leave it out"),
        (["1", "--samples", "0", "--nearest", "999"], "--nearest 999 is out of range: there are 288 training samples"),
        (["1", "--samples", "0", "--nearest", "0"], "--nearest 0 is out of range: there are 288 training samples"),
        (["1", "--samples", "0", "--class", "a"],
         "--class a is for classes, and {}/1 is for regression: leave it out"),
        (["3", "--columns", "--class", "setos"], "--class setos is no class of {}/3: did you mean setosa?"),
        (["1", "--samples", "0", "--layer", "a"],
         "--layer a is for images, and {}/1 expects features of 5: leave it out"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(root: Path, words: list[str], message: str) -> None:
    done = explain(root, *words, code=2)
    assert done.stderr.splitlines()[-1] == f"error: {message.format(root / 'runs')}"


def test_a_table_without_a_column_is_an_error(root: Path) -> None:
    (root / "short.csv").write_text("size,noise\n1,2\n")
    assert explain(root, "1", str(root / "short.csv"), code=3).stderr == (
        f"error: {root / 'short.csv'} has no column 'city'\n"
    )
