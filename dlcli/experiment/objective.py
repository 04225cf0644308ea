"""The objective that a step minimises: a function of (model, batch), with or without mixup."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from dlcli.data import augment
from dlcli.data.augment import Augmentation
from dlcli.data.batches import Batch
from dlcli.tasks.task import Task

Objective = Callable[[nn.Module, Batch], Tensor]


def choose_objective(task: Task, augmentations: Sequence[Augmentation]) -> Objective:
    """The mean loss of a batch, a scalar; if mixup is among the augmentations, that of the mixed batch."""
    strength = next((a.strength for a in augmentations if a.name == "mixup"), None)

    def supervised(model: nn.Module, batch: Batch) -> Tensor:
        return task.loss(model(batch.x), batch.y)

    def mixed(model: nn.Module, batch: Batch) -> Tensor:
        """Mixup, Zhang et al. 2017 (arXiv:1710.09412): the losses for both targets, weighted like the inputs."""
        assert strength is not None
        x, other_y, weight = augment.mixup(batch.x, batch.y, strength, batch.seed)
        output = model(x)
        return weight * task.loss(output, batch.y) + (1 - weight) * task.loss(output, other_y)

    return supervised if strength is None else mixed
