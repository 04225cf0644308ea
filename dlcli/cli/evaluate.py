"""dlcli eval"""

from typing import Annotated, Any

import typer

from dlcli.cli.arguments import CheckpointRole, Device, RunName, RunsDir, one_of, with_format
from dlcli.cli.output import Column, Format, emit, say, tell_damage
from dlcli.core.errors import CheckError, ConfigError


@with_format
def evaluate(
    run: RunName,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            metavar="train|val|test",
            help="Which part of the data to measure on.",
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
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            metavar="RULE",
            help="A condition, such as 'accuracy>=0.98'. Exit with code 7 if it is false. May be repeated.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="RUN", help="Measure this run as well. Exit with code 7 if it is better."),
    ] = None,
    max_drop: Annotated[float, typer.Option("--max-drop", min=0.0, help="How much better the baseline may be.")] = 0.0,
    device: Device = "auto",
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Measure a trained run.

    Prints the metrics of the run; for a classifier also precision, recall and
    F1 of each class, and the confusion matrix. The record is kept in the run
    as eval/SPLIT.json.
    """
    if max_drop and baseline is None:
        raise ConfigError("--max-drop needs a --baseline")
    from dlcli.runs.names import find_one

    found = find_one(run, runs_dir)
    other = find_one(baseline, runs_dir) if baseline else None
    from dlcli.evaluation.measure import evaluate
    from dlcli.evaluation.rules import check_drop, check_rules, main_metric

    report = evaluate(found, split=split, checkpoint=checkpoint, data=data, device=device)
    tell_damage(report.damage)
    results = check_rules(report.metrics, require or [])
    document: dict[str, Any] = report.as_dict()
    if results:
        document["require"] = [{"rule": r, "value": v, "holds": h} for r, v, h in results]
    emit(
        [{"metric": name, "value": value} for name, value in report.metrics.items()],
        [Column("metric", "metric", fixed=True), Column("value", "value", right=True)],
        format=format,
        title=f"{report.run}: {checkpoint} checkpoint (epoch {report.epoch}) on {split} of {report.data}, "
        f"{report.samples:,} samples",
        document=document,
    )
    if format is Format.table:
        _print_classes(report)
    failed = [f"{rule} does not hold: the value is {_exact(value)}" for rule, value, holds in results if not holds]
    for rule, value, holds in results:
        if holds and format is Format.table:
            say(f"{rule} holds: the value is {_exact(value)}")
    if other is not None:
        base = evaluate(other, split=split, data=data, device=device)
        metric = main_metric(found)
        try:
            say(check_drop(report, base, max_drop, metric))
        except CheckError as error:
            failed.append(str(error))
    if failed:
        raise CheckError("; ".join(failed))


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


def _exact(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.6g}"
