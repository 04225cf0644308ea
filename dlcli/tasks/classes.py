"""Shared by binary and multiclass classification: the likeliest classes of a sample, and tables of all classes."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dlcli.tasks.task import Tables


def likeliest(
    probability: Tensor, names: Sequence[str], *, scores: Tensor | None = None, top: int = 1, every: bool = False
) -> list[dict[str, Any]]:
    """(N, K) probabilities -> for each sample class and probability, class_2 and probability_2, and so on up to `top`.

    names: of the classes; if empty, their numbers are used. scores: (N, K), what ranks them instead of the probability,
    as with a decision threshold. every: also probability/NAME of every class, in order, or
    probability/NUMBER if two classes have the same name.
    """
    numbers = [str(k) for k in range(probability.shape[1])]
    names = names or numbers
    columns = names if len(set(names)) == len(names) else numbers
    rows = []
    ranks = probability if scores is None else scores
    for row, rank in zip(probability.tolist(), ranks.tolist(), strict=True):
        best = sorted(range(len(row)), key=rank.__getitem__, reverse=True)[:top]
        values: dict[str, Any] = {}
        for place, k in enumerate(best, 1):
            mark = f"_{place}" if place > 1 else ""
            values |= {f"class{mark}": names[k], f"probability{mark}": row[k]}
        if every:
            values |= {f"probability/{name}": value for name, value in zip(columns, row, strict=True)}
        rows.append(values)
    return rows


def class_tables(prediction: Tensor, target: Tensor, classes: int) -> Tables:
    """The tables for (N,) predicted classes and (N,) targets."""
    confusion = confusion_matrix(prediction, target, classes)
    rows = per_class(confusion)
    metrics = {"macro_f1": macro_f1(rows), "balanced_accuracy": balanced_accuracy(rows)}
    return Tables(metrics, rows, confusion.tolist())


def confusion_matrix(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """(K, K) counts: one row per actual class, one column per predicted class."""
    return (target * classes + prediction).bincount(minlength=classes * classes).view(classes, classes)


def per_class(confusion: Tensor) -> list[dict[str, Any]]:
    """Precision, recall, F1 and count of each class; a value of 0 / 0 is None."""
    rows = []
    for k, (row, column) in enumerate(zip(confusion.tolist(), confusion.T.tolist(), strict=True)):
        hits, actual, predicted = row[k], sum(row), sum(column)
        rows.append(
            {
                "precision": hits / predicted if predicted else None,
                "recall": hits / actual if actual else None,
                "f1": 2 * hits / (actual + predicted) if actual + predicted else None,
                "count": actual,
            }
        )
    return rows


def macro_f1(rows: Sequence[dict[str, Any]]) -> float | None:
    """Mean F1 of the classes that occur or are predicted (scikit-learn's f1_score, average="macro")."""
    scores = [row["f1"] for row in rows if row["f1"] is not None]
    return sum(scores) / len(scores) if scores else None


def balanced_accuracy(rows: Sequence[dict[str, Any]]) -> float | None:
    """Mean recall of the classes that occur; None if fewer than two do."""
    recalls = [row["recall"] for row in rows if row["recall"] is not None]
    return sum(recalls) / len(recalls) if len(recalls) > 1 else None
