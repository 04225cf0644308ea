"""What is in a report, in order."""

from collections.abc import Sequence
from typing import Any

from dlcli.core.version import __version__
from dlcli.plots.curves import run_name
from dlcli.report.blocks import Chapter, Report, Section, Text
from dlcli.report.checks import checks
from dlcli.report.comparison import comparison
from dlcli.report.courses import course, courses
from dlcli.report.environment import environment
from dlcli.report.facts import facts
from dlcli.report.mistakes import mistakes
from dlcli.report.reproduce import reproduce
from dlcli.report.results import results
from dlcli.report.samples import Samples
from dlcli.report.settings import settings
from dlcli.report.summary import anchor, summary
from dlcli.report.sweep import of_sweep
from dlcli.report.trained import trained
from dlcli.runs.differences import rows_of
from dlcli.runs.run import Run, now
from dlcli.runs.sweeps import Sweep

MOST_CHAPTERS = 20  # runs that are described one by one


def report(runs: Sequence[Run], *, sweep: Sweep | None = None, data_dir: str | None = None) -> Report:
    """All about these runs, and the sweep that made them. Of more than 20, only what concerns all of them.

    data_dir: the folder of data sets, if it is not that of the trainings.
    """
    rows, differing = rows_of(runs)
    there = [run for run, row in zip(runs, rows, strict=True) if row["status"] is not None]
    described = there if len(there) <= MOST_CHAPTERS else []
    lead = [f"Made at {now()} by dlcli {__version__}."]
    if not described and there:
        lead.append(f"{len(runs):,} runs: single ones are described in a report of at most {MOST_CHAPTERS}.")
    samples = Samples(data_dir)
    chapters = [_chapter(run, anchor(runs, run), samples) for run in described]
    if len(runs) == 1 and chapters and sweep is None:
        return Report(_title(runs[0], rows[0]), lead, [], chapters)
    sections = [
        *([of_sweep(sweep)] if sweep is not None else []),
        summary(runs, rows, differing, described=set(described)),
        comparison(runs, rows),
        *([courses(described, [row for row in rows if row["status"] is not None])] if described else []),
    ]
    title = f"{len(runs):,} runs" if sweep is None else f"Sweep {sweep.number}: {len(runs):,} runs"
    return Report(title, lead, [s for s in sections if s.blocks], chapters)


def _chapter(run: Run, anchor: str, samples: Samples) -> Chapter:
    one = facts(run)
    if not run.path.exists():
        return Chapter(run_name(run), anchor, [Section("Removed", [Text(f"{run} was removed meanwhile.")])])
    sections = [
        trained(one),
        results(one),
        mistakes(one, samples),
        course(one),
        settings(one),
        environment(one),
        reproduce(one),
        checks(one),
    ]
    return Chapter(run_name(run), anchor, [section for section in sections if section.blocks])


def _title(run: Run, row: dict[str, Any]) -> str:
    what = f": {row['model']} on {row['data']}" if row["model"] else ""
    return f"{run_name(run)}{what}"
