"""Pictures of the answers of runs, by name."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from dlcli.core.errors import ConfigError, DlcliError, RunError
from dlcli.plots.answers import Answers, answers, is_stored, task_of
from dlcli.plots.columns import columns
from dlcli.plots.confusion import confusion
from dlcli.plots.embedding import embedding
from dlcli.plots.errors import errors
from dlcli.plots.fit import fit
from dlcli.plots.picture import Grid, Panel, Picture, Sheet
from dlcli.plots.pixels import AS_TRAINED, Place
from dlcli.plots.rates import rates
from dlcli.plots.residuals import residuals
from dlcli.plots.samples import samples
from dlcli.plots.weights import weights
from dlcli.runs.run import Run

if TYPE_CHECKING:
    from dlcli.data.dataset import Dataset

T = TypeVar("T")

_MOST_RUNS = 50

# By task: the picture of its answers that is drawn without a question.
SUITABLE = {"binary": "confusion", "multiclass": "confusion", "regression": "residuals"}


def of_answers(
    runs: Sequence[Run], *, what: str, split: str, place: Place = AS_TRAINED, loaded: "Dataset | None" = None
) -> Picture:
    """What the runs answer on a split. The arguments beside these are as in `answers`.

    what: confusion, residuals, errors, fit, roc, pr or calibration.
    Runs that cannot be drawn are left out, and noted; the error of the first if none can.
    """

    def answered(run: Run) -> Answers:
        _check_task(run, what)
        return answers(run, split, every_class=what in ("roc", "pr"), place=place, loaded=loaded)

    def drawn(run: Run, notes: list[str]) -> Panel | Grid | Sheet:
        one = answered(run)
        if what == "confusion":
            return confusion(one, notes)
        if what == "residuals":
            return residuals(one, notes)
        return errors(one, notes, place=place) if what == "errors" else fit(one, notes, place=place)

    if what not in ("roc", "pr", "calibration"):
        return _each(runs, drawn, title=what)
    found, left_out = _tried(runs, answered)
    picture = rates(found, what=what)
    return Picture(picture.title, picture.panels, [*picture.notes, *left_out])


def of_images(runs: Sequence[Run], *, what: str, place: Place = AS_TRAINED) -> Picture:
    """Pictures of models of images, which need no answers. what: samples or weights. Otherwise as `of_answers`."""

    def drawn(run: Run, notes: list[str]) -> Sheet:
        return samples(run, notes, place=place) if what == "samples" else weights(run, notes)

    return _each(runs, drawn, title=what)


def of_hidden(runs: Sequence[Run], *, split: str, place: Place = AS_TRAINED) -> Picture:
    """What the last layer of each run gets of the samples of a split. Otherwise as `of_answers`."""

    def drawn(run: Run, notes: list[str]) -> Panel:
        _check_task(run, "embedding")
        return embedding(run, notes, split=split, place=place)

    return _each(runs, drawn, title="embedding")


def of_columns(runs: Sequence[Run], *, place: Place = AS_TRAINED) -> Picture:
    """The columns of the data of each run. Otherwise as `of_answers`."""
    notes: list[str] = []
    found, left_out = _tried(runs, lambda run: columns(run, notes, place=place))
    return Picture("columns", [bars for each in found for bars in each], [*notes, *left_out])


def _each(runs: Sequence[Run], draw: Callable[[Run, list[str]], Panel | Grid | Sheet], *, title: str) -> Picture:
    notes: list[str] = []
    panels, left_out = _tried(runs, lambda run: draw(run, notes))
    return Picture(title, panels, [*notes, *left_out])


def _tried(runs: Sequence[Run], draw: Callable[[Run], T]) -> tuple[list[T], list[str]]:
    """What `draw` makes of each run, and a sentence for each that cannot be drawn; the first error if none can be."""
    if len(runs) > _MOST_RUNS:
        raise ConfigError(f"{len(runs)} runs are too many for one picture: name at most {_MOST_RUNS}")
    found, failures = [], []
    for run in runs:
        try:
            found.append(draw(run))
        except DlcliError as error:
            failures.append(error)
    if not found:
        raise failures[0]
    return found, [f"left out: {error}" for error in failures]


def stored_answers(run: Run, split: str) -> Picture | None:
    """The picture that suits the task, of what `dlcli eval` stored; None if there is nothing stored, or it is damaged
    or not of the best checkpoint."""
    try:
        what = SUITABLE.get(task_of(run))
        return of_answers([run], what=what, split=split) if what and is_stored(run, split) else None
    except RunError:
        return None


def _check_task(run: Run, what: str) -> None:
    """ConfigError (exit 2) unless the picture is for the task of the run."""
    task = task_of(run)
    fitting = {
        "residuals": ("regression",),
        "fit": ("regression",),
        **dict.fromkeys(("errors", "embedding"), ("binary", "multiclass", "regression")),
    }
    tasks = fitting.get(what, ("binary", "multiclass"))
    if task not in tasks:
        raise ConfigError(
            f"--what {what} is for {', '.join(tasks[:-1])}{' and ' * bool(tasks[:-1])}{tasks[-1]}, and "
            f"{run} is for {task}"
        )
