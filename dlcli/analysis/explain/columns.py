"""Which columns of a table matter to a model, and how its answer depends on them."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlcli.analysis.explain.rows import rows_of
from dlcli.analysis.explain.subject import Subject
from dlcli.analysis.explain.units import cell
from dlcli.data.dataset import Dataset
from dlcli.evaluation.importance import Importance, columns_of
from dlcli.evaluation.measure import column_importance
from dlcli.experiment.restore import Restored

_ROWS = 500
_VALUES = 20
_DRAWN = 6  # columns


@dataclass(frozen=True)
class Point:
    """value: of the column, in its own units. mean: of the answers of all rows with this value (partial dependence:
    Friedman 2001, section 8.2). low, high: the answers of a tenth of the rows are below, and above
    (individual conditional expectation: Goldstein et al. 2015)."""

    value: str | float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Dependence:
    """answer: what the points are of: the probability of a class, or the answer of a regression. rows: how many."""

    column: str
    answer: str
    rows: int
    points: list[Point]

    def as_dict(self) -> dict[str, Any]:
        return {
            "column": self.column, "answer": self.answer, "rows": self.rows,
            "points": [vars(point) for point in self.points],
        }  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """split: on which the importance was measured, and from which the rows are. dependences: of the most important
    columns, the most important first."""

    split: str
    importance: Importance
    dependences: list[Dependence]

    def as_dict(self, subject: Subject, *, checkpoint: str) -> dict[str, Any]:
        return {
            "run": str(subject.run), "checkpoint": checkpoint, "split": self.split,
            "importance": self.importance.as_dict(), "dependence": [each.as_dict() for each in self.dependences],
        }  # fmt: skip


def explain_columns(
    restored: Restored, subject: Subject, data: Dataset, *, split: str, class_name: str | None
) -> Columns:
    """Permutation importance of all columns, and the dependence of the answer on the six most important ones, over at
    most 500 rows of the split. class_name: whose probability is the answer; by default the second of two classes, or
    the one that is predicted most often. ConfigError (exit 2) for images and texts."""
    number, places = subject.number(class_name), dict(columns_of(subject.about, run=subject.run))
    ranked = column_importance(restored, data.split(split))
    x = rows_of(data, split, _ROWS)
    if number is None:
        number = _usual_class(subject, x)
    target = "" if subject.about.encoding is None else subject.about.encoding.target
    told = f"probability of {subject.names[number]}" if subject.names else f"predicted {target or 'value'}"
    chosen = [row["column"] for row in ranked.columns[:_DRAWN]]
    found = [Dependence(name, told, len(x), _points(subject, x, name, places[name], number)) for name in chosen]
    return Columns(split, ranked, found)


def _points(subject: Subject, x: Tensor, name: str, place: slice, number: int) -> list[Point]:
    """At values that rows of the split have: of numbers up to 20 quantiles, of categories the 20 most frequent."""
    cells = [cell(subject.about, name, place, row) for row in x]
    first = {value: row for row, value in reversed(list(enumerate(cells)))}
    numbers = sorted(value for value in first if not isinstance(value, str))
    words = [value for value, _ in Counter(each for each in cells if isinstance(each, str)).most_common(_VALUES)]
    if len(numbers) > _VALUES:
        ordered = sorted(value for value in cells if not isinstance(value, str))
        at = torch.linspace(0, len(ordered) - 1, _VALUES).round().long().tolist()
        numbers = sorted({ordered[k] for k in at})
    found, values = [], list[str | float](numbers)
    for value in values + words:
        changed = x.clone()
        changed[:, place] = x[first[value], place]
        answers = _answers(subject, changed, number)
        low, high = torch.quantile(answers, torch.tensor([0.1, 0.9], dtype=torch.float64)).tolist()
        found.append(Point(value, float(answers.mean()), low, high))
    return found


def _answers(subject: Subject, x: Tensor, number: int) -> Tensor:
    """(N,) float64, on the CPU."""
    probability = subject.probabilities_of(x)
    return (subject.scores_of(x, 0) if probability is None else probability[:, number]).cpu()


def _usual_class(subject: Subject, x: Tensor) -> int:
    if subject.spec.task != "multiclass":
        return 1
    probability = subject.probabilities_of(x)
    assert probability is not None
    return int(probability.argmax(1).bincount(minlength=probability.shape[1]).argmax())
