"""The folder of `dlcli explain -o`: looked at before the work, written after it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.cli.output import say

if TYPE_CHECKING:
    from dlcli.plots.picture import Picture

NAME = "explanation"


def check_output(output: str | None, images: Sequence[str], *, force: bool) -> None:
    """As `check_folder`, of the picture and of these files beside it. output: None if nothing is written."""
    if output is not None:
        from dlcli.plots.folder import check_folder, picture_files

        check_folder(Path(output), [*picture_files(NAME), *images], force=force)


def write_explanation(picture: "Picture", output: str, *, images: Mapping[str, bytes], force: bool) -> None:
    from dlcli.plots.folder import write_picture

    written = write_picture(picture, Path(output), name=NAME, images=images, force=force)
    say(f"written: {len(written)} files in {output}, {', '.join(file.name for file in written[:3])}")
