"""Which module computes: in the forward pass by hooks of the modules, in the backward pass by hooks of autograd.

Module backward hooks would not do: they make views of the outputs, which layers that work in place refuse. A node
belongs to the module that was computing when it was made, which its sequence number says.
"""

import bisect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dlcli.analysis.profile.ledger import Ledger, Owner


class Modules:
    """Turns a ledger to each module of `model` while it computes.

    name: of the model; a module that is used in several places is known by its first name.
    """

    def __init__(self, model: nn.Module, ledger: Ledger, *, name: str) -> None:
        self.names = {module: path or name for path, module in model.named_modules()}
        self._ledger = ledger
        self._stack: list[str] = []
        self._starts: list[int] = []  # sequence numbers, and the module that made the nodes from there on
        self._makers: list[str] = []
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """From the next forward pass on."""
        for module in self.names:
            self._handles.append(module.register_forward_pre_hook(self._enter))
            self._handles.append(module.register_forward_hook(self._leave, always_call=True))

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def begin(self) -> None:
        """A forward pass begins."""
        self._stack.clear()
        self._starts.clear()
        self._makers.clear()

    def follow(self, loss: Tensor) -> None:
        """Turn to the module of each node of the graph of `loss` in its backward pass."""
        if loss.grad_fn is None:
            return
        seen, waiting = {loss.grad_fn}, [loss.grad_fn]
        while waiting:
            node: Any = waiting.pop()
            if node.name() != "torch::autograd::AccumulateGrad":  # which follows the node of its gradient at once
                owner = Owner("backward", self._maker(node._sequence_nr()))
                node.register_prehook(lambda gradients, owner=owner: self._ledger.turn(owner))
            for following, _ in node.next_functions:
                if following is not None and following not in seen:
                    seen.add(following)
                    waiting.append(following)

    def _maker(self, number: int) -> str:
        place = bisect.bisect_right(self._starts, number) - 1
        return self._makers[place] if place >= 0 else ""

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._stack.append(self.names[module])
        self._turn()

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._stack.pop()
        self._turn()

    def _turn(self) -> None:
        module = self._stack[-1] if self._stack else ""
        self._ledger.turn(Owner("forward", module))
        self._starts.append(torch._C._autograd._get_sequence_nr())
        self._makers.append(module)
