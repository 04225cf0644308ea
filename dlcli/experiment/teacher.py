"""The teacher of a distillation: a trained run, fitted to the inputs and classes of its student."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.compute.devices import autocast, memory
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError, RunError
from dlcli.core.files import read_manifest
from dlcli.data.batches import in_order
from dlcli.data.dataset import Split
from dlcli.data.preprocessing import Preprocessing
from dlcli.experiment.restore import restore
from dlcli.runs.names import find_one


@dataclass(frozen=True)
class Teacher:
    """A model in evaluation mode, and what makes its student's inputs its own.

    convert: inputs of the student -> inputs of the teacher; they are normalised by other means and deviations.
    order: which output of the teacher is each of the student's; None if they are the same. opposite: whether the two
    classes change places.
    identity: run, checkpoint and sha256 of the weights, for run.json.
    """

    model: nn.Module
    convert: Callable[[Tensor], Tensor]
    order: Tensor | None
    opposite: bool
    precision: str
    batch_size: int
    identity: dict[str, Any]

    @torch.no_grad()
    def answer(self, x: Tensor) -> Tensor:
        """(B, ..., K) float32 logits for inputs of the student, without gradient, in the precision of the teacher."""
        with torch.autocast(x.device.type, enabled=False), autocast(self.precision, x.device):
            output: Tensor = self.model(self.convert(x)).float()
        if self.opposite:
            return -output
        return output if self.order is None else output[..., self.order]

    def answers(self, split: Split) -> Tensor | None:
        """(N, ..., K) the answers for all samples of a split of the student, in its order; None if they would take more
        than an eighth of the memory, as those for every token of a text may."""
        found = []
        for batch in in_order(split, self.batch_size):
            found.append(self.answer(batch.x))
            if found[0].nbytes / len(found[0]) * len(split) > memory(batch.x.device) / 8:
                return None
        return torch.cat(found)


def with_teacher_found(config: TrainConfig, runs_dir: str | Path) -> TrainConfig:
    """`config` with the path of its teacher, if it has one, in place of a number or a name.

    RunError if there is no such run.
    """
    if config.teacher is None:
        return config
    return config.with_values(teacher=str(find_one(config.teacher, runs_dir).path.absolute()))


def read_teacher(path: Path, student: Preprocessing, *, data_name: str, device: torch.device) -> Teacher:
    """The best checkpoint of the run `path` as a teacher of a model for data that `student` describes.

    Sets the number of threads and the precision of this process, as `restore` does.
    Raises ConfigError if the task has no distributions to learn, RunError if the run cannot be read, or was trained on
    other inputs or classes.
    """
    if student.spec.task == "regression":
        raise ConfigError(f"teacher = {path} is for classes or tokens, but data {data_name} is for regression")
    run = find_one(str(path), path.parent)
    restored = restore(run, device=str(device))
    own = restored.preprocessing
    refused = f"teacher {run} was trained on {restored.config.data}, and data {data_name} differs"
    _check_inputs(own, student, refused)
    order = _order(own, student, refused)
    turned = order is not None and student.spec.task == "binary"
    saved = restored.checkpoint
    return Teacher(
        model=restored.model.requires_grad_(False),
        convert=_conversion(own, student, device),
        order=None if order is None or turned else torch.tensor(order, device=device),
        opposite=turned,
        precision=restored.config.precision,
        batch_size=restored.eval_batch_size,
        identity={
            "run": str(run.path.absolute()),
            "checkpoint": saved.path.name,
            "sha256": read_manifest(saved.path)["model.safetensors"],
        },
    )


def _check_inputs(own: Preprocessing, student: Preprocessing, refused: str) -> None:
    """RunError unless an input of the student is one of the teacher, but for the normalisation."""
    ours, theirs = student.spec, own.spec
    for what, one, other in (
        ("task", theirs.task, ours.task),
        ("inputs", str(theirs), str(ours)),
        ("number of outputs", theirs.outputs, ours.outputs),
        ("padding", theirs.padding, ours.padding),
    ):
        if one != other:
            raise RunError(f"{refused}: its {what}: {one} -> {other}; take a teacher of the same kind of data")
    pairs = {
        "columns": (own.feature_names, student.feature_names),
        "encoding of columns": _plain(own.encoding, student.encoding),
        "alphabet": (own.alphabet, student.alphabet),
        "tokens": _plain(own.tokens, student.tokens),
        "pieces": _plain(own.pieces, student.pieces),
    }
    for what, (teachers, students) in pairs.items():
        if teachers != students:
            raise RunError(f"{refused}: its {what} are others; take a teacher that was trained on the same data")


def _plain(own: Any, student: Any) -> tuple[Any, Any]:
    one, other = (None if each is None else each.as_dict() for each in (own, student))
    return one, other


def _order(own: Preprocessing, student: Preprocessing, refused: str) -> list[int] | None:
    """For each class of the student its number in the teacher; None if they are the same. RunError if they are not the
    same classes."""
    if not own.class_names or not student.class_names or own.class_names == student.class_names:
        return None
    if set(own.class_names) != set(student.class_names):
        names = [", ".join(about.class_names[:5]) for about in (own, student)]
        raise RunError(f"{refused}: its classes: {names[0]} -> {names[1]}; take a teacher of the same classes")
    return [own.class_names.index(name) for name in student.class_names]


def _conversion(own: Preprocessing, student: Preprocessing, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Inputs as the student's normalisation made them -> as the teacher's would have."""
    same = (own.mean, own.std, own.pixel_max) == (student.mean, student.std, student.pixel_max)
    if own.spec.kind == "tokens" or same:
        return lambda x: x
    count = own.spec.input_shape[0]

    def values(given: tuple[float, ...], default: float) -> Tensor:
        shape = (-1, 1, 1) if own.spec.kind == "image" else (-1,)
        return torch.tensor(given or (default,) * count, dtype=torch.float64, device=device).view(shape)

    ratio = own.pixel_max / student.pixel_max if own.spec.kind == "image" else 1.0
    mean, std = values(own.mean, 0.0), values(own.std, 1.0)
    scale = (values(student.std, 1.0) * ratio / std).float()
    shift = ((values(student.mean, 0.0) * ratio - mean) / std).float()
    return lambda x: x * scale + shift
