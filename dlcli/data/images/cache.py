"""Decoded images, kept in the user's cache: each set of files is decoded once for each size.

`KEY.pixels` holds uint8 pixels (N, H, W, C); KEY is the sha256 of what they are made of: names and contents of the
files, and how they were fitted. `KEY.sums` lists the files with their sha256, so that it can be told what has changed.
`KEY.json` is written last; without it there is no entry. `FOLDER.files` tells, of each
file of a folder, what it held when it was last changed, so that unchanged files are not read again. The lock of a
folder lets one process decode, and others wait for it.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dlcli.core.cache import user_cache
from dlcli.core.errors import ResourceError, RunError
from dlcli.core.files import flush_folder, held, write_bytes, write_json
from dlcli.core.reading import parse_json, read_bytes, read_json
from dlcli.data.images.decoding import Facts, Stamp, decode, decoded, stamp_of
from dlcli.data.readers.pictures import Fit

# Of the code that decodes: other pixels for the same file need another number.
_VERSION = 1

_MOST_FILES_JSON = 2_000_000_000
_LARGEST_SHARED = 256  # pixels; larger images that all have one size are photographs of one camera
_OTHERWISE = 64
_LOOKED_AT = 32  # files, before all are decoded
_NEWS_EVERY = 10.0  # seconds between two progress lines
_CLOCK_TICK = 20_000_000  # ns in which a file may change twice without another time

_log = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """size: height and width in pixels; 0 for the size that all images share, if that is at most 256, else 64.
    channels: 1 or 3; 0 for grey if all images are, else colour. crop: see Fit."""

    size: int
    channels: int
    crop: str

    def fit(self, facts: Sequence[Facts]) -> Fit:
        good = [fact for fact in facts if not fact.problem]
        channels = self.channels or (1 if good and all(fact.grey for fact in good) else 3)
        sizes = {(fact.height, fact.width) for fact in good}
        shared = len(sizes) == 1 and max(next(iter(sizes))) <= _LARGEST_SHARED
        height, width = sizes.pop() if shared and not self.size else (self.size or _OTHERWISE,) * 2
        return Fit(channels, height, width, self.crop)


@dataclass(frozen=True)
class Stored:
    """pixels: uint8 (N, C, H, W) in channels-last memory, of the files without a problem; None if there are none.
    facts: of all files. mapped: whether the pixels are read from the disk when they are used. key: see above."""

    pixels: Tensor | None
    facts: Sequence[Facts]
    fit: Fit
    key: str
    mapped: bool


def stored(root: Path, names: Sequence[str], wanted: Wanted, *, most_in_memory: int) -> Stored:
    """The decoded images `root/NAME`, from the cache if they are there.

    most_in_memory: bytes of pixels; more are memory-mapped. ResourceError (exit 6) if the cache cannot be written.
    """
    folder = user_cache() / "images"
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    place = _Place(root.absolute(), names, folder)
    found = _found(place, wanted, most_in_memory)
    if found is None:
        with place.alone():
            found = _found(place, wanted, most_in_memory)  # by the process that was waited for
            if found is None:
                facts = _decode_all(place, wanted)
                found = _opened(place, facts, wanted.fit(facts), most_in_memory)
    if found is None:
        raise ResourceError(f"the images that were just decoded to {folder} cannot be read again: look after that disk")
    return found


@dataclass(frozen=True)
class _Place:
    """The files `root/NAME` and the folder of the cache."""

    root: Path
    names: Sequence[str]
    folder: Path

    @property
    def paths(self) -> list[str]:
        return [os.path.join(self.root, name) for name in self.names]

    @property
    def mark(self) -> str:
        """Of everything in the cache that belongs to this root alone."""
        return hashlib.sha256(os.fsencode(self.root)).hexdigest()[:32]

    @property
    def known(self) -> Path:
        return self.folder / f"{self.mark}.files"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for the lock of the root and hold it; remove what killed processes left."""
        path = self.folder / f"{self.mark}.lock"
        with _told(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)

        def waiting() -> None:
            _log.warning("waiting for another process that decodes the images of %s", self.root)

        with held(descriptor, waiting=waiting) as alone:
            for leftover in self.folder.glob(f".tmp-{self.mark}-*") if alone else ():
                leftover.unlink(missing_ok=True)
            yield


def _found(place: _Place, wanted: Wanted, most_in_memory: int) -> Stored | None:
    """From the cache; None if a file has changed, or the pixels are not there or damaged."""
    facts = _known_facts(place)
    return None if facts is None else _opened(place, facts, wanted.fit(facts), most_in_memory)


def _known_facts(place: _Place) -> list[Facts] | None:
    """Of all files; None if one of them is new or has changed."""
    try:
        document = parse_json(read_bytes(place.known, most=_MOST_FILES_JSON))
        rows = document["files"] if document["version"] == _VERSION else {}
        facts = []
        for name, path in zip(place.names, place.paths, strict=True):
            stamp, *rest = rows[name]
            fact = Facts(Stamp(*stamp), *rest)
            if stamp_of(os.lstat(path)) != fact.stamp:
                return None
            facts.append(fact)
    except (OSError, ValueError, KeyError, TypeError, RunError):  # also an unreadable record of known files
        return None
    return facts


def _opened(place: _Place, facts: Sequence[Facts], fit: Fit, most_in_memory: int) -> Stored | None:
    key, count = _key(place.names, facts, fit), sum(not fact.problem for fact in facts)
    shape = (count, fit.height, fit.width, fit.channels)
    size = count * fit.height * fit.width * fit.channels
    if not count:
        return Stored(None, facts, fit, key, mapped=False)
    path = place.folder / f"{key}.pixels"
    try:
        described = read_json(place.folder / f"{key}.json")
        if described["shape"] != list(shape) or os.lstat(path).st_size != size:
            raise ValueError
        if size > most_in_memory:
            pixels, mapped = _mapped(path), True
        else:
            content = np.fromfile(path, dtype=np.uint8)
            if hashlib.sha256(content.data).hexdigest() != described["sha256"]:
                raise ValueError
            pixels, mapped = torch.from_numpy(content), False
    except (RunError, FileNotFoundError, ValueError, KeyError, TypeError):
        if path.exists():
            _log.warning("what the cache holds of %s is damaged: the images are decoded again", place.root)
        return None
    except OSError as error:
        raise ResourceError(f"{path} cannot be read: {error.strerror}") from None
    return Stored(pixels.view(shape).permute(0, 3, 1, 2), facts, fit, key, mapped)


def _mapped(path: Path) -> Tensor:
    """The bytes of a file, which are read when they are used and must not be written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch knows no tensors that cannot be written
        return torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="r"))


def _key(names: Sequence[str], facts: Sequence[Facts], fit: Fit) -> str:
    digest = hashlib.sha256(repr((_VERSION, *fit)).encode())
    for name, fact in zip(names, facts, strict=True):
        digest.update(b"%s\0%s\n" % (os.fsencode(name), fact.sha256.encode()))
    return digest.hexdigest()


def _decode_all(place: _Place, wanted: Wanted) -> list[Facts]:
    """Decode all files, and add to the cache what was found. The caller holds the lock.

    Size and channels may depend on all files. They are guessed from a few; if the guess was wrong, all are decoded
    again.
    """
    started, paths = time.time_ns(), place.paths
    _log.warning("decoding %s images of %s, once; they are kept in %s", f"{len(paths):,}", place.root, place.folder)
    some, _ = decode(paths[:: -(-len(paths) // _LOOKED_AT)], None)
    guess = wanted.fit(some)
    facts = _write(place, guess, wanted)
    if wanted.fit(facts) != guess:
        facts = _write(place, wanted.fit(facts), wanted)
    # A file that has just been changed could change again without another time.
    old = {n: f for n, f in zip(place.names, facts, strict=True) if f.stamp.changed < started - _CLOCK_TICK}
    write_bytes(place.known, json.dumps({"version": _VERSION, "folder": str(place.root), "files": old}).encode())
    return facts


def _write(place: _Place, fit: Fit, wanted: Wanted) -> list[Facts]:
    """Decode all files, and add the pixels to the cache if they are as `wanted`."""
    needed = len(place.names) * fit.height * fit.width * fit.channels
    temporary = place.folder / f".tmp-{place.mark}-{uuid.uuid4().hex}"
    facts: list[Facts] = []
    digest, news = hashlib.sha256(), time.monotonic()
    try:
        with _told(place.folder, needed=needed):
            if shutil.disk_usage(place.folder).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with open(temporary, "xb") as file:
                for some, pixels in decoded(place.paths, fit):
                    facts += some
                    digest.update(pixels)
                    file.write(pixels)
                    if time.monotonic() - news >= _NEWS_EVERY:
                        news = time.monotonic()
                        _log.warning("%s of %s images", f"{len(facts):,}", f"{len(place.names):,}")
                file.flush()
                os.fsync(file.fileno())
            if wanted.fit(facts) == fit and (count := sum(not fact.problem for fact in facts)):
                key = _key(place.names, facts, fit)
                os.replace(temporary, place.folder / f"{key}.pixels")
                flush_folder(place.folder)
                sums = {name: fact.sha256 for name, fact in zip(place.names, facts, strict=True)}
                write_bytes(place.folder / f"{key}.sums", json.dumps(sums).encode())
                shape = [count, fit.height, fit.width, fit.channels]
                described = {"shape": shape, "sha256": digest.hexdigest(), "folder": str(place.root)}
                write_json(place.folder / f"{key}.json", described)
    finally:
        temporary.unlink(missing_ok=True)
    return facts


def changes(before: str, after: str) -> str:
    """`3 new, 1 missing, 2 changed`: how the files of two keys differ; empty if the cache does not know."""
    try:
        one, other = (_sums(key) for key in (before, after))
    except (OSError, ValueError):
        return ""
    counts = {
        "new": len(other.keys() - one.keys()),
        "missing": len(one.keys() - other.keys()),
        "changed": sum(one[name] != other[name] for name in one.keys() & other.keys()),
    }
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def _sums(key: str) -> dict[str, str]:
    found = parse_json(read_bytes(user_cache() / "images" / f"{key}.sums", most=_MOST_FILES_JSON))
    if not isinstance(found, dict):
        raise ValueError
    return found


@contextlib.contextmanager
def _told(path: Path, *, needed: int = 0) -> Iterator[None]:
    """Turns OSError into ResourceError (exit 6). needed: bytes to be written."""
    try:
        yield
    except OSError as error:
        space = f" ({needed / 1e6:,.1f} MB needed)" if needed else ""
        raise ResourceError(
            f"cannot write {path}: {error.strerror}{space}; name another folder for caches in XDG_CACHE_HOME"
        ) from None
