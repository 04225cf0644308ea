"""The weights of the classes in the loss."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dlcli.core.errors import ConfigError, did_you_mean


def class_weights(setting: str | Sequence[str], names: Sequence[str], counts: Sequence[int]) -> tuple[float, ...]:
    """The weight of each class; empty for none. Their mean over the training samples is 1.

    setting: none, balanced (each class has the same share of the loss), or a weight for each class in order, or NAME=W
        for some, where the others have 1. counts: samples of each class in the training split.
    Raises ConfigError (exit 2).
    """
    if setting == "none":
        return ()
    weights = [1 / max(count, 1) for count in counts] if setting == "balanced" else _given(setting, names)
    total = sum(weight * count for weight, count in zip(weights, counts, strict=True))
    return tuple(weight * sum(counts) / total for weight in weights)


def weighted_mean(losses: Tensor, target: Tensor, weights: tuple[float, ...]) -> Tensor:
    """The mean over the batch of each loss (B,) times the weight of its class: a scalar."""
    return (losses * torch.tensor(weights, dtype=losses.dtype, device=losses.device)[target]).mean()


def _given(items: Sequence[str], names: Sequence[str]) -> list[float]:
    told = f"class_weights = {','.join(items)}"
    pairs = [item.rpartition("=") for item in items]
    named = {name: _number(text, told) for name, equals, text in pairs if equals}
    if not named:
        if len(items) != len(names):
            shown = ", ".join(names[:10]) + ", ..." * (len(names) > 10)
            raise ConfigError(f"{told} has {len(items)} weights, but there are {len(names)} classes: {shown}")
        return [_number(text, told) for text in items]
    if len(named) < len(items):
        raise ConfigError(f"{told} names a class twice, or not all: write a weight for each class, or NAME=WEIGHT")
    for name in named:
        if name not in names:
            raise ConfigError(f"{told}: there is no class {name!r}: {did_you_mean(name, names)}")
    return [named.get(name, 1.0) for name in names]


def _number(text: str, told: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise ConfigError(f"{told}: {text!r} is no number above 0")
    return value
