"""dlcli plot"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.cli.arguments import DataDir, RunNames, RunsDir, one_of, split_option
from dlcli.cli.output import plain, say, to_csv, write
from dlcli.core.errors import ConfigError
from dlcli.runs.names import find

if TYPE_CHECKING:
    from dlcli.plots.picture import Picture
    from dlcli.runs.run import Run

_CURVES = ("curves", "lr")
_OF_ANSWERS = ("confusion", "roc", "pr", "calibration", "residuals", "fit", "errors")
_OF_IMAGES = ("samples", "weights")
WHAT = (*_CURVES, *_OF_ANSWERS, *_OF_IMAGES, "embedding", "columns")

# The pictures for which an option is; those that are not named are for all.
_FOR = {"metric": ("curves",), "x": _CURVES, "log": _CURVES, "smooth": _CURVES, "group-by": _CURVES,
        "split": (*_OF_ANSWERS, "embedding"), "data": (*_OF_ANSWERS, "samples", "embedding", "columns")}  # fmt: skip


def plot(
    names: RunNames = None,
    what: Annotated[
        str | None,
        typer.Option(
            "--what",
            metavar="|".join(WHAT),
            help="The picture. Without it, the curves, and of one run that dlcli eval measured also its confusion "
            "matrix or residuals.",
            callback=one_of("--what", *WHAT),
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="NAME", help="Draw the curves of this metric alone: accuracy, val/loss."),
    ] = None,
    x: Annotated[
        str | None,
        typer.Option(
            "--x",
            metavar="step|epoch|time|samples",
            help="What is on the x axis of curves; time is seconds of training.",
            show_default="epoch",
            callback=one_of("--x", "step", "epoch", "time", "samples"),
        ),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option(
            "--log", metavar="y", help="Make the y axis of curves logarithmic.", callback=one_of("--log", "y")
        ),
    ] = None,
    smooth: Annotated[
        float | None,
        typer.Option("--smooth", metavar="WEIGHT", help="Weight of the past in an exponential mean, below 1."),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by",
            metavar="config",
            help="Draw the mean and standard deviation of runs whose settings are equal apart from the seed.",
            callback=one_of("--group-by", "config"),
        ),
    ] = None,
    split: Annotated[
        str | None, split_option("The samples whose answers or embedding are drawn.", default="test")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option("--sweep", metavar="SWEEP", help="Draw each setting of a sweep against the result."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file to write: .svg, .html, .png (dlcli[plots]), or .csv of the numbers.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="NAME", help="Read this data, of the same shape as the run's own."),
    ] = None,
    data_dir: DataDir = None,
    runs_dir: RunsDir = "runs",
) -> None:
    """Draw runs over each other, in the terminal or into a file.

    curves are the losses and the metric of each evaluation, and lr is the
    learning rate.

    confusion, roc, pr (precision and recall) and calibration show the answers
    of a classifier to the samples of a split, residuals those of a regression,
    fit those of one with a single feature, and errors the worst mistakes. The
    answers are those that dlcli eval stored, else those of the best
    checkpoint.

    samples are the first images of the training, after augmentation; weights
    are the filters of the first layer of a model of images. embedding is what
    the last layer gets of each sample, projected onto two principal components,
    and columns how often the values of each column of a table occur in the
    training rows.
    """
    if not names and sweep is None:
        raise ConfigError("name the runs to draw: dlcli plot latest")
    from dlcli.config.ranges import check_range
    from dlcli.plots.file import check_file

    given: dict[str, Any] = {
        "metric": metric, "x": x, "log": log, "smooth": smooth, "group-by": group_by, "split": split,
        "data": data,
    }  # fmt: skip
    if sweep is not None and (names or what or any(value is not None for value in given.values())):
        raise ConfigError(f"--sweep {sweep} draws a sweep: leave out runs, and options for pictures of runs")
    for option, value in given.items():
        if value is not None and (what or "curves") not in _FOR[option]:
            raise ConfigError(
                f"--{option} is for --what {', '.join(_FOR[option])}: leave it out, or name such a picture"
            )
    check_range(smooth, "[0, 1)", name="--smooth")
    if force and output is None:
        raise ConfigError("--force is for --output FILE: add it, or leave out --force")
    if output is not None:
        check_file(Path(output), force=force)
        if Path(output).suffix == ".png":
            from dlcli.plots.png import check_installed

            check_installed()
    runs = list(dict.fromkeys(run for name in names or [] for run in find(name, runs_dir)))
    if sweep is not None:
        from dlcli.plots.sweep import sweep as of_sweep
        from dlcli.runs.sweeps import find_sweep

        picture = of_sweep(find_sweep(sweep, runs_dir))
    elif what in _OF_ANSWERS:
        from dlcli.plots.draw import of_answers
        from dlcli.plots.pixels import Place

        picture = of_answers(runs, what=what, split=split or "test", place=Place(data, data_dir))
    elif what in _OF_IMAGES:
        from dlcli.plots.draw import of_images
        from dlcli.plots.pixels import Place

        picture = of_images(runs, what=what, place=Place(data, data_dir))
    elif what in ("embedding", "columns"):
        from dlcli.plots.draw import of_columns, of_hidden
        from dlcli.plots.pixels import Place

        place = Place(data, data_dir)
        picture = (
            of_columns(runs, place=place) if what == "columns" else of_hidden(runs, split=split or "test", place=place)
        )
    else:
        from dlcli.plots.curves import curves

        picture = curves(
            runs,
            what=what or "curves",
            metric=metric,
            x=x or "epoch",
            log=log is not None,
            smooth=smooth or 0.0,
            grouped=group_by is not None,
        )
        if what is None and not any(value is not None for value in given.values()):
            picture = _with_answers(picture, runs)
    for note in picture.notes:
        say(note)
    show(picture, output=output, force=force)


def _with_answers(picture: "Picture", runs: "Sequence[Run]") -> "Picture":
    """With the picture of the stored answers to the test split, of a single run that has them."""
    if len(runs) != 1 or not (runs[0].path / "eval" / "test.json").exists():
        return picture
    from dlcli.plots.draw import stored_answers

    more = stored_answers(runs[0], "test")
    return picture if more is None else picture.beside(more)


def show(picture: "Picture", *, output: str | None, force: bool) -> None:
    """Write the picture into a file, or draw it on stdout."""
    if output is None:
        from dlcli.plots.characters import to_characters

        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
        ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
        drawn = to_characters(picture, width=width, ascii_only=ascii_only)
        write("".join(f"{plain(line)}\n" for line in drawn.splitlines()))
        return
    from dlcli.plots.file import write as write_file

    file, content = Path(output), ""
    if file.suffix == ".csv":
        content = to_csv(*picture.table())
    elif file.suffix == ".html":
        from dlcli.plots.page import to_html

        content = to_html(picture)
    else:
        from dlcli.plots.svg import to_svg

        content = to_svg(picture)
    if file.suffix == ".png":
        from dlcli.plots.png import to_png

        write_file(to_png(content), file, force=force)
    else:
        write_file(content, file, force=force)
    say(f"written: {file}")
