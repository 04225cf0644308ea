"""The objective that a step minimises: a function of (model, batch), with or without mixup, cutmix and a teacher."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from dlcli.data import augment
from dlcli.data.augment import Augmentation
from dlcli.data.batches import Batch
from dlcli.experiment.teacher import Teacher
from dlcli.tasks.distillation import teaching_loss
from dlcli.tasks.task import Task

Objective = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Teaching:
    """temperature, weight: see tasks/distillation.py and `choose_objective`. cached: (N, K) the answers of the teacher
    for all samples of the training; None if these are augmented."""

    teacher: Teacher
    temperature: float
    weight: float
    cached: Tensor | None = None

    def loss(self, output: Tensor, x: Tensor, samples: Tensor | None) -> Tensor:
        known = self.cached is not None and samples is not None
        answer = self.cached[samples] if known else self.teacher.answer(x)  # type: ignore[index]
        return teaching_loss(output, answer, temperature=self.temperature)


def choose_objective(task: Task, augmentations: Sequence[Augmentation], teaching: Teaching | None = None) -> Objective:
    """The mean loss of a batch, a scalar; if mixup or cutmix is among the augmentations, that of the mixed batch.

    teaching: the loss is then (1 - weight) times that of the labels and `weight` times that of the teacher's answers,
    which it gives to the same inputs as the model.
    """
    ways = [a for a in augmentations if a.name in ("mixup", "cutmix")]

    def supervised(model: nn.Module, batch: Batch) -> Tensor:
        return task.loss(model(batch.x), batch.y)

    def mixed(model: nn.Module, batch: Batch) -> Tensor:
        """The losses for both targets, weighted like the inputs."""
        x, other_y, weight = augment.mixed(batch.x, batch.y, ways, batch.seed, own=batch.own)
        y = batch.y[: len(x)]
        output = model(x)
        return taught(weight * task.loss(output, y) + (1 - weight) * task.loss(output, other_y), output, x, None)

    def distilled(model: nn.Module, batch: Batch) -> Tensor:
        output = model(batch.x)
        return taught(task.loss(output, batch.y), output, batch.x, batch.samples)

    def taught(loss: Tensor, output: Tensor, x: Tensor, samples: Tensor | None) -> Tensor:
        if teaching is None:
            return loss
        return (1 - teaching.weight) * loss + teaching.weight * teaching.loss(output, x, samples)

    if ways:
        return mixed
    return supervised if teaching is None else distilled
