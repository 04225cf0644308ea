"""Losses and metrics, compared with scikit-learn, torch, and arithmetic by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics as reference
from torch import Tensor

from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.tasks.binary import Binary
from dlcli.tasks.choose import choose_task, default_loss, higher_is_better
from dlcli.tasks.classes import confusion_matrix, macro_f1, per_class
from dlcli.tasks.multiclass import Multiclass
from dlcli.tasks.next_token import NextToken
from dlcli.tasks.regression import Regression
from dlcli.tasks.scores import area_under_curve
from dlcli.tasks.task import Task

REGRESSION = DataSpec("regression", "features", (4,), 1)
BINARY = DataSpec("binary", "features", (4,), 1)
CLASSES = DataSpec("multiclass", "features", (4,), 10)
FEW = DataSpec("multiclass", "features", (4,), 3)
TEXT = DataSpec("next-token", "tokens", (6,), 5, vocabulary=5)
SPECS = {"regression": REGRESSION, "binary": BINARY, "classes": CLASSES, "few": FEW, "text": TEXT}


def sample(spec: DataSpec, count: int = 97) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    if spec.task == "regression":
        return torch.randn(count, 1, generator=generator), torch.randn(count, generator=generator)
    steps = spec.input_shape if spec.task == "next-token" else ()
    output = torch.randn(count, *steps, spec.outputs, generator=generator)
    return output, torch.randint(max(2, spec.outputs), (count, *steps), generator=generator)


def measured(task: Task, output: Tensor, target: Tensor, batch: int = 1000) -> dict[str, float | None]:
    return task.metrics([task.measure(o, t) for o, t in zip(output.split(batch), target.split(batch), strict=True)])


@pytest.mark.parametrize("name", SPECS)
def test_one_batch_and_many_give_the_same_metrics_in_the_order_of_names(name: str) -> None:
    output, target = sample(SPECS[name])
    task = choose_task(SPECS[name], target_mean=3.0, target_std=2.0)
    whole = measured(task, output, target)
    assert tuple(whole) == task.names
    for batch in (1, 10, 96):
        assert measured(task, output, target, batch) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_measured_loss_is_the_training_loss(name: str) -> None:
    output, target = sample(SPECS[name])
    task = choose_task(SPECS[name])
    assert measured(task, output, target)["loss"] == pytest.approx(task.loss(output, target).item(), rel=1e-6)


@pytest.mark.parametrize("name", SPECS)
def test_half_precision_output_is_measured_in_single(name: str) -> None:
    output, target = sample(SPECS[name])
    task = choose_task(SPECS[name])
    rounded = output.bfloat16()
    assert measured(task, rounded, target) == measured(task, rounded.float(), target)


# Regression


@pytest.mark.parametrize(
    ("loss", "function"), [("auto", F.mse_loss), ("mse", F.mse_loss), ("l1", F.l1_loss), ("huber", F.huber_loss)]
)
def test_regression_losses(loss: str, function: Any) -> None:
    output, target = sample(REGRESSION)
    task = choose_task(REGRESSION, loss=loss)
    assert torch.equal(task.loss(output, target), function(output[:, 0], target))
    assert measured(task, output, target, 10)["loss"] == pytest.approx(function(output[:, 0], target).item(), rel=1e-6)


def test_regression_metrics_are_scikit_learns_in_the_targets_own_units() -> None:
    output, target = sample(REGRESSION)
    task = choose_task(REGRESSION, target_mean=150.0, target_std=70.0)
    found = measured(task, output, target, 10)
    truth, guess = target.double().numpy() * 70 + 150, output[:, 0].double().numpy() * 70 + 150
    assert found["mse"] == pytest.approx(reference.mean_squared_error(truth, guess), rel=1e-12)
    assert found["rmse"] == pytest.approx(math.sqrt(reference.mean_squared_error(truth, guess)), rel=1e-12)
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(truth, guess), rel=1e-12)
    assert found["r2"] == pytest.approx(reference.r2_score(truth, guess), rel=1e-9)


def test_r2_of_a_constant_target_is_undefined() -> None:
    found = measured(choose_task(REGRESSION), torch.randn(5, 1), torch.ones(5))
    assert found["r2"] is None


def test_huber_is_measured_with_itself_by_hand() -> None:
    task = choose_task(REGRESSION, loss="huber")
    output, target = torch.tensor([[0.5], [3.0]]), torch.tensor([0.0, 0.0])
    assert measured(task, output, target, 1)["loss"] == pytest.approx((0.5 * 0.25 + (3.0 - 0.5)) / 2)


# Binary


def test_binary_metrics_are_scikit_learns() -> None:
    output, target = sample(BINARY)
    found = measured(choose_task(BINARY), output, target, 10)
    probability = torch.sigmoid(output[:, 0].double()).numpy()
    assert found["loss"] == pytest.approx(reference.log_loss(target.numpy(), probability), rel=1e-6)
    assert found["accuracy"] == reference.accuracy_score(target.numpy(), probability > 0.5)
    assert found["auc"] == pytest.approx(reference.roc_auc_score(target.numpy(), output[:, 0].numpy()), rel=1e-12)


def test_auc_counts_ties_half() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (10, 100, 1000):
        score = torch.randint(0, 5, (size,), generator=generator).float()
        positive = torch.rand(size, generator=generator) < 0.3
        expected = reference.roc_auc_score(positive.numpy(), score.numpy())
        assert area_under_curve(score, positive) == pytest.approx(expected, rel=1e-12)
    assert area_under_curve(torch.ones(4), torch.tensor([True, False, True, False])) == 0.5


@pytest.mark.parametrize("label", [True, False])
def test_auc_without_a_second_class_is_undefined(label: bool) -> None:
    assert area_under_curve(torch.randn(4), torch.full((4,), label)) is None


def test_binary_loss_is_stable_for_large_logits() -> None:
    loss = choose_task(BINARY).loss(torch.tensor([[1e4], [-1e4]]), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(1e4)


# Classes


def test_class_metrics_are_scikit_learns() -> None:
    output, target = sample(CLASSES)
    found = measured(choose_task(CLASSES), output, target, 10)
    probability = torch.softmax(output.double(), 1).numpy()
    truth, labels = target.numpy(), list(range(10))
    assert found["loss"] == pytest.approx(reference.log_loss(truth, probability, labels=labels), rel=1e-6)
    assert found["accuracy"] == reference.accuracy_score(truth, probability.argmax(1))
    top5 = reference.top_k_accuracy_score(truth, probability, k=5, labels=labels)
    assert found["top5_accuracy"] == pytest.approx(top5, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 15, 16, 40])
def test_the_loss_of_classes_is_scikit_learns_however_many_they_are(classes: int) -> None:
    torch.manual_seed(classes)
    task, output = Multiclass(classes), 3 * torch.randn(300, classes)
    target = torch.randint(classes, (300,))
    found = task.metrics([task.measure(output, target)])["loss"]
    probability = output.double().softmax(1).numpy()
    assert found == pytest.approx(reference.log_loss(target.numpy(), probability, labels=range(classes)), rel=1e-6)


def test_top_5_is_reported_where_there_are_ten_classes() -> None:
    assert "top5_accuracy" in choose_task(CLASSES).names
    assert choose_task(FEW).names == ("loss", "accuracy")


def confused() -> tuple[Tensor, Tensor, list[dict[str, Any]], Tensor]:
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(4, (200,), generator=generator)
    prediction = torch.where(torch.rand(200, generator=generator) < 0.6, target, (target * 3 + 1) % 5)
    confusion = confusion_matrix(prediction, target, 6)  # class 4 is only predicted, class 5 does not occur
    return prediction, target, per_class(confusion), confusion


def test_confusion_matrix_is_scikit_learns_a_row_an_actual_class() -> None:
    prediction, target, _, confusion = confused()
    expected = reference.confusion_matrix(target.numpy(), prediction.numpy(), labels=range(6))
    np.testing.assert_array_equal(confusion.numpy(), expected)
    by_hand = confusion_matrix(torch.tensor([1, 1, 0]), torch.tensor([0, 0, 1]), 2)
    assert by_hand.tolist() == [[0, 2], [1, 0]]


def test_precision_recall_f1_and_count_are_scikit_learns() -> None:
    prediction, target, rows, _ = confused()
    assert (prediction == 4).any() and not (target == 4).any()
    precision, recall, f1, count = reference.precision_recall_fscore_support(
        target.numpy(), prediction.numpy(), labels=range(6), zero_division=np.nan
    )
    for k, row in enumerate(rows):
        for found, expected in ((row["precision"], precision[k]), (row["recall"], recall[k]), (row["f1"], f1[k])):
            assert (found is None and np.isnan(expected)) or found == pytest.approx(expected, rel=1e-12)
        assert row["count"] == count[k]
    assert rows[5] == {"precision": None, "recall": None, "f1": None, "count": 0}
    assert rows[4]["recall"] is None and rows[4]["precision"] == 0 and rows[4]["f1"] == 0


def test_tables_are_those_of_the_likeliest_class() -> None:
    for spec in (BINARY, FEW):
        output, target = sample(spec)
        task = choose_task(spec)
        predicted = (output[:, 0] > 0).long() if spec is BINARY else output.argmax(1)
        batches = zip(output.split(10), target.split(10), strict=True)
        tables = task.tables([task.measure(o, t, whole=True) for o, t in batches])
        assert tables.confusion == reference.confusion_matrix(target.numpy(), predicted.numpy()).tolist()
        expected = reference.f1_score(target.numpy(), predicted.numpy(), average="macro")
        assert tables.metrics["macro_f1"] == pytest.approx(expected)
        assert tuple(tables.metrics) == task.table_names
        assert tables.per_class == per_class(torch.tensor(tables.confusion))
    for spec, names in ((REGRESSION, ["mape"]), (TEXT, [])):
        task = choose_task(spec)
        tables = task.tables([task.measure(*sample(spec), whole=True)])
        assert (list(tables.metrics), tables.per_class, tables.confusion) == (names, None, None)


def test_answers_are_classes_values_or_the_next_token() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    share = np.exp(logits.numpy().astype(np.float64))
    share /= share.sum(1, keepdims=True)
    assert Multiclass(3).answers(logits, ("a", "b", "c")) == [
        {"class": "b", "probability": pytest.approx(share[0, 1])},
        {"class": "a", "probability": pytest.approx(share[1, 0])},
    ]
    assert [row["class"] for row in Multiclass(3).answers(logits, ())] == ["1", "0"]
    assert Binary().answers(torch.tensor([[-1.0], [2.0]]), ("no", "yes")) == [
        {"class": "no", "probability": pytest.approx(1 / (1 + math.exp(-1)))},
        {"class": "yes", "probability": pytest.approx(1 / (1 + math.exp(-2)))},
    ]
    assert Regression(mean=10.0, std=4.0).answers(torch.tensor([[0.5], [-1.0]]), ()) == [
        {"value": 12.0},
        {"value": 6.0},
    ]
    steps = torch.tensor([[[9.0, 0.0], [0.0, 1.0]]])  # the last step counts
    assert NextToken().answers(steps, "xy") == [{"next": "y"}]


@pytest.mark.parametrize("name", SPECS)
def test_answers_are_in_the_units_of_the_target_and_back(name: str) -> None:
    task, (output, _) = choose_task(SPECS[name], target_mean=3.0, target_std=2.0), sample(SPECS[name])
    expected = output.double() * 2 + 3 if name == "regression" else output
    torch.testing.assert_close(task.in_units(output), expected, rtol=0, atol=0)
    torch.testing.assert_close(task.normalised(task.in_units(output)).float(), output)
    scores = task.scores(output)
    if name == "regression":
        assert scores is None
    else:
        assert scores is not None
        predicted = (output[:, 0] > 0).long() if name == "binary" else output.argmax(-1)
        assert torch.equal(scores.argmax(-1), predicted)


def test_macro_f1_is_scikit_learns() -> None:
    prediction, target, rows, _ = confused()
    expected = reference.f1_score(target.numpy(), prediction.numpy(), average="macro")
    assert macro_f1(rows) == pytest.approx(expected, rel=1e-12)
    assert macro_f1(rows[5:]) is None


@pytest.mark.parametrize("spec", [CLASSES, TEXT], ids=["classes", "text"])
def test_label_smoothing_is_of_the_training_loss_only(spec: DataSpec) -> None:
    output, target = sample(spec)
    smooth, plain = choose_task(spec, label_smoothing=0.1), choose_task(spec)
    logits = output.flatten(0, -2).double().log_softmax(-1)
    hard = -logits.gather(1, target.flatten()[:, None]).mean()
    expected = 0.9 * hard + 0.1 * -logits.mean()
    assert smooth.loss(output, target).item() == pytest.approx(expected.item(), rel=1e-6)
    assert measured(smooth, output, target) == measured(plain, output, target)


# Next token


def test_next_token_metrics_by_hand() -> None:
    output, target = sample(TEXT)
    found = measured(choose_task(TEXT), output, target, 10)
    log_probability = torch.log_softmax(output.double(), -1).gather(2, target[:, :, None])
    loss = -log_probability.mean().item()
    assert found["loss"] == pytest.approx(loss, rel=1e-6)
    assert found["accuracy"] == pytest.approx((output.argmax(-1) == target).double().mean().item(), rel=1e-12)
    assert found["perplexity"] == pytest.approx(math.exp(loss), rel=1e-6)
    assert found["bits_per_char"] == pytest.approx(loss / math.log(2), rel=1e-6)


def test_an_even_guess_has_the_alphabets_perplexity() -> None:
    found = measured(choose_task(TEXT), torch.zeros(3, 6, 5), torch.zeros(3, 6, dtype=torch.long))
    assert found["perplexity"] == pytest.approx(5)
    assert found["bits_per_char"] == pytest.approx(math.log2(5))


def test_a_perplexity_beyond_any_float_is_undefined() -> None:
    output = torch.zeros(1, 6, 5)
    output[:, :, 0] = 1e4
    found = measured(choose_task(TEXT), output, torch.ones(1, 6, dtype=torch.long))
    assert found["perplexity"] is None and found["loss"] == pytest.approx(1e4)


# Which task, which loss


@pytest.mark.parametrize(
    ("spec", "kind", "monitor", "loss"),
    [
        (REGRESSION, Regression, "loss", "mse"),
        (BINARY, Binary, "loss", "bce"),
        (CLASSES, Multiclass, "accuracy", "cross-entropy"),
        (TEXT, NextToken, "loss", "cross-entropy"),
    ],
)
def test_the_task_follows_the_data(spec: DataSpec, kind: type, monitor: str, loss: str) -> None:
    task = choose_task(spec)
    assert type(task) is kind
    assert task.monitor == monitor
    assert default_loss(spec.task) == loss
    assert choose_task(spec, loss=loss) == task


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        (REGRESSION, {"loss": "bce"}, "loss = bce does not go with regression: use mse or l1 or huber"),
        (BINARY, {"loss": "mse"}, "loss = mse does not go with binary: use bce"),
        (CLASSES, {"loss": "huber"}, "loss = huber does not go with multiclass: use cross-entropy"),
        (TEXT, {"loss": "l1"}, "loss = l1 does not go with next-token: use cross-entropy"),
        (BINARY, {"label_smoothing": 0.1}, "label_smoothing = 0.1 needs cross-entropy, but the task is binary"),
        (REGRESSION, {"label_smoothing": 0.1}, "label_smoothing = 0.1 needs cross-entropy, but the task is regression"),
    ],
)
def test_what_does_not_belong_to_a_task_is_refused(spec: DataSpec, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_task(spec, **settings)
    assert str(caught.value) == message


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_metric_is_better_in_one_direction(spec: DataSpec) -> None:
    lower = {"loss", "mse", "rmse", "mae", "perplexity", "bits_per_char"}
    for name in (*choose_task(spec).names, "macro_f1"):
        assert higher_is_better(name) is (name not in lower)
        assert higher_is_better(f"val/{name}") is (name not in lower)
