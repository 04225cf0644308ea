"""dlcli predict"""

from typing import Annotated

import typer

from dlcli.cli.arguments import CheckpointRole, Device, RunName, RunsDir, with_format
from dlcli.cli.output import Column, Format, emit, tell_damage


@with_format
def predict(
    run: RunName,
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Images, folders of images, .csv files, or texts.")
    ],
    checkpoint: CheckpointRole = "best",
    device: Device = "auto",
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Apply a trained run to new inputs, and print its predictions."""
    from dlcli.runs.names import find_one

    found = find_one(run, runs_dir)
    from dlcli.evaluation.predict import predict
    from dlcli.experiment.restore import restore

    restored = restore(found, role=checkpoint, device=device)
    tell_damage(restored.checkpoint.damage)
    rows = [{"input": p.input, **p.values} for p in predict(restored, inputs)]
    names = list(rows[0]) if rows else ["input"]
    columns = [Column(name, name.replace("_", " "), right=name not in ("input", "class", "next")) for name in names]
    emit(rows, columns, format=format)
