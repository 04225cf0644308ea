"""Unstructured pruning: the least important weights become zero, wherever they are."""

import torch
from torch import Tensor, nn

from dlcli.core.errors import ConfigError


def weights_of(model: nn.Module, frozen: tuple[str, ...]) -> dict[str, Tensor]:
    """The parameters that are pruned: trained ones of two or more dimensions."""
    still = set(frozen)
    return {name: p for name, p in model.named_parameters() if p.dim() >= 2 and p.requires_grad and name not in still}


@torch.no_grad()
def set_zeros(model: nn.Module, importance: dict[str, Tensor], amount: float, *, frozen: tuple[str, ...]) -> int:
    """Set the share `amount` of the weights that are not zero to zero, the least important of all layers together, in
    place. Returns how many. ConfigError if that is none, or all of a layer."""
    weights = weights_of(model, frozen)
    if not weights:
        raise ConfigError("the model has no trained weights of two or more dimensions: there is nothing to prune")
    flat = torch.cat([importance[name].flatten().cpu() for name in weights])
    there = torch.cat([(p != 0).flatten().cpu() for p in weights.values()])
    count = round(amount * int(there.sum()))
    if not count:
        raise ConfigError(f"--amount {amount:g} of {int(there.sum()):,} weights is none: take a larger amount")
    order = flat.masked_fill(~there, torch.inf).argsort(stable=True)
    gone = torch.zeros(len(flat), dtype=torch.bool)
    gone[order[:count]] = True
    for (name, parameter), part in zip(
        weights.items(), torch.split(gone, [p.numel() for p in weights.values()]), strict=True
    ):
        parameter.masked_fill_(part.reshape(parameter.shape).to(parameter.device), 0.0)
        if not bool(parameter.any()):
            raise ConfigError(f"--amount {amount:g} leaves nothing of {name}: take a smaller amount")
    return count


def share_of_zeros(model: nn.Module, frozen: tuple[str, ...] = ()) -> float:
    """Of the weights that are pruned."""
    weights = weights_of(model, frozen).values()
    zeros = sum(int((p == 0).sum()) for p in weights)
    return zeros / max(1, sum(p.numel() for p in weights))
