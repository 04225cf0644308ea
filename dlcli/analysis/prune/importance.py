"""How much each unit, or each weight, matters: by its magnitude, or by how the loss changes without it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.analysis.prune.slots import channels, indices
from dlcli.analysis.prune.structure import Unit
from dlcli.compute.devices import autocast
from dlcli.core.errors import ConfigError
from dlcli.data.batches import shuffled
from dlcli.experiment.build import Experiment

# Batches of the training data for the first order.
BATCHES = 32


def of_weights(built: Experiment, by: str) -> dict[str, Tensor]:
    """For each parameter, the importance of each of its values.

    by: `magnitude`, its square (Han et al. 2015, arXiv:1506.02626; Li et al. 2017, arXiv:1608.08710), or `gradient`,
    |w * dL/dw|, the mean over batches of the training data, the loss to first order without it (Molchanov et al. 2019,
    arXiv:1906.10771). The batches are the first of the order that the seed draws. ConfigError (exit 2) for a layer
    that takes part without derivatives.
    """
    named = dict(built.model.named_parameters())
    if by == "magnitude":
        return {name: parameter.detach().square() for name, parameter in named.items()}
    total = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    reached: set[str] = set()
    count = 0
    data = built.dataset
    model: Any = built.model.eval()  # no dropout, and the statistics of batch normalization stay
    with _derived(named) as parameters, _called(model) as called:
        for batch in islice(shuffled(data.train, built.batch_size, seed=built.config.seed, epoch=1), BATCHES):
            with autocast(built.config.precision, built.device):
                loss = built.task.loss(model(batch.x), batch.y)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for (name, parameter), gradient in zip(parameters.items(), found, strict=True):
                if gradient is not None:
                    total[name] += (parameter * gradient).detach().abs()
                    reached.add(name)
            count += 1
    unreached = [name for name in parameters if name not in reached and name.rpartition(".")[0] in called]
    if unreached:
        raise ConfigError(
            f"--by gradient needs the derivative of the loss by {unreached[0]}, which model {built.config.model} "
            "computes without derivatives: take --by magnitude"
        )
    return {name: value / max(count, 1) for name, value in total.items()}


@contextmanager
def _derived(named: dict[str, nn.Parameter]) -> Iterator[dict[str, nn.Parameter]]:
    """The parameters by which the loss can be derived, also those that are not trained: what a channel does for the
    loss does not depend on that."""
    before = {name: parameter.requires_grad for name, parameter in named.items()}
    found = {name: p for name, p in named.items() if p.is_floating_point()}
    try:
        for parameter in found.values():
            parameter.requires_grad_(True)
        yield found
    finally:
        for name, parameter in named.items():
            parameter.requires_grad_(before[name])


@contextmanager
def _called(model: nn.Module) -> Iterator[set[str]]:
    """Fills with the names of the layers, modules that hold no others, that are called meanwhile."""
    found: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *heard, name=name: found.add(name))
        for name, module in model.named_modules()
        if not any(True for _ in module.children())
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


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
