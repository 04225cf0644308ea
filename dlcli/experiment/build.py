"""Builds everything that a config describes: data, model, task."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dlcli.compute import devices
from dlcli.compute.cost import Cost, choose_eval_batch_size, measure_cost
from dlcli.compute.threads import choose_threads
from dlcli.config.schemes import split_file
from dlcli.config.settings import TrainConfig
from dlcli.core import options
from dlcli.core.errors import ConfigError, RunError
from dlcli.core.seeds import derive
from dlcli.data import augment
from dlcli.data.augment import Augmentation
from dlcli.data.dataset import Dataset
from dlcli.data.kinds import sample_input
from dlcli.data.preprocessing import Preprocessing
from dlcli.experiment.guard import build_model, maker_of
from dlcli.experiment.load import _loader, _with_path, load_data
from dlcli.experiment.objective import Objective, choose_objective
from dlcli.experiment.probe import trains_on_one, try_model
from dlcli.experiment.start import Start, start_from
from dlcli.tasks.choose import choose_task, default_loss
from dlcli.tasks.task import AnsweringTask
from dlcli.tasks.weights import class_weights


@dataclass(frozen=True)
class Experiment:
    """Everything that a config describes, built and checked.

    config: every `auto` is resolved except for `device`, `threads`, `eval_batch_size` and `monitor`, which are resolved
    in the attributes here. cost: of the evaluation of one sample. joined: whether a last batch of one sample is joined
    to the batch before it, because the model cannot be trained on one (batch normalization).
    start: the weights from which a new training starts, if any.
    """

    config: TrainConfig
    device: torch.device
    threads: int
    dataset: Dataset
    model: nn.Module
    task: AnsweringTask
    augmentations: tuple[Augmentation, ...]
    monitor: str
    cost: Cost
    joined: bool = False
    start: Start | None = None

    @property
    def objective(self) -> Objective:
        return choose_objective(self.task, self.augmentations)

    @property
    def total_steps(self) -> int:
        return self.config.total_steps(self.steps_per_epoch)

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.dataset.train) // self.batch_size) - self.joined

    @property
    def flops_per_step(self) -> float:
        """Floating-point operations of the matrix products in one optimizer step, forward and backward."""
        return _flops_to_train(self.cost, self.batch_size * self.config.accumulate)

    @property
    def eval_batch_size(self) -> int:
        return choose_eval_batch_size(self.config.eval_batch_size, device=self.device, largest=self.cost.largest)

    @property
    def eval_threads(self) -> int:
        """The threads of the training, or more if a batch of the evaluation is large enough to use them."""
        flops = self.cost.flops * self.eval_batch_size / self.cost.chain
        return max(self.threads, choose_threads(self.config.threads, device=self.device, flops=flops))

    @property
    def batch_size(self) -> int:
        size = self.config.batch_size
        return len(self.dataset.train) if size == "full" else min(int(size), len(self.dataset.train))

    def samples_of(self, first: int, count: int) -> int:
        """Samples in `count` batches of an epoch, from number `first` on."""
        end = first + count
        stop = len(self.dataset.train) if end == self.batches_per_epoch else end * self.batch_size
        return stop - first * self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.batches_per_epoch // self.config.accumulate)


def build(
    config: TrainConfig,
    *,
    weights: Mapping[str, Tensor] | None = None,
    fingerprint: str | None = None,
    runs_dir: str | Path = "runs",
) -> Experiment:
    """Load the data, build the model, and check that all settings fit them. Writes nothing.

    Sets the number of threads, the precision and the determinism of this process. The initial weights are determined by
    `config.seed`.
    weights: those of a run that is resumed; RunError if they do not fit the model.
    fingerprint: that of the data of this run; DataError if the data has changed.
    runs_dir: the folder of the runs that the setting `weights` may name.
    """
    device = devices.choose_device(config.device)
    devices.check_precision(config.precision, device)
    devices.set_precision(config.precision)
    devices.set_deterministic(config.deterministic)
    torch.set_num_threads(1 if config.threads == "auto" else config.threads)
    config = resolve_options(config)
    data = load_data(config, device=device, fingerprint=fingerprint)
    config = config.with_values(data_options={**config.data_options, **data.resolved})
    torch.manual_seed(derive(config.seed, "weights"))
    model = build_model(config, data.spec, weights=weights, where="the run's last checkpoint")
    start = None if weights is not None else start_from(config, model, runs_dir=runs_dir)
    batch_size = len(data.train) if config.batch_size == "full" else min(int(config.batch_size), len(data.train))
    task = make_task(config, data.preprocessing)
    if isinstance(config.threshold, str) and data.val is None:
        raise ConfigError(
            f"threshold = {config.threshold} is chosen on the validation split, and there is none: take val_fraction "
            "above 0, or give a number"
        )
    try_model(model, task, data.spec, model_name=config.model, data_name=config.data)
    single = len(data.train) % batch_size == 1 or batch_size == 1
    joined = single and not trains_on_one(model, data.spec)
    if joined and batch_size == 1:
        raise ConfigError(
            f"model {config.model} cannot be trained on one sample at a time, as with batch normalization: take "
            f"batch_size above 1 (batch_size = {config.batch_size}, {len(data.train):,} training samples)"
        )
    cost = measure_cost(model, sample_input(data.spec, 1))
    # Accumulated batches, like time steps, are computed one after the other, so only one batch counts.
    flops = _flops_to_train(cost, batch_size) / cost.chain
    threads = choose_threads(config.threads, device=device, flops=flops)
    torch.set_num_threads(threads)
    built = Experiment(
        config=config.with_values(loss=default_loss(data.spec.task)) if config.loss == "auto" else config,
        device=device,
        threads=threads,
        dataset=data,
        model=model.to(device),
        task=task,
        augmentations=augment.parse(config.augment, data.spec),
        monitor=_monitor(config, data, task),
        cost=cost,
        joined=joined,
        start=start,
    )
    config.warmup_steps(built.steps_per_epoch)
    return built


def resolve_options(config: TrainConfig) -> TrainConfig:
    """`config` with all options of its model and data set, defaults included, checked."""
    model_options = options.resolve(maker_of(config.model), config.model_options, where="model")
    data_options = options.resolve(_loader(config.data), _with_path(config), where="data")
    data_options.pop("path" if split_file(config.data) else "", None)  # it is in the name
    return config.with_values(model_options=model_options, data_options=data_options)


def make_task(config: TrainConfig, preprocessing: Preprocessing, *, threshold: float | None = None) -> AnsweringTask:
    """The task of a run. threshold: the one that was chosen, if the setting is best:METRIC."""
    return choose_task(
        preprocessing.spec,
        loss=config.loss,
        label_smoothing=config.label_smoothing,
        target_mean=preprocessing.target_mean,
        target_std=preprocessing.target_std,
        class_weights=_class_weights(config, preprocessing),
        threshold=config.threshold if threshold is None else threshold,
    )


def _class_weights(config: TrainConfig, about: Preprocessing) -> tuple[float, ...]:
    if config.class_weights != "none" and about.spec.task not in ("binary", "multiclass"):
        raise ConfigError(f"class_weights are for classes, but the task is {about.spec.task}")
    if config.class_weights != "none" and not about.class_counts:
        raise RunError("class_weights are made of the counts of the classes, which data.json of the run does not have")
    names = about.class_names or tuple(str(number) for number in range(len(about.class_counts)))
    return class_weights(config.class_weights, names, about.class_counts)


def _flops_to_train(cost: Cost, samples: int) -> float:
    return 3.0 * samples * cost.flops


def _monitor(config: TrainConfig, data: Dataset, task: AnsweringTask) -> str:
    """The monitored metric without `val/`; ConfigError if the task has no such metric."""
    if config.monitor == "auto":
        return task.monitor
    known = (*task.names, *task.table_names)
    name = config.monitor.removeprefix("val/")
    if name not in known:
        raise ConfigError(f"monitor = {config.monitor} is no metric of {data.spec.task}: use {', '.join(known)}")
    if data.val is None:
        raise ConfigError(f"monitor = {config.monitor} needs a validation split: val_fraction above 0")
    return name
