"""A picture in several formats, and images beside it, in a folder."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dlcli.core.errors import ConfigError, ResourceError
from dlcli.core.files import make_folder, write_bytes
from dlcli.plots.page import to_html
from dlcli.plots.picture import Picture
from dlcli.plots.png import can_draw, to_png
from dlcli.plots.svg import to_svg


def picture_files(name: str) -> list[str]:
    """The names of the files that `write_picture` writes."""
    return [f"{name}.svg", f"{name}.html", *([f"{name}.png"] if can_draw() else [])]


def safe_name(number: int, name: str) -> str:
    """A file name for the sample with this number, counted from 1: `01-photo`."""
    return f"{number:02d}-{re.sub(r'[^A-Za-z0-9_]+', '-', Path(name).stem or name).strip('-')[:60] or 'sample'}"


def check_folder(folder: Path, names: Sequence[str], *, force: bool) -> None:
    """ConfigError (exit 2) if the folder is a file, or one of these files is in it already, unless `force`.
    ResourceError (exit 6) if it cannot be written."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder} is a file: name a folder")
    there = next((folder / name for name in names if os.path.lexists(folder / name)), None)
    if there is not None and not force:
        raise ConfigError(f"--output {folder} holds {there.name}: add --force to replace it, or choose another folder")
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ResourceError(f"cannot write {folder}: {nearest} is not a folder that you may write to")


def write_picture(picture: Picture, folder: Path, *, name: str, images: Mapping[str, bytes], force: bool) -> list[Path]:
    """NAME.svg and NAME.html, NAME.png where resvg and a font are installed, and the images under their names. Each
    file is complete or not there. As `check_folder`."""
    check_folder(folder, [*picture_files(name), *images], force=force)
    try:
        make_folder(folder)
    except OSError as error:
        raise ResourceError(f"cannot write {folder}: {error.strerror or error}") from error
    drawn = to_svg(picture)
    contents = {
        f"{name}.svg": drawn.encode(errors="replace"),
        f"{name}.html": to_html(picture).encode(errors="replace"),
    }
    if can_draw():
        contents[f"{name}.png"] = to_png(drawn)
    for file, content in (contents | dict(images)).items():
        write_bytes(folder / file, content)
    return [folder / file for file in (*contents, *images)]
