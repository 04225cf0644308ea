"""What both classifications say: the likeliest class of a sample, and tables of all classes."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dlcli.tasks.task import Tables


def likeliest(probability: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """(N, K) probabilities -> the class and its probability, for each sample. names: of the classes; or none."""
    names = names or [str(k) for k in range(probability.shape[1])]
    rows = []
    for row in probability.tolist():
        best = max(range(len(row)), key=row.__getitem__)
        rows.append({"class": names[best], "probability": row[best]})
    return rows


def class_tables(prediction: Tensor, target: Tensor, classes: int) -> Tables:
    """Of (N,) predicted and actual classes."""
    confusion = confusion_matrix(prediction, target, classes)
    rows = per_class(confusion)
    return Tables({"macro_f1": macro_f1(rows)}, rows, confusion.tolist())


def confusion_matrix(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """(K, K) counts: a row an actual class, a column a predicted one."""
    return (target * classes + prediction).bincount(minlength=classes * classes).view(classes, classes)


def per_class(confusion: Tensor) -> list[dict[str, Any]]:
    """Precision, recall, F1 and count of each class; None where it is 0 / 0."""
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
