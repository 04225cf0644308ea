"""dlcli eval, and the tables of an evaluation, which `dlcli train --eval` prints too."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.cli.arguments import CheckpointRole, DataDir, Device, RunsDir, split_option, with_format
from dlcli.cli.gate import add_to_step_summary, cases, requirements, requirements_table
from dlcli.cli.output import Column, Format, emit, markdown, number, say, tell_damage, write
from dlcli.config.ranges import check_range
from dlcli.core.errors import CheckError, ConfigError
from dlcli.core.options import convert

if TYPE_CHECKING:
    from dlcli.evaluation.against import Against
    from dlcli.evaluation.importance import Importance
    from dlcli.evaluation.measure import Evaluation
    from dlcli.evaluation.rules import Verdict

Require = Annotated[
    list[str] | None,
    typer.Option(
        "--require",
        metavar="RULE",
        help="A condition, such as 'accuracy>=0.98'. Exit with code 7 if it is false. May be repeated.",
    ),
]


@with_format
def evaluate(
    names: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Runs: 42, runs/42, a name, latest, best:METRIC[@DATA], 40:44 or 4,7."),
    ],
    split: Annotated[str, split_option("Which split of the data to measure on.")] = "test",
    checkpoint: CheckpointRole = "best",
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME",
            help="Measure on this data set, of the same shape as the run's own, and normalised like it.",
        ),
    ] = None,
    data_dir: DataDir = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            "--threshold",
            metavar="X",
            help="Of two classes, predict the second above this probability.",
            show_default="that of the run",
        ),
    ] = None,
    importance: Annotated[
        bool,
        typer.Option("--importance", help="Also tell how much worse the run becomes when each column is shuffled."),
    ] = False,
    require: Require = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", metavar="RUN", help="Measure this run, or these, as well. Exit with code 7 if it is better."
        ),
    ] = None,
    max_drop: Annotated[float, typer.Option("--max-drop", help="How much better the baseline may be.")] = 0.0,
    junit: Annotated[
        str | None,
        typer.Option("--junit", metavar="FILE", help="Write the requirements as a JUnit report (XML) for a CI server."),
    ] = None,
    allow_fallback: Annotated[
        bool,
        typer.Option("--allow-fallback", help="Measure an older checkpoint if the newest is damaged."),
    ] = False,
    device: Device = "auto",
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Measure a trained run, or several.

    Prints the metrics of the run; for a classifier also precision, recall and
    F1 of each class, and the confusion matrix. The result is stored in the run
    as eval/SPLIT.json.

    Of several runs, --require 'accuracy >= 0.97' must hold in each, and
    'mean(accuracy) >= 0.98' (median, min, max, std) for all of them.
    """
    if max_drop and baseline is None:
        raise ConfigError("--max-drop needs a --baseline")
    if junit is not None and not (require or baseline):
        raise ConfigError("--junit reports requirements: add a --require or a --baseline")
    check_range(max_drop, ">= 0", name="--max-drop")
    from dlcli.runs.names import find

    found = list(dict.fromkeys(run for name in names for run in find(name, runs_dir)))
    others = find(baseline, runs_dir) if baseline else []
    if importance and len(found) > 1:
        raise ConfigError(f"--importance is of one run, but {' '.join(names)} names {len(found)}")
    from dlcli.evaluation.against import against
    from dlcli.evaluation.junit import check_file, write_junit
    from dlcli.evaluation.measure import evaluate, main_metric
    from dlcli.evaluation.rules import check_rules_of, parse_rules

    rules = parse_rules(require or [])
    if junit is not None:
        check_file(Path(junit))
    cut = None if threshold is None else convert(threshold, float, name="--threshold")
    where: dict[str, Any] = {
        "split": split,
        "data": data,
        "data_dir": data_dir,
        "device": device,
        "allow_fallback": allow_fallback,
    }
    reports = [evaluate(run, checkpoint=checkpoint, threshold=cut, importances=importance, **where) for run in found]
    for report in reports:
        warn(report, several=len(reports) > 1)
    verdicts = check_rules_of(reports, rules)
    compared = None
    if others:
        bases = [evaluate(run, **where) for run in others]
        for base in bases:
            warn(base, several=True)
        plain = data is None and cut is None
        compared = against(reports, bases, main_metric(found[0]), max_drop=max_drop, on_samples=plain)
    rows = requirements(reports, verdicts, compared)
    if len(reports) > 1:
        show_several(reports, format=format, document=document_of_several(reports, verdicts, compared))
    else:
        show(reports[0], format=format, document=document(reports[0], verdicts, compared))
    if rows and format is Format.md:
        write("\n" + requirements_table(rows))
    if junit is not None:
        write_junit(Path(junit), cases(rows))
    add_to_step_summary(rows, markdown(*_by_run(reports)))
    failed = tell(verdicts, format=format)
    if compared is not None:
        if compared.holds:
            say(compared.sentence)
        else:
            failed.append(compared.sentence)
    if failed:
        raise CheckError("; ".join(failed))


def warn(report: "Evaluation", *, several: bool = False) -> None:
    """Warn if the run is damaged, unfinished or cannot record the result. several: whether there are other runs."""
    tell_damage(report.damage)
    if report.unknown:
        say(f"{report.unknown} (in {report.run})" if several else report.unknown)
    if report.unrecorded:
        say(f"warning: {report.unrecorded}: these numbers are not recorded in the run")
    tell_undefined(report, of=f" in {report.run}" if several else "")
    if report.status != "finished":
        state = f"{report.status}: {report.reason}" if report.reason else report.status
        checkpoint = f"its {report.checkpoint} checkpoint, of epoch {report.epoch}, is measured"
        say(f"{report.run} has not finished ({state}): {checkpoint}")


def tell_undefined(report: "Evaluation", *, of: str = "") -> None:
    """Say why a metric, or the importance of a column, has no value."""
    if report.undefined:
        say(f"undefined{of}: {', '.join(f'{name} ({reason})' for name, reason in report.undefined.items())}")
    if report.importance is not None and (names := report.importance.undefined):
        say(f"undefined: the importance of {', '.join(names)} ({report.importance.metric} has no value without it)")


def document(report: "Evaluation", verdicts: Sequence["Verdict"], compared: "Against | None" = None) -> dict[str, Any]:
    """The document that --json prints for an evaluation."""
    required = {"require": [verdict.as_dict() for verdict in verdicts]} if verdicts else {}
    return report.as_dict() | required | ({} if compared is None else {"baseline": compared.as_dict()})


def document_of_several(
    reports: Sequence["Evaluation"], verdicts: Sequence["Verdict"], compared: "Against | None"
) -> dict[str, Any]:
    """The document that --json prints for several runs: `evaluations`, `metrics` over all of them, and `require` with
    the run of each verdict, null for one on all."""
    required = [verdict.as_dict() | {"run": str(verdict.run) if verdict.run else None} for verdict in verdicts]
    return {
        "evaluations": [report.as_dict() for report in reports],
        "metrics": {row.pop("metric"): row for row in _over_runs(reports)},
        **({"require": required} if required else {}),
        **({} if compared is None else {"baseline": compared.as_dict()}),
    }


def show_several(reports: Sequence["Evaluation"], *, format: Format, document: Any) -> None:
    """One row per run; in the table format followed by the statistics of each metric."""
    rows, columns = _by_run(reports)
    emit(rows, columns, format=format, document=document)
    if format is not Format.table:
        return
    write("\n")
    statistics = [Column(name, name, right=True) for name in ("mean", "std", "median", "min", "max")]
    bounds = [Column("low", "from", right=True), Column("high", "to", right=True)]
    over = [
        row | dict(zip(("low", "high"), row["interval"] or (None, None), strict=True)) for row in _over_runs(reports)
    ]
    emit(over, [Column("metric", "metric", fixed=True), *statistics, *bounds], format=format)


def _by_run(reports: Sequence["Evaluation"]) -> tuple[list[dict[str, Any]], list[Column]]:
    names = dict.fromkeys(name for report in reports for name in report.metrics)
    rows = [
        {"run": report.run.number, "epoch": report.epoch, "split": report.split, "data": report.data,
         "samples": report.samples, **report.metrics}
        for report in reports
    ]  # fmt: skip
    columns = [
        Column("run", "run", right=True),
        Column("data", "data", drop=30),
        Column("split", "split", drop=31),
        Column("samples", "samples", right=True, drop=32),
        Column("epoch", "epoch", right=True, drop=33),
        *(Column(name, name, right=True, drop=place) for place, name in enumerate(names)),
    ]
    return rows, columns


def _over_runs(reports: Sequence["Evaluation"]) -> list[dict[str, Any]]:
    """One row for each metric that all runs have: its statistics; all None if it is undefined in one of them."""
    from dlcli.runs.statistics import summarise

    rows = []
    for name in reports[0].metrics:
        values = [report.metrics.get(name) for report in reports]
        there = [value for value in values if value is not None]
        found = asdict(summarise(there)) if len(there) == len(values) else {}
        keys = ("count", "mean", "median", "std", "interval")
        ends = {"min": min(there), "max": max(there)} if found else {"min": None, "max": None}
        rows.append({"metric": name, **{key: found.get(key) for key in keys}, **ends})
    return rows


def show(report: "Evaluation", *, format: Format, document: Any) -> None:
    """Print the metrics; in the table format also the metrics per class and the confusion matrix. The importance of
    columns follows, or, since CSV and Markdown hold one table, takes their place."""
    if report.importance is not None and format in (Format.csv, Format.md):
        _print_importance(report.importance, format=format)
        return
    emit(
        [{"metric": name, "value": value} for name, value in report.metrics.items()],
        [Column("metric", "metric", fixed=True), Column("value", "value", right=True)],
        format=format,
        title=f"{report.run}: {report.checkpoint} checkpoint (epoch {report.epoch}) on {report.split} of "
        f"{report.data}, {report.samples:,} samples"
        + ("" if report.threshold is None else f", threshold {number(report.threshold)}"),
        document=document,
    )
    if format is Format.table:
        _print_classes(report)
        if report.importance is not None:
            _print_importance(report.importance, format=format)


def tell(verdicts: Sequence["Verdict"], *, format: Format) -> list[str]:
    """Print the rules that hold; return the sentences of those that do not."""
    for verdict in verdicts:
        if verdict.holds and format is Format.table:
            say(verdict.sentence)
    return [verdict.sentence for verdict in verdicts if not verdict.holds]


def _print_importance(found: "Importance", *, format: Format) -> None:
    emit(
        found.columns,
        [
            Column("column", "column"),
            Column("importance", "importance", right=True),
            Column("std", "std", right=True),
        ],
        format=format,
        title=f"importance: how much worse {found.metric} becomes when a column is shuffled",
    )


def _print_classes(report: Any) -> None:
    if report.per_class is None:
        return
    names = report.class_names or [str(k) for k in range(len(report.per_class))]
    emit(
        [{"class": name, **row} for name, row in zip(names, report.per_class, strict=True)],
        [
            Column("class", "class"),
            *(Column(key, key, right=True) for key in ("precision", "recall", "f1")),
            Column("count", "count", right=True),
        ],
        format=Format.table,
        title="classes",
    )
    emit(
        [
            {"class": n, **{str(k): count for k, count in enumerate(row)}}
            for n, row in zip(names, report.confusion, strict=True)
        ],
        [Column("class", "actual \\ predicted"), *(Column(str(k), n, right=True, drop=k) for k, n in enumerate(names))],
        format=Format.table,
        title="confusion matrix",
    )
