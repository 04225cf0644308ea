"""The channels of layers: where in the tensors of a layer one of its outputs, or of its inputs, is."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlcli.models.narrowing import is_depthwise, is_narrowable


class Slot(NamedTuple):
    """One channel of a layer. module: its name. side: `out`, what it makes, or `in`, what it reads. A layer that treats
    each channel alone (batch normalization, depthwise convolution) has `out` only."""

    module: str
    side: str
    channel: int


def makes(module: nn.Module) -> bool:
    """Whether the layer makes new channels of all that it reads."""
    return is_narrowable(module) and not passes(module)


def passes(module: nn.Module) -> bool:
    """Whether each channel goes through the layer alone."""
    return isinstance(module, _BatchNorm) or is_depthwise(module)


def is_opaque(module: nn.Module) -> bool:
    """Whether it has parameters of its own of which nobody knows here to which channels they belong."""
    if is_narrowable(module) or not any(True for _ in module.parameters()):
        return False
    if isinstance(module, nn.MultiheadAttention):
        return True
    return not any(True for child in module.children() for _ in child.parameters())


def channels(module: nn.Module) -> int:
    """How many a layer makes."""
    if isinstance(module, nn.GRU):
        return module.hidden_size
    weight = module._parameters.get("weight")
    if weight is None:  # of a batch normalization
        assert isinstance(module, _BatchNorm)
        return module.num_features
    return weight.shape[1] if isinstance(module, nn.Embedding) else weight.shape[0]


def axis(module: nn.Module) -> int:
    """Of the channels, in what the layer reads and makes."""
    return 1 if isinstance(module, nn.modules.conv._ConvNd | _BatchNorm) else -1


def places(module: nn.Module, side: str) -> Iterator[tuple[str, int, int, int]]:
    """(tensor, dimension, repetitions, distance) of channel c: at c + k * distance along the dimension, for each of the
    repetitions k, in that tensor of the layer."""
    if isinstance(module, nn.GRU):
        size = module.hidden_size
        if side == "in":
            yield "weight_ih_l0", 1, 1, 0
            return
        for layer in range(module.num_layers):
            yield from ((f"{name}_l{layer}", 0, 3, size) for name in ("weight_ih", "weight_hh"))
            if module.bias:
                yield from ((f"{name}_l{layer}", 0, 3, size) for name in ("bias_ih", "bias_hh"))
            yield from ((name, 1, 1, 0) for name in reads_itself(module, layer))
    elif isinstance(module, nn.Embedding) or side == "in":
        yield "weight", 1, 1, 0
    else:
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and tensor.dim():
                yield name, 0, 1, 0


def reads_itself(gru: nn.GRU, layer: int) -> Iterator[str]:
    """The tensors whose columns are hidden channels: of the step before, and of the layer below. A channel is cut out
    of all layers."""
    yield f"weight_hh_l{layer}"
    if layer:
        yield f"weight_ih_l{layer}"


def indices(module: nn.Module, side: str, chosen: list[int]) -> Iterator[tuple[str, int, Tensor]]:
    """(tensor, dimension, places along it) of these channels."""
    first = torch.tensor(sorted(chosen))
    for name, dimension, repetitions, distance in places(module, side):
        yield name, dimension, torch.cat([first + k * distance for k in range(repetitions)])
