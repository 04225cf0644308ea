"""Everything that the folder of a run records, as plain data."""

from typing import Any

from dlcli.core.errors import DlcliError
from dlcli.core.reading import files_below
from dlcli.runs import metrics
from dlcli.runs.given_names import name_of
from dlcli.runs.run import Run

_MOST_FILES = 1000


def details(run: Run, *, ends: tuple[int, int] | None = None) -> dict[str, Any]:
    """run, name, info (run.json), config (flat: `model.hidden`), rows (how many metrics.csv has), metrics (one dict per
    row), files (paths in the run). Of more than 500,000 rows only some are in `metrics`, see runs/metrics.py.

    ends: only so many of the first and of the last rows.

    Damaged settings are {"damage": what is wrong}. RunError if run.json or metrics.csv is damaged.
    """
    try:
        settings = run.settings()
    except DlcliError as error:
        settings = {"damage": str(error)}
    if ends is not None:
        rows, count = metrics.ends(run.metrics_file, first=ends[0], last=ends[1])
    else:
        rows, count = [], 0
        for stretch in metrics.thinned(run.metrics_file):
            rows += stretch.rows()
            count += len(stretch)
    return {
        "run": str(run),
        "name": name_of(run),
        "info": run.info(),
        "config": settings,
        "rows": count,
        "metrics": rows,
        "files": [str(path.relative_to(run.path)) for path in files_below(run.path, most=_MOST_FILES)],
    }
