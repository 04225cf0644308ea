"""Decoded images, kept in the user's cache: each set of files is decoded once for each size.

`KEY.pixels` holds uint8 pixels (N, H, W, C), `KEY.moments` the sums of those and of their squares (N, 2, C), for images
that are decoded batch by batch; KEY is the sha256 of what they are made of: names and contents of the files, and how
they were fitted. `KEY.sums` lists the files with their sha256, so that it can be told what has changed. `KEY.json` is
written last; without it there is no entry (for moments `KEY.moments.json`). `FOLDER.files` tells, of each file of a
folder, what it held when it was last changed, so that unchanged files are not read again. The lock of a folder lets one
process decode, and others wait for it.
"""

import contextlib
import errno
import hashlib
import json
import logging
import math
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

from dlcli.core.cache import told, user_cache
from dlcli.core.errors import ResourceError, RunError
from dlcli.core.files import flush_folder, held, with_checksum, write_bytes
from dlcli.core.reading import parse_json, read_bytes, read_json
from dlcli.data.images.contents import Contents, Items
from dlcli.data.images.decoding import NO_STAMP, Facts, Stamp, decode, decoded
from dlcli.data.images.entries import MOST_FILES_JSON
from dlcli.data.readers.pictures import Fit

# Of the code that decodes: other pixels for the same file need another number.
_VERSION = 3

_LARGEST_SHARED = 256  # pixels; larger images that all have one size are photographs of one camera
_OTHERWISE = 64
_LOOKED_AT = 32  # files, before all are decoded
_NEWS_EVERY = 10.0  # seconds between two progress lines
_CLOCK_TICK = 20_000_000  # ns in which a file may change twice without another time

_log = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """size: height and width in pixels; 0 for the size that all images share, if that is at most 256, else 64.
    channels: 1 or 3; 0 for grey if all images are, else colour. crop, interpolation: see Fit."""

    size: int
    channels: int
    crop: str
    interpolation: str = "bilinear"

    def fit(self, facts: Sequence[Facts]) -> Fit:
        good = [fact for fact in facts if not fact.problem]
        channels = self.channels or (1 if good and all(fact.grey for fact in good) else 3)
        sizes = {(fact.height, fact.width) for fact in good}
        shared = len(sizes) == 1 and max(next(iter(sizes))) <= _LARGEST_SHARED
        height, width = sizes.pop() if shared and not self.size else (self.size or _OTHERWISE,) * 2
        return Fit(channels, height, width, self.crop, self.interpolation)


class Storage(NamedTuple):
    """kind: memory (pixels are loaded), cache (they are memory-mapped) or files (decoded for each batch, only their
    moments are kept); auto takes memory up to `most_in_memory` bytes, else the cache, or files if the disk of the cache
    is too small. workers: processes that decode."""

    kind: str
    workers: int
    most_in_memory: int = 1_000_000_000


@dataclass(frozen=True)
class Stored:
    """pixels: uint8 (N, C, H, W) in channels-last memory, of the files without a problem; None if there are none, or if
    they are decoded batch by batch. moments: int64 (N, 2, C) of those. facts: of all files. kind: memory, cache or
    files. key: see above."""

    pixels: Tensor | None
    moments: Tensor | None
    facts: Sequence[Facts]
    fit: Fit
    key: str
    kind: str


def stored(
    root: Path, names: Sequence[str], contents: Contents, wanted: Wanted, storage: Storage, *, labels: str = ""
) -> Stored:
    """The decoded images of these names, from the cache if they are there.

    labels: what else the key depends on. ResourceError (exit 6) if the cache cannot be written.
    """
    folder = user_cache() / "images"
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    place = _Place(root.absolute(), names, contents, folder, labels)
    found = _found(place, wanted, storage, tell=False)
    if found is None:
        with place.alone():
            found = _found(place, wanted, storage, tell=True)  # by the process that was waited for
            if found is None:
                facts = _decode_all(place, wanted, storage)
                found = _opened(place, facts, wanted.fit(facts), storage, tell=True)
    if found is None:
        raise ResourceError(f"the images that were just decoded to {folder} cannot be read again: look after that disk")
    return found


@dataclass(frozen=True)
class _Place:
    """The images of `names` in a folder or file, and the folder of the cache."""

    root: Path
    names: Sequence[str]
    contents: Contents
    folder: Path
    labels: str

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
        with told(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)

        def waiting() -> None:
            _log.warning("waiting for another process that decodes the images of %s", self.root)

        with held(descriptor, waiting=waiting) as alone:
            for leftover in self.folder.glob(f".tmp-{self.mark}-*") if alone else ():
                leftover.unlink(missing_ok=True)
            yield


def _found(place: _Place, wanted: Wanted, storage: Storage, *, tell: bool) -> Stored | None:
    """From the cache; None if a file has changed, or the pixels are not there or damaged. tell: whether to say so."""
    facts = _known_facts(place)
    return None if facts is None else _opened(place, facts, wanted.fit(facts), storage, tell=tell)


def _known_facts(place: _Place) -> list[Facts] | None:
    """Of all files; None if one of them is new or has changed."""
    try:
        document = parse_json(read_bytes(place.known, most=MOST_FILES_JSON))
        rows = document["files"] if document["version"] == _VERSION else {}
        facts = []
        for name, stamp in zip(place.names, place.contents.stamps(place.names), strict=True):
            known, *rest = rows[name]
            fact = Facts(Stamp(*known), *rest)
            if stamp != fact.stamp:
                return None
            facts.append(fact)
    except (OSError, ValueError, KeyError, TypeError, RunError):  # also an unreadable record of known files
        return None
    return facts


def _opened(place: _Place, facts: Sequence[Facts], fit: Fit, storage: Storage, *, tell: bool) -> Stored | None:
    key, count = _key(place, facts, fit), sum(not fact.problem for fact in facts)
    shape = (count, fit.height, fit.width, fit.channels)
    kind = _kind(place, key, math.prod(shape), storage)
    if not count:
        return Stored(None, None, facts, fit, key, kind)
    if kind == "files":
        of_moments = (count, 2, fit.channels)
        content = _checked(place, f"{key}.moments", of_moments, 8 * math.prod(of_moments), mapped=False, tell=tell)
        moments = None if content is None else content.view(torch.int64).view(of_moments)
        return None if moments is None else Stored(None, moments, facts, fit, key, kind)
    pixels = _checked(place, f"{key}.pixels", shape, math.prod(shape), mapped=kind == "cache", tell=tell)
    if pixels is None:
        return None
    return Stored(pixels.view(shape).permute(0, 3, 1, 2), None, facts, fit, key, kind)


def _kind(place: _Place, key: str, size: int, storage: Storage) -> str:
    """What auto stands for. size: of the pixels in bytes."""
    if storage.kind != "auto":
        return storage.kind
    if size <= storage.most_in_memory:
        return "memory"
    too_small = not (place.folder / f"{key}.pixels").exists() and shutil.disk_usage(place.folder).free < size
    return "files" if too_small and not place.contents.in_turn else "cache"


def _checked(place: _Place, name: str, shape: tuple[int, ...], size: int, *, mapped: bool, tell: bool) -> Tensor | None:
    """The bytes of a file of the cache; None if it is not there or damaged. mapped: read when they are used, and not
    checked. tell: whether damage is told."""
    path = place.folder / name
    try:
        about = path.with_suffix(".json") if path.suffix == ".pixels" else Path(f"{path}.json")
        described = read_json(about)
        if described["shape"] != list(shape) or os.lstat(path).st_size != size:
            raise ValueError
        with contextlib.suppress(OSError):
            os.utime(about)  # its last use, for `dlcli cache`
        if mapped:
            return _mapped(path)
        content = np.fromfile(path, dtype=np.uint8)
        if hashlib.sha256(content.data).hexdigest() != described["sha256"]:
            raise ValueError
        return torch.from_numpy(content)
    except (RunError, FileNotFoundError, ValueError, KeyError, TypeError):
        if tell and path.exists():
            _log.warning("what the cache holds of %s is damaged: the images are decoded again", place.root)
        return None
    except OSError as error:
        raise ResourceError(f"{path} cannot be read: {error.strerror}") from None


def _mapped(path: Path) -> Tensor:
    """The bytes of a file, which are read when they are used and must not be written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch knows no tensors that cannot be written
        return torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="r"))


def _key(place: _Place, facts: Sequence[Facts], fit: Fit) -> str:
    described = fit if fit.interpolation != "bilinear" else fit[:4]  # as before there was another one
    digest = hashlib.sha256(repr((_VERSION, *described)).encode())
    digest.update(place.labels.encode())
    for name, fact in zip(place.names, facts, strict=True):
        digest.update(b"%s\0%s\n" % (os.fsencode(name), fact.sha256.encode()))
    return digest.hexdigest()


def _decode_all(place: _Place, wanted: Wanted, storage: Storage) -> list[Facts]:
    """Decode all files, and add to the cache what was found. The caller holds the lock.

    Size and channels may depend on all files. They are guessed from a few; if the guess was wrong, all are decoded
    again.
    """
    started, names = time.time_ns(), place.names
    _log.warning("decoding %s images of %s, once; they are kept in %s", f"{len(names):,}", place.root, place.folder)
    some = names[:_LOOKED_AT] if place.contents.in_turn else names[:: -(-len(names) // _LOOKED_AT)]
    with place.contents.opened() as items:
        guess = wanted.fit(decode(list(items(some)), None)[0])
        facts = _write(place, items, guess, wanted, storage)
        if wanted.fit(facts) != guess:
            facts = _write(place, items, wanted.fit(facts), wanted, storage)
    # A file that has just been changed could change again without another time.
    old = {n: f for n, f in zip(names, facts, strict=True) if f.stamp.changed < started - _CLOCK_TICK}
    known = {"version": _VERSION, "folder": str(place.root), "files": old}
    write_bytes(place.known, json.dumps(known).encode(), mark=f"{place.mark}-")
    return facts


def _write(place: _Place, items: Items, fit: Fit, wanted: Wanted, storage: Storage) -> list[Facts]:
    """Decode all files, and add the pixels or their moments to the cache if they are as `wanted`."""
    pixels = len(place.names) * fit.height * fit.width * fit.channels
    moments = _kind(place, "", pixels, storage) == "files"
    needed = len(place.names) * 2 * fit.channels * 8 if moments else pixels
    temporary = place.folder / f".tmp-{place.mark}-{uuid.uuid4().hex}"
    facts: list[Facts] = []
    digest, news = hashlib.sha256(), time.monotonic()
    stamps = place.contents.stamps(place.names)
    try:
        with told(place.folder, needed=needed):
            if shutil.disk_usage(place.folder).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with open(temporary, "xb") as file:
                for some, made in decoded(items(place.names), fit, workers=storage.workers, moments=moments):
                    facts += some
                    digest.update(made)
                    file.write(made)
                    if time.monotonic() - news >= _NEWS_EVERY:
                        news = time.monotonic()
                        _log.warning("%s of %s images", f"{len(facts):,}", f"{len(place.names):,}")
                file.flush()
                os.fsync(file.fileno())
            if place.contents.in_turn:  # a worker saw their content, but not the file
                facts = [fact._replace(stamp=stamp or NO_STAMP) for fact, stamp in zip(facts, stamps, strict=True)]
            if wanted.fit(facts) == fit and (count := sum(not fact.problem for fact in facts)):
                key = _key(place, facts, fit)
                name = f"{key}.moments" if moments else f"{key}.pixels"
                os.replace(temporary, place.folder / name)
                flush_folder(place.folder)
                sums = {name: fact.sha256 for name, fact in zip(place.names, facts, strict=True)}
                write_bytes(place.folder / f"{key}.sums", json.dumps(sums).encode(), mark=f"{place.mark}-")
                shape = [count, 2, fit.channels] if moments else [count, fit.height, fit.width, fit.channels]
                described = {"shape": shape, "sha256": digest.hexdigest(), "folder": str(place.root)}
                about = place.folder / f"{name.removesuffix('.pixels')}.json"
                write_bytes(about, with_checksum(described), mark=f"{place.mark}-")
    finally:
        temporary.unlink(missing_ok=True)
    return facts
