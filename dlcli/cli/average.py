"""dlcli average"""

from typing import Annotated, Any

import typer

from dlcli.cli.arguments import CheckpointRole, Device, RunNames, RunsDir, with_format
from dlcli.cli.output import Column, Format, emit, number, say
from dlcli.cli.training import command_line
from dlcli.core.errors import ConfigError
from dlcli.core.options import convert
from dlcli.runs.names import find


@with_format
def average(
    runs: RunNames = None,
    last: Annotated[
        str,
        typer.Option(
            "--last", metavar="N", help="Average the N newest last checkpoints of one run.", show_default=False
        ),
    ] = "0",
    checkpoint: CheckpointRole = "best",
    name: Annotated[str | None, typer.Option("--name", help="A name for the new run.")] = None,
    device: Device = "auto",
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Average the weights of several runs, as a new run.

    The runs must have one architecture and the same data. Batch normalization
    is estimated anew on the training split, and the average is measured on the
    validation split. With --last, checkpoints of one run are averaged; train it
    with --keep-last.
    """
    most = convert(last, int, name="--last")
    if most < 0 or (last != "0" and most < 2):
        raise ConfigError(f"--last {last} must be at least 2")
    found = list(dict.fromkeys(run for text in runs or [] for run in find(text, runs_dir)))
    from dlcli.training.average import average as average_runs

    made = average_runs(
        found, runs_dir=runs_dir, role=checkpoint, last=most, device=device, name=name, command=command_line()
    )
    say(f"run {made.run.number} in {made.run.path} is the average of {len(made.parents)} checkpoints")
    for note in made.notes:
        say(note)
    shown = [metric for metric in (made.monitor, "val/loss") if metric in made.metrics]
    rows: list[dict[str, Any]] = [
        {"what": parent["run"], "checkpoint": parent["checkpoint"], **_known(parent["metrics"], shown)}
        for parent in made.parents
    ]
    rows.append({"what": "average", "checkpoint": made.run.path.name, **_known(made.metrics, shown)})
    columns = [Column("what", "run"), Column("checkpoint", "checkpoint")]
    columns += [Column(metric, metric, number, right=True) for metric in dict.fromkeys(shown)]
    document = {"run": made.run.number, "path": str(made.run.path), "metrics": made.metrics, "parents": made.parents}
    emit(rows, columns, format=format, document=document | {"notes": list(made.notes)})


def _known(metrics: dict[str, Any], names: list[str]) -> dict[str, Any]:
    return {name: metrics.get(name) for name in names}
