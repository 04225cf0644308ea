"""What `dlcli explain --attention TEXT` shows: which steps look at which, by layer and head."""

import sys
from typing import TYPE_CHECKING

from dlcli.cli.explain_files import write_explanation
from dlcli.cli.output import Column, Format, emit, say

if TYPE_CHECKING:
    from dlcli.analysis.explain.attention import AttentionMaps
    from dlcli.analysis.explain.subject import Subject

_COLUMNS = [
    Column("layer", "layer"), Column("head", "head", right=True), Column("entropy", "entropy", right=True),
    Column("itself", "to itself", right=True), Column("previous", "to the one before", right=True),
    Column("first", "to the first", right=True),
]  # fmt: skip


def show_attention(
    subject: "Subject", found: "AttentionMaps", *, checkpoint: str, output: str | None, force: bool, format: Format
) -> None:
    from dlcli.cli.plot import show
    from dlcli.plots.picture import Grid, Picture

    names = [repr(token)[1:-1] or "-" for token in found.tokens]
    grids = [
        Grid(f"{head.layer}, head {head.head}", "what is looked at", "who looks", names, head.weights.tolist())
        for head in found.heads
    ]
    picture = Picture(f"attention of {subject.run}", grids)
    if format is Format.table and output is None and sys.stdout.isatty():
        show(picture, output=None, force=False)
    document = found.as_dict(subject, checkpoint=checkpoint)
    emit([head.facts() for head in found.heads], _COLUMNS, format=format, document=document)
    say(f"{len(found.heads)} heads over {len(found.tokens):,} tokens; entropy in bits")
    if output is not None:
        write_explanation(picture, output, images={}, force=force)
