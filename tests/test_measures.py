"""The metrics of an evaluation: exact, the same for every batch size, null where they have no value.

Compared with scikit-learn on random cases: with ties, with one class, with an empty class.
"""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve
from torch import Tensor

from dlcli.core.spec import DataSpec
from dlcli.tasks.choose import choose_task, higher_is_better, why_undefined
from dlcli.tasks.scores import average_precision, calibration_error
from dlcli.tasks.task import AnsweringTask

BINARY = DataSpec("binary", "features", (4,), 1)
REGRESSION = DataSpec("regression", "features", (4,), 1)


def classes(count: int) -> DataSpec:
    return DataSpec("multiclass", "features", (4,), count)


def measured(task: AnsweringTask, output: Tensor, target: Tensor, batch: int = 1000) -> dict[str, float | None]:
    """All that an evaluation reports."""
    parts = zip(output.split(batch), target.split(batch), strict=True)
    measures = [task.measure(o, t, whole=True) for o, t in parts]
    return task.metrics(measures) | task.tables(measures).metrics


def binary_case(seed: int) -> tuple[Tensor, Tensor]:
    """Scores with and without ties; the classes are in every proportion, and sometimes only one occurs."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(1, 200, (1,), generator=generator))
    score = 3 * torch.randn(count, 1, generator=generator)
    if seed % 2:
        score = score.round()
    share = (0.0, 0.02, 0.3, 0.5, 0.9, 1.0)[seed % 6]
    likely = torch.sigmoid(score[:, 0]) * share * 2
    return score, (torch.rand(count, generator=generator) < likely.clamp(max=share)).long()


def same(found: float | None, expected: float | None) -> bool:
    return found is None if expected is None else found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", range(60))
def test_binary_metrics_are_scikit_learns(seed: int) -> None:
    output, target = binary_case(seed)
    found = measured(choose_task(BINARY), output, target)
    score = output[:, 0].double()
    truth, guess, probability = target.numpy(), (score > 0).long().numpy(), torch.sigmoid(score).numpy()
    both, some, told = len(set(truth)) > 1, bool(truth.any()), bool(guess.any())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": reference.accuracy_score(truth, guess),
            "auc": reference.roc_auc_score(truth, probability) if both else None,
            "balanced_accuracy": reference.balanced_accuracy_score(truth, guess) if both else None,
            "f1": reference.f1_score(truth, guess) if some or told else None,
            "precision": reference.precision_score(truth, guess) if told else None,
            "recall": reference.recall_score(truth, guess) if some else None,
            "average_precision": reference.average_precision_score(truth, score.numpy()) if some else None,
            "log_loss": reference.log_loss(truth, np.stack([1 - probability, probability], 1), labels=[0, 1]),
            "macro_f1": reference.f1_score(truth, guess, average="macro"),
        }
    wrong = {name: (found[name], value) for name, value in expected.items() if not same(found[name], value)}
    assert not wrong
    for name, value in found.items():
        assert value is None or math.isfinite(value)
        assert value is not None or why_undefined(name, found) != "its value is not finite"


@pytest.mark.parametrize("seed", range(40))
def test_metrics_of_classes_are_scikit_learns(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    count, many = int(torch.randint(1, 300, (1,), generator=generator)), (2, 3, 5, 12)[seed % 4]
    output = 2 * torch.randn(count, many, generator=generator)
    output = output[torch.randint(count, (count,), generator=generator)] if seed % 2 else output  # ties
    occur = max(1, many - seed % 3)  # the last classes do not occur
    target = torch.randint(occur, (count,), generator=generator)
    found = measured(choose_task(classes(many)), output, target)
    truth, guess, probability = target.numpy(), output.argmax(1).numpy(), output.double().softmax(1).numpy()
    labels, all_occur = list(range(many)), len(set(truth)) == many
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        auc = None
        if all_occur:
            each = [reference.roc_auc_score(truth == k, probability[:, k]) for k in labels]
            auc = float(np.mean(each))
        expected = {
            "accuracy": reference.accuracy_score(truth, guess),
            "macro_f1": reference.f1_score(truth, guess, average="macro"),
            "balanced_accuracy": reference.balanced_accuracy_score(truth, guess) if len(set(truth)) > 1 else None,
            "log_loss": reference.log_loss(truth, probability, labels=labels),
            "auc": auc,
        }
        if all_occur and many > 2:
            assert auc == pytest.approx(reference.roc_auc_score(truth, probability, multi_class="ovr"), rel=1e-12)
    wrong = {name: (found[name], value) for name, value in expected.items() if not same(found[name], value)}
    assert not wrong
    assert found["calibration_error"] == pytest.approx(gap_by_curve(probability.max(1), truth == guess), abs=1e-12)


def gap_by_curve(probability: Any, happened: Any) -> float:
    """The expected calibration error, from scikit-learn's calibration curve."""
    true, mean = calibration_curve(happened, probability, n_bins=15)
    inner = np.linspace(0, 1, 16)[1:-1]
    counts = np.bincount(np.searchsorted(inner, probability), minlength=15)
    return float((np.abs(true - mean) * counts[counts > 0]).sum() / len(probability))


@pytest.mark.parametrize("seed", range(30))
def test_calibration_error_is_that_of_scikit_learns_curve(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probability = torch.rand(200, generator=generator, dtype=torch.float64)
    if seed % 2:
        probability = (probability * 15).round() / 15  # on the edges of the bins
    happened = torch.rand(200, generator=generator) < probability
    found = calibration_error(probability, happened)
    assert found == pytest.approx(gap_by_curve(probability.numpy(), happened.numpy()), abs=1e-12)


def test_calibration_error_by_hand() -> None:
    probability = torch.tensor([0.0, 0.01, 0.5, 0.52, 1.0], dtype=torch.float64)
    happened = torch.tensor([False, False, True, False, True])
    assert calibration_error(probability, happened) == pytest.approx((0.01 + 0.02 + 0.0) / 5)


def test_average_precision_of_equal_scores_is_the_share_of_positives() -> None:
    positive = torch.tensor([True, False, False, True, False])
    assert average_precision(torch.ones(5), positive) == pytest.approx(0.4)
    assert average_precision(torch.ones(5), ~positive & positive) is None


def test_regression_metrics_are_in_the_units_of_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    output, target = torch.randn(97, 1, generator=generator), torch.randn(97, generator=generator)
    found = measured(choose_task(REGRESSION, target_mean=150.0, target_std=7.0), output, target, 10)
    truth, guess = target.double().numpy() * 7 + 150, output[:, 0].double().numpy() * 7 + 150
    assert found["mape"] == pytest.approx(reference.mean_absolute_percentage_error(truth, guess), rel=1e-12)


@pytest.mark.parametrize("mean", [0.0, 5.0, 206_855.8])
def test_mape_is_undefined_if_a_target_is_0(mean: float) -> None:
    """Also one that was normalised in float32: it comes back as almost 0."""
    values, std = torch.tensor([0.0, 10.0, 12.0], dtype=torch.float64), 3.7
    target = ((values - mean) / std).float()
    found = measured(choose_task(REGRESSION, target_mean=mean, target_std=std), torch.zeros(3, 1), target)
    assert found["mape"] is None and why_undefined("mape", found) == "a target is 0"
    there = measured(choose_task(REGRESSION, target_mean=mean, target_std=std), torch.zeros(3, 1), target + 1)
    assert there["mape"] is not None


@pytest.mark.parametrize("spec", [BINARY, classes(3), classes(12), REGRESSION], ids=str)
def test_no_metric_depends_on_the_batch_size(spec: DataSpec) -> None:
    generator = torch.Generator().manual_seed(7)
    output = torch.randn(150, spec.outputs, generator=generator)
    target = torch.randint(max(2, spec.outputs), (150,), generator=generator)
    task = choose_task(spec)
    y = target.float() + 1 if spec.task == "regression" else target
    whole = measured(task, output, y)
    assert None not in whole.values()
    for batch in (1, 7, 149):
        found = measured(task, output, y, batch)
        assert found.pop("loss") == pytest.approx(whole["loss"], rel=1e-5)
        assert found == pytest.approx({n: v for n, v in whole.items() if n != "loss"}, rel=1e-12)


@pytest.mark.parametrize("spec", [BINARY, classes(3)], ids=str)
def test_metrics_of_scores_that_are_not_finite_have_no_value(spec: DataSpec) -> None:
    output = torch.zeros(4, spec.outputs)
    output[1] = float("nan")
    found = measured(choose_task(spec), output, torch.tensor([0, 1, 1, 0]))
    for name in ("log_loss", "calibration_error"):
        assert found[name] is None and why_undefined(name, found | {"loss": None}) == "its value is not finite"


def test_which_metrics_are_better_when_higher() -> None:
    lower = ("loss", "log_loss", "calibration_error", "mape", "rmse", "mse", "mae")
    for task in map(choose_task, (BINARY, classes(12), REGRESSION)):
        for name in (*task.names, *task.table_names):
            assert higher_is_better(name) is (name not in lower)
