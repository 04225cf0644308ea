"""A folder of images as a data set: `--data images:FOLDER`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from dlcli.core.errors import ConfigError, DataError
from dlcli.core.spec import DataSpec
from dlcli.data.images.cache import Stored, Wanted, stored
from dlcli.data.images.decoding import Facts
from dlcli.data.images.layout import Layout, layout
from dlcli.data.source import Source

_LARGEST = 2048  # pixels

# Bytes of decoded images that are loaded into memory; more are memory-mapped.
_MOST_IN_MEMORY = 1_000_000_000

_CHANNELS = {"auto": 0, "grey": 1, "colour": 3}


def images(
    data_dir: Path,
    *,
    path: str,
    size: int = 0,
    channels: Literal["auto", "colour", "grey"] = "auto",
    crop: Literal["centre", "stretch"] = "centre",
    invalid: Literal["error", "skip"] = "error",
    storage: Literal["auto", "memory", "mapped"] = "auto",
) -> Source:
    """Images in one sub-folder for each class, or in such folders below train/, val/ and test/.

    size: height and width in pixels; 0 takes the size that all images share, if that is at most 256, else 64.
    crop: `centre` keeps the proportions and cuts off what stands out, `stretch` does not. invalid: what is done about
    files that cannot be decoded. storage: of the decoded images; `auto` is memory up to 1 GB.
    """
    if not 0 <= size <= _LARGEST:
        raise ConfigError(f"data.size = {size} is out of range: it must be in [0, {_LARGEST}]")
    found = layout(Path(path))
    listed = [(name, label) for files in found.files.values() for name, label in files]
    limits = {"auto": _MOST_IN_MEMORY, "memory": 2**63, "mapped": -1}
    names = [name for name, _ in listed]
    decoded = stored(found.root, names, Wanted(size, _CHANNELS[channels], crop), most_in_memory=limits[storage])
    notes = (*_notes(found, decoded), *_skipped(found.root, names, decoded.facts, invalid))
    return _source(found, decoded, notes, size=size)


def _source(found: Layout, decoded: Stored, notes: tuple[str, ...], *, size: int) -> Source:
    fit, x = decoded.fit, decoded.pixels
    assert x is not None
    tensors: dict[str, Any] = {}
    row = start = 0
    for split, files in found.files.items():
        facts = decoded.facts[start : start + len(files)]
        y = torch.tensor([label for (_, label), fact in zip(files, facts, strict=True) if not fact.problem])
        lacking = set(range(len(found.classes))) - set(y.tolist()) if split == "train" else set()
        if lacking or not len(y):
            what = f"class {found.classes[min(lacking)]} of train" if lacking else split
            raise DataError(f"{found.root}: of {what} no image file can be used: mend the files, or remove the folder")
        prefix = "" if split == "train" else f"{split}_"
        tensors[f"{prefix}x"], tensors[f"{prefix}y"] = x[row : row + len(y)], y
        row, start = row + len(y), start + len(files)
    resolved: dict[str, Any] = {"channels": "grey" if fit.channels == 1 else "colour"}
    if fit.height == fit.width:
        resolved["size"] = fit.height
    spec = DataSpec("multiclass", "image", (fit.channels, fit.height, fit.width), len(found.classes))
    return Source(
        spec,
        **tensors,
        class_names=found.classes,
        crop=fit.crop,
        digest=decoded.key,
        mapped=decoded.mapped,
        resolved=resolved,
        notes=notes,
    )


def _notes(found: Layout, decoded: Stored) -> tuple[str, ...]:
    fit = decoded.fit
    size = math.prod((sum(not fact.problem for fact in decoded.facts), fit.channels, fit.height, fit.width))
    where = "read from the disk batch by batch" if decoded.mapped else "in memory"
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
