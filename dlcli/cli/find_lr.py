"""dlcli train MODEL --find-lr"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcli.cli.output import Column, Format, emit, number, say
from dlcli.cli.plot import show
from dlcli.core.errors import ConfigError

if TYPE_CHECKING:
    from dlcli.experiment.build import Experiment

_STEPS = [
    Column("step", "step", right=True),
    Column("rate", "learning rate", right=True),
    Column("loss", "loss", right=True),
    Column("smoothed", "its mean", right=True),
]


def check_find_lr(others: Mapping[str, Any], output: str | None) -> None:
    """ConfigError for an option that is for a run, and for a file that cannot be written. others: option -> value."""
    given = [option for option, value in others.items() if value]
    if given:
        raise ConfigError(f"{given[0]} is for a training, and --find-lr makes no run: leave one of them out")
    if output is None:
        return
    from dlcli.plots.file import check_file
    from dlcli.plots.png import check_installed

    if Path(output).is_file():
        raise ConfigError(f"--output {output} exists: choose another file")
    check_file(Path(output), force=False)
    if Path(output).suffix == ".png":
        check_installed()


def find(built: "Experiment", *, output: str | None, format: Format) -> None:
    """Print the curve of the loss, or write it into a file, and the learning rate that it suggests."""
    from dlcli.training.find_lr import find_lr

    found = find_lr(built)
    config = built.config
    if format is Format.table or output is not None:
        from dlcli.plots.learning_rate import learning_rate

        title = f"{config.model} on {config.data}: loss while the learning rate rises"
        picture = learning_rate(found.rates, found.losses, found.smoothed, suggestion=found.suggestion, title=title)
        show(picture, output=output, force=False)
    rows = [
        {"step": step, "rate": rate, "loss": loss, "smoothed": mean}
        for step, (rate, loss, mean) in enumerate(zip(found.rates, found.losses, found.smoothed, strict=True), 1)
    ]
    if format is Format.table:
        row: dict[str, Any] = {
            "suggestion": f"{found.suggestion:g}",
            "now": f"{config.lr:g}",
            "lowest": f"{found.lowest:.2g}",
        }
        row |= {"steepest": f"{found.steepest:.2g}", "loss": number(min(found.smoothed)), "steps": len(found.rates)}
        headings = {
            "suggestion": "suggested --lr", "now": "now", "lowest": "lowest loss at", "steepest": "steepest at",
            "loss": "lowest loss", "steps": "steps",
        }  # fmt: skip
        emit([row], [Column(key, heading, right=True) for key, heading in headings.items()], format=format)
    else:
        emit(rows, _STEPS, format=format, document=found.as_dict())
    if not found.diverged and found.falls_to_the_end:
        say(f"the loss falls up to the highest rate, {found.rates[-1]:g}: the suggestion is a lower bound")
