"""What `dlcli explain --nearest` shows: the training samples that the last layer takes for most alike."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlcli.cli.explain_files import write_explanation
from dlcli.cli.output import Column, Format, emit, say

if TYPE_CHECKING:
    from dlcli.analysis.explain.nearest import Neighbours
    from dlcli.analysis.explain.subject import Subject
    from dlcli.plots.picture import Tile


def show_nearest(
    subject: "Subject",
    layer: str,
    found: "Sequence[Neighbours]",
    *,
    checkpoint: str,
    output: str | None,
    force: bool,
    format: Format,
) -> None:
    """A row for each neighbour, the nearest first."""
    from dlcli.analysis.explain.nearest import nearest_document, row

    rows = [{"input": each.sample.name, **row(near)} for each in found for near in each.neighbours]
    columns = [
        Column("input", "input", cut=24), Column("row", "row", lambda k: f"{k:,}", right=True),
        Column("similarity", "similarity", right=True), Column("target", "target"),
    ]  # fmt: skip
    columns += [Column("sample", "sample", cut=40)] if any("sample" in each for each in rows) else []
    document = nearest_document(subject, layer, found, checkpoint=checkpoint)
    emit(rows, columns, format=format, document=document)
    say(f"similarity: the cosine between what {layer} gets of both")
    say("row: of the training sample, in the data, from 0")
    if output is not None:
        from dlcli.plots.picture import Picture, Sheet

        sheets = [
            Sheet(f"{each.sample.name} and its nearest training samples", _tiles(subject, each)) for each in found
        ]
        write_explanation(Picture(f"nearest of {subject.run}", sheets), output, images={}, force=force)


def _tiles(subject: "Subject", each: "Neighbours") -> "list[Tile]":
    """The sample itself, then its neighbours: with their images, or else with their text or cells."""
    from dlcli.plots.picture import Tile
    from dlcli.plots.pixels import to_pngs

    samples = [each.sample, *(near.sample for near in each.neighbours)]
    is_image = subject.spec.kind == "image"
    images = [to_pngs(sample.x, subject.about)[0] if is_image else None for sample in samples]
    captions = [["the sample", *([each.sample.target] if each.sample.target else []), *([each.told] * bool(each.told))]]
    captions += [
        [f"row {near.row}", near.sample.target, f"cosine {near.similarity:.3f}", *([near.told] * bool(near.told))]
        for near in each.neighbours
    ]
    return [Tile(caption, image) for caption, image in zip(captions, images, strict=True)]
