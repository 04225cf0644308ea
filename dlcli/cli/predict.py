"""dlcli predict"""

import csv
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.cli.arguments import CheckpointRole, Device, RunName, RunsDir, with_format
from dlcli.cli.output import Column, Format, emit_as_they_come, say, tell_damage
from dlcli.core.errors import ConfigError

if TYPE_CHECKING:
    from dlcli.evaluation.predict import Prediction


@with_format
def predict(
    run: RunName,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Images, .csv files, texts, or folders of images or texts; - is standard input."
        ),
    ],
    top: Annotated[
        int, typer.Option("--top", metavar="K", help="Name the K likeliest classes, each with its probability.")
    ] = 1,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Print the probability of every class.")
    ] = False,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep", metavar="NAMES", help="Print these columns of .csv files too: id,name. May be repeated."
        ),
    ] = None,
    invert: Annotated[bool, typer.Option("--invert", help="Swap black and white of the images.")] = False,
    checkpoint: CheckpointRole = "best",
    device: Device = "auto",
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Apply a trained run to new inputs, and print its predictions."""
    kept = _names(keep or [])
    from dlcli.runs.names import find_one

    found = find_one(run, runs_dir)
    from dlcli.evaluation.predict import predict
    from dlcli.experiment.restore import restore

    restored = restore(found, role=checkpoint, device=device)
    tell_damage(restored.checkpoint.damage)
    predictions = predict(
        restored, inputs, top=top, probabilities=probabilities, keep=kept, invert=invert, tell=say
    )  # fmt: skip
    rows = (_row(prediction) for prediction in predictions)
    first = next(rows, None)
    columns = [
        Column(name, name if name in kept else name.replace("_", " "), right=not isinstance(value, str))
        for name, value in (first or {"input": ""}).items()
    ]
    emit_as_they_come(rows if first is None else itertools.chain([first], rows), columns, format=format)


def _row(prediction: "Prediction") -> dict[str, Any]:
    """A row of the output. A kept column whose name is already used by dlcli is renamed to input/NAME."""
    ours = {"input": prediction.input, **prediction.values}
    kept = {f"input/{name}" if name in ours else name: text for name, text in prediction.kept.items()}
    return {"input": prediction.input, **kept, **prediction.values}


def _names(lists: Sequence[str]) -> list[str]:
    """The names in comma-separated lists; a name that contains a comma is quoted, as in a .csv file."""
    names = [name.strip() for cells in csv.reader(lists, skipinitialspace=True) for name in cells or [""]]
    for name in names:
        if not name:
            raise ConfigError(f"--keep {','.join(lists)} has an empty name: name columns, as in --keep id,name")
        if names.count(name) > 1:
            raise ConfigError(f"--keep names {name} twice: once is enough")
    return names
