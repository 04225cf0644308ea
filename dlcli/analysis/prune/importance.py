"""How much each unit, or each weight, matters: by its magnitude, or by how the loss changes without it."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.analysis.prune.slots import channels, indices
from dlcli.analysis.prune.structure import Unit
from dlcli.compute.devices import autocast
from dlcli.data.batches import shuffled
from dlcli.experiment.build import Experiment

# Batches of the training data for the first order.
BATCHES = 32


def of_weights(built: Experiment, by: str) -> dict[str, Tensor]:
    """For each parameter, the importance of each of its values.

    by: `magnitude`, its square (Han et al. 2015, arXiv:1506.02626; Li et al. 2017, arXiv:1608.08710), or `gradient`,
    |w * dL/dw|, the mean over batches of the training data, the loss to first order without it (Molchanov et al. 2019,
    arXiv:1906.10771). The batches are the first of the order that the seed draws.
    """
    named = dict(built.model.named_parameters())
    if by == "magnitude":
        return {name: parameter.detach().square() for name, parameter in named.items()}
    total = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    count = 0
    data = built.dataset
    model: Any = built.model.eval()  # no dropout, and the statistics of batch normalization stay
    for batch in islice(shuffled(data.train, built.batch_size, seed=built.config.seed, epoch=1), BATCHES):
        with autocast(built.config.precision, built.device):
            loss = built.task.loss(model(batch.x), batch.y)
        trained = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        for (name, parameter), gradient in zip(trained.items(), found, strict=True):
            if gradient is not None:
                total[name] += (parameter * gradient).detach().abs()
        count += 1
    return {name: value / max(count, 1) for name, value in total.items()}


def of_units(model: nn.Module, units: Sequence[Unit], importance: dict[str, Tensor]) -> list[float]:
    """The sum over all weights of each unit, in units of the mean of its family."""
    sums: dict[tuple[str, str], Tensor] = {}
    for unit in units:
        for module, side in unit.slots:
            if (module, side) not in sums:
                sums[module, side] = _by_channel(model.get_submodule(module), module, side, importance)
    raw = [float(sum(sums[place][list(chosen)].sum() for place, chosen in unit.slots.items())) for unit in units]
    families: dict[Any, list[float]] = {}
    for unit, value in zip(units, raw, strict=True):
        families.setdefault(unit.family, []).append(value)
    means = {family: sum(values) / len(values) or 1.0 for family, values in families.items()}
    return [value / means[unit.family] for unit, value in zip(units, raw, strict=True)]


def _by_channel(layer: nn.Module, name: str, side: str, importance: dict[str, Tensor]) -> Tensor:
    """(C,) float64: the sum over what belongs to each channel of this side."""
    total: Tensor | None = None
    for tensor, dimension, places in indices(layer, side, list(range(_size(layer, side)))):
        values = importance.get(f"{name}.{tensor}" if name else tensor)
        if values is None:  # a statistic
            continue
        along = values.double().movedim(dimension, 0).flatten(1).sum(1) if values.dim() > 1 else values.double()
        own = along.cpu()[places].reshape(-1, _size(layer, side)).sum(0)
        total = own if total is None else total + own
    return torch.zeros(_size(layer, side), dtype=torch.float64) if total is None else total


def _size(layer: nn.Module, side: str) -> int:
    if side == "out":
        return channels(layer)
    if isinstance(layer, nn.GRU):
        return layer.input_size
    return len(layer._parameters["weight"][0])  # type: ignore[index]
