"""Measures of all batches, concatenated or summed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dlcli.tasks.task import Measures


def _joined(measures: Sequence[Measures], name: str) -> Tensor:
    return torch.cat([m[name] for m in measures]).cpu()  # waits for the device; sums in float64 need the CPU


def _total(measures: Sequence[Measures], name: str) -> float:
    return float(sum(torch.stack([m[name] for m in measures]).tolist()))
