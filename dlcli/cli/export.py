"""dlcli export"""

from typing import Annotated, Any

import typer

from dlcli.cli.arguments import DataDir, RunName, RunsDir, with_format
from dlcli.cli.output import Column, Format, emit, power, say, tell_damage
from dlcli.config.ranges import check_range
from dlcli.core.errors import CheckError, ConfigError
from dlcli.export.formats import FORMATS, check_formats


@with_format
def export(
    run: RunName,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME,...",
            help="One or more of onnx, pt2, aoti, safetensors, separated by commas. (default: onnx)",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Write every format.")] = False,
    half: Annotated[bool, typer.Option("--half", help="Use float16 for weights and arithmetic.")] = False,
    quantize: Annotated[
        str | None, typer.Option("--quantize", metavar="int8", help="Store weights as 8-bit integers; for onnx only.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Leave the normalisation out; the program that uses the file must do it.")
    ] = False,
    strings: Annotated[
        bool,
        typer.Option("--strings", help="Of a table, take categories as texts instead of their codes; for onnx only."),
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            help="Largest relative difference from the trained model that is accepted; with --quantize, the largest "
            "loss of accuracy or r2. (default: 0.0001; with --half or --quantize 0.01)",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="NAME", help="Compare on this data set, of the same shape as the run's own."),
    ] = None,
    data_dir: DataDir = None,
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Write a trained run as a file for other programs, and compare the two.

    Each file is opened in a fresh process by its own runtime, which predicts
    the run's test split. If its predictions are not those of the trained
    model, the exit code is 7 and the file is not kept.
    """
    if everything and formats is not None:
        raise ConfigError("--all and --format exclude each other: choose one")
    names = list(FORMATS) if everything else [name.strip() for name in (formats or "onnx").split(",")]
    check_formats(names, half=half, quantize=quantize, strings=strings, raw=raw)
    check_range(tolerance, ">= 0", name="--tolerance")
    from dlcli.runs.names import find_one

    found = find_one(run, runs_dir)
    from dlcli.export import exporter

    outcomes: list[Any] = []
    for outcome in exporter.export(
        found, names, half=half, quantize=quantize, raw=raw, strings=strings, tolerance=tolerance, data=data,
        data_dir=data_dir,
    ):  # fmt: skip
        if not outcomes and outcome.record is not None:
            tell_damage(outcome.record["damage"])
        if outcome.error is None and outcome.record is not None:
            say(f"{outcome.name}: wrote {found.path / 'export' / outcome.record['file']}")
        outcomes.append(outcome)
    rows = [_row(outcome) for outcome in outcomes]
    compared = [o.record["parity"] for o in outcomes if o.record is not None and "metric" in o.record["parity"]]
    emit(
        rows,
        _columns(compared[0]["metric"] if compared else "metric"),
        format=format,
        title=_title(found, compared),
        document={"run": str(found), "exports": [_document(outcome) for outcome in outcomes]},
    )
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if errors:
        kind = CheckError if any(isinstance(error, CheckError) for error in errors) else type(errors[0])
        raise kind("; ".join(dict.fromkeys(map(str, errors))))


def _columns(metric: str) -> list[Column]:
    return [
        Column("name", "format", fixed=True),
        Column("size", "size", _megabytes, right=True, drop=3),
        Column("max_relative_difference", "max difference", power, right=True, drop=1),
        Column("agreement", "agreement", _percent, right=True, drop=2),
        Column("trained", metric, right=True),
        Column("exported", "exported", right=True),
        Column("batch_1", "batch 1", _milliseconds, right=True, drop=5),
        Column("speedup_1", "speed-up", _times, right=True, drop=4),
        Column("batch_64", "batch 64", _milliseconds, right=True, drop=7),
        Column("speedup_64", "speed-up", _times, right=True, drop=6),
        Column("memory", "memory", _megabytes, right=True, drop=8),
        Column("parity", "parity"),
    ]


def _row(outcome: Any) -> dict[str, Any]:
    if outcome.record is None:
        return {"name": outcome.name, "parity": f"none: {outcome.error}"}
    record, parity = outcome.record, outcome.record["parity"]
    verdict = "holds" if parity["holds"] else "DOES NOT HOLD"
    row = {
        "name": outcome.name,
        "size": record["size"],
        "memory": record["memory"],
        "parity": f"{verdict}; {record['note']}" if record["note"] else verdict,
    }
    if "metric" in parity:  # the artifact ran
        row |= {
            "max_relative_difference": parity["max_relative_difference"],
            "agreement": parity["agreement"],
            "trained": parity["trained"].get(parity["metric"]),
            "exported": parity["exported"].get(parity["metric"]),
        }
    for size, times in record["latency"].items():
        row |= {f"batch_{size}": times["exported"], f"speedup_{size}": times["speedup"]}
    return row


def _document(outcome: Any) -> dict[str, Any]:
    error = {} if outcome.error is None else {"error": str(outcome.error), "exit_code": outcome.error.exit_code}
    return {"name": outcome.name, **(outcome.record or {}), **error}


def _title(run: Any, compared: list[dict[str, Any]]) -> str:
    if not compared:
        return str(run)
    return f"{run}: compared with the trained model on {compared[0]['split']}, {compared[0]['samples']:,} samples"


def _megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:.3f} MB" if value < 1e6 else f"{value / 1e6:.1f} MB"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{1000 * value:.3g} ms"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"
