"""Which runs a clean-up removes: by status and age, but never one that is being trained or one of the best to keep."""

import heapq
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dlcli.core.errors import ConfigError
from dlcli.runs import table
from dlcli.runs.ranking import Candidate, candidates
from dlcli.runs.run import Run
from dlcli.runs.trash import is_ours

# The statuses of a run that no process is training.
STATUSES = ("finished", "interrupted", "pruned", "diverged", "failed", "dead", "broken")

AGE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?(s|m|min|h|d|w)")
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def select(
    runs: Sequence[Run], *, statuses: Collection[str] = (), older_than: float = 0.0, keep_best: int = 0
) -> tuple[list[Run], list[Run]]:
    """The `runs` that match, and those that match but cannot be proved to be runs of dlcli.

    statuses: some of STATUSES; empty means all. older_than: seconds since the run started, or, if that is not recorded,
    since its folder changed. keep_best: the number of best runs to keep for each combination of metric, data set and
    split; all runs in the same folder are ranked.
    """
    kept = {run for root in {run.root for run in runs} for run in _best(root, keep_best)} if keep_best else set()
    wanted = statuses or STATUSES
    fitting = [run for run in runs if run not in kept and _fits(run, wanted, older_than) and not run.is_locked()]
    ours = [run for run in fitting if is_ours(run.path)]
    return ours, [run for run in fitting if run not in ours]


def seconds(text: str) -> float:
    """`7d`, `12h`, `30min` or `90s` in seconds. ConfigError for any other form."""
    match = AGE.fullmatch(text)
    if match is None:
        raise ConfigError(f"--older-than {text} is not of the form 7d, 12h, 30min or 90s")
    return float(match[1]) * UNITS[match[2]]


def _fits(run: Run, statuses: Collection[str], older_than: float) -> bool:
    row = table.row(run)
    return row["status"] in statuses and (not older_than or _age(run, row["started"]) > older_than)


def _age(run: Run, started: str | None) -> float:
    try:
        since = datetime.fromisoformat(started).timestamp() if started else run.path.lstat().st_mtime
    except OSError:  # it has just been removed
        return 0.0
    return datetime.now(UTC).timestamp() - since


def _best(root: Path, count: int) -> list[Run]:
    """The `count` best runs of each metric among comparable runs."""
    groups: dict[tuple[object, ...], list[Candidate]] = defaultdict(list)
    for found in candidates(root):
        groups[found.ground, found.metric].append(found)
    return [best.run for group in groups.values() for best in heapq.nlargest(count, group, key=lambda one: one.score)]
