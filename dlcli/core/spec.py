"""What a model and a task must know of their data: kind, shapes, and the number of outputs."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from dlcli.core.documents import COUNT, FLAG, WHOLE, Kind, check, list_of

TaskName = Literal["regression", "binary", "multiclass", "next-token"]
DataKind = Literal["image", "features", "tokens"]

# Most values of one sample that the data.json of a run may declare.
_MOST_VALUES = 2**25
_AXES = {"image": 3, "features": 1, "tokens": 1}


@dataclass(frozen=True)
class DataSpec:
    """The shape of one sample, and what is to be predicted from it.

    task: regression (one real number per output), binary (one logit), multiclass (one logit per class),
        next-token (at every step one logit per token of the vocabulary).
    kind: image (channels, height, width), features (features,), tokens (steps,).
    input_shape: shape of one sample, without the batch dimension.
    outputs: size of the last dimension of the model's output.
    vocabulary: number of different tokens; 0 unless kind is tokens.
    flags: which features are 0 or 1 only, such as those of a category; the others are numbers.
    padding: whether samples are of different lengths, and token 0 fills them up to `input_shape`.
    """

    task: TaskName
    kind: DataKind
    input_shape: tuple[int, ...]
    outputs: int
    vocabulary: int = 0
    flags: tuple[int, ...] = ()
    padding: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Without `flags` and `padding` if there are none, as before there were any."""
        values = asdict(self) | {"input_shape": list(self.input_shape), "flags": list(self.flags)}
        return {name: value for name, value in values.items() if value or name not in _OPTIONAL}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DataSpec":
        """The inverse of `as_dict`; ValueError if no data can have this description."""
        check(values, _FIELDS, needed=True)
        check(values, _OPTIONAL)
        kind, task, shape = values["kind"], values["task"], values["input_shape"]
        outputs, vocabulary = values["outputs"], values["vocabulary"]
        if len(shape) != _AXES[kind] or math.prod(shape) > _MOST_VALUES:
            raise ValueError(f"input_shape = {shape[:4]} is not a shape of {kind}")
        if (vocabulary > 0) != (kind == "tokens"):
            raise ValueError(f"vocabulary = {vocabulary} does not go with {kind}")
        least = {"multiclass": 2, "next-token": vocabulary}.get(task, 1)
        if outputs < least or (task != "multiclass" and outputs > least):
            raise ValueError(f"outputs = {outputs} does not go with {task}")
        flags = values.get("flags", [])
        if flags and (kind != "features" or sorted(set(flags)) != flags or flags[-1] >= shape[0]):
            raise ValueError(f"flags = {flags[:4]} do not go with {shape[0]} {kind}")
        padding = values.get("padding", False)
        if padding and (kind != "tokens" or task == "next-token"):
            raise ValueError(f"padding does not go with {kind} for {task}")
        return cls(task, kind, tuple(shape), outputs, vocabulary, tuple(flags), padding)

    def __str__(self) -> str:
        shape = "x".join(map(str, self.input_shape))
        return f"{self.kind} of {'at most ' * self.padding}{shape}"


_FIELDS = {
    "task": Kind(f"one of {', '.join(get_args(TaskName))}", lambda v: v in get_args(TaskName)),
    "kind": Kind(f"one of {', '.join(_AXES)}", lambda v: v in get_args(DataKind)),
    "input_shape": list_of(COUNT),
    "outputs": COUNT,
    "vocabulary": WHOLE,
}
_OPTIONAL = {"flags": list_of(WHOLE), "padding": FLAG}
