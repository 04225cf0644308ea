"""Which .txt files a folder holds, in which class and split. Hidden files and links are skipped."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dlcli.core.errors import DataError
from dlcli.core.reading import files_below
from dlcli.data.readers.text import MOST_BYTES, read_any_text
from dlcli.data.splits import PARTS, TRAIN

_MOST_FILES = 1_000_000


@dataclass(frozen=True)
class Labelled:
    """Texts, the class of each, where it stands (file, or file:line), and TRAIN, VAL or TEST, if the data says it of
    each. sha256: of all. notes: sentences for the user."""

    texts: list[str]
    labels: list[str]
    places: list[str]
    parts: list[int] | None
    sha256: str
    notes: tuple[str, ...]


def labelled_files(root: Path) -> Labelled:
    """The texts in `root/CLASS/`, or in `root/train/CLASS/`, `root/val/CLASS/` and `root/test/CLASS/`, where any but
    train may be missing. Files in folders below them belong to the class as well. DataError if there are none."""
    found, skipped = text_files(root)
    first = {path.relative_to(root).parts[0].casefold() for path in found}
    deep = all(len(path.relative_to(root).parts) > 2 for path in found)
    split = bool(found) and deep and "train" in {_name(part) for part in first} and first <= PARTS.keys()
    placed: list[tuple[Path, str]] = []
    for path in found:
        folders = path.relative_to(root).parts[split:-1]
        if folders:
            placed.append((path, folders[0]))
        else:
            skipped["outside the folders of classes"] += 1
    if not placed:
        told = f" ({listed(skipped)})" if skipped else ""
        raise DataError(f"{root} holds no .txt files in its sub-folders{told}: put those of each class into one")
    return _read(root, placed, split, skipped)


def _read(root: Path, placed: list[tuple[Path, str]], split: bool, skipped: Counter[str]) -> Labelled:
    digest = hashlib.sha256()
    texts, labels, names, parts = [], [], [], []
    foreign: list[Path] = []
    for path, label in placed:
        text, is_utf8 = read_any_text(path)
        if not is_utf8:
            foreign.append(path)
        if not text.strip():
            skipped["empty"] += 1
            continue
        texts.append(text.strip())
        labels.append(label)
        names.append(str(path))
        if split:
            parts.append(PARTS[path.relative_to(root).parts[0].casefold()])
        digest.update(
            f"{path.relative_to(root)}\0{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()}\0".encode(
                "utf-8", "surrogateescape"
            )
        )
    if not texts:
        raise DataError(f"{root} holds only empty .txt files")
    notes = [f"skipped in {root}: {listed(skipped)}"] if skipped else []
    if foreign:
        notes.append(f"{len(foreign):,} files are read as latin-1, since they are not UTF-8, such as {foreign[0]}")
    return Labelled(texts, labels, names, parts if split else None, digest.hexdigest(), tuple(notes))


def text_files(root: Path) -> tuple[list[Path], Counter[str]]:
    """The .txt files that are not hidden, in the order of their names, and how many others there are."""
    files = files_below(root, most=_MOST_FILES)
    if len(files) >= _MOST_FILES:
        raise DataError(f"{root} holds more than {_MOST_FILES:,} files: name a smaller folder")
    skipped: Counter[str] = Counter()
    found = []
    for path in files:
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            skipped["hidden"] += 1
        elif path.suffix.lower() != ".txt":
            skipped["not .txt"] += 1
        else:
            found.append(path)
    if sum(path.stat().st_size for path in found) > MOST_BYTES:
        raise DataError(f"{root} holds more than {MOST_BYTES:,} bytes of text: name a smaller folder")
    return found, skipped


def _name(part: str) -> str:
    return "train" if PARTS.get(part) == TRAIN else part


def listed(skipped: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in sorted(skipped.items()))
