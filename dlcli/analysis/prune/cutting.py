"""Removing units from a network, and the proof that nothing else has changed."""

import copy
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dlcli.analysis.prune.slots import indices, reads_itself
from dlcli.analysis.prune.structure import Unit
from dlcli.core.blame import out_of_memory, told
from dlcli.core.errors import DlcliError
from dlcli.models.narrowing import narrow

# Of the largest answer: how far the answers of the narrower network may be from those of the masked one. Sums of fewer
# terms are rounded differently.
_TOLERANCE = 1e-4


def cut(model: nn.Module, units: Iterable[Unit]) -> nn.Module:
    """A copy without these units: narrower layers, with the values of what stays."""
    stays: dict[tuple[str, int], Tensor] = {}
    state = dict(model.state_dict())
    for (module, side), gone in _gone(units).items():
        for name, dimension, places in indices(model.get_submodule(module), side, gone):
            key = f"{module}.{name}" if module else name
            kept = stays.setdefault((key, dimension), torch.ones(state[key].shape[dimension], dtype=torch.bool))
            kept[places] = False
    for (key, dimension), kept in stays.items():
        state[key] = state[key].index_select(dimension, kept.nonzero()[:, 0].to(state[key].device))
    made = copy.deepcopy(model)
    narrow(made, {name: tuple(tensor.shape) for name, tensor in state.items()})
    made.load_state_dict(state)
    return made


def masked(model: nn.Module, units: Iterable[Unit]) -> nn.Module:
    """A copy of the whole network in which the weights that read the channels of these units are zero."""
    made = copy.deepcopy(model)
    with torch.no_grad():
        for (module, side), gone in _gone(units).items():
            layer = made.get_submodule(module)
            if side == "in":
                for name, dimension, places in indices(layer, side, gone):
                    getattr(layer, name).index_fill_(dimension, places.to(getattr(layer, name).device), 0.0)
            elif isinstance(layer, nn.GRU):
                for number in range(layer.num_layers):
                    for name in reads_itself(layer, number):
                        getattr(layer, name)[:, sorted(gone)] = 0.0
    return made


def differs(model: nn.Module, units: Iterable[Unit], x: Tensor, *, made: nn.Module | None = None) -> str:
    """Why the network without these units does not answer x as the masked one does; empty if it does. Both are in
    evaluation mode, in float32. made: the one without them, if there is one already."""
    units = list(units)
    with torch.no_grad():
        wanted = masked(model, units)(x)
        try:
            found = (cut(model, units) if made is None else made)(x)
        except Exception as error:  # of the model, whatever it raises
            if isinstance(error, DlcliError) or out_of_memory(error):
                raise
            return f"without some of them it cannot be computed ({told(error)[:80]})"
    scale = wanted.abs().max().clamp_min(1e-12)
    distance = float((found - wanted).abs().max() / scale) if found.shape == wanted.shape else float("inf")
    return (
        "" if distance <= _TOLERANCE else f"its answers then differ from those of the masked network by {distance:.1g}"
    )


def _gone(units: Iterable[Unit]) -> dict[tuple[str, str], list[int]]:
    gone: dict[tuple[str, str], list[int]] = defaultdict(list)
    for unit in units:
        for place, chosen in unit.slots.items():
            gone[place] += chosen
    return gone
