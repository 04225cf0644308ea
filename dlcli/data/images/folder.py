"""Images as a data set: `--data images:FOLDER`, or a list, an archive or Parquet files of them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from dlcli.core.errors import ConfigError, DataError
from dlcli.core.spec import DataSpec
from dlcli.data.images import archive, listed, parquet
from dlcli.data.images.cache import Storage, Stored, Wanted, stored
from dlcli.data.images.decoding import Facts, cores
from dlcli.data.images.encoded import Encoded
from dlcli.data.images.layout import Layout, layout
from dlcli.data.source import Source

_LARGEST = 2048  # pixels
_MOST_WORKERS = 256

_CHANNELS = {"auto": 0, "grey": 1, "colour": 3}


def images(
    data_dir: Path,
    *,
    path: str,
    size: int = 0,
    stored_size: int = 0,
    channels: Literal["auto", "colour", "grey"] = "auto",
    crop: Literal["centre", "stretch"] = "centre",
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    invalid: Literal["error", "skip"] = "error",
    storage: Literal["auto", "memory", "cache", "files"] = "auto",
    workers: int | Literal["auto"] = "auto",
) -> Source:
    """Images in one sub-folder for each class, or in such folders below train/, val/ and test/; or a list of images
    (.csv), an archive (.zip, .tar, .tar.gz) or Parquet files.

    size: height and width in pixels; 0 takes the size that all images share, if that is at most 256, else 64.
    stored_size: the size in which they are kept, so that there is something to crop from; 0 for the same.
    crop: `centre` keeps the proportions and cuts off what stands out, `stretch` does not. interpolation:
    how they are resized. invalid: what is done about files that cannot be decoded. storage: see cache.py. workers:
    processes that decode; one for each core if auto.
    """
    if not 0 <= size <= _LARGEST:
        raise ConfigError(f"data.size = {size} is out of range: it must be in [0, {_LARGEST}]")
    if stored_size and not (size and size <= stored_size <= _LARGEST):
        at_least = f"in [{size}, {_LARGEST}]" if size else "given together with data.size"
        raise ConfigError(f"data.stored_size = {stored_size} must be {at_least}")
    if workers != "auto" and not 1 <= workers <= _MOST_WORKERS:
        raise ConfigError(f"data.workers = {workers} is out of range: it must be in [1, {_MOST_WORKERS}]")
    found = _layout(Path(path))
    if storage == "files" and found.contents.in_turn:
        raise ConfigError(
            f"data.storage = files needs images that can be read in any order, but {path} can be read only from its "
            "start: take storage = cache"
        )
    names = [name for files in found.files.values() for name, _ in files]
    how = Storage(storage, cores() if workers == "auto" else workers)
    wanted = Wanted(stored_size or size, _CHANNELS[channels], crop, interpolation)
    decoded = stored(Path(path), names, found.contents, wanted, how, labels=found.labels)
    notes = (*_notes(found, decoded), *_skipped(found.root, names, decoded.facts, invalid))
    return _source(found, decoded, notes, size=size, workers=how.workers)


def _layout(path: Path) -> Layout:
    name = path.name.lower()
    if path.is_dir():
        shards = parquet.parquet_files(path)
        return parquet.parquet_layout(path, shards) if shards else layout(path)
    if path.is_file() and name.endswith(archive.SUFFIXES):
        return archive.archive_layout(path)
    if path.is_file() and name.endswith(listed.SUFFIXES):
        return listed.listed_layout(path)
    if path.is_file() and name.endswith(parquet.SUFFIX):
        return parquet.parquet_layout(path, {"train": [path]})
    kinds = ", ".join((*archive.SUFFIXES, *listed.SUFFIXES, parquet.SUFFIX))
    raise DataError(
        f"{path} is neither a folder nor a file of images ({kinds})"
        if path.exists()
        else f"{path} does not exist: name a folder with a sub-folder of images for each class"
    )


def _source(found: Layout, decoded: Stored, notes: tuple[str, ...], *, size: int, workers: int) -> Source:
    fit = decoded.fit
    good = [number for number, fact in enumerate(decoded.facts) if not fact.problem]
    names = [name for files in found.files.values() for name, _ in files]
    every = None
    if decoded.moments is not None:
        digests = [decoded.facts[k].sha256 for k in good]
        every = Encoded(found.contents, [names[k] for k in good], digests, fit, decoded.moments, workers)
    tensors: dict[str, Any] = {}
    encoded: dict[str, Encoded] = {}
    row = start = 0
    for split, files in found.files.items():
        facts = decoded.facts[start : start + len(files)]
        y = torch.tensor([label for (_, label), fact in zip(files, facts, strict=True) if not fact.problem])
        lacking = set(range(len(found.classes))) - set(y.tolist()) if split == "train" else set()
        if lacking or not len(y):
            what = f"class {found.classes[min(lacking)]} of train" if lacking else split
            raise DataError(f"{found.root}: of {what} no image file can be used: mend the files, or remove the folder")
        prefix, rows = "" if split == "train" else f"{split}_", slice(row, row + len(y))
        if every is not None:
            encoded[f"{prefix}x"] = every.part(rows)
        assert every is not None or decoded.pixels is not None
        shape = (len(y), fit.channels, fit.height, fit.width)
        tensors[f"{prefix}x"] = (
            torch.empty(shape, dtype=torch.uint8, device="meta") if decoded.pixels is None else decoded.pixels[rows]
        )
        tensors[f"{prefix}y"] = y
        row, start = row + len(y), start + len(files)
    resolved: dict[str, Any] = {"channels": "grey" if fit.channels == 1 else "colour"}
    if fit.height == fit.width:
        resolved["size"] = size or fit.height
    height, width = (size, size) if size else (fit.height, fit.width)
    spec = DataSpec("multiclass", "image", (fit.channels, height, width), len(found.classes))
    return Source(
        spec,
        **tensors,
        class_names=found.classes,
        crop=fit.crop,
        stored_size=fit.height if fit.height > height else 0,
        interpolation=fit.interpolation,
        digest=decoded.key,
        mapped=decoded.kind == "cache",
        encoded=encoded,
        resolved=resolved,
        notes=notes,
    )


def _notes(found: Layout, decoded: Stored) -> tuple[str, ...]:
    fit = decoded.fit
    size = math.prod((sum(not fact.problem for fact in decoded.facts), fit.channels, fit.height, fit.width))
    where = {
        "memory": "in memory", "cache": "read from the disk batch by batch", "files": "decoded batch by batch",
    }[decoded.kind]  # fmt: skip
    how = "cut to the centre" if fit.crop == "centre" else "stretched"
    shape = f"{fit.channels}x{fit.height}x{fit.width}"
    return (f"images of {len(found.classes)} classes as {shape}, {how}; {size / 1e6:,.1f} MB, {where}", *found.notes)


def _skipped(root: Path, names: Sequence[str], facts: Sequence[Facts], invalid: str) -> tuple[str, ...]:
    """A note about the files that cannot be used; DataError if there are any and they are not to be skipped, or if they
    are all."""
    bad = [f"{root / name} {fact.problem}" for name, fact in zip(names, facts, strict=True) if fact.problem]
    if not bad:
        return ()
    listed = "; ".join(bad[:10]) + (f"; and {len(bad) - 10:,} more" if len(bad) > 10 else "")
    count = f"{len(bad):,} of {len(names):,} image files cannot be used"
    if invalid == "skip" and len(bad) < len(names):
        return (f"skipped: {count}: {listed}",)
    mend = "" if invalid == "skip" else ", or leave them out with --set data.invalid=skip"
    raise DataError(f"{count}: {listed}: mend or remove them{mend}")
