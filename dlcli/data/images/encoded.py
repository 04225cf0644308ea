"""Images that stay encoded in their files: what of them is asked for is decoded by other processes."""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dlcli.core.errors import DataError
from dlcli.data.images.contents import Contents
from dlcli.data.images.decoding import Decoded, decode, new_pool, told_of_death
from dlcli.data.readers.pictures import Fit

_MOST_AHEAD = 8  # requests that are kept when nobody takes them


@dataclass(frozen=True)
class Encoded:
    """names: of the images. digests: the sha256 of each when it was first decoded. moments: int64 (N, 2, C), the sums
    of the pixels of each, and of their squares. workers: processes that decode."""

    contents: Contents
    names: Sequence[str]
    digests: Sequence[str]
    fit: Fit
    moments: Tensor
    workers: int
    _pool: list[ProcessPoolExecutor] = field(default_factory=list)  # begun when it is needed, shared by all parts
    _ahead: "OrderedDict[bytes, list[tuple[list[int], Future[Decoded]]]]" = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self.names)

    def part(self, rows: slice) -> "Encoded":
        return Encoded(
            self.contents, self.names[rows], self.digests[rows], self.fit, self.moments[rows], self.workers, self._pool
        )

    def prefetch(self, indices: Tensor) -> None:
        """Begin to decode these images, which will be asked for together."""
        key = indices.numpy().tobytes()
        if key in self._ahead:
            return
        with told_of_death():
            self._ahead[key] = self._requested(indices.tolist())
        while len(self._ahead) > _MOST_AHEAD:
            _, forgotten = self._ahead.popitem(last=False)
            for _, future in forgotten:
                future.cancel()

    def take(self, indices: Tensor) -> Tensor:
        """uint8 (B, C, H, W) in channels-last memory. DataError (exit 3) for a file that has changed since it was first
        decoded; ResourceError (exit 6) if a process dies."""
        self.prefetch(indices)
        fit = self.fit
        made = torch.empty((len(indices), fit.height, fit.width, fit.channels), dtype=torch.uint8)
        done = 0
        for rows, future in self._ahead.pop(indices.numpy().tobytes()):
            with told_of_death():
                facts, pixels = future.result()
            for row, fact in zip(rows, facts, strict=True):
                if fact.problem or fact.sha256 != self.digests[row]:
                    what = fact.problem or "has changed"
                    raise DataError(f"image {self.names[row]} {what} since the training read it first: restore it")
            made[done : done + len(rows)].view(-1).numpy()[:] = np.frombuffer(pixels, dtype=np.uint8)
            done += len(rows)
        return made.permute(0, 3, 1, 2)

    def _requested(self, rows: list[int]) -> list[tuple[list[int], Future[Decoded]]]:
        if not self._pool:
            self._pool.append(new_pool(self.workers))
        size = max(1, -(-len(rows) // (2 * self.workers)))
        chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
        with self.contents.opened() as items:
            return [
                (chunk, self._pool[0].submit(decode, list(items([self.names[k] for k in chunk])), self.fit))
                for chunk in chunks
            ]
