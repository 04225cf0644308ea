"""dlcli explain"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.cli.arguments import (
    CheckpointRole,
    DataDir,
    Device,
    RunName,
    RunsDir,
    folder,
    one_of,
    split_option,
    with_format,
)
from dlcli.cli.explain_files import check_output
from dlcli.cli.output import Format, say, tell_damage
from dlcli.core.errors import ConfigError

if TYPE_CHECKING:
    from dlcli.analysis.explain.inputs import Sample
    from dlcli.analysis.explain.subject import Subject

_METHODS = ("gradient", "integrated", "gradcam", "occlusion")


@with_format
def explain(
    run: RunName,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT...", help="Images, tables or texts, as dlcli predict takes them."),
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
            "--samples",
            metavar="0,5,7",
            help="Explain samples of the run's own data, by their places in the split, from 0.",
        ),
    ] = None,
    split: Annotated[str | None, split_option("The split of --samples or --columns.", default="test")] = None,
    columns: Annotated[
        bool,
        typer.Option("--columns", help="Tell which columns of a table matter, and how the answer depends on them."),
    ] = False,
    attention: Annotated[
        str | None,
        typer.Option("--attention", metavar="TEXT", help="Show how the attention layers of a model look at a text."),
    ] = None,
    nearest: Annotated[
        int | None,
        typer.Option(
            "--nearest", metavar="K", help="Show the K training samples that are most alike in the last layer."
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
            help="Write explanation.svg and .html, .png where dlcli[plots] and a font are, and the map of each image.",
            callback=folder("--output"),
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="NAME", help="Read this data, of the same shape as the run's own."),
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

    Of rows of a table and of texts: what each column or each token adds to
    the answer, by integrated gradients. Of a language model: which characters
    speak for the next one.
    """
    _check_options(
        inputs,
        {"--samples": samples, "--split": split, "--data": data, "--method": method, "--layer": layer,
         "--class": class_name, "--check": "" if check else None},
        {"--columns": "" if columns else None, "--attention": attention, "--nearest": nearest},
    )  # fmt: skip
    if force and output is None:
        raise ConfigError("--force is for --output FOLDER: add it, or leave out --force")
    from dlcli.analysis.explain.inputs import parse_places

    places = None if samples is None else parse_places(samples)
    from dlcli.runs.names import find_one

    found = find_one(run, runs_dir)
    from dlcli.analysis.explain.subject import Subject
    from dlcli.experiment.restore import restore

    restored = restore(found, role=checkpoint, device=device)
    tell_damage(restored.checkpoint.damage)
    subject = Subject.of(restored)
    kind = subject.spec.kind
    for option, value in (("--method", method), ("--layer", layer), ("--check", "" if check else None)):
        if value is not None and kind != "image":
            raise ConfigError(
                f"{f'{option} {value}'.strip()} is for images, and {found} expects {subject.spec}: leave it out"
            )
    if attention is not None and kind != "tokens":
        raise ConfigError(f"--attention is for texts, and {found} expects {subject.spec}: leave it out")
    if columns and kind != "features":
        raise ConfigError(f"--columns is for columns of tables and for features, and {found} expects {subject.spec}")
    subject.number(class_name)
    if kind != "image" or nearest is not None:
        check_output(output, [], force=force)
    shown: dict[str, Any] = {"checkpoint": checkpoint, "output": output, "force": force, "format": format}
    if attention is not None:
        from dlcli.analysis.explain.attention import attention_maps
        from dlcli.cli.explain_attention import show_attention

        (text,) = _samples(subject, [attention])
        show_attention(subject, attention_maps(subject, text.x), **shown)
        return
    dataset = None
    if places is not None or columns or nearest is not None or kind == "features":
        from dlcli.evaluation.measure import data_of

        dataset = data_of(restored, data, data_dir)
    if columns:
        assert dataset is not None
        from dlcli.analysis.explain.columns import explain_columns
        from dlcli.cli.explain_columns import show_columns

        about = explain_columns(restored, subject, dataset, split=split or "test", class_name=class_name)
        show_columns(subject, about, **shown)
        return
    if places is not None:
        assert dataset is not None
        from dlcli.analysis.explain.inputs import from_split

        chosen = from_split(subject, dataset, split or "test", places)
    else:
        chosen = _samples(subject, inputs or [])
    if nearest is not None:
        assert dataset is not None
        from dlcli.analysis.explain import nearest as near
        from dlcli.cli.explain_nearest import show_nearest

        layer_name, neighbours = near.nearest(restored, subject, chosen, dataset, count=nearest)
        show_nearest(subject, layer_name, neighbours, **shown)
    elif kind == "image":
        from dlcli.cli.explain_images import show_images

        show_images(subject, chosen, method=method, layer=layer, class_name=class_name, check=check, **shown)
    elif kind == "features":
        assert dataset is not None
        from dlcli.analysis.explain.rows import explain_rows, mean_row
        from dlcli.cli.explain_parts import show_parts

        rows = explain_rows(subject, chosen, mean_row(dataset), class_name=class_name)
        show_parts(subject, rows, of="columns", **shown)
    else:
        from dlcli.analysis.explain.texts import explain_texts
        from dlcli.cli.explain_parts import show_parts

        show_parts(subject, explain_texts(subject, chosen, class_name=class_name), of="tokens", **shown)


def _check_options(inputs: Sequence[str] | None, given: Mapping[str, str | None], whats: Mapping[str, Any]) -> None:
    """ConfigError for options that exclude each other, or need one another. whats: what is shown in the place of an
    explanation of each sample."""
    options = {name: value for name, value in given.items() if value is not None}
    asked = [name for name, value in whats.items() if value is not None]
    if len(asked) > 1:
        raise ConfigError(f"{asked[0]} and {asked[1]} exclude each other: choose one")
    samples, what = options.get("--samples"), asked[0] if asked else None
    suits = {
        "--columns": ("--split", "--data", "--class"), "--attention": (),
        "--nearest": ("--samples", "--split", "--data"),
    }  # fmt: skip
    if what is not None and (left := [name for name in options if name not in suits[what]]):
        raise ConfigError(f"{f'{left[0]} {options[left[0]]}'.strip()} does not go with {what}: leave out one of them")
    if what in ("--columns", "--attention"):
        if inputs:
            raise ConfigError(f"{what} takes no inputs: leave out {inputs[0]}, or {what}")
        return
    if inputs and samples is not None:
        raise ConfigError(f"--samples {samples} takes the place of inputs: leave out one of them")
    if not inputs and samples is None:
        raise ConfigError("name what to explain: files, or samples of the run's own data, as in --samples 0,5,7")
    if samples is None and "--split" in options:
        raise ConfigError(f"--split {options['--split']} is for --samples: add it, or leave out --split")
    if samples is None and "--data" in options and what is None:
        raise ConfigError(f"--data {options['--data']} is for --samples: add it, or leave out --data")


def _samples(subject: "Subject", inputs: Sequence[str]) -> "list[Sample]":
    if subject.spec.task == "next-token":
        from dlcli.analysis.explain.texts import prompts

        return prompts(subject, inputs, tell=say)
    from dlcli.analysis.explain.inputs import from_files

    return from_files(subject, inputs, tell=say)
