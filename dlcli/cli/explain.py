"""dlcli explain"""

from typing import Annotated

import typer

from dlcli.cli.arguments import CheckpointRole, DataDir, Device, RunName, RunsDir, folder, one_of, with_format
from dlcli.cli.output import Format, say, tell_damage
from dlcli.core.errors import ConfigError

_METHODS = ("gradient", "integrated", "gradcam", "occlusion")


@with_format
def explain(
    run: RunName,
    inputs: Annotated[
        list[str] | None, typer.Argument(metavar="INPUT...", help="Images, as dlcli predict takes them.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="|".join(_METHODS),
            help="How the map of an image is made.",
            show_default="gradcam for a model with convolutions, else integrated",
            callback=one_of("--method", *_METHODS),
        ),
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="Explain the score of this class.", show_default="the predicted"),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            metavar="NAME",
            help="The layer for --method gradcam.",
            show_default="the last with convolutions",
        ),
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(
            "--samples", metavar="0,5,7", help="Explain samples of the run's own data, by their places in the split."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="train|val|test",
            help="The split of --samples.",
            show_default="test",
            callback=one_of("--split", "train", "val", "test"),
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Make the weights of a copy random, and fail (exit 7) if the maps do not change."),
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Write explanation.svg and .html, .png where dlcli[plots] is installed, and the map of each image.",
            callback=folder("--output"),
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="NAME", help="Read --samples from this data, of the same shape as the run's."),
    ] = None,
    data_dir: DataDir = None,
    checkpoint: CheckpointRole = "best",
    device: Device = "auto",
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Show why a trained run answers what it answers.

    Of images: a map of the places that speak for a class. gradient is the
    derivative by each pixel, integrated are integrated gradients against a
    black image, gradcam is Grad-CAM, and occlusion covers one patch after the
    other. Each map is checked by deletion and insertion against random ones.
    """
    if force and output is None:
        raise ConfigError("--force is for --output FOLDER: add it, or leave out --force")
    if inputs and samples is not None:
        raise ConfigError(f"--samples {samples} takes the place of inputs: leave out one of them")
    if not inputs and samples is None:
        raise ConfigError("name what to explain: files, or samples of the run's own data, as in --samples 0,5,7")
    for option, value in (("split", split), ("data", data)):
        if value is not None and samples is None:
            raise ConfigError(f"--{option} {value} is for --samples: add it, or leave out --{option}")
    from dlcli.analysis.explain.inputs import parse_places

    places = None if samples is None else parse_places(samples)
    from dlcli.runs.names import find_one

    found = find_one(run, runs_dir)
    from dlcli.analysis.explain.subject import Subject
    from dlcli.experiment.restore import restore

    restored = restore(found, role=checkpoint, device=device)
    tell_damage(restored.checkpoint.damage)
    subject = Subject.of(restored)
    for option, value in (("method", method), ("layer", layer), ("check", "" if check else None)):
        if value is not None and subject.spec.kind != "image":
            told = f"--{option} {value}".strip()
            raise ConfigError(f"{told} is for images, and {found} expects {subject.spec}: leave it out")
    from dlcli.analysis.explain.inputs import from_files, from_split

    if places is None:
        chosen = from_files(subject, inputs or [], tell=say)
    else:
        from dlcli.evaluation.measure import data_of

        chosen = from_split(subject, data_of(restored, data, data_dir), split or "test", places)
    from dlcli.cli.explain_images import show_images

    show_images(
        subject,
        chosen,
        method=method,
        layer=layer,
        class_name=class_name,
        check=check,
        checkpoint=checkpoint,
        output=output,
        force=force,
        format=format,
    )
