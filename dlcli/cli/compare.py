"""dlcli runs compare, dlcli runs diff"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.cli.arguments import RunName, RunsDir, one_of, with_format
from dlcli.cli.output import Column, Format, emit, number, say, setting
from dlcli.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlcli.runs.compare import Compared, Comparison


@with_format
def compare(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN...", help="One group each: 40:44, 4,7,9, 42, a name, latest or best:METRIC."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="val/NAME at the best checkpoint, or test/NAME as dlcli eval measured it. "
            "(default: the one that chose the best checkpoint)",
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by",
            metavar="config",
            help="Put runs together whose settings are equal apart from the seed.",
            callback=one_of("--group-by", "config"),
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", metavar="RUN", help="The group that the others are compared with.")
    ] = None,
    any_data: Annotated[
        bool, typer.Option("--any-data", help="Compare runs on different data or splits as well.")
    ] = False,
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Compare the results of groups of runs, such as two settings over five
    seeds, with those of the first group.

    Shows the mean, its 95 % interval, and the difference to the first group.
    Runs with the same seeds are compared in pairs (exact sign-flip test),
    others by Welch's t-test; of several p values each is adjusted (Holm).

    Two single runs are compared sample by sample, from the answers that
    dlcli eval stored: McNemar's exact test and a bootstrap interval.
    """
    if not names:
        raise ConfigError("name the runs to compare: dlcli runs compare 1:5 6:10")
    from dlcli.runs.compare import compare as compared

    found = compared(
        names, runs_dir, metric=metric, by_config=group_by is not None, baseline=baseline, any_data=any_data
    )
    for result in found.left_out:
        say(f"left out: {result.run} {result.reason}")
    rows = [_row(row.as_dict()) for row in found.rows]
    document = {
        "metric": found.metric,
        "groups": [row.as_dict() for row in found.rows],
        "left_out": [{"run": one.run.number, "reason": one.reason} for one in found.left_out],
    }
    emit(rows, _columns(several=len(rows) > 1), format=format, title=found.metric, document=document)
    if format is Format.table:
        for line in _remarks(found):
            say(line)


@with_format
def diff(
    first: RunName,
    second: RunName,
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Show how two runs differ: settings, data, metrics and environment.

    Only what differs is shown.
    """
    from dlcli.runs.diff import diff as differences
    from dlcli.runs.names import find_one

    one, other = find_one(first, runs_dir), find_one(second, runs_dir)
    rows = differences(one, other)
    if not rows and format is Format.table:
        say(f"{one} and {other} do not differ")
        return
    columns = [
        Column("kind", "kind"),
        Column("name", "name", fixed=True),
        Column("first", str(one), setting),
        Column("second", str(other), setting),
    ]
    emit(rows, columns, format=format)


def _on_samples(others: "Sequence[Compared]") -> list[str]:
    told = []
    tests = [row.samples for row in others if row.samples is not None]
    for test in tests:
        low, high = test.interval
        line = (
            f"{test.second} against {test.first} on the same {test.samples:,} {test.split} samples: {test.metric} "
            f"{_signed(test.difference)} ({_signed(low)} to {_signed(high)}, bootstrap)"
        )
        if test.adjusted_p is not None:
            line += (
                f"; {test.only_second:,} are right only in {test.second}, {test.only_first:,} only in {test.first}, "
                f"p {test.adjusted_p:.3g} (McNemar's exact test)"
            )
        told.append(line)
    if tests:
        told.append("this compares these trained models, not their settings: for those train several seeds")
    return told + [f"no test on samples: {row.no_samples}" for row in others if row.no_samples]


def _row(values: dict[str, Any]) -> dict[str, Any]:
    """Flat, as CSV needs it."""
    difference = values.pop("difference") or {}
    samples = values.pop("samples") or {}
    low, high = values.pop("interval") or (None, None)
    less, more = difference.get("interval") or (None, None)
    return values | {
        "low": low,
        "high": high,
        "difference": difference.get("mean"),
        "difference_low": less,
        "difference_high": more,
        "p": difference.get("adjusted_p"),
        "samples_p": samples.get("adjusted_p"),
        "runs": ",".join(map(str, values["runs"])),
        "values": ",".join(map(str, values["values"])),
    }


def _columns(*, several: bool) -> list[Column]:
    found = [
        Column("group", "runs"),
        Column("count", "n", right=True),
        Column("mean", "mean", right=True),
        Column("std", "std", right=True, drop=3),
        Column("median", "median", right=True, drop=4),
        Column("low", "from", right=True, drop=2),
        Column("high", "to", right=True, drop=2),
    ]
    if several:
        found += [
            Column("difference", "difference", _signed, right=True),
            Column("difference_low", "from", _signed, right=True),
            Column("difference_high", "to", _signed, right=True),
            Column("p", "p", lambda p: "-" if p is None else f"{p:.3g}", right=True),
        ]
    return found


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{'+' if value > 0 else ''}{number(value)}"


def _remarks(found: "Comparison") -> list[str]:
    """How the table is to be read, as far as it is not plain, and what two runs say of the same samples."""
    others = [row for row in found.rows if row.difference is not None]
    told = []
    pairs = [row for row in others if row.paired]
    if pairs:
        told.append("runs with the same seed are compared in pairs; p is that of the exact sign-flip test")
        least = max((row.difference.least_p or 0.0 for row in pairs if row.difference), default=0.0)
        if least > 0.05:
            told.append(f"with so few seeds p cannot be below {least:g}: add seeds to tell small differences")
    apart = [row for row in others if not row.paired and row.samples is None]
    if apart:
        told.append("runs that do not have the same seeds are compared by Welch's t-test")
    told += _on_samples(others)
    if any(row.difference and row.difference.p is None and row.samples is None for row in others):
        told.append("no p where a group has fewer than 3 runs, or no spread")
    if len([row for row in others if row.adjusted_p is not None]) > 1:
        told.append(f"p is adjusted for {len(others)} comparisons (Holm)")
    return told
