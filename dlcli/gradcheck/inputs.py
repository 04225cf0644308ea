"""The shape, type and range of an argument of a target: from `--input 2,3,8,8`, or for a batch of data."""

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec

_FORM = re.compile(r"(?:(float|int|bool):)?(\d+(?:,\d+)*)?(?::([-+.\de]+?)\.\.([-+.\de]+))?")


@dataclass(frozen=True)
class Input:
    """low, high: range of the values, `high` excluded; floats without a range are drawn from N(0, 1)."""

    kind: Literal["float", "int", "bool"]
    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None

    def draw(self, generator: torch.Generator) -> Tensor:
        """Random values in float64, int64 or bool."""
        if self.kind == "bool":
            return torch.rand(self.shape, generator=generator) < 0.5
        if self.kind == "int":
            low, high = int(self.low or 0), int(self.high if self.high is not None else 2)
            return torch.randint(low, high, self.shape, generator=generator)
        if self.low is None or self.high is None:
            return torch.randn(self.shape, generator=generator, dtype=torch.float64)
        uniform = torch.rand(self.shape, generator=generator, dtype=torch.float64)
        return self.low + (self.high - self.low) * uniform

    def __str__(self) -> str:
        prefix = "" if self.kind == "float" else f"{self.kind}:"
        bounds = "" if self.low is None else f":{self.low:g}..{self.high:g}"
        return prefix + ",".join(map(str, self.shape)) + bounds


def parse(text: str) -> Input:
    """`2,3,8,8` (floats), `2,3:0.1..0.9` (floats in a range), `int:2,7:0..50` (0 to 49), `bool:2,7`.

    Raises ConfigError for anything else.
    """
    match = _FORM.fullmatch(text.replace(" ", ""))
    if match is None or not match[2]:
        raise ConfigError(f"--input {text!r} is no shape such as 2,3,8,8 or int:2,7:0..50")
    kind, shape = match[1] or "float", tuple(int(size) for size in match[2].split(","))
    if 0 in shape:
        raise ConfigError(f"--input {text!r} has no elements: every size must be at least 1")
    try:
        low, high = (float(match[3]), float(match[4])) if match[3] else (None, None)
    except ValueError:
        raise ConfigError(f"--input {text!r}: the range must be two numbers, such as 0..50") from None
    if low is not None and high is not None and not low < high:
        raise ConfigError(f"--input {text!r}: the range is empty, since its end is excluded")
    if kind == "int" and (low is None or high is None):
        raise ConfigError(f"--input {text!r}: whole numbers need a range, such as {text}:0..50")
    if kind == "int" and not (float(low or 0).is_integer() and float(high or 0).is_integer()):
        raise ConfigError(f"--input {text!r}: the range of whole numbers must be whole")
    if kind == "bool" and low is not None:
        raise ConfigError(f"--input {text!r}: true and false have no range")
    if kind == "float":
        return Input("float", shape, low, high)
    return Input("int" if kind == "int" else "bool", shape, low, high)


def batch_of(spec: DataSpec, samples: int) -> Input:
    """Model input for a batch of this data."""
    shape = (samples, *spec.input_shape)
    return Input("int", shape, 0, spec.vocabulary) if spec.kind == "tokens" else Input("float", shape)


def targets_of(spec: DataSpec, samples: int) -> Input:
    """The targets for a batch of this data."""
    if spec.task == "regression":
        return Input("float", (samples,))
    if spec.task == "next-token":
        return Input("int", (samples, *spec.input_shape), 0, spec.outputs)
    return Input("int", (samples,), 0, 2 if spec.task == "binary" else spec.outputs)
