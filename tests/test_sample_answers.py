"""The answers that `dlcli eval` stores of each sample, and two runs compared on the same samples."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.core.errors import RunError
from dlcli.core.reading import read_json
from dlcli.runs.run import Run
from dlcli.runs.sample_answers import packed, read_answers
from dlcli.runs.statistics import bootstrap_of_counts, bootstrap_of_means, mcnemar


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs 1 and 2: two models of iris; 3: a regression. All are measured."""
    root = tmp_path_factory.mktemp("answers") / "runs"
    for words in (
        ["logistic", "--data", "iris", "--epochs", "2"],
        ["mlp", "--data", "iris", "--epochs", "2"],
        ["linear", "--data", "make-regression", "--epochs", "2"],
    ):
        words = ["train", *words, "--device", "cpu", "--quiet", "--eval", "test", "--runs-dir", str(root)]
        assert CliRunner().invoke(app, words).exit_code == 0
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def test_the_stored_answers_have_the_stored_metrics(root: Path) -> None:
    found, record = read_answers(Run(root, 1), "test"), read_json(root / "1/eval/test.json")
    assert np.mean(found.predicted == found.target) == pytest.approx(record["metrics"]["accuracy"])
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (found.target, found.predicted), 1)
    assert confusion.tolist() == record["confusion"]
    assert found.probability is not None
    assert (found.probability.min() >= 1 / 3, found.probability.max() <= 1) == (True, True)
    values, record = read_answers(Run(root, 3), "test"), read_json(root / "3/eval/test.json")
    error = values.predicted.astype(float) - values.target
    assert math.sqrt(np.mean(error**2)) == pytest.approx(record["metrics"]["rmse"], rel=1e-5)


def test_two_runs_on_the_same_samples(root: Path) -> None:
    words = ["runs", "compare", "1", "2", "--metric", "test/accuracy", "--json", "--runs-dir", str(root)]
    found = json.loads(CliRunner().invoke(app, words).stdout)["groups"][1]["samples"]
    one, other = (read_answers(Run(root, number), "test") for number in (1, 2))
    right, also = one.predicted == one.target, other.predicted == other.target
    assert (found["only_first"], found["only_second"]) == ((right & ~also).sum(), (also & ~right).sum())
    assert found["difference"] == pytest.approx(also.mean() - right.mean())
    assert found["differing_count"] == (one.predicted != other.predicted).sum() == len(found["differing"])
    assert found["p"] == found["adjusted_p"] == mcnemar(found["only_first"], found["only_second"])


def test_mcnemar_is_the_sum_of_binomials() -> None:
    for b in range(12):
        for c in range(12):
            tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
            assert mcnemar(b, c) == pytest.approx(min(1.0, 2 * tail))


def test_both_bootstraps_agree() -> None:
    first, second = np.zeros(200), np.zeros(200)
    first[:20], second[20:60] = 1, 1
    means = bootstrap_of_means(first, second, np.positive)
    assert bootstrap_of_counts(20, 40, 200) == pytest.approx(means, abs=0.006)
    half = 1.96 * np.std(second - first) / math.sqrt(200)
    assert means == pytest.approx((0.1 - half, 0.1 + half), abs=0.006)


def test_damaged_answers_are_refused_and_found_by_verify(root: Path) -> None:
    (file,) = (root / "1/eval").glob("test-*.npz")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match="is damaged: its sha256 is not the recorded one"):
        read_answers(Run(root, 1), "test")
    assert CliRunner().invoke(app, ["runs", "verify", "1", "--runs-dir", str(root)]).exit_code == 4


def test_a_valid_record_does_not_make_bad_arrays_good(root: Path) -> None:
    run, record = Run(root, 1), read_json(root / "1/eval/test.json")
    count = record["samples"]
    good = {"index": np.arange(count), "target": np.zeros(count, int), "predicted": np.zeros(count, int)}
    for arrays, told in (
        (good | {"target": np.zeros(count + 1, int)}, "does not hold"),
        ({"index": good["index"], "target": good["target"]}, "it has no predicted"),
        (good, "target is uint8"),
    ):
        run.write_record("eval", "test", record, npz=packed(arrays))
        with pytest.raises(RunError, match=told):
            read_answers(run, "test")
    assert len(list((root / "1/eval").glob("*.npz"))) == 1  # older ones are removed


def test_other_samples_are_not_compared(root: Path) -> None:
    run, record = Run(root, 2), read_json(root / "2/eval/test.json")
    found = read_answers(run, "test")
    assert found.probability is not None
    arrays = {"index": found.index[::-1], "target": found.target, "predicted": found.predicted}
    run.write_record("eval", "test", record, npz=packed(arrays | {"probability": found.probability}))
    words = ["runs", "compare", "1", "2", "--metric", "test/accuracy", "--runs-dir", str(root)]
    assert "hold different samples, so their answers cannot be compared" in CliRunner().invoke(app, words).stderr
