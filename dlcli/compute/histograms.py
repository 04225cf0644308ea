"""How the values of a tensor are distributed."""

from typing import Any

import torch
from torch import Tensor

_BUCKETS = 30


def histogram(values: Tensor) -> dict[str, Any] | None:
    """The fields of TensorBoard's HistogramProto: min, max, num, sum, sum_squares, and 30 buckets of equal width from
    min to max, with their upper ends. Only of finite values; None if there are none."""
    found = values.detach().double().flatten()
    found = found[found.isfinite()]
    if not len(found):
        return None
    low, high = float(found.min()), float(found.max())
    if low == high:
        limits, counts = [high], [float(len(found))]
    else:
        limits = [low + (high - low) * (k + 1) / _BUCKETS for k in range(_BUCKETS - 1)] + [high]
        counts = torch.histc(found, _BUCKETS, low, high).tolist()
    return {
        "min": low, "max": high, "num": float(len(found)), "sum": float(found.sum()),
        "sum_squares": float(found.square().sum()), "bucket_limit": limits, "bucket": counts,
    }  # fmt: skip
