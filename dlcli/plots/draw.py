"""Pictures of the answers of runs, by name."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlcli.core.errors import ConfigError, DlcliError, RunError
from dlcli.plots.answers import Answers, answers, is_stored, task_of
from dlcli.plots.confusion import confusion
from dlcli.plots.picture import Picture
from dlcli.plots.rates import rates
from dlcli.plots.residuals import residuals
from dlcli.runs.run import Run

if TYPE_CHECKING:
    from dlcli.data.dataset import Dataset

_MOST_RUNS = 50

# By task: the picture of its answers that is drawn without a question.
SUITABLE = {"binary": "confusion", "multiclass": "confusion", "regression": "residuals"}


def of_answers(
    runs: Sequence[Run], *, what: str, split: str, data_dir: str | None = None, loaded: "Dataset | None" = None
) -> Picture:
    """What the runs answer on a split. The arguments beside these are as in `answers`.

    what: confusion, residuals, roc, pr or calibration.
    Runs that cannot be drawn are left out, and noted; the error of the first if none can.
    """
    if len(runs) > _MOST_RUNS:
        raise ConfigError(f"{len(runs)} runs are too many for one picture: name at most {_MOST_RUNS}")
    found: list[Answers] = []
    errors: list[DlcliError] = []
    for run in runs:
        try:
            _check_task(run, what)
            found.append(answers(run, split, every_class=what in ("roc", "pr"), data_dir=data_dir, loaded=loaded))
        except DlcliError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    if what == "confusion":
        picture = confusion(found)
    elif what == "residuals":
        picture = residuals(found)
    else:
        picture = rates(found, what=what)
    return Picture(picture.title, picture.panels, [*picture.notes, *(f"left out: {error}" for error in errors)])


def stored_answers(run: Run, split: str) -> Picture | None:
    """The picture that suits the task, of what `dlcli eval` stored; None if there is nothing stored, or it is damaged
    or not of the best checkpoint."""
    try:
        what = SUITABLE.get(task_of(run))
        return of_answers([run], what=what, split=split) if what and is_stored(run, split) else None
    except RunError:
        return None


def _check_task(run: Run, what: str) -> None:
    task, fitting = task_of(run), ("regression",) if what == "residuals" else ("binary", "multiclass")
    if task not in fitting:
        raise ConfigError(f"--what {what} is for {' and '.join(fitting)}, and {run} is for {task}")
