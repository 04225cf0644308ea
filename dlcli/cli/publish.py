"""dlcli runs publish"""

from pathlib import Path
from typing import Annotated

import typer

from dlcli.cli.archive import named
from dlcli.cli.arguments import RunNames, RunsDir, with_format
from dlcli.cli.output import Column, Format, emit
from dlcli.core.errors import ConfigError


@with_format
def publish(
    names: RunNames = None,
    to: Annotated[
        str, typer.Option("--to", metavar="tensorboard:DIR", help="The folder; each run gets a sub-folder, DIR/42.")
    ] = "",
    weights: Annotated[
        bool,
        typer.Option(
            "--weights",
            help="Also histograms of the weights and a picture of the first layer's filters: those of --log-weights, "
            "else of the best and the last checkpoint.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what was published there before.")] = False,
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Write the metrics and settings of runs for TensorBoard.

    `dlcli train --log tensorboard` does it while a run trains.
    """
    runs = named(names, runs_dir, "publish")
    if not to:
        raise ConfigError("--to is missing: write --to tensorboard:DIR")
    kind, _, folder = to.partition(":")
    if kind != "tensorboard" or not folder:
        raise ConfigError(f"--to {to} is not of the form tensorboard:DIR")
    from dlcli.runs.tensorboard import publish as published

    records = None
    if weights:
        from dlcli.experiment.weight_events import of_checkpoints as records
    files = published(runs, Path(folder), force=force, weights=records)
    rows = [{"run": run.number, "file": str(file)} for run, file in zip(runs, files, strict=True)]
    emit(rows, [Column("run", "run", right=True), Column("file", "file")], format=format)
