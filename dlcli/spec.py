"""What a model and a task must know of their data: kind, shapes, and the number of outputs."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Task = Literal["regression", "binary", "multiclass", "next-token"]
Kind = Literal["image", "features", "tokens"]


@dataclass(frozen=True)
class DataSpec:
    """The shape of one sample, and what is to be predicted from it.

    task: regression (outputs real numbers), binary (one logit), multiclass (a logit a class),
        next-token (a logit a token of the vocabulary at every step).
    kind: image (channels, height, width), features (features,), tokens (steps,).
    input_shape: the shape of one sample, without the batch.
    outputs: size of the last dimension of the model's output.
    vocabulary: number of different tokens; 0 unless kind is tokens.
    """

    task: Task
    kind: Kind
    input_shape: tuple[int, ...]
    outputs: int
    vocabulary: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"input_shape": list(self.input_shape)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DataSpec":
        return cls(**(values | {"input_shape": tuple(values["input_shape"])}))

    def __str__(self) -> str:
        shape = "x".join(map(str, self.input_shape))
        return f"{self.kind} of {shape}"
