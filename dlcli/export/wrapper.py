"""The module that is exported: preprocessing, the trained model, and conversion of the answer to the target's units.

Its input is raw values in contiguous (N, C, H, W), (N, F) or (N, T) memory, of a table the cells of its columns; its
output logits or a value in the target's units. It does not use `Preprocessing.apply` but repeats its formula: the
comparison with the trained model could not find a fault in shared code.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.data.preprocessing import Preprocessing
from dlcli.export.features import Features
from dlcli.export.recurrent import with_scans


class Exportable(nn.Module):
    """Raw input -> answer. raw: neither normalise the input nor convert the answer to the target's units.
    dtype: of the model's weights and arithmetic; input and answer are float32 in any case.
    """

    def __init__(
        self, model: nn.Module, preprocessing: Preprocessing, *, raw: bool, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        about = preprocessing
        self.model: Any = model.to(dtype)
        self.state_shape: tuple[int | None, ...] = ()
        self.dtype = dtype
        self.normalises = bool(about.mean) and not raw
        self.mean: Tensor
        self.factor: Tensor
        if self.normalises:
            shape = (1, -1, 1, 1) if about.spec.kind == "image" else (1, -1)
            self.register_buffer("mean", torch.tensor(about.mean, dtype=torch.float32).view(shape))
            self.register_buffer("factor", 1 / torch.tensor(about.std, dtype=torch.float32).view(shape))
        self.rescales = about.spec.task == "regression" and not raw
        self.target_mean, self.target_std = about.target_mean, about.target_std

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.model(self.prepared(x)))

    def prepared(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():  # tokens
            return x
        if self.normalises:
            x = (x - self.mean) * self.factor
        return x.to(self.dtype)

    def answer(self, output: Tensor) -> Tensor:
        output = output.float()
        return output * self.target_std + self.target_mean if self.rescales else output


class TableExportable(Exportable):
    """The cells of a table, one input for each group of columns, -> answer. raw: must be False."""

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, **how: Any) -> None:
        super().__init__(model, preprocessing, **how)
        assert preprocessing.encoding is not None
        self.features = Features(preprocessing.encoding)

    def forward(self, *groups: Tensor) -> Tensor:
        return super().forward(self.features(*groups))


class StatefulExportable(Exportable):
    """Tokens and the state before them -> logits and the state after them, with the model's `run`."""

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        output, after = self.model.run(self.prepared(x), state.to(self.dtype))
        return self.answer(output), after.float()


def wrap(model: nn.Module, preprocessing: Preprocessing, *, raw: bool, dtype: torch.dtype) -> Exportable:
    """A copy of `model` that is ready for tracing."""
    state = state_shape(model, preprocessing)
    kind = kind_of(preprocessing, raw=raw, stateful=bool(state))
    wrapped = kind(with_scans(frozen(model)), preprocessing, raw=raw, dtype=dtype).eval()
    wrapped.state_shape = state
    return wrapped


def kind_of(preprocessing: Preprocessing, *, raw: bool, stateful: bool) -> type[Exportable]:
    """raw: the input of the model itself is taken, of a table its features."""
    if preprocessing.encoding is not None and not raw:
        return TableExportable
    return StatefulExportable if stateful else Exportable


def frozen(model: nn.Module) -> nn.Module:
    """A copy on the CPU, in evaluation mode, contiguous, without gradients."""
    return copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format).requires_grad_(False).eval()


@torch.inference_mode()
def state_shape(model: nn.Module, preprocessing: Preprocessing) -> tuple[int | None, ...]:
    """Shape of a recurrent model's state, with None for the batch; empty for any other model.

    A recurrent model is a language model with a method `run(tokens, state=None)` that returns the output and the state
    after it, as `dlcli generate` uses it.
    """
    run = getattr(model, "run", None)
    if run is None or preprocessing.spec.task != "next-token":
        return ()
    device = next(model.parameters()).device
    states = [run(torch.zeros(size, 1, dtype=torch.int64, device=device))[1] for size in (2, 3)]
    if not all(isinstance(state, Tensor) for state in states):
        return ()
    return tuple(a if a == b else None for a, b in zip(*(state.shape for state in states), strict=True))
