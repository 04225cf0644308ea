"""images:FILE.csv: a list of image files, with the columns path, label and, if there are splits, split."""

import hashlib
import os
from pathlib import Path

from dlcli.core.errors import DataError
from dlcli.data.images.contents import Folder
from dlcli.data.images.layout import SPLITS, Layout, arranged, order
from dlcli.data.readers.cells import Table
from dlcli.data.readers.tables import read_table

SUFFIXES = (".csv", ".tsv")


def listed_layout(path: Path) -> Layout:
    """The images in a list; paths are relative to its folder, and none may lead out of it. DataError (exit 3) with the
    file and line of a row that cannot be used."""
    table = read_table(path)
    for name in ("path", "label"):
        if name not in table.columns:
            raise DataError(f"{path} has no column {name!r}: its first line must be path,label or path,label,split")
    files: dict[str, list[tuple[str, str]]] = {"train": [], "val": [], "test": []}
    inside, lines = _Inside(path.parent), dict[str, str]()
    for row in range(len(table)):
        name, label = inside.name(table, row), table.columns["label"].text(row)
        if not label:
            raise DataError(f"{table.where(row)}: there is no label: write one, or remove the row")
        if name in lines:
            raise DataError(f"{table.where(row)}: {name} is listed twice, first in {lines[name]}: remove one of them")
        lines[name] = table.where(row)
        files[_split(table, row)].append((name, label))
    if not files["train"]:
        raise DataError(f"{path} has no rows of train: add some, or leave out the column split")
    classes = {label for _, label in files["train"]}
    if len(classes) < 2:
        raise DataError(f"{path} has images of one class only ({min(classes)}): add those of another")
    files = {split: sorted(rows) for split, rows in files.items() if rows}
    places = {split: f"{path} (split {split})" for split in files}
    numbered, notes = arranged(files, places, mend="add rows of the same class there, or remove those rows")
    names = tuple(sorted(classes, key=order(classes)))
    labels = hashlib.sha256(repr((names, numbered)).encode(errors="surrogateescape")).hexdigest()
    return Layout(path.parent, names, numbered, (*table.notes, *notes), Folder(path.parent), labels)


class _Inside:
    """Paths in a list that stay inside its folder, also when links are followed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._real = os.path.realpath(root)
        self._known: dict[str, bool] = {}

    def name(self, table: Table, row: int) -> str:
        """Relative to the root."""
        text = table.columns["path"].text(row)
        name = os.path.normpath(os.path.relpath(text, self._root) if os.path.isabs(text) else text)
        folder = os.path.dirname(name)
        if folder not in self._known:
            real = os.path.realpath(os.path.join(self._root, folder))
            self._known[folder] = os.path.commonpath((real, self._real)) == self._real
        if not text or name.startswith("..") or not self._known[folder]:
            what = f"{text} is outside {self._root}" if text else "there is no path"
            raise DataError(f"{table.where(row)}: {what}: name a file in the folder of the list")
        return name


def _split(table: Table, row: int) -> str:
    if "split" not in table.columns:
        return "train"
    text = table.columns["split"].text(row)
    if text.casefold() not in SPLITS:
        raise DataError(f"{table.where(row)}: split {text!r} is none of train, val and test")
    return SPLITS[text.casefold()]
