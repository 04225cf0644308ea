"""The confusion matrix: which classes are taken for which."""

from dlcli.plots.answers import Answers
from dlcli.plots.curves import run_name
from dlcli.plots.picture import Grid

_MOST = 50  # classes


def confusion(one: Answers, notes: list[str]) -> Grid:
    """A row per actual class, a column per predicted class. Of more than 50 classes those with the most mistakes are
    drawn, which is added to the notes."""
    import numpy as np

    classes = len(one.names)
    pairs = one.target.astype(np.int64) * classes + one.predicted.astype(np.int64)
    shown = np.arange(classes)
    if classes > _MOST:
        wrong = one.target != one.predicted
        mistakes = np.bincount(one.target[wrong], minlength=classes)
        mistakes += np.bincount(one.predicted[wrong], minlength=classes)
        shown = np.sort(np.argsort(-mistakes, kind="stable")[:_MOST])
        notes.append(f"of the {classes} classes of {one.run} the {_MOST} with the most mistakes are drawn")
        places = np.full(classes, -1)
        places[shown] = np.arange(_MOST)
        rows, columns = places[one.target], places[one.predicted]
        pairs = (rows * _MOST + columns)[(rows >= 0) & (columns >= 0)]
    size = len(shown)
    counts = np.bincount(pairs, minlength=size * size).reshape(size, size)
    title = f"confusion matrix on {one.split}, {run_name(one.run)}"
    return Grid(title, "predicted", "actual", [one.names[k] for k in shown], counts.tolist())
