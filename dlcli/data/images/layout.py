"""Which images a folder holds, in which class and split. Only names are read; hidden files and links are skipped."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dlcli.core.errors import DataError
from dlcli.data.readers.pictures import SUFFIXES

# Name of a sub-folder -> the split that it holds.
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

_MOST_ENTRIES = 5_000_000


@dataclass(frozen=True)
class Layout:
    """files: split (train, val, test) -> names relative to the root and classes of its images, in a fixed order;
    without sub-folders for splits there is only train. notes: what a person should know, one sentence each."""

    root: Path
    classes: tuple[str, ...]
    files: Mapping[str, list[tuple[str, int]]]
    notes: tuple[str, ...]


def layout(root: Path) -> Layout:
    """The images in `root/CLASS/`, or in `root/train/CLASS/`, `root/val/CLASS/` and `root/test/CLASS/`.

    The classes are those of the training split, in the order of their names, as numbers if all of them are. DataError
    (exit 3) if there are no images of two classes, or if val or test has a class that train has not.
    """
    if not root.is_dir():
        raise DataError(f"{root} " + ("is no folder: unpack it, and name the folder" if root.exists() else _MISSING))
    scan = _Scan(root)
    splits = _splits(scan)
    found = {split: scan.classes(folder) for split, folder in splits.items()}
    images = {name for name, files in found["train"].items() if files}
    where = root / splits["train"]
    if len(images) < 2:
        raise DataError(_too_few(where, found["train"], images, scan))
    classes = sorted(images)
    if all(name.isascii() and name.isdigit() for name in classes):
        classes.sort(key=int)
    notes = [f"{where}/{name} holds no images: it is no class" for name in sorted(found["train"].keys() - images)]
    for split, folder in splits.items():
        here = {name for name, files in found[split].items() if files}
        if new := sorted(here - images):
            raise DataError(
                f"{root / folder} has images of {_listed(new)}, which {where} has not: add images of the same class "
                "there, or move the folder away"
            )
        if not here:
            raise DataError(f"{root / folder} holds no images in folders of classes: fill it, or move it away")
        if lacking := [name for name in classes if name not in here]:
            notes.append(f"{root / folder} has no images of {_listed(lacking)}")
    if told := scan.told():
        notes.append(f"skipped in {root}: {told}")
    number = {name: k for k, name in enumerate(classes)}
    files = {
        split: [(file, number[name]) for name in classes for file in found[split].get(name, ())] for split in splits
    }
    return Layout(root, tuple(classes), files, tuple(notes))


_MISSING = "does not exist: name a folder with a sub-folder of images for each class"


class _Scan:
    """Reads folders below `root`, and counts what it skips."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._skipped: Counter[str] = Counter()
        self._seen = 0

    def folders(self, folder: str) -> list[str]:
        """The names of the sub-folders of a folder, sorted. folder: relative to the root, as everywhere."""
        return sorted(entry.name for entry in self._entries(folder) if entry.is_dir(follow_symlinks=False))

    def classes(self, folder: str) -> dict[str, list[str]]:
        """Sub-folder -> the images in it and in its own sub-folders, sorted."""
        found: dict[str, list[str]] = {}
        for entry in self._entries(folder, counted=True):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                found[entry.name] = self._images(name)
            else:
                self._skipped["not images" if not _is_image(entry) else "images outside the folders of classes"] += 1
        return found

    def told(self) -> str:
        return ", ".join(f"{count:,} {what}" for what, count in sorted(self._skipped.items()))

    def skip(self, folders: int) -> None:
        """Count sub-folders that are neither classes nor splits."""
        if folders:
            self._skipped["folders beside train/"] += folders

    def _images(self, folder: str) -> list[str]:
        found, waiting = [], [folder]
        while waiting:
            inside = waiting.pop()
            for entry in self._entries(inside, counted=True):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{inside}/{entry.name}")
                elif _is_image(entry):
                    found.append(f"{inside}/{entry.name}")
                else:
                    self._skipped["not images"] += 1
        return sorted(found)

    def _entries(self, folder: str, *, counted: bool = False) -> list[os.DirEntry[str]]:
        """All but hidden entries and links. counted: whether those are counted."""
        path = self.root / folder
        try:
            with os.scandir(path) as entries:
                found = list(entries)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        self._seen += len(found)
        if self._seen > _MOST_ENTRIES:
            raise DataError(f"{self.root} holds more than {_MOST_ENTRIES:,} files: name a smaller folder")
        kept = []
        for entry in found:
            what = "hidden" if entry.name.startswith(".") else "links" if entry.is_symlink() else ""
            if not what:
                kept.append(entry)
            elif counted:
                self._skipped[what] += 1
        return kept


def _splits(scan: _Scan) -> dict[str, str]:
    """Split -> its folder, relative to the root. `train` is the root itself if there are no folders for splits."""
    found: dict[str, str] = {}
    folders = scan.folders("")
    for name in folders:
        split = _SPLITS.get(name.casefold())
        if split is None or not scan.folders(name):  # a class may be called `train`, but it holds images, not folders
            continue
        if split in found:
            raise DataError(f"{scan.root} has both {found[split]}/ and {name}/: keep one of them")
        found[split] = name
    if not found:
        return {"train": ""}
    if "train" not in found:
        raise DataError(f"{scan.root} has {next(iter(found.values()))}/ but no train/: name the folder that holds both")
    scan.skip(len(folders) - len(found))
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and entry.is_file(follow_symlinks=False)


def _too_few(where: Path, classes: Mapping[str, list[str]], images: set[str], scan: _Scan) -> str:
    told = f" ({scan.told()})" if scan.told() else ""
    if not classes:
        return f"{where} has no sub-folders{told}: put the images of each class into a folder of its own"
    if not images:
        return f"{where} holds no images in its sub-folders{told}: known are {', '.join(SUFFIXES)}"
    (name,) = images
    return f"{where} has images of one class only ({name}): put those of another into a folder beside it"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return f"class {names[0]}" if len(names) == 1 else f"classes {', '.join(names[:10])}{more}"
