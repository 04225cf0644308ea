"""Rows: the samples of a data set, read with `take`. Nothing outside this folder depends on how they are stored.

The rows of each batch follow from (seed, epoch) alone and are known before the epoch begins (see batches.py). So every
storage yields the same batches, and a slow one can read ahead.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dlcli.data.kinds import without_padding
from dlcli.data.preprocessing import Preprocessing


class Rows(Protocol):
    """Samples by number, from 0 to len(rows) - 1."""

    @property
    def device(self) -> torch.device:
        """The device of the indices that `take` expects and of the tensors that it returns."""

    @property
    def bytes(self) -> int:
        """Memory that is occupied as long as the rows exist."""

    def __len__(self) -> int: ...

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

    def take(self, indices: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        if isinstance(indices, slice):
            return self.x[indices], None if self.y is None else self.y[indices]
        if self.x.dim() == 4:  # in (N, H, W, C) each image is contiguous; the result is viewed as (B, C, H, W)
            x = self.x.permute(0, 2, 3, 1).index_select(0, indices).permute(0, 3, 1, 2)
        else:
            x = self.x.index_select(0, indices)
        return x, None if self.y is None else self.y.index_select(0, indices)


@dataclass(frozen=True)
class Mapped:
    """Images in a memory-mapped file: only the rows of a batch are read, and copied to the device.

    x: uint8 (N, C, H, W) in channels-last memory, on the CPU. y: (N,) on the device, or None.
    """

    x: Tensor
    y: Tensor | None
    device: torch.device

    @property
    def bytes(self) -> int:
        return 0 if self.y is None else self.y.nbytes

    def __len__(self) -> int:
        return len(self.x)

    def take(self, indices: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        x, _ = Tensors(self.x, None).take(indices if isinstance(indices, slice) else indices.cpu())
        y = None if self.y is None else self.y[indices]
        return x.to(self.device), y


class Normalised:
    """Rows as model input: the values stored in `rows` are converted to float32 and normalised batch by batch. A batch
    of texts is as long as the longest of them.

    Targets are small and already stored normalised.
    """

    def __init__(self, rows: Rows, preprocessing: Preprocessing) -> None:
        self._rows = rows
        self._normalise = preprocessing.on(rows.device)
        self._spec = preprocessing.spec

    @property
    def device(self) -> torch.device:
        return self._rows.device

    @property
    def bytes(self) -> int:
        return self._rows.bytes

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, indices: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        x, y = self._rows.take(indices)
        return self._normalise(without_padding(x, self._spec)), y
