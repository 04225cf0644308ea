"""Everything that the folder of a run records, as plain data."""

from typing import Any

from dlcli.core.errors import DlcliError
from dlcli.core.reading import files_below
from dlcli.runs.given_names import name_of
from dlcli.runs.run import Run

_MOST_FILES = 1000


def details(run: Run) -> dict[str, Any]:
    """run, name, info (run.json), config (flat: `model.hidden`), metrics (one dict per row), files (paths in the run).

    Damaged settings are {"damage": what is wrong}. RunError if run.json or metrics.csv is damaged.
    """
    try:
        settings = run.settings()
    except DlcliError as error:
        settings = {"damage": str(error)}
    return {
        "run": str(run),
        "name": name_of(run),
        "info": run.info(),
        "config": settings,
        "metrics": run.metrics(),
        "files": [str(path.relative_to(run.path)) for path in files_below(run.path, most=_MOST_FILES)],
    }
