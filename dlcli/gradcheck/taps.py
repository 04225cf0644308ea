"""Taps: places where an argument or result of a module can be read, shifted, and differentiated.

A tap adds a tensor to the one that passes through it. If the added tensor is zeros that require a gradient, it receives
the gradient of the passing tensor; if it is a small step, the numeric derivative is obtained at the same place. So
module inputs and outputs are checked like parameters, which shows in which module a derivative goes wrong.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from dlcli.gradcheck.structure import map_tensors

# Only the first calls of a module are tapped, since some (a cell in a loop over time) are called very often.
MOST_CALLS = 4


@dataclass(frozen=True)
class Tap:
    """module: qualified name, "" for the whole model. call: number of the call of this module, from 0.

    position: number of the floating-point tensor among the arguments or results, from 0; a tensor that is passed twice
    in the same call counts once.
    """

    module: str
    call: int
    side: Literal["input", "output"]
    position: int

    def __str__(self) -> str:
        name = f"{self.module or '(model)'} {self.side}"
        name += f" {self.position + 1}" if self.position else ""
        return name + (f", call {self.call + 1}" if self.call else "")


@contextlib.contextmanager
def tapped(
    model: nn.Module, pass_on: Callable[[Tap, Tensor], Tensor], *, only: str | None = None
) -> Iterator[Callable[[], None]]:
    """Inside the block, every floating-point input and output of a module is replaced by `pass_on(tap, tensor)`.

    Yields a function that restarts the counting of calls; it must be called before each evaluation but the first.

    only: the module to tap; by default all. The arguments of the model itself are not tapped: they are its inputs.
    """
    hooks, counters = [], []
    for name, module in model.named_modules():
        if only is not None and name != only:
            continue
        calls = _Calls(name, pass_on)
        counters.append(calls)
        if name:
            hooks.append(module.register_forward_pre_hook(calls.before, with_kwargs=True))
        hooks.append(module.register_forward_hook(calls.after))

    def restart() -> None:
        for calls in counters:
            calls.entered = calls.left = 0

    try:
        yield restart
    finally:
        for hook in hooks:
            hook.remove()


class _Calls:
    """The two hooks of one module, which count its calls.

    Entries and returns are counted separately, since a module that calls itself returns from the inner call first.
    """

    def __init__(self, name: str, pass_on: Callable[[Tap, Tensor], Tensor]) -> None:
        self.name, self.pass_on = name, pass_on
        self.entered = self.left = 0

    def before(self, _: nn.Module, args: Any, kwargs: Any) -> Any:
        call, self.entered = self.entered, self.entered + 1
        return self._replace((args, kwargs), call, "input") if call < MOST_CALLS else None

    def after(self, _: nn.Module, args: Any, result: Any) -> Any:
        call, self.left = self.left, self.left + 1
        return self._replace(result, call, "output") if call < MOST_CALLS else None

    def _replace(self, value: Any, call: int, side: Literal["input", "output"]) -> Any:
        # The same tensor in two places stays the same object, for code that tests `query is key`.
        replaced: dict[int, Tensor] = {}

        def change(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            if id(tensor) not in replaced:
                replaced[id(tensor)] = self.pass_on(Tap(self.name, call, side, len(replaced)), tensor)
            return replaced[id(tensor)]

        return map_tensors(value, change)
