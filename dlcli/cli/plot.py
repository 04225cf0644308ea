"""dlcli plot"""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlcli.cli.arguments import RunNames, RunsDir, one_of
from dlcli.cli.output import plain, say, to_csv, write
from dlcli.core.errors import ConfigError
from dlcli.runs.names import find

if TYPE_CHECKING:
    from dlcli.plots.picture import Picture

WHAT = ("curves", "lr")


def plot(
    names: RunNames = None,
    what: Annotated[
        str,
        typer.Option(
            "--what",
            metavar="|".join(WHAT),
            help="The losses and the metric, or the learning rate.",
            callback=one_of("--what", *WHAT),
        ),
    ] = "curves",
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="NAME", help="Draw this metric alone: accuracy, val/loss."),
    ] = None,
    x: Annotated[
        str,
        typer.Option(
            "--x",
            metavar="step|epoch|time|samples",
            help="What is on the x axis; time is seconds of training.",
            callback=one_of("--x", "step", "epoch", "time", "samples"),
        ),
    ] = "epoch",
    log: Annotated[
        str | None,
        typer.Option("--log", metavar="y", help="Make the y axis logarithmic.", callback=one_of("--log", "y")),
    ] = None,
    smooth: Annotated[
        float, typer.Option("--smooth", metavar="WEIGHT", help="Weight of the past in an exponential mean, below 1.")
    ] = 0.0,
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by",
            metavar="config",
            help="Draw the mean and standard deviation of runs whose settings are equal apart from the seed.",
            callback=one_of("--group-by", "config"),
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="The file to write: .svg, .html, or .csv of the numbers."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    runs_dir: RunsDir = "runs",
) -> None:
    """Draw the course of runs, over each other, in the terminal or into a file."""
    if not names:
        raise ConfigError("name the runs to draw: dlcli plot latest")
    from dlcli.config.ranges import check_range
    from dlcli.plots.file import check_file

    check_range(smooth, "[0, 1)", name="--smooth")
    if what == "lr" and metric is not None:
        raise ConfigError("--metric is for --what curves: leave out one of them")
    if force and output is None:
        raise ConfigError("--force is for --output FILE: add it, or leave out --force")
    if output is not None:
        check_file(Path(output), force=force)
    runs = list(dict.fromkeys(run for name in names for run in find(name, runs_dir)))
    from dlcli.plots.curves import curves

    grouped = group_by is not None
    picture = curves(runs, what=what, metric=metric, x=x, log=log is not None, smooth=smooth, grouped=grouped)
    for note in picture.notes:
        say(note)
    show(picture, output=output, force=force)


def show(picture: "Picture", *, output: str | None, force: bool) -> None:
    """Write the picture into a file, or draw it on stdout."""
    if output is None:
        from dlcli.plots.characters import to_characters

        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
        ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
        drawn = to_characters(picture, width=width, ascii_only=ascii_only)
        write("".join(f"{plain(line)}\n" for line in drawn.splitlines()))
        return
    from dlcli.plots.file import write_picture

    file = Path(output)
    if file.suffix == ".csv":
        content = to_csv(*picture.table())
    elif file.suffix == ".html":
        from dlcli.plots.page import to_html

        content = to_html(picture)
    else:
        from dlcli.plots.svg import to_svg

        content = to_svg(picture)
    write_picture(content, file, force=force)
    say(f"written: {file}")
