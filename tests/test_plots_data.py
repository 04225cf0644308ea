"""`dlcli plot` of embeddings and of the columns of a table: the numbers are those of scikit-learn and of pandas."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.experiment.load import load_data
from dlcli.experiment.restore import restore
from dlcli.plots.components import components
from dlcli.plots.embedding import _MOST
from dlcli.runs.run import Run
from tests.test_plots import ET, SVG, numbers, plot
from tests.test_start_up import call, heavy_after

FRAME = pd.DataFrame(
    {
        "age": np.random.default_rng(0).normal(40, 10, 400).round(2),
        "rooms": np.random.default_rng(1).integers(1, 6, 400).astype(float),
        "town": np.random.default_rng(2).choice([f"town <{k:02d}>" for k in range(20)], 400),
        "old": np.random.default_rng(3).choice(["yes", "no"], 400),
        "since": pd.date_range("2001-01-01", periods=400, freq="7D").strftime("%Y-%m-%d"),
        "price": np.random.default_rng(4).lognormal(0, 1, 400).round(3),
    }
)
FRAME.loc[::10, "rooms"] = np.nan
FRAME.loc[::25, "town"] = None


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1: mlp on digits; 2: mlp on the table FRAME; 3: linear on diabetes; 4: a language model; 5: logistic on two
    classes; 6: cnn on digits."""
    root = tmp_path_factory.mktemp("data") / "runs"
    file = root.with_name("homes.csv")
    FRAME.to_csv(file, index=False)
    root.with_name("a.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    for words in (
        ["mlp", "--data", "digits"],
        ["mlp", "--data", f"table:{file}", "--target", "price"],
        ["linear", "--data", "diabetes"],
        ["rnn", "--data", f"text:{root.with_name('a.txt')}", "--set", "model.hidden=8"],
        ["logistic", "--data", "breast-cancer"],
        ["cnn", "--data", "digits"],
    ):
        words = ["train", *words, "--epochs", "1", "--device", "cpu", "--quiet", "--runs-dir", str(root)]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    return root


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def drawn(root: Path, run: str, what: str, *words: str) -> list[dict[str, str]]:
    return numbers(run, "--what", what, "--runs-dir", str(root), *words)


def hidden(root: Path, number: int, split: str = "test") -> tuple[np.ndarray, np.ndarray, Any]:
    """What an mlp's last layer gets, by its layers one after the other; targets; and its data."""
    restored = restore(Run(root, number), device="cpu")
    data = load_data(restored.config, device="cpu", preprocessing=restored.preprocessing)
    x, y = data.split(split).rows.take(_index(data.split(split)))
    with torch.no_grad():
        for layer in list(restored.model.children())[0][:-1]:
            x = layer(x)
    return x.numpy().astype(np.float64), y.numpy(), data


def _index(part: Any) -> torch.Tensor:
    return torch.arange(len(part.rows)) if part.index is None else part.index


@pytest.mark.parametrize("shape", [(50, 7), (7, 50), (30, 2), (2, 30), (30, 1), (1, 3)])
def test_components_are_those_of_scikit_learn(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=shape) * np.arange(1, shape[1] + 1)
    found, shares = components(torch.from_numpy(x))
    count = min(2, *shape)
    peer = PCA(n_components=count, svd_solver="full").fit(x) if shape[0] > 1 else None
    expected = np.zeros((shape[0], 2))
    if peer is not None:
        signs = np.sign(peer.components_[np.arange(count), np.abs(peer.components_).argmax(1)])
        expected[:, :count] = peer.transform(x) * signs
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    told = [] if peer is None else peer.explained_variance_ratio_.tolist()
    assert shares == pytest.approx((told + [0.0, 0.0])[:2], abs=1e-12)


def test_an_embedding_is_the_last_hidden_layer_by_class(trained: Path) -> None:
    x, y, _ = hidden(trained, 1)
    expected, shares = components(torch.from_numpy(x))
    rows = drawn(trained, "1", "embedding")
    told = f"64 values before layers.5 on test, run 1: {shares[0]:.1%} + {shares[1]:.1%} of the variance"
    assert {row["panel"] for row in rows} == {told}
    for k in range(10):
        own = [(float(row["x"]), float(row["y"])) for row in rows if row["line"] == str(k)]
        np.testing.assert_allclose(own, expected[y == k].numpy(), atol=1e-4)
    shown = plot("1", "--what", "embedding", "--runs-dir", str(trained)).output
    assert f"component 1, {shares[0]:.1%} of the variance" in shown
    again = drawn(trained, "1", "embedding")
    assert again == rows


def test_an_embedding_of_a_regression_is_coloured_by_value(trained: Path) -> None:
    x, y, data = hidden(trained, 2, "train")
    prices = y.astype(np.float64) * data.preprocessing.target_std + data.preprocessing.target_mean
    order = np.argsort(prices, kind="stable")
    rows = drawn(trained, "2", "embedding", "--split", "train")
    lines = list(dict.fromkeys(row["line"] for row in rows))
    expected = components(torch.from_numpy(x))[0].numpy()
    assert len(lines) == 5
    for line, part in zip(lines, np.array_split(order, 5), strict=True):
        assert line == f"{prices[part].min():.4g} to {prices[part].max():.4g}"
        own = [(float(row["x"]), float(row["y"])) for row in rows if row["line"] == line]
        np.testing.assert_allclose(own, expected[np.sort(part)], atol=1e-4)


def test_of_many_samples_an_even_choice_is_drawn(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlcli.plots.embedding._MOST", 50)
    monkeypatch.setattr("dlcli.plots.embedding._CLASSES", 3)
    done = plot("1", "--what", "embedding", "--split", "train", "--runs-dir", str(trained), "-o", "a.csv")
    assert re.match(r"of 1,2\d\d samples of \S+ 50 are drawn\n", done.stderr)
    assert "of the classes of" in done.stderr and "the 3 most frequent have a colour of their own" in done.stderr
    rows = pd.read_csv("a.csv", dtype={"line": str})
    assert len(rows) == 50 and rows["line"].nunique() == 4 and "other classes" in set(rows["line"])
    assert _MOST == 2000


def test_a_model_without_a_hidden_layer_and_one_of_images(trained: Path) -> None:
    done = plot("5", "--what", "embedding", "--runs-dir", str(trained))
    assert done.stderr == f"logistic of {trained}/5 has no hidden layer: its inputs are drawn\n"
    assert "30 values before" in done.stdout
    plot("6", "--what", "embedding", "--runs-dir", str(trained), "-o", "a.svg")
    titles = [title.text for title in ET.parse("a.svg").iter(f"{SVG}title")]
    assert {f"{k} " for k in range(10)} <= set(titles)


def bars(rows: list[dict[str, str]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        found.setdefault(row["panel"], {})[row["bar"]] = int(row["count"])
    return found


def test_columns_are_counted_in_the_training_rows(trained: Path) -> None:
    index = hidden(trained, 2, "train")[2].train.index.numpy()
    frame = pd.read_csv(trained.with_name("homes.csv")).iloc[index]
    found = bars(drawn(trained, "2", "columns"))
    assert [name.removesuffix(", run 2") for name in found] == ["price", "age", "rooms", "town", "old", "since (year)"]
    rooms = frame["rooms"].value_counts()
    assert found["rooms, run 2"] == {f"{k}": rooms[k] for k in range(1, 6)} | {"missing": frame["rooms"].isna().sum()}
    assert found["old, run 2"] == frame["old"].value_counts().to_dict()
    towns = frame["town"].value_counts()
    shown = found["town, run 2"]
    assert shown["missing"] == frame["town"].isna().sum() and shown["8 others"] == towns.iloc[12:].sum()
    assert list(shown.values())[:12] == towns.iloc[:12].tolist()
    assert all(towns[name] == count for name, count in list(shown.items())[:12])
    for name, values in (("age", frame["age"]), ("price", frame["price"])):
        counts, edges = np.histogram(values, bins=12)
        assert list(found[f"{name}, run 2"].values()) == counts.tolist()
        assert list(found[f"{name}, run 2"])[0] == f"{edges[0]:.4g} to {edges[1]:.4g}"
    years = list(found["since (year), run 2"])
    assert years[0].startswith("2001 to ") and sum(found["since (year), run 2"].values()) == len(frame)


def test_columns_in_a_terminal_and_as_a_picture(trained: Path) -> None:
    shown = plot("2", "--what", "columns", "--runs-dir", str(trained)).stdout
    old = shown.split("old, run 2\n")[1].split("\n\n")[0].splitlines()
    lengths = [line.count("█") + line.count("#") for line in old]
    counts = [int(line.split()[-1]) for line in old]
    assert lengths[0] > 40 and lengths[1] == pytest.approx(lengths[0] * counts[1] / counts[0], abs=1)
    plot("2", "--what", "columns", "--runs-dir", str(trained), "-o", "a.svg")
    rectangles = [float(each.get("width") or 0) for each in ET.parse("a.svg").iter(f"{SVG}rect")]
    assert max(rectangles) == 460.0 and "town &lt;" in Path("a.svg").read_text()


def test_features_without_a_table_have_their_units(trained: Path) -> None:
    from sklearn.datasets import load_breast_cancer

    restored = restore(Run(trained, 5), device="cpu")
    index = load_data(restored.config, device="cpu", preprocessing=restored.preprocessing).train.index
    assert index is not None
    rows = load_breast_cancer().data[index.numpy(), 0].astype(np.float32).astype(np.float64)
    found = bars(drawn(trained, "5", "columns"))
    counts, edges = np.histogram(rows, bins=12)
    mine = found["mean radius, run 5"]
    assert list(mine)[0] == f"{edges[0]:.4g} to {edges[1]:.4g}"
    assert np.abs(np.array(list(mine.values())) - counts).sum() <= 2  # a value on an edge
    assert sum(found["target, run 5"].values()) == len(index)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("4", "--what", "embedding"), 2,
         "--what embedding is for binary, multiclass and regression, and ROOT/4 is for next-token"),
        (("1", "--what", "columns"), 2,
         "--what columns is for tables and features, and ROOT/1 expects image of 1x8x8"),
        (("2", "--what", "columns", "--split", "val"), 2,
         "--split is for --what confusion, roc, pr, calibration, residuals, fit, errors, embedding: leave it out, or "
         "name such a picture"),
        (("2", "--what", "columns", "--data", "table:gone.csv"), 3, "FOLDER/gone.csv does not exist"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_told(trained: Path, words: tuple[str, ...], code: int, message: str) -> None:
    assert plot(*words, "--runs-dir", str(trained), code=code).stderr == (
        f"error: {message.replace('ROOT', str(trained)).replace('FOLDER', str(Path.cwd()))}\n"
    )


def test_the_table_that_was_moved_or_changed(trained: Path) -> None:
    file = trained.with_name("homes.csv")
    before = bars(drawn(trained, "2", "columns"))
    moved = file.rename(file.with_name("moved.csv"))
    try:
        told = plot("2", "--what", "columns", "--runs-dir", str(trained), code=3).stderr
        assert told == (f"error: {file} does not exist: if it was moved, name its new place with --data table:PATH\n")
        assert bars(drawn(trained, "2", "columns", "--data", f"table:{moved}")) == before
        file.write_text(moved.read_text().replace("yes", "no"))
        assert "has changed since" in plot("2", "--what", "columns", "--runs-dir", str(trained), code=3).stderr
    finally:
        moved.replace(file)


def test_the_command_stays_light_until_it_draws() -> None:
    assert not heavy_after(call("plot", "--help"))
