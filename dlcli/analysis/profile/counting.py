"""What a step asks of the machine: floating-point operations, bytes, operators and memory, operator by operator.

A TorchDispatchMode sees each operator that computes, in both passes. Operations are counted by the formulas of
torch.utils.flop_counter: those of matrix products, a multiply-add as two.
"""

import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dlcli.analysis.profile.ledger import Ledger, Owner

# Operators that only say what memory is.
_FREE = {torch.ops.aten.empty, torch.ops.aten.empty_strided, torch.ops.aten.empty_like, torch.ops.aten.detach}


@dataclass
class Work:
    """Of one owner in one step.

    flops: of matrix products. bytes: read and written by operators, each tensor once in each operator. operators: their
    number. allocated: bytes of new tensors. peak: the most bytes of tensors that the step had made and not given back,
    while this owner computed. each: FLOPs and bytes of each operator.
    """

    flops: int = 0
    bytes: int = 0
    operators: int = 0
    allocated: int = 0
    peak: int = 0
    each: list[tuple[int, int]] = field(default_factory=list)

    def add(self, other: "Work") -> None:
        self.flops += other.flops
        self.bytes += other.bytes
        self.operators += other.operators
        self.allocated += other.allocated
        self.peak = max(self.peak, other.peak)
        self.each += other.each


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, what is computed is added to the work of the ledger's owner.

    Memory that operators use for themselves is not seen.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work: defaultdict[Owner, Work] = defaultdict(Work)
        self._ledger = ledger
        self._alive = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        owner = self._ledger.owner
        if owner is None:
            return output
        work = self.work[owner]
        taken, made = list(_tensors((args, kwargs))), list(_tensors(output))
        self._note_new(taken, made, work)
        if func.is_view or func._overloadpacket in _FREE:
            return output
        count = flop_registry.get(func._overloadpacket)
        flops = count(*args, **kwargs, out_val=output) if count is not None else 0
        moved = sum({id(t): t.numel() * t.element_size() for t in (*taken, *made)}.values())
        work.operators += 1
        work.flops += flops
        work.bytes += moved
        work.each.append((flops, moved))
        return output

    def _note_new(self, taken: Sequence[Tensor], made: Sequence[Tensor], work: Work) -> None:
        """Memory that was not there before; it is given back with its last tensor."""
        before = {tensor.untyped_storage()._cdata for tensor in taken}
        for tensor in made:
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in before or key in self._known:
                continue
            self._known.add(key)
            self._alive += size
            weakref.finalize(storage, self._given_back, key, size).atexit = False
            work.allocated += size
        work.peak = max(work.peak, self._alive)

    def _given_back(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._alive -= size


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from _tensors(inner)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
