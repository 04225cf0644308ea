"""dlcli runs publish"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dlcli.cli.archive import named
from dlcli.cli.arguments import RunNames, RunsDir, with_format
from dlcli.cli.output import Column, Format, emit
from dlcli.core.errors import ConfigError

_FORMS = "tensorboard:DIR or mlflow:URI"


@with_format
def publish(
    names: RunNames = None,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="tensorboard:DIR|mlflow:URI",
            help="A folder, in which each run gets a sub-folder, DIR/42; or an MLflow server, http://HOST:5000, or its "
            "database, sqlite:///FILE.",
        ),
    ] = "",
    weights: Annotated[
        bool,
        typer.Option(
            "--weights",
            help="For TensorBoard also histograms of the weights and a picture of the first layer's filters: those of "
            "--log-weights, else of the best and the last checkpoint.",
        ),
    ] = False,
    artifacts: Annotated[
        bool, typer.Option("--artifacts", help="For MLflow also the files of each run, with its best checkpoint.")
    ] = False,
    experiment: Annotated[
        str | None,
        typer.Option("--experiment", metavar="NAME", help="The experiment of MLflow.", show_default="dlcli"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what was published there before.")] = False,
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Write the metrics and settings of runs for TensorBoard or MLflow.

    `dlcli train --log tensorboard` does it while a run trains.
    """
    runs = named(names, runs_dir, "publish")
    if not to:
        raise ConfigError(f"--to is missing: write --to {_FORMS}")
    kind, _, place = to.partition(":")
    if kind not in ("tensorboard", "mlflow") or not place:
        raise ConfigError(f"--to {to} is not of the form {_FORMS}")
    for option, is_given, its in (
        ("--weights", weights, "tensorboard"), ("--artifacts", artifacts, "mlflow"),
        ("--experiment", experiment is not None, "mlflow"),
    ):  # fmt: skip
        if is_given and kind != its:
            raise ConfigError(f"{option} is for --to {its}: leave it out")
    if kind == "mlflow":
        from dlcli.runs import mlflow

        ids = mlflow.publish(runs, place, experiment=experiment or mlflow.EXPERIMENT, files=artifacts, force=force)
        rows = [{"run": run.number, "id": one} for run, one in zip(runs, ids, strict=True)]
        emit(rows, [Column("run", "run", right=True), Column("id", "id")], format=format)
        return
    from dlcli.runs.tensorboard import publish as published

    records: Callable[..., bytes] | None = None
    if weights:
        from dlcli.experiment.weight_events import of_checkpoints

        records = of_checkpoints
    files = published(runs, Path(place), force=force, weights=records)
    rows = [{"run": run.number, "file": str(file)} for run, file in zip(runs, files, strict=True)]
    emit(rows, [Column("run", "run", right=True), Column("file", "file")], format=format)
