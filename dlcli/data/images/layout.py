"""Which images a folder or an archive holds, in which class and split. Only names are read; hidden files and links are
skipped."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dlcli.core.errors import DataError
from dlcli.data.images.contents import Contents, Folder
from dlcli.data.readers.pictures import SUFFIXES

# Name of a split, or of the sub-folder that holds it -> the split.
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

MOST_ENTRIES = 5_000_000

# A folder is given up after so many files, if not even one in twenty is an image: it may be the root of a disk.
_DOUBTFUL = 100_000


class Entry(NamedTuple):
    """Of a folder. kind: folder, file, link or other."""

    name: str
    kind: str


@dataclass(frozen=True)
class Layout:
    """files: split (train, val, test) -> names and classes of its images, in a fixed order; without splits there is
    only train. notes: what a person should know, one sentence each. labels: what else identifies the data, if the
    classes do not follow from the names."""

    root: Path
    classes: tuple[str, ...]
    files: Mapping[str, list[tuple[str, int]]]
    notes: tuple[str, ...]
    contents: Contents
    labels: str = ""


def layout(root: Path) -> Layout:
    """The images in `root/CLASS/`, or in `root/train/CLASS/`, `root/val/CLASS/` and `root/test/CLASS/`.

    The classes are those of the training split, in the order of their names, as numbers if all of them are. DataError
    (exit 3) if there are no images of two classes, or if val or test has a class that train has not.
    """

    def entries(folder: str) -> list[Entry]:
        path = root / folder
        try:
            with os.scandir(path) as found:
                return [Entry(entry.name, _kind(entry)) for entry in found]
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None

    return tree(root, entries, Folder(root))


def tree(root: Path, entries: Callable[[str], Sequence[Entry]], contents: Contents) -> Layout:
    """As `layout`, of any tree of folders. entries: what is in a folder, named relative to the root."""
    scan = _Scan(root, entries)
    splits = _splits(scan)
    found = {split: scan.classes(folder) for split, folder in splits.items()}
    images = {name for name, files in found["train"].items() if files}
    where = root / splits["train"]
    if len(images) < 2:
        raise DataError(_too_few(where, found["train"], images, scan))
    notes = [f"{where}/{name} holds no images: it is no class" for name in sorted(found["train"].keys() - images)]
    for split, folder in splits.items():
        if not any(found[split].values()):
            raise DataError(f"{root / folder} holds no images in folders of classes: fill it, or move it away")
    files = {
        split: [(file, name) for name in sorted(found[split], key=order(images)) for file in found[split][name]]
        for split in splits
    }
    arranged_, more = arranged(
        files, {split: str(root / folder) for split, folder in splits.items()},
        mend="add images of the same class there, or move the folder away",
    )  # fmt: skip
    notes += more
    if told := scan.told():
        notes.append(f"skipped in {root}: {told}")
    return Layout(root, tuple(sorted(images, key=order(images))), arranged_, tuple(notes), contents)


def order(classes: set[str]) -> Callable[[str], tuple[int, str]]:
    """A key that sorts names of classes, as numbers if all are."""
    numbers = all(name.isascii() and name.isdigit() for name in classes)
    return lambda name: (int(name) if numbers and name.isdigit() else 0, name)


def arranged(
    files: Mapping[str, list[tuple[str, str]]], places: Mapping[str, str], *, mend: str
) -> tuple[dict[str, list[tuple[str, int]]], list[str]]:
    """split -> images and the number of their class among those of train; and notes on classes that a split lacks.

    places: split -> how it is called in a message. DataError, with `mend`, if a split has a class that train has not.
    """
    classes = {name for _, name in files["train"]}
    number = {name: k for k, name in enumerate(sorted(classes, key=order(classes)))}
    notes = []
    for split, rows in files.items():
        here = {name for _, name in rows}
        if new := sorted(here - classes):
            raise DataError(f"{places[split]} has images of {_listed(new)}, which {places['train']} has not: {mend}")
        if lacking := [name for name in number if name not in here]:
            notes.append(f"{places[split]} has no images of {_listed(lacking)}")
    return {split: [(file, number[name]) for file, name in rows] for split, rows in files.items()}, notes


class _Scan:
    """Reads folders below `root`, and counts what it skips."""

    def __init__(self, root: Path, entries: Callable[[str], Sequence[Entry]]) -> None:
        self.root = root
        self._all_entries = entries
        self._skipped: Counter[str] = Counter()
        self._seen = self._found = 0

    def folders(self, folder: str) -> list[str]:
        """The names of the sub-folders of a folder, sorted. folder: relative to the root, as everywhere."""
        return sorted(entry.name for entry in self._entries(folder) if entry.kind == "folder")

    def classes(self, folder: str) -> dict[str, list[str]]:
        """Sub-folder -> the images in it and in its own sub-folders, sorted."""
        found: dict[str, list[str]] = {}
        for entry in self._entries(folder, counted=True):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.kind == "folder":
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
                if entry.kind == "folder":
                    waiting.append(f"{inside}/{entry.name}")
                elif _is_image(entry):
                    found.append(f"{inside}/{entry.name}")
                else:
                    self._skipped["not images"] += 1
        return sorted(found)

    def _entries(self, folder: str, *, counted: bool = False) -> list[Entry]:
        """All but hidden entries and links. counted: whether those are counted."""
        found = self._all_entries(folder)
        self._seen += len(found)
        if self._seen > MOST_ENTRIES:
            raise DataError(f"{self.root} holds more than {MOST_ENTRIES:,} files: name a smaller folder")
        self._found += sum(map(_is_image, found))
        if self._seen > _DOUBTFUL and self._found * 20 < self._seen:
            raise DataError(
                f"{self.root} holds {self._found:,} images among its first {self._seen:,} files: name the folder "
                "of images"
            )
        kept = []
        for entry in found:
            what = "hidden" if entry.name.startswith(".") else "links" if entry.kind == "link" else ""
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
        split = SPLITS.get(name.casefold())
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


def _kind(entry: "os.DirEntry[str]") -> str:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


def _is_image(entry: Entry) -> bool:
    return entry.kind == "file" and entry.name.lower().endswith(SUFFIXES)


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
