"""The pictures that `dlcli train --plots` writes into the run."""

from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.plots.answers import task_of
from dlcli.plots.curves import curves
from dlcli.plots.draw import SUITABLE, of_answers
from dlcli.plots.svg import to_svg
from dlcli.runs.run import Run

if TYPE_CHECKING:
    from dlcli.data.dataset import Dataset


def write_pictures(run: Run, *, split: str | None, loaded: "Dataset") -> list[Path]:
    """plots/curves.svg, and of a task with one answer to a sample also plots/confusion.svg or plots/residuals.svg, of
    the answers to `split`; None for none. loaded: the run's data. ResourceError (exit 6) if they cannot be written."""
    pictures = {"curves": curves([run])}
    if split is not None and (what := SUITABLE.get(task_of(run))) is not None:
        pictures[what] = of_answers([run], what=what, split=split, loaded=loaded)
    return [run.write_file("plots", f"{name}.svg", to_svg(picture).encode()) for name, picture in pictures.items()]
