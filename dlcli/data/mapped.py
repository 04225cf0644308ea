"""Tensors whose values lie in a file, memory-mapped: they are read when they are used, and cannot be written."""

import mmap
import warnings
import weakref
from pathlib import Path

import torch
from torch import Tensor

# Where the values of a tensor begin -> the file that is mapped there.
_MAPS: "weakref.WeakValueDictionary[int, mmap.mmap]" = weakref.WeakValueDictionary()


def mapped(path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The values of a file that holds exactly these."""
    with open(path, "rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch knows no tensors that cannot be written
        found = torch.frombuffer(pages, dtype=dtype).view(shape)
    _MAPS[found.data_ptr()] = pages
    return found


def forget(values: Tensor) -> None:
    """Give back the memory of what was read of a mapped tensor; it stays in the page cache of the machine as long as
    there is room. Does nothing for other tensors, and for views that begin elsewhere."""
    pages = _MAPS.get(values.data_ptr())
    if pages is not None:
        pages.madvise(mmap.MADV_DONTNEED)
