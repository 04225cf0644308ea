"""The task of a run: from its settings and what it knows of its data."""

import torch

from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError, RunError
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.texts.spelling import REPLACEMENT
from dlcli.tasks.choose import choose_task
from dlcli.tasks.task import AnsweringTask
from dlcli.tasks.weights import class_weights


def make_task(config: TrainConfig, preprocessing: Preprocessing, *, threshold: float | None = None) -> AnsweringTask:
    """The task of a run. threshold: the one that was chosen, if the setting is best:METRIC."""
    place = preprocessing.alphabet.find(REPLACEMENT)
    return choose_task(
        preprocessing.spec,
        loss=config.loss,
        label_smoothing=config.label_smoothing,
        target_mean=preprocessing.target_mean,
        target_std=preprocessing.target_std,
        class_weights=_class_weights(config, preprocessing),
        threshold=config.threshold if threshold is None else threshold,
        unknown=None if place < 0 or preprocessing.spec.task != "next-token" else place,
        widths=None if preprocessing.pieces is None else torch.from_numpy(preprocessing.pieces.widths),
    )


def _class_weights(config: TrainConfig, about: Preprocessing) -> tuple[float, ...]:
    if config.class_weights != "none" and about.spec.task not in ("binary", "multiclass"):
        raise ConfigError(f"class_weights are for classes, but the task is {about.spec.task}")
    if config.class_weights != "none" and not about.class_counts:
        raise RunError("class_weights are made of the counts of the classes, which data.json of the run does not have")
    names = about.class_names or tuple(str(number) for number in range(len(about.class_counts)))
    return class_weights(config.class_weights, names, about.class_counts)
