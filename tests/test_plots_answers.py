"""`dlcli plot` of the answers of runs: the numbers are those of scikit-learn and of `dlcli eval`."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.core.errors import ResourceError
from dlcli.core.files import write_json
from dlcli.core.reading import read_json
from dlcli.plots import rates
from dlcli.runs.run import Run
from dlcli.runs.sample_answers import packed
from tests import test_differences
from tests.test_plots import ET, HEADER, HOSTILE, SVG, line, numbers, plot
from tests.test_start_up import call, heavy_after


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("runs")


def make(root: Path, *, task: str = "binary", names: list[str] | None = None, step: int = 60, **arrays: Any) -> Run:
    """A run with two rows of metrics, whose best checkpoint is of step 60, and with stored answers of `step`."""
    run = test_differences.make(root, best=test_differences.BEST)
    run.metrics_file.write_text(HEADER + "1,30,1,1,0.5,.1,1,1\n2,60,1,1,0.9,.1,1,1\n")
    outputs = len(names or []) if task == "multiclass" else 1
    spec = {"task": task, "kind": "features", "input_shape": [3], "outputs": outputs, "vocabulary": 0}
    write_json(run.path / "data.json", {"spec": spec, "class_names": names or []})
    arrays = {"index": np.arange(len(arrays["target"]))} | arrays
    record = {"samples": len(arrays["target"]), "fingerprint": "f", "step": step, "metrics": {}}
    run.write_record("eval", "test", record, npz=packed(arrays))
    return run


def two_classes(count: int = 400, *, seed: int = 0, decimals: int = 2) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Targets, the probability of class 1 with ties, and both as they are stored."""
    random = np.random.default_rng(seed)
    target = random.integers(0, 2, count)
    second = np.round(np.clip(random.normal(0.35 + 0.3 * target, 0.2), 0, 1), decimals)
    predicted = (second > 0.5).astype(int)
    stored = {"target": target, "predicted": predicted, "probability": np.where(predicted == 1, second, 1 - second)}
    return target, second, stored


@pytest.mark.parametrize("seed", range(20))
def test_rates_are_those_of_scikit_learn(seed: int) -> None:
    target, score, _ = two_classes(200, seed=seed, decimals=1 + seed % 3)
    false, true, area = rates.roc(score, target == 1)
    expected = metrics.roc_curve(target, score, drop_intermediate=False)
    np.testing.assert_allclose(np.stack([false, true]), np.stack(expected[:2]), atol=1e-12)
    assert area == pytest.approx(metrics.roc_auc_score(target, score), abs=1e-12)
    recall, precision, average = rates.precision_recall(score, target == 1)
    there = metrics.precision_recall_curve(target, score)
    np.testing.assert_allclose(np.stack([precision, recall]), np.stack(there[:2])[:, ::-1], atol=1e-12)
    assert average == pytest.approx(metrics.average_precision_score(target, score), abs=1e-12)
    told, found, _ = rates.calibration(score, target == 1)
    reference = calibration_curve(target, score, n_bins=15)
    np.testing.assert_allclose(np.stack([found, told]), np.stack(reference), atol=1e-12)


@pytest.mark.parametrize(
    ("what", "measured"),
    [
        ("roc", lambda y, p: f"area {metrics.roc_auc_score(y, p):.4f}"),
        ("pr", lambda y, p: f"average precision {metrics.average_precision_score(y, p):.4f}"),
    ],
)
def test_two_runs_with_two_classes_are_in_one_panel_with_their_areas(root: Path, what: str, measured: Any) -> None:
    expected = set()
    for number in (1, 2):
        target, score, stored = two_classes(seed=number)
        make(root, **stored)
        expected.add((f"{what} on test", f"run {number}", measured(target, score)))
    rows = numbers("1:2", "--what", what)
    assert {(row["panel"], row["line"], row["part"]) for row in rows if row["line"] != "chance"} == expected
    assert ("chance" in {row["line"] for row in rows}) == (what == "roc")


def test_the_confusion_matrix_counts_pairs(root: Path) -> None:
    random = np.random.default_rng(0)
    target, predicted = random.integers(0, 4, (2, 500))
    names = ["ant", "bee", "cat", "dog"]
    make(root, task="multiclass", names=names, target=target, predicted=predicted, probability=np.full(500, 0.5))
    rows = numbers("1", "--what", "confusion")
    counts = {(row["row"], row["column"]): int(row["count"]) for row in rows}
    expected = metrics.confusion_matrix(target, predicted)
    assert counts == {(names[i], names[j]): expected[i, j] for i in range(4) for j in range(4)}
    shown = plot("1", "--what", "confusion").output
    assert re.search(rf"^ant +{expected[0, 0]}\S +{expected[0, 1]}\S", shown, re.M)
    plot("1", "--what", "confusion", "-o", "a.svg")
    titles = [title.text for title in ET.parse("a.svg").iter(f"{SVG}title")]
    assert f"cat, dog: {expected[2, 3]}" in titles


def test_of_many_classes_those_with_the_most_mistakes_are_drawn(root: Path) -> None:
    target = np.arange(120)
    predicted = np.where(target < 52, (target + 1) % 52, target)
    predicted[0], predicted[51] = 0, 51  # 0, 1, 50 and 51 have one mistake less
    names = [f"c{k}" for k in target]
    make(root, task="multiclass", names=names, target=target, predicted=predicted, probability=np.ones(120))
    rows = numbers("1", "--what", "confusion")
    assert {row["row"] for row in rows} == {f"c{k}" for k in range(1, 51)}
    assert sum(int(row["count"]) for row in rows) == 49
    assert (
        "of the 120 classes of runs/1 the 50 with the most mistakes are drawn" in plot("1", "--what=confusion").output
    )


def test_residuals_are_target_less_prediction_and_the_largest_stay(root: Path) -> None:
    random = np.random.default_rng(0)
    target = random.normal(size=4000).astype(np.float32)
    predicted = (target + random.normal(size=4000) / 10).astype(np.float32)
    predicted[1234] = 9.0
    make(root, task="regression", target=target, predicted=predicted)
    rows = numbers("1", "--what", "residuals")
    points = [(x, y) for x, y in line(rows, "residuals on test, run 1") if y]
    every = {(float(p), float(t) - float(p)) for p, t in zip(predicted, target, strict=True)}
    assert set(points) <= every and 1300 <= len(points) <= 1600
    assert (9.0, float(target[1234]) - 9.0) in points
    rmse = metrics.root_mean_squared_error(target.astype(float), predicted.astype(float))
    assert f"rmse {rmse:.4g}" in {row["part"] for row in rows}


def test_what_suits_the_task_is_beside_the_curves_of_a_single_measured_run(root: Path) -> None:
    _, _, stored = two_classes()
    make(root, **stored)
    make(root, task="regression", target=np.zeros(3, np.float32), predicted=np.ones(3, np.float32))
    make(root, **stored, step=30)  # measured before it was trained further
    curves = {"loss", "accuracy"}
    assert {row["panel"] for row in numbers("1")} == curves | {"confusion matrix on test, run 1"}
    assert {row["panel"] for row in numbers("2")} == curves | {"residuals on test, run 2"}
    assert {row["panel"] for row in numbers("3")} == {row["panel"] for row in numbers("1:2")} == curves
    assert {row["panel"] for row in numbers("1", "--log", "y")} == curves


@pytest.mark.parametrize("kind", ["svg", "html"])
def test_hostile_class_names_stay_text(root: Path, kind: str) -> None:
    answers = {"target": np.arange(5), "predicted": np.arange(5), "probability": np.ones(5)}
    make(root, task="multiclass", names=HOSTILE, **answers)
    plot("1", "--what", "confusion", "-o", f"a.{kind}")
    text = Path(f"a.{kind}").read_text()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text)
    drawing = ET.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    assert {e.tag.removeprefix(SVG) for e in drawing.iter()} == {"svg", "title", "style", "g", "text", "rect"}
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", plot("1", "--what", "confusion").output)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": np.array([0, 2])}, "an answer is none of the 2 classes"),
        ({"target": np.array([0, -1])}, "an answer is none of the 2 classes"),
        ({"probability": np.array([0.5, 1.5])}, "a probability is not between 0 and 1"),
        ({"probability": np.array([0.5, np.nan])}, "a probability is not between 0 and 1"),
        ({"probability": None, "target": np.array([0, np.inf]), "predicted": np.zeros(2)}, "an answer is not finite"),
    ],
)
def test_stored_answers_that_cannot_be_are_damage(root: Path, change: dict[str, Any], message: str) -> None:
    answers = {"target": np.array([0, 1]), "predicted": np.array([0, 1]), "probability": np.array([0.5, 0.9])}
    answers = {name: array for name, array in (answers | change).items() if array is not None}
    task = "binary" if "probability" in answers else "regression"
    make(root, task=task, **{n: a.astype("<i8") if a.dtype.kind == "i" else a for n, a in answers.items()})
    what = "confusion" if task == "binary" else "residuals"
    shown = plot("1", "--what", what, code=4).output
    assert shown == f"error: runs/1/eval/test.json is damaged: {message}\n"


def test_the_picture_must_suit_the_task(root: Path) -> None:
    _, _, stored = two_classes()
    make(root, **stored)
    make(root, task="regression", target=np.zeros(3, np.float32), predicted=np.ones(3, np.float32))
    wrong = plot("1", "--what", "residuals", code=2).output
    assert wrong == "error: --what residuals is for regression, and runs/1 is for binary\n"
    left = plot("1:2", "--what", "roc", "-o", "a.svg").output
    assert left.startswith("left out: --what roc is for binary and multiclass, and runs/2 is for regression\n")
    assert plot("1", "--what", "roc", "--x", "step", code=2).output == (
        "error: --x is for --what curves, lr: leave it out, or name such a picture\n"
    )
    assert plot("1", "--split", "val", code=2).output.startswith("error: --split is for --what confusion, roc, ")


def test_a_split_with_one_class_has_no_rates(root: Path) -> None:
    make(root, target=np.zeros(3, int), predicted=np.zeros(3, int), probability=np.ones(3))
    shown = plot("1", "--what", "roc", code=4).output
    assert shown == "error: no roc of run 1: in the test split of runs/1 all samples are alike\n"


def test_stored_answers_are_drawn_without_torch(root: Path) -> None:
    _, _, stored = two_classes()
    make(root, **stored)
    assert not {"torch", "pandas"} & set(heavy_after(call("plot", "1", "--what", "calibration", "-o", "a.svg")))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run 1: iris, measured on its test split."""
    root = tmp_path_factory.mktemp("plots") / "runs"
    words = ["train", "logistic", "--data", "iris", "--epochs", "2", "--device", "cpu", "--eval", "test", "--plots"]
    done = CliRunner().invoke(app, [*words, "--require", "accuracy >= 1.1", "--runs-dir", str(root)])
    assert done.exit_code == 7
    assert f"\npictures: {root}/1/plots/curves.svg, {root}/1/plots/confusion.svg\n" in done.output
    return root


def test_train_plots_writes_what_plot_draws(trained: Path, tmp_path: Path) -> None:
    for what in ("curves", "confusion"):
        plot("1", "--what", what, "--runs-dir", str(trained), "-o", str(tmp_path / "a.svg"), "--force")
        assert (trained / f"1/plots/{what}.svg").read_bytes() == (tmp_path / "a.svg").read_bytes()
    assert CliRunner().invoke(app, ["runs", "verify", "1", "--runs-dir", str(trained)]).exit_code == 0


def test_pictures_that_cannot_be_written_do_not_make_a_training_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise ResourceError("the disk is full")

    monkeypatch.setattr(Run, "write_file", full)
    words = ["train", "linear", "--data", "line", "--epochs", "1", "--device", "cpu", "--plots"]
    done = CliRunner().invoke(app, [*words, "--runs-dir", str(tmp_path / "runs")])
    assert done.exit_code == 0
    assert "warning: the disk is full: there are no pictures of this run\n" in done.output


def test_what_is_not_stored_comes_from_the_checkpoint(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = numbers("1", "--what", "roc", "--runs-dir", str(trained))
    areas = {row["line"]: float(row["part"].split()[1]) for row in rows if row["line"] != "chance"}
    assert set(areas) == {"setosa", "versicolor", "virginica"}
    recorded = read_json(trained / "1/eval/test.json")
    assert sum(areas.values()) / 3 == pytest.approx(recorded["metrics"]["auc"], abs=1e-4)
    (part,) = {row["part"] for row in numbers("1", "--what", "calibration", "--runs-dir", str(trained))} - {""}
    assert float(part.split()[1]) == pytest.approx(recorded["metrics"]["calibration_error"], abs=1e-4)
    rows = numbers("1", "--what", "confusion", "--split", "val", "--runs-dir", str(trained))
    assert not (trained / "1/eval/val.json").exists()
    assert CliRunner().invoke(app, ["eval", "1", "--split", "val", "--runs-dir", str(trained)]).exit_code == 0
    confusion = read_json(trained / "1/eval/val.json")["confusion"]
    assert [int(row["count"]) for row in rows] == [count for counts in confusion for count in counts]
