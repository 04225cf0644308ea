"""Names, dtypes and shapes of an exported model's inputs and outputs. Light: does not import torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BATCH, STEPS = "batch", "steps"
STATE = "state"  # the name of the input that a recurrent model has


@dataclass(frozen=True)
class Port:
    """An input or output. shape: numbers, or the name of a dynamic size: `batch`, `steps`. columns: of an input for
    columns of a table, what is in each of them, see columns.py."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    columns: tuple[Mapping[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        columns = {"columns": list(self.columns)} if self.columns else {}
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), **columns}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Port":
        return cls(values["name"], values["dtype"], tuple(values["shape"]), tuple(values.get("columns", ())))


@dataclass(frozen=True)
class Signature:
    """inputs, outputs: in order. The inputs are the sample, of a table in parts; the first output is the answer. A
    recurrent model has one more of each, the state before and after. most_steps: the longest sequence; None without a
    limit or sequence.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    most_steps: int | None = None

    @property
    def stateful(self) -> bool:
        return self.inputs[-1].name == STATE

    @property
    def samples(self) -> tuple[Port, ...]:
        """The inputs without the state."""
        return self.inputs[:-1] if self.stateful else self.inputs

    @property
    def steps_are_free(self) -> bool:
        return STEPS in self.inputs[0].shape

    def as_dict(self) -> dict[str, Any]:
        return {
            "inputs": [port.as_dict() for port in self.inputs],
            "outputs": [port.as_dict() for port in self.outputs],
            "most_steps": self.most_steps,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Signature":
        return cls(
            tuple(Port.from_dict(port) for port in values["inputs"]),
            tuple(Port.from_dict(port) for port in values["outputs"]),
            values["most_steps"],
        )
