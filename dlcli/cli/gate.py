"""The requirements of `dlcli eval` for a CI job: in Markdown, and as a JUnit report."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.cli.output import Column, markdown, number, say, setting
from dlcli.core.errors import ResourceError
from dlcli.core.files import append

if TYPE_CHECKING:
    from dlcli.evaluation.against import Against
    from dlcli.evaluation.junit import Case
    from dlcli.evaluation.measure import Evaluation
    from dlcli.evaluation.rules import Verdict

# The file that GitHub Actions shows on the page of a job, in Markdown.
_SUMMARY = "GITHUB_STEP_SUMMARY"

_COLUMNS = [
    Column("requirement", "requirement"),
    Column("of", "run"),
    Column("value", "value"),
    Column("holds", "holds", setting),
]


def requirements(
    reports: "Sequence[Evaluation]", verdicts: "Sequence[Verdict]", baseline: "Against | None"
) -> list[dict[str, Any]]:
    """One row for each: requirement, of (the run or runs), value as text, holds, sentence."""
    everything = _named([report.run for report in reports])
    rows = [
        {
            "requirement": verdict.rule.text,
            "of": everything if verdict.run is None else str(verdict.run),
            "value": number(verdict.value),
            "holds": verdict.holds,
            "sentence": verdict.sentence,
        }
        for verdict in verdicts
    ]
    if baseline is not None:
        low_high = baseline.interval
        interval = "" if low_high is None else f" ({number(low_high.low)} to {number(low_high.high)})"
        rows.append({
            "requirement": f"{baseline.metric} against {_named(baseline.baseline_runs)}, "
            f"a drop of at most {baseline.max_drop:g}",
            "of": everything,
            "value": f"{number(baseline.value)}, difference {number(baseline.difference)}{interval}",
            "holds": baseline.holds,
            "sentence": baseline.sentence,
        })  # fmt: skip
    return rows


def requirements_table(rows: Sequence[dict[str, Any]]) -> str:
    """In Markdown."""
    return markdown(rows, _COLUMNS)


def cases(rows: Sequence[dict[str, Any]]) -> "list[Case]":
    """The same for a JUnit report."""
    from dlcli.evaluation.junit import Case

    return [Case(row["requirement"], row["of"], row["holds"], row["sentence"]) for row in rows]


def add_to_step_summary(rows: Sequence[dict[str, Any]], metrics: str) -> None:
    """Append the requirements, and a Markdown table of metrics, to the summary of a step of GitHub Actions; nothing
    elsewhere. A summary that cannot be written is told, and is no error: the gate counts."""
    if not (file := os.environ.get(_SUMMARY)) or not rows:
        return
    held = sum(row["holds"] for row in rows)
    heading = f"### dlcli eval: {held} of {len(rows)} requirement{'s' * (len(rows) != 1)} hold{'s' * (held == 1)}"
    try:
        append(Path(file), f"{heading}\n\n{requirements_table(rows)}\n{metrics}\n".encode(errors="replace"))
    except ResourceError as error:
        say(f"warning: {_SUMMARY}: {error}")


def _named(runs: Sequence[Any]) -> str:
    from dlcli.runs.names import compact

    return str(runs[0]) if len(runs) == 1 else compact(run.number for run in runs)
