"""The residuals of a regression over its predictions."""

from dlcli.plots.answers import Answers
from dlcli.plots.curves import run_name
from dlcli.plots.picture import Line, Panel

_MOST, _WORST = 1500, 50  # samples


def residuals(one: Answers, notes: list[str]) -> Panel:
    """Target less prediction over prediction, in the units of the target. Of more than 1500 samples an even choice is
    drawn, and the 50 with the largest residuals, which is added to the notes."""
    import numpy as np

    predicted = one.predicted.astype(np.float64)
    left = one.target.astype(np.float64) - predicted
    shown = np.arange(len(left))
    if len(left) > _MOST:
        worst = np.argsort(-np.abs(left), kind="stable")[:_WORST]
        shown = np.union1d(shown[:: -(-len(left) // _MOST)], worst)
        notes.append(
            f"of {len(left):,} samples of {one.run} {len(shown):,} are drawn, with the {_WORST} largest residuals"
        )
    points = [(float(x), float(y)) for x, y in zip(predicted[shown], left[shown], strict=True)]
    ends = [(x, 0.0) for x in (min((x for x, _ in points), default=0.0), max((x for x, _ in points), default=1.0))]
    name = run_name(one.run)
    lines = [
        Line(name, points, part=f"rmse {np.sqrt(np.mean(left**2)) if len(left) else 0:.4g}", style=one.run.number,
             joined=False),
        Line("no error", ends, style=7, dashed=True),
    ]  # fmt: skip
    return Panel(f"residuals on {one.split}, {name}", "predicted", "target - predicted", lines)
