"""Rows: the samples of a data set behind one `take`. Nothing outside this folder knows how they are stored.

Which rows make a batch follows from (seed, epoch) alone and is known before the epoch begins (see batches.py), so
every storage gives the same batches, and a slow one may read ahead.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dlcli.data.preprocessing import Preprocessing


class Rows(Protocol):
    """Samples by number, from 0 to len(rows) - 1."""

    @property
    def device(self) -> torch.device:
        """Where `take` wants its indices and puts what it has taken."""

    @property
    def bytes(self) -> int:
        """Memory that is held from the first batch to the last."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        """x (B, ...) and y (B,) of these rows, in this order; y is None for next-token data. Not to be written to.

        Images are (B, C, H, W) in channels-last memory. A slice needs no copy where the storage can do without.
        """


@dataclass(frozen=True)
class Tensors:
    """Rows held as two tensors on the device: a slice is a view, anything else one gather.

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
        if self.x.dim() == 4:  # a row of channels-last memory is a whole image; (B, C, H, W) is a view of them
            x = self.x.permute(0, 2, 3, 1).index_select(0, indices).permute(0, 3, 1, 2)
        else:
            x = self.x.index_select(0, indices)
        return x, None if self.y is None else self.y.index_select(0, indices)


class Normalised:
    """Rows as a model takes them: whatever `rows` stores becomes float32 and normalised here, batch by batch.

    Targets are few bytes: `rows` has them normalised already.
    """

    def __init__(self, rows: Rows, preprocessing: Preprocessing) -> None:
        self._rows = rows
        self._normalise = preprocessing.on(rows.device)

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
        return self._normalise(x), y
