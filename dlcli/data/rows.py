"""Rows: the samples of a data set, read with `take`. Nothing outside this folder depends on how they are stored.

The rows of each batch follow from (seed, epoch) alone and are known before the epoch begins (see batches.py). So every
storage yields the same batches, and a slow one can read ahead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dlcli.data.kinds import without_padding
from dlcli.data.mapped import forget
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.source import Pending

Cut = Callable[..., Tensor]  # stored images and height=, width= of the input -> images of that size


# What the system maps around each row that is read, in bytes, and how much of a file may be mapped at a time.
_READ_AROUND = 65_536
_MOST_TOUCHED = 500_000_000


class Rows(Protocol):
    """Samples by number, from 0 to len(rows) - 1."""

    @property
    def device(self) -> torch.device:
        """The device of the indices that `take` expects and of the tensors that it returns."""

    @property
    def bytes(self) -> int:
        """Memory that is occupied as long as the rows exist."""

    def __len__(self) -> int: ...

    def prefetch(self, indices: Tensor | slice) -> None:
        """These rows will be taken soon, all at once: a slow storage begins to read them."""

    def take(self, indices: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        """x (B, ...) and y (B,) of these rows, in this order; y is None for next-token data. Read only.

        Images are (B, C, H, W) in channels-last memory. For a slice the result may be a view.
        """


@dataclass(frozen=True)
class Tensors:
    """Rows stored as two tensors on the device: a slice gives a view, indices one gather.

    x: (N, C, H, W) in channels-last memory, (N, F), or tokens (N, T) or (N, T + 1). y: (N,) or None.
    """

    x: Tensor
    y: Tensor | None

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def bytes(self) -> int:
        return self.x.nbytes + (0 if self.y is None else self.y.nbytes)

    def __len__(self) -> int:
        return len(self.x)

    def prefetch(self, indices: Tensor | slice) -> None:
        pass

    def take(self, indices: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        if isinstance(indices, slice):
            return self.x[indices], None if self.y is None else self.y[indices]
        if self.x.dim() == 4:  # in (N, H, W, C) each image is contiguous; the result is viewed as (B, C, H, W)
            x = self.x.permute(0, 2, 3, 1).index_select(0, indices).permute(0, 3, 1, 2)
        else:
            x = self.x.index_select(0, indices)
        return x, None if self.y is None else self.y.index_select(0, indices)


class Mapped:
    """Images or features in a memory-mapped file: only the rows of a batch are read, and copied to the device.

    x: uint8 (N, C, H, W) in channels-last memory, or float32 (N, F), on the CPU. y: (N,) on the device, or None.
    """

    def __init__(self, x: Tensor, y: Tensor | None, device: torch.device) -> None:
        self._x, self._y, self._device = x, y, device
        self._touched = 0  # bytes at most, since they were forgotten

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def bytes(self) -> int:
        return 0 if self._y is None else self._y.nbytes

    def __len__(self) -> int:
        return len(self._x)

    def prefetch(self, indices: Tensor | slice) -> None:
        pass

    def take(self, indices: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        if self._touched > _MOST_TOUCHED:
            forget(self._x)
            self._touched = 0
        x, _ = Tensors(self._x, None).take(indices if isinstance(indices, slice) else indices.cpu())
        self._touched += len(x) * (x[:1].nbytes + _READ_AROUND)
        y = None if self._y is None else self._y[indices]
        return x.to(self.device), y


@dataclass(frozen=True)
class Decoded:
    """Images that are decoded by other processes when they are wanted, and copied to the device. y: (N,) there."""

    x: Pending
    y: Tensor | None
    device: torch.device

    @property
    def bytes(self) -> int:
        return 0 if self.y is None else self.y.nbytes

    def __len__(self) -> int:
        return len(self.x)

    def prefetch(self, indices: Tensor | slice) -> None:
        self.x.prefetch(self._numbers(indices))

    def take(self, indices: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        x = self.x.take(self._numbers(indices))
        return x.to(self.device), None if self.y is None else self.y[indices]

    def _numbers(self, indices: Tensor | slice) -> Tensor:
        return torch.arange(len(self))[indices] if isinstance(indices, slice) else indices.cpu()


class Normalised:
    """Rows as model input: the values stored in `rows` are converted to float32 and normalised batch by batch. A batch
    of texts is as long as the longest of them.

    Images that are stored larger than the input are cut to their centre, or by `cut`. Targets are small and
    already stored normalised.
    """

    def __init__(self, rows: Rows, preprocessing: Preprocessing, *, cut: Cut | None = None) -> None:
        self._rows = rows
        self._about = preprocessing
        self._normalise = preprocessing.on(rows.device)
        self._cut = cut or (centre if preprocessing.stored_size else None)

    @property
    def device(self) -> torch.device:
        return self._rows.device

    @property
    def bytes(self) -> int:
        return self._rows.bytes

    def __len__(self) -> int:
        return len(self._rows)

    def prefetch(self, indices: Tensor | slice) -> None:
        self._rows.prefetch(indices)

    def take(self, indices: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        x, y = self._rows.take(indices)
        if self._cut is not None:
            _, height, width = self._about.spec.input_shape
            x = self._cut(x, height=height, width=width)
        return self._normalise(without_padding(x, self._about.spec)), y

    @property
    def decoded(self) -> bool:
        return isinstance(self._rows, Decoded)

    def cut_by(self, cut: Cut) -> "Normalised":
        return Normalised(self._rows, self._about, cut=cut)


def are_decoded(rows: Rows) -> bool:
    """Whether they are images that other processes decode, batch by batch."""
    return isinstance(rows, Normalised) and rows.decoded


def cut_by(rows: Rows, cut: Cut) -> Rows:
    """The same rows, with images as `cut` makes them of the stored ones, before they are normalised."""
    assert isinstance(rows, Normalised)
    return rows.cut_by(cut)


def centre(x: Tensor, height: int, width: int) -> Tensor:
    """The middle of each (B, C, H, W) image, in channels-last memory."""
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
