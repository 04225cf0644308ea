"""safetensors files, checked before they are read: they are untrusted, and so is the manifest with their sha256."""

import math
import os
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlcli.core.documents import WHOLE, check, list_of
from dlcli.core.errors import RunError
from dlcli.core.reading import open_regular, parse_json, told_as_damage

# Largest header in bytes; it has about a hundred per tensor.
_MOST_HEADER = 4_000_000
# Most axes of a tensor, and most values if no axis were empty: torch multiplies all sizes.
_MOST_AXES, _MOST_VALUES = 16, 2**40

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "BOOL": torch.bool, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_ENTRY = {"shape": list_of(WHOLE), "data_offsets": list_of(WHOLE)}


def outline(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the meta device: shapes and types without values.

    Raises RunError unless it is a safetensors file with a valid header, whose tensors fill the rest of the file without
    gaps or overlaps.
    """
    with told_as_damage(path), open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))[0]
        if length > min(size - 8, _MOST_HEADER):
            raise ValueError("it is not a safetensors file, or its header is too long")
        return _tensors(parse_json(file.read(length)), size - 8 - length)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `outline` has checked. RunError if it cannot be read nevertheless."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, RuntimeError) as error:  # torch's own, when it cannot map the file
        raise RunError(f"{path} is damaged: {error}") from None


def _tensors(header: Any, size: int) -> dict[str, Tensor]:
    if not isinstance(header, dict):
        raise ValueError("its header is not a table")
    found, places = {}, []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        check(entry, _ENTRY, needed=True)
        dtype, shape, offsets = _DTYPES.get(str(entry.get("dtype"))), entry["shape"], entry["data_offsets"]
        extent = math.prod(max(size, 1) for size in shape[:_MOST_AXES])
        if dtype is None or len(shape) > _MOST_AXES or extent > _MOST_VALUES or len(offsets) != 2:
            raise ValueError(f"its header does not describe {name[:80]!r}")
        if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name[:80]!r} does not have the bytes that its shape {shape} needs")
        places.append(offsets)
        found[name] = torch.empty(shape, dtype=dtype, device="meta")
    end = 0
    for first, last in sorted(places):
        if first != end:
            raise ValueError("its tensors overlap, or leave a gap")
        end = last
    if end != size:
        raise ValueError(f"it has {size:,} bytes of tensors, but its header describes {end:,}")
    return found
