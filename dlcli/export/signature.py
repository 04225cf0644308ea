"""Names, dtypes and shapes of an exported model's inputs and outputs. Light: does not import torch."""

from dataclasses import dataclass
from typing import Any

BATCH, STEPS = "batch", "steps"


@dataclass(frozen=True)
class Port:
    """An input or output. shape: numbers, or the name of a dynamic size: `batch`, `steps`."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Port":
        return cls(values["name"], values["dtype"], tuple(values["shape"]))


@dataclass(frozen=True)
class Signature:
    """inputs, outputs: in order. The first input is the sample, the first output the answer; a recurrent model has a
    second of each, the state before and after. most_steps: the longest sequence; None without a limit or sequence.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    most_steps: int | None = None

    @property
    def stateful(self) -> bool:
        return len(self.inputs) > 1

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
