"""The random numbers of a batch. They are drawn for the whole batch, also by a process that has only a part of it: so
the number of processes does not change what a sample gets."""

import torch
from torch import Tensor


class Draws:
    """Random numbers from a generator on the device of the batch.

    `dim` of each method is the dimension of the samples, whose size in `shape` is that of the part.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._whole = 0
        self._where: Tensor | None = None

    def begin(self, seed: int, *, whole: int = 0, where: Tensor | None = None) -> None:
        """Start anew for a batch of `whole` samples, of which those at the places `where` are here; None for all."""
        self._generator.manual_seed(seed)
        self._whole, self._where = whole, None if where is None else where.to(self._generator.device)

    def rand(self, *shape: int, dim: int = 0, dtype: torch.dtype | None = None) -> Tensor:
        """Between 0 and 1."""
        return self._here(
            torch.rand(self._all(shape, dim), generator=self._generator, device=self._generator.device, dtype=dtype),
            dim,
        )

    def randint(self, high: int, *shape: int, dim: int = 0) -> Tensor:
        """Whole numbers from 0 to high - 1."""
        drawn = torch.randint(high, self._all(shape, dim), generator=self._generator, device=self._generator.device)
        return self._here(drawn, dim)

    def randn(self, *shape: int, dim: int = 0, dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal."""
        return self._here(
            torch.randn(self._all(shape, dim), generator=self._generator, device=self._generator.device, dtype=dtype),
            dim,
        )

    def _all(self, shape: tuple[int, ...], dim: int) -> list[int]:
        return [self._whole if k == dim and self._where is not None else size for k, size in enumerate(shape)]

    def _here(self, drawn: Tensor, dim: int) -> Tensor:
        return drawn if self._where is None else drawn.index_select(dim, self._where)
