"""dlcli eval, and the tables of an evaluation, which `dlcli train --eval` prints too."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.cli.arguments import CheckpointRole, DataDir, Device, RunName, RunsDir, one_of, with_format
from dlcli.cli.output import Column, Format, emit, number, say, tell_damage
from dlcli.config.ranges import check_range
from dlcli.core.errors import CheckError, ConfigError
from dlcli.core.options import convert

if TYPE_CHECKING:
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
    run: RunName,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            metavar="train|val|test",
            help="Which split of the data to measure on.",
            callback=one_of("--split", "train", "val", "test"),
        ),
    ] = "test",
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
        typer.Option("--baseline", metavar="RUN", help="Measure this run as well. Exit with code 7 if it is better."),
    ] = None,
    max_drop: Annotated[float, typer.Option("--max-drop", help="How much better the baseline may be.")] = 0.0,
    allow_fallback: Annotated[
        bool,
        typer.Option("--allow-fallback", help="Measure an older checkpoint if the newest is damaged."),
    ] = False,
    device: Device = "auto",
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Measure a trained run.

    Prints the metrics of the run; for a classifier also precision, recall and
    F1 of each class, and the confusion matrix. The result is stored in the run
    as eval/SPLIT.json.
    """
    if max_drop and baseline is None:
        raise ConfigError("--max-drop needs a --baseline")
    check_range(max_drop, ">= 0", name="--max-drop")
    from dlcli.runs.names import find_one

    found = find_one(run, runs_dir)
    other = find_one(baseline, runs_dir) if baseline else None
    from dlcli.evaluation.measure import evaluate, main_metric
    from dlcli.evaluation.rules import check_drop, check_rules, parse_rules

    rules = parse_rules(require or [])
    cut = None if threshold is None else convert(threshold, float, name="--threshold")
    where: dict[str, Any] = {
        "split": split,
        "data": data,
        "data_dir": data_dir,
        "device": device,
        "allow_fallback": allow_fallback,
    }
    report = evaluate(found, checkpoint=checkpoint, threshold=cut, importances=importance, **where)
    warn(report)
    verdicts = check_rules(report.metrics, rules)
    show(report, format=format, document=document(report, verdicts))
    failed = tell(verdicts, format=format)
    if other is not None:
        base = evaluate(other, **where)
        warn(base)
        metric = main_metric(found)
        try:
            say(check_drop(report, base, max_drop, metric))
        except CheckError as error:
            failed.append(str(error))
    if failed:
        raise CheckError("; ".join(failed))


def warn(report: "Evaluation") -> None:
    """Warn if the run is damaged, unfinished or cannot record the result."""
    tell_damage(report.damage)
    if report.unrecorded:
        say(f"warning: {report.unrecorded}: these numbers are not recorded in the run")
    tell_undefined(report)
    if report.status != "finished":
        state = f"{report.status}: {report.reason}" if report.reason else report.status
        checkpoint = f"its {report.checkpoint} checkpoint, of epoch {report.epoch}, is measured"
        say(f"{report.run} has not finished ({state}): {checkpoint}")


def tell_undefined(report: "Evaluation") -> None:
    """Say why a metric, or the importance of a column, has no value."""
    if report.undefined:
        say(f"undefined: {', '.join(f'{name} ({reason})' for name, reason in report.undefined.items())}")
    if report.importance is not None and (names := report.importance.undefined):
        say(f"undefined: the importance of {', '.join(names)} ({report.importance.metric} has no value without it)")


def document(report: "Evaluation", verdicts: Sequence["Verdict"]) -> dict[str, Any]:
    """The document that --json prints for an evaluation."""
    return report.as_dict() | ({"require": [verdict.as_dict() for verdict in verdicts]} if verdicts else {})


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
