"""How good probabilities are: ROC and precision-recall curves, and calibration. N samples, K classes."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dlcli.core.errors import RunError
from dlcli.plots.answers import Answers
from dlcli.plots.curves import run_name
from dlcli.plots.picture import Line, Panel, Picture, Point
from dlcli.plots.thinning import evenly

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_BINS = 15
_MOST_POINTS = 2000
_MOST_CLASSES = 10
_DIAGONAL = [(0.0, 0.0), (1.0, 1.0)]
_TEXT_COLOUR = 7  # a style

_AXES = {
    "roc": ("false positive rate", "true positive rate"),
    "pr": ("recall", "precision"),
    "calibration": ("probability of the answer", "share of right answers"),
}
_DIAGONALS = {"roc": "chance", "calibration": "calibrated"}


def roc(score: "Array", positive: "Array") -> tuple["Array", "Array", float]:
    """False and true positive rate at each threshold from the highest, and the area under the curve (Fawcett 2006).

    score: (N,). positive: (N,) bool, at least one True and one False. Equal scores are one threshold.
    """
    import numpy as np

    hits, seen = _ranked(score, positive)
    false, true = (seen - hits) / (seen[-1] - hits[-1]), hits / hits[-1]
    return false, true, float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))


def precision_recall(score: "Array", positive: "Array") -> tuple["Array", "Array", float]:
    """Recall and precision at each threshold from the highest, and their average precision: the sum of the precisions,
    weighted by the gain in recall. The arguments are as in `roc`; precision is 1 where nothing is predicted."""
    import numpy as np

    hits, seen = _ranked(score, positive)
    precision, recall = np.append(1.0, hits[1:] / seen[1:]), hits / hits[-1]
    return recall, precision, float(np.sum(np.diff(recall) * precision[1:]))


def calibration(probability: "Array", happened: "Array") -> tuple["Array", "Array", float]:
    """Mean probability of an event and how often it happened, for each of 15 bins of equal width that has samples, and
    the expected calibration error (Naeini et al. 2015). A bin contains its upper edge.

    probability: (N,). happened: (N,) bool.
    """
    import numpy as np

    place = np.searchsorted(np.linspace(0, 1, _BINS + 1)[1:-1], probability)
    count, told, found = (
        np.bincount(place, weights, _BINS) for weights in (None, probability, happened.astype(np.float64))
    )
    there = count > 0
    error = float(np.abs(told - found).sum() / len(probability))
    return told[there] / count[there], found[there] / count[there], error


def _ranked(score: "Array", positive: "Array") -> tuple["Array", "Array"]:
    """How many positives, and how many samples, are at or above each threshold, from none to all."""
    import numpy as np

    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # of each group of equal scores
    return np.append(0, np.cumsum(positive[order])[last]), np.append(0, np.flatnonzero(last) + 1)


def rates(each: Sequence[Answers], *, what: str) -> Picture:
    """what: roc or pr, of the second of two classes, or of each class against the others; or calibration, of the
    second of two classes, or of the predicted class.

    Runs with two classes share a panel. Of more than ten classes the ten with the lowest area are drawn.
    RunError (exit 4) if there is nothing to draw.
    """
    notes: list[str] = []
    panels = []
    shared: list[Line] = []
    for one in each:
        if not len(one.target):
            raise RunError(f"the {one.split} split of {one.run} has no samples")
        if len(one.names) == 2 or what == "calibration":
            shared += _of_two(one, what, notes)
        else:
            lines = sorted(_of_each(one, what, notes), key=lambda pair: pair[0])
            if len(lines) > _MOST_CLASSES:
                notes.append(f"of the {len(lines)} classes of {one.run} the {_MOST_CLASSES} with the lowest are drawn")
            panels.append(_panel([line for _, line in lines[:_MOST_CLASSES]], one.split, what, of=run_name(one.run)))
    if shared:
        panels.insert(0, _panel(shared, each[0].split, what))
    panels = [panel for panel in panels if panel.lines]
    if not panels:
        raise RunError("; ".join(notes))
    return Picture(what, panels, notes)


def _panel(lines: Sequence[Line], split: str, what: str, *, of: str = "") -> Panel:
    across, up = _AXES[what]
    if what in _DIAGONALS and lines:
        lines = [*lines, Line(_DIAGONALS[what], _DIAGONAL, style=_TEXT_COLOUR, dashed=True)]
    return Panel(f"{what} on {split}" + (f", {of}" if of else ""), across, up, lines)


def _of_two(one: Answers, what: str, notes: list[str]) -> Iterator[Line]:
    assert one.confidence is not None
    if what == "calibration" and len(one.names) > 2:
        score, positive = one.confidence, one.predicted == one.target
    else:
        score, positive = one.of_second, one.target == 1
    found = _line(one, what, score, positive, name=run_name(one.run), style=one.run.number, notes=notes)
    if found is not None:
        yield found[1]


def _of_each(one: Answers, what: str, notes: list[str]) -> Iterator[tuple[float, Line]]:
    assert one.probabilities is not None
    for k, name in enumerate(one.names):
        score = one.probabilities[:, k]
        found = _line(one, what, score, one.target == k, name=name, style=k + 1, notes=notes)
        if found is not None:
            yield found


def _line(
    one: Answers, what: str, score: "Array", positive: "Array", *, name: str, style: int, notes: list[str]
) -> tuple[float, Line] | None:
    """The area or error, and the line that tells it; None, and a note, if one of the classes does not occur."""
    if what != "calibration" and (positive.all() or not positive.any()):
        notes.append(f"no {what} of {name}: in the {one.split} split of {one.run} all samples are alike")
        return None
    measured, told = {
        "roc": (roc, "area"),
        "pr": (precision_recall, "average precision"),
        "calibration": (calibration, "error"),
    }[what]
    xs, ys, value = measured(score, positive)
    points: list[Point] = list(zip(xs.tolist(), ys.tolist(), strict=True))
    return value, Line(name, evenly(points, most=_MOST_POINTS), part=f"{told} {value:.4f}", style=style)
