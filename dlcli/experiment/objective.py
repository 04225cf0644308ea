"""The objective that a step minimises: a function of (model, batch), with or without mixup and cutmix."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from dlcli.data import augment
from dlcli.data.augment import Augmentation
from dlcli.data.batches import Batch
from dlcli.tasks.task import Task

Objective = Callable[[nn.Module, Batch], Tensor]


def choose_objective(task: Task, augmentations: Sequence[Augmentation]) -> Objective:
    """The mean loss of a batch, a scalar; if mixup or cutmix is among the augmentations, that of the mixed batch."""
    ways = [a for a in augmentations if a.name in ("mixup", "cutmix")]

    def supervised(model: nn.Module, batch: Batch) -> Tensor:
        return task.loss(model(batch.x), batch.y)

    def mixed(model: nn.Module, batch: Batch) -> Tensor:
        """The losses for both targets, weighted like the inputs."""
        x, other_y, weight = augment.mixed(batch.x, batch.y, ways, batch.seed)
        output = model(x)
        return weight * task.loss(output, batch.y) + (1 - weight) * task.loss(output, other_y)

    return mixed if ways else supervised
