"""Integrated gradients: derivatives along the straight path from a baseline to the input, added up."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dlcli.analysis.explain.subject import at_once

_PIECE = 32  # points
_MOST, _MOST_OF_LARGE, _LARGE = 2048, 256, 10_000  # points; values of an input that is large
_CLOSE = 0.01  # of the difference of the scores

Gradient = Callable[[Tensor], Tensor]  # (N, ...) points -> the derivative of the score at each
Score = Callable[[Tensor], Tensor]  # (N, ...) -> (N,) float64


@dataclass(frozen=True)
class Attributions:
    """values: of each element of the input, (...) float64; their sum should be `difference`, that of the scores of
    input and baseline (completeness: Sundararajan, Taly, Yan 2017, proposition 1). points: of the path."""

    values: Tensor
    difference: float
    points: int

    @property
    def total(self) -> float:
        return float(self.values.sum())

    @property
    def error(self) -> float | None:
        """How far the sum is from the difference, as a share of it; None if there is no difference."""
        return abs(self.total - self.difference) / abs(self.difference) if self.difference else None


def integrated_gradients(x: Tensor, baseline: Tensor, *, gradient: Gradient, score: Score) -> Attributions:
    """Of one input x (...), against a baseline (...): (x - b) times the mean of the derivative over b + t (x - b), t
    from 0 to 1 (Sundararajan et al. 2017, equation 1), by the Gauss-Legendre rule with 32 points on each of 1, 2, 4 and
    so on equal pieces of the path, until the sum is within 1 % of what it should be; at most 2048 points, 256 if the
    input has more than 10,000 values."""
    ends = score(torch.stack([x, baseline]))
    difference = float(ends[0] - ends[1])
    points, most = _PIECE, _MOST_OF_LARGE if x.numel() > _LARGE else _MOST
    while True:
        found = Attributions(_integral(x, baseline, points, gradient), difference, points)
        if points == most or abs(found.total - difference) <= _CLOSE * abs(difference):
            return found
        points *= 2


def _integral(x: Tensor, baseline: Tensor, points: int, gradient: Gradient) -> Tensor:
    pieces = points // _PIECE
    of_piece, weight_of_piece = np.polynomial.legendre.leggauss(_PIECE)
    nodes = (((of_piece + 1) / 2)[None] + np.arange(pieces)[:, None]).flatten() / pieces
    weights = np.tile(weight_of_piece / 2, pieces) / pieces
    total = torch.zeros_like(x, dtype=torch.float64)
    size = at_once(x[None])
    for start in range(0, points, size):
        some = slice(start, start + size)
        shape = (-1, *(1,) * x.dim())
        along = torch.from_numpy(nodes[some]).to(x).view(shape)
        weight = torch.from_numpy(weights[some]).to(total).view(shape)
        total += (gradient(baseline + along * (x - baseline)).double() * weight).sum(0)
    return total * (x - baseline).double()
