"""Which channels of a network belong together, so that they can only be removed together: found by probing.

A channel of one layer's output becomes NaN, and wherever a NaN arrives, it is read: by a linear layer behind a flatten,
by both branches of a block, by the sum of a residual connection, by a squeeze and excitation. What is read no layer
passes on, since its input is cleaned first. So nothing has to be known of how the network is written.
"""

import math
import traceback
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dlcli.analysis.prune.slots import Slot, axis, channels, is_opaque, makes, passes
from dlcli.core.blame import out_of_memory, told
from dlcli.core.errors import DlcliError

_ANSWER = Slot("", "out", 0)


@dataclass(frozen=True)
class Unit:
    """Channels that can be removed only together. slots: (module, side) -> channels there."""

    slots: dict[tuple[str, str], tuple[int, ...]]

    @property
    def family(self) -> frozenset[tuple[str, str]]:
        """The units of the same places."""
        return frozenset(self.slots)

    @property
    def makers(self) -> tuple[str, ...]:
        return tuple(sorted({module for module, side in self.slots if side == "out"}))


@dataclass(frozen=True)
class Structure:
    """units: all that may be removed, in the order of the network. left: layer -> why its channels are left alone."""

    units: list[Unit]
    left: dict[str, str]


@dataclass
class _Together:
    """Sets of channels that belong together (union-find), and why some may not be removed."""

    parents: dict[Slot, Slot] = field(default_factory=dict)
    blocked: dict[Slot, str] = field(default_factory=dict)

    def root(self, slot: Slot) -> Slot:
        above = self.parents.setdefault(slot, slot)
        while above != self.parents[above]:
            self.parents[above] = above = self.parents[self.parents[above]]
        return above

    def join(self, one: Slot, other: Slot) -> None:
        self.parents[self.root(other)] = self.root(one)


def find_structure(model: nn.Module, x: Tensor) -> Structure:
    """The units of a model in evaluation mode, by what it does with x (1, ...), a sample as the model gets it.

    Each layer takes one forward pass, of 2 log2(channels) copies of the sample: in number 2 b + v, all channels are NaN
    whose bit b is v. A place where NaNs arrive reads the channels of the bits that it sees.
    """
    together = _Together()
    probe = _Probe(model, together)
    with torch.no_grad():
        for name, module in model.named_modules():
            if makes(module):
                probe.run(name, module, x)
    units, left = _units(together)
    units = [unit for unit in units if probe.called.issuperset(unit.makers)]
    for name, module in model.named_modules():
        if makes(module) and name not in probe.called:
            left[name] = "it is not called as a layer"
        elif _is_grouped(module) or (is_opaque(module) and not isinstance(module, nn.LayerNorm | nn.GroupNorm)):
            left[name] = "it is of a kind that is not known here"
    return Structure(units, left)


def _is_grouped(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd) and not makes(module) and not passes(module)


def _is_ours(error: Exception) -> bool:
    """Whether it was raised by the probing itself, and not by what is probed."""
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    return innermost.f_code.co_filename == __file__


class _Probe:
    def __init__(self, model: nn.Module, together: _Together) -> None:
        self.model, self.together = model, together
        self.called: set[str] = set()
        self.names = {module: name for name, module in model.named_modules()}

    def run(self, name: str, module: nn.Module, x: Tensor) -> None:
        """Follow the channels that this layer makes."""
        count = channels(module)
        bits = max(1, math.ceil(math.log2(count))) if count > 1 else 1
        sources = torch.arange(count)
        marked = torch.stack([(sources >> bit & 1) == value for bit in range(bits) for value in (0, 1)])  # (2 bits, C)
        for channel in range(count):
            self.together.root(Slot(name, "out", channel))
        try:
            # torch's fast attention hides NaNs with the instructions of AVX-512.
            with self._listening(name, module, marked), sdpa_kernel(SDPBackend.MATH):
                output = self.model(x.repeat_interleave(len(marked), 0))
        except Exception as error:  # of the model, which may look at its values and refuse a NaN
            if isinstance(error, DlcliError) or out_of_memory(error) or _is_ours(error):
                raise
            why = f"the model fails when they are marked: {told(error)[:200]}"
            self.together.blocked |= {Slot(name, "out", channel): why for channel in range(count)}
            self.called |= {name}
            return
        self._note(name, marked, output, -1, _ANSWER, why="they are answers")

    @contextmanager
    def _listening(self, name: str, source: nn.Module, marked: Tensor) -> Iterator[None]:
        def mark(module: nn.Module, given: Any, output: Any) -> Any:
            self.called |= {name}
            if isinstance(module, nn.GRU):
                steps, state = output
                return _marked(steps, marked, -1), state.masked_fill(marked[None].to(state.device), math.nan)
            return _marked(output, marked, axis(module))

        def read(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            cleaned = tuple(self._read(name, marked, module, value) for value in given)
            return cleaned, {key: self._read(name, marked, module, value) for key, value in named.items()}

        def passed(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            self.called |= {self.names[module]}
            value = given[0] if given else next(iter(named.values()))
            self._note(name, marked, value, 1, Slot(self.names[module], "out", 0))

        hooks: list[Any] = [source.register_forward_hook(mark)]
        for module in self.model.modules():
            if passes(module):
                hooks.append(module.register_forward_pre_hook(passed, with_kwargs=True))
            elif makes(module) or is_opaque(module) or _is_grouped(module):
                hooks.append(module.register_forward_pre_hook(read, with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _read(self, name: str, marked: Tensor, module: nn.Module, value: Any) -> Any:
        """Note what arrives at a layer, and clean it."""
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        known = makes(module)
        why = "" if known else f"{self.names[module]} reads them, and is of a kind that is not known here"
        place = Slot(self.names[module], "in", 0) if known else _ANSWER
        self._note(name, marked, value, axis(module) if known else None, place, why=why)
        return torch.nan_to_num(value, nan=0.0)

    def _note(
        self, name: str, marked: Tensor, value: Tensor, dimension: int | None, place: Slot, *, why: str = ""
    ) -> None:
        """Join the channels of the layer `name` whose NaNs are in `value` with those in which they are.

        dimension: of the channels in `value`; None if there are none. why: the reason for which they are left alone.
        """
        copies = len(marked)
        found = torch.isnan(value.detach())
        if not bool(found.any()):
            return
        if len(found) % copies:  # the samples are no longer where they were
            why, dimension = "the samples of a batch change places", None
            found = found[None].expand(copies, *found.shape)
        each = found.reshape(copies, -1, *found.shape[1:])  # several rows of a sample are one after the other
        if dimension is None:
            seen = each.flatten(1).any(1)[:, None]
        else:
            each = each.movedim(dimension if dimension < 0 else dimension + 1, 1)
            seen = each.flatten(2).any(2)  # (copies, channels there)
        columns = seen.any(0).nonzero()[:, 0]
        for column, sources in zip(columns.tolist(), _sources(marked, seen[:, columns].cpu()), strict=True):
            if why:
                self.together.blocked |= {Slot(name, "out", source): why for source in sources}
                continue
            there = Slot(place.module, place.side, column)
            for source in sources:
                self.together.join(there, Slot(name, "out", source))


def _sources(marked: Tensor, seen: Tensor) -> list[list[int]]:
    """For each column of `seen` (copies, columns), where NaNs are, the channels that it allows: at least those that
    made it. marked: (copies, channels)."""
    pairs = seen.reshape(-1, 2, seen.shape[1])  # bit, its value, column
    weights = 2 ** torch.arange(len(pairs))
    alone = (pairs.sum(1) == 1).all(0)
    numbers = (pairs[:, 1] * weights[:, None]).sum(0).tolist()
    found = []
    for column, is_alone in enumerate(alone.tolist()):
        if is_alone:
            found.append([numbers[column]])
            continue
        possible = (marked & seen[:, column, None]).reshape(len(pairs), 2, -1).any(1).all(0)
        found.append([int(source) for source in possible.nonzero()[:, 0]])
    return found


def _marked(output: Any, marked: Tensor, dimension: int) -> Any:
    if not isinstance(output, Tensor) or len(output) % len(marked):
        return output
    rows = len(output) // len(marked)
    mask = marked.to(output.device).repeat_interleave(rows, 0)
    shape = [len(mask)] + [1] * (output.dim() - 1)
    shape[dimension] = mask.shape[1]
    return output.masked_fill(mask.reshape(shape), math.nan)


def _units(together: _Together) -> tuple[list[Unit], dict[str, str]]:
    members: dict[Slot, list[Slot]] = defaultdict(list)
    for slot in together.parents:
        members[together.root(slot)].append(slot)
    why = {together.root(slot): reason for slot, reason in together.blocked.items()}
    units: list[Unit] = []
    left: dict[str, str] = {}
    for root, slots in members.items():
        if root in why:
            left |= {slot.module: why[root] for slot in slots if slot.side == "out"}
            continue
        grouped: dict[tuple[str, str], list[int]] = defaultdict(list)
        for slot in sorted(slots):
            grouped[slot.module, slot.side].append(slot.channel)
        units.append(Unit({place: tuple(found) for place, found in grouped.items()}))
    return units, left
