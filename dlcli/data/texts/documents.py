"""text:FILE, text:FOLDER and text:FILE,FILE -> the documents of a language model, and in which split each is."""

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlcli.core.cache import user_cache
from dlcli.core.errors import ConfigError, DataError, ResourceError
from dlcli.core.files import write_bytes
from dlcli.core.reading import places
from dlcli.data.readers.text import MOST_BYTES, no_file, read_any_text
from dlcli.data.splits import PARTS, TEST, TRAIN, VAL
from dlcli.data.texts.folder import listed, text_files
from dlcli.data.texts.spelling import SEPARATOR

_PURPOSES = {TRAIN: "training", VAL: "validation", TEST: "testing"}


@dataclass(frozen=True)
class Documents:
    """texts: in the order of their files. parts: TRAIN, VAL or TEST of each, if the folders or options say it. sums:
    file -> sha256 of its text; empty for one file alone. notes: sentences for the user."""

    texts: tuple[str, ...]
    parts: tuple[int, ...] | None = None
    sums: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of all names and texts, and of the split of each."""
        digest = hashlib.sha256(bytes(self.parts or ()))
        for name, text in self.sums:
            digest.update(f"{name}\0{text}\0".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def read_documents(path: str, *, val: str | None = None, test: str | None = None) -> Documents:
    """The documents in a file, in several with commas between their names, or in all .txt files below a folder, sorted
    by their paths; the folders train, val and test in it say the splits, unless `val` and `test` name files or folders.

    ConfigError if a file is named twice, under whatever names; DataError for what cannot be read, for a split without
    text, and for files outside the folders that say the splits.
    """
    skipped: Counter[str] = Counter()
    found, parts = _files(path, skipped), None
    if val is not None or test is not None:
        parts = [TRAIN] * len(found)
        for part, own in ((VAL, val), (TEST, test)):
            more = _files(own, skipped) if own is not None else []
            found, parts = found + more, parts + [part] * len(more)
    elif len(places(path)) == 1 and (root := Path(path)).is_dir():
        parts = _said(root, found)
    _refuse_twice(path, found)
    if sum(file.stat().st_size for file in found if file.is_file()) > MOST_BYTES:
        raise DataError(f"{path} holds more than {MOST_BYTES:,} bytes of text: name less of it")
    return _read({TRAIN: path, VAL: val or path, TEST: test or path}, found, parts, skipped)


def _refuse_twice(path: str, found: Sequence[Path]) -> None:
    first: dict[str, Path] = {}
    for file in found:
        before = first.setdefault(os.path.realpath(file) if file.is_file() else str(file), file)
        if before is not file:
            told = f"{file} is named twice" if before == file else f"{before} and {file} are the same file"
            raise ConfigError(f"data text:{path}: {told}: name it once")


def _files(path: str, skipped: Counter[str]) -> list[Path]:
    found = []
    for place in map(Path, places(path)):
        if not place.is_dir():
            found.append(place)
            continue
        files, others = text_files(place)
        if not files:
            told = f" ({listed(others)})" if others else ""
            raise DataError(f"{place} holds no .txt files{told}: name another folder, or a file")
        skipped.update(others)
        found += files
    return found


def _said(root: Path, found: Sequence[Path]) -> list[int] | None:
    """The split of each file, if they lie in folders train, val or test, and there is one for training. DataError if
    some of them lie elsewhere."""
    parts = [PARTS.get(file.relative_to(root).parts[0].casefold()) for file in found]  # no name of a .txt file is one
    if TRAIN not in parts:
        return None
    strays = [str(file) for file, part in zip(found, parts, strict=True) if part is None]
    if strays:
        told = ", ".join(strays[:3]) + (f" and {len(strays) - 3:,} more" if len(strays) > 3 else "")
        raise DataError(
            f"{root} has folders for the splits, but also {told} outside them: move such files into one of them, "
            "or name folders with --val-data and --test-data"
        )
    return [part for part in parts if part is not None]


def _read(
    named: Mapping[int, str], files: Sequence[Path], parts: Sequence[int] | None, skipped: Counter[str]
) -> Documents:
    """named: of each split the place that the user named for it."""
    path = named[TRAIN]
    alone = len(files) == 1
    root = Path(os.path.commonpath([file.absolute().parent for file in files]))
    texts, kept, sums, foreign = [], [], [], []
    for place, file in enumerate(files):
        if not file.is_file():
            raise DataError(f"{file} {no_file(file)}")
        text, is_utf8 = read_any_text(file, control=alone)
        if not is_utf8:
            foreign.append(file)
        if not text.strip() and not alone:
            skipped["empty"] += 1
            continue
        texts.append(text)
        kept.append(TRAIN if parts is None else parts[place])
        sha256 = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
        sums.append((str(file.absolute().relative_to(root)), sha256))
    if not texts:
        raise DataError(f"{path} holds only empty .txt files")
    for part in dict.fromkeys(parts or ()):
        if part not in kept:
            raise DataError(f"{named[part]} has no text for {_PURPOSES[part]}: its files are empty")
    notes = [f"skipped in {path}: {listed(skipped)}"] if skipped else []
    if foreign:
        notes.append(_read_as_latin_1(foreign))
    return Documents(tuple(texts), None if parts is None else tuple(kept), () if alone else tuple(sums), tuple(notes))


def _read_as_latin_1(files: Sequence[Path]) -> str:
    if len(files) == 1:
        return f"{files[0]} is read as latin-1, since it is not UTF-8"
    return f"{len(files):,} files are read as latin-1, since they are not UTF-8, such as {files[0]}"


def joined(texts: Sequence[str], *, separated: bool) -> str:
    """One text. separated: whether SEPARATOR stands after each of them."""
    return "".join(f"{text}{SEPARATOR}" for text in texts) if separated else "".join(texts)


def remember(key: str, path: str, documents: Documents) -> None:
    """Keep the sums of files in the user's cache, so that it can be told later what has changed. A cache that cannot be
    written costs no more than that."""
    place = user_cache() / "texts"
    if not documents.sums or (place / f"{key}.json").exists():
        return
    with contextlib.suppress(OSError, ResourceError):
        place.mkdir(parents=True, exist_ok=True)
        write_bytes(place / f"{key}.sums", json.dumps(dict(documents.sums)).encode(), mark=f"{key}-")
        about = {"folder": str(Path(path).absolute()), "shape": [len(documents.texts)]}
        write_bytes(place / f"{key}.json", json.dumps(about).encode(), mark=f"{key}-")
