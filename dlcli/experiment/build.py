"""Builds everything that a config describes: data, model, task."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from dlcli.checkpoints.checkpoint import Checkpoint
from dlcli.compute import devices
from dlcli.compute.cost import Cost, choose_eval_batch_size, measure_cost
from dlcli.compute.ranks import Ranks, here
from dlcli.compute.synced_norm import synced
from dlcli.compute.threads import choose_threads
from dlcli.config.layers import kind
from dlcli.config.rates import factor
from dlcli.config.schemes import listed_model, split_file
from dlcli.config.settings import TrainConfig
from dlcli.core import options
from dlcli.core.errors import ConfigError
from dlcli.core.seeds import derive
from dlcli.data import augment
from dlcli.data.augment import Augmentation
from dlcli.data.batches import in_order
from dlcli.data.dataset import Dataset, Split
from dlcli.data.kinds import sample_input
from dlcli.data.preprocessing import Preprocessing
from dlcli.experiment.features import check_room, features_of, trained_part
from dlcli.experiment.guard import build_model, maker_of
from dlcli.experiment.kept import Load
from dlcli.experiment.load import _loader, _with_path, load_data
from dlcli.experiment.objective import Objective, Teaching, choose_objective
from dlcli.experiment.probe import trains_on_one, try_model
from dlcli.experiment.start import Start, start_from
from dlcli.experiment.tasks import make_task
from dlcli.experiment.teacher import Teacher, read_teacher
from dlcli.models.freezing import frozen_names
from dlcli.models.groups import Group, rate_groups
from dlcli.tasks.choose import default_loss
from dlcli.tasks.task import AnsweringTask


@dataclass(frozen=True)
class Experiment:
    """Everything that a config describes, built and checked.

    config: every `auto` is resolved except for `device`, `threads`, `eval_batch_size` and `monitor`, which are resolved
    in the attributes here. cost: of the evaluation of one sample. joined: whether a last batch of one sample is joined
    to the batch before it, because the model cannot be trained on one (batch normalization).
    frozen: the names of the parameters that are not trained, or not yet. groups: of those with another learning rate
    than `lr`. trained_part: the name of the module that is trained on cached features; empty without.
    teacher: the one whose answers the model is trained on, too.
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
    frozen: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()
    trained_part: str = ""
    teacher: Teacher | None = None
    start: Start | None = None

    @property
    def objective(self) -> Objective:
        config, teaching = self.config, None
        if self.teacher is not None:
            assert config.temperature is not None and config.distill_weight is not None
            cached = None if self.augmentations else self.teacher.answers(self.dataset.train)
            teaching = Teaching(self.teacher, config.temperature, config.distill_weight, cached)
        return choose_objective(self.task, self.augmentations, teaching)

    @property
    def total_steps(self) -> int:
        return self.config.total_steps(self.steps_per_epoch)

    @property
    def ranks(self) -> Ranks:
        """The processes that train together."""
        return here()

    @property
    def sharded(self) -> bool:
        """Whether each process has a part of each weight only; then `model` is moved to the device when it is cut."""
        return self.config.shard and self.ranks.size > 1

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.dataset.train) // self.batch_size) - self.joined

    @cached_property
    def working(self) -> Dataset:
        """What the steps and their evaluations take: the data, or the features of a frozen backbone, which are computed
        when this is first asked for."""
        if not self.trained_part:
            return self.dataset

        def features(split: Split, batch_size: int, threads: int) -> Split:
            return features_of(
                self.model, self.trained_part, split, batch_size=batch_size, threads=threads,
                precision=self.config.precision, device=self.device,
            )  # fmt: skip

        train, val = self.dataset.train, self.dataset.val
        return replace(
            self.dataset,
            train=features(train, self.batch_size, self.threads),
            val=None if val is None else features(val, self.eval_batch_size, self.eval_threads),
        )

    def working_part(self, model: nn.Module) -> nn.Module:
        """The part of the model that answers what `working` holds."""
        return model.get_submodule(self.trained_part) if self.trained_part else model

    @property
    def trained_parameters(self) -> int:
        """Parameters, as numbers, that are trained at some time."""
        if self.config.unfreeze_at is not None:
            return sum(p.numel() for p in self.model.parameters())
        frozen = set(self.frozen)
        return sum(p.numel() for name, p in self.model.named_parameters() if name not in frozen)

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
        shared = self.ranks.local_size
        chosen = choose_threads(self.config.threads, device=self.device, flops=flops, processes=shared)
        return max(self.threads, chosen)

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
    start: Checkpoint | None = None,
    fingerprint: str | None = None,
    spelled: Preprocessing | None = None,
    runs_dir: str | Path = "runs",
    load: Load = load_data,
) -> Experiment:
    """Load the data, build the model, and check that all settings fit them. Writes nothing.

    Sets the number of threads, the precision and the determinism of this process. The initial weights are determined by
    `config.seed`.
    weights: those of a run that is resumed; RunError if they do not fit the model. start: the checkpoint of the run
        that the setting `weights` names, if it was read already.
    fingerprint: that of the data of this run; DataError if the data has changed. spelled: that of a language model,
        whose tokens it keeps.
    runs_dir: the folder of the runs that the setting `weights` may name.
    load: where the data comes from; a process that trains many runs keeps it.
    """
    if config.batch_size == "auto":
        raise ConfigError("batch_size = auto is measured by dlcli train for a new run alone: give a number here")
    device = devices.choose_device(config.device, process=here().local_rank)
    devices.check_precision(config.precision, device)
    devices.set_precision(config.precision)
    devices.set_deterministic(config.deterministic)
    torch.set_num_threads(1 if config.threads == "auto" else config.threads)
    config = resolve_options(config)
    data = load(config, device=device, fingerprint=fingerprint, preprocessing=spelled)
    config = config.with_values(data_options={**config.data_options, **data.resolved})
    torch.manual_seed(derive(config.seed, "weights"))
    model = build_model(config, data.spec, weights=weights, where="the run's last checkpoint")
    begun = None if weights is not None else start_from(config, model, data.spec, runs_dir=runs_dir, saved=start)
    batch_size = len(data.train) if config.batch_size == "full" else min(int(config.batch_size), len(data.train))
    task = make_task(config, data.preprocessing)
    if isinstance(config.threshold, str) and data.val is None:
        raise ConfigError(
            f"threshold = {config.threshold} is chosen on the validation split, and there is none: take val_fraction "
            "above 0, or give a number"
        )
    try_model(model, task, data.spec, model_name=config.model, data_name=config.data)
    joined = _joins_last(model, data, config, batch_size)
    if config.sync_batch_norm:
        synced(model)
    teacher = None
    if config.teacher is not None:
        teacher = read_teacher(Path(config.teacher), data.preprocessing, data_name=config.data, device=device)
        devices.set_precision(config.precision)
    frozen = frozen_names(model, config.freeze, model_name=config.model)
    cost = measure_cost(model, sample_input(data.spec, 1))
    threads = _threads(config, cost, batch_size, device)
    torch.set_num_threads(threads)
    built = Experiment(
        config=config.with_values(loss=default_loss(data.spec.task)) if config.loss == "auto" else config,
        device=device,
        threads=threads,
        dataset=data,
        model=model if config.shard and here().size > 1 else model.to(device),  # it may be larger than the device
        task=task,
        augmentations=augment.parse(config.augment, data.spec),
        monitor=_monitor(config, data, task),
        cost=cost,
        joined=joined,
        frozen=frozen,
        groups=_groups(config, model, frozen),
        teacher=teacher,
        start=begun,
    )
    config.warmup_steps(built.steps_per_epoch)
    return replace(built, trained_part=_trained_part(built)) if config.cache_features else built


def with_model(built: Experiment, model: nn.Module) -> Experiment:
    """`built` with another model in the place of its own, on the CPU, with parameters of the same names. Cost and
    threads are those of this model, as when it is resumed; sets the number of threads of this process."""
    if built.dataset.spec.kind == "image":
        model = model.to(memory_format=torch.channels_last)
    cost = measure_cost(model, sample_input(built.dataset.spec, 1))
    threads = _threads(built.config, cost, built.batch_size, built.device)
    torch.set_num_threads(threads)
    return replace(built, model=model.to(built.device), cost=cost, threads=threads)


def _threads(config: TrainConfig, cost: Cost, batch_size: int, device: torch.device) -> int:
    # Accumulated batches, like time steps, are computed one after the other, so only one batch counts.
    flops = _flops_to_train(cost, batch_size // here().size) / cost.chain
    return choose_threads(config.threads, device=device, flops=flops, processes=here().local_size)


def resolve_options(config: TrainConfig) -> TrainConfig:
    """`config` with all options of its model and data set, defaults included, checked."""
    model_options = options.resolve(maker_of(config.model), config.model_options, where="model")
    data_options = options.resolve(_loader(config.data), _with_path(config), where="data")
    known, size = listed_model(config.model), data_options.get("size")
    if known is not None and size and kind(config.data) == "images":  # before thousands of images are read
        from dlcli.models.zoo import check_size

        small_stem = model_options.get("stem") == "small"
        check_size(known.name, size, size, small_stem=small_stem, told=f"data.size = {size}")
    data_options.pop("path" if split_file(config.data) else "", None)  # it is in the name
    return config.with_values(model_options=model_options, data_options=data_options)


def _joins_last(model: nn.Module, data: Dataset, config: TrainConfig, batch_size: int) -> bool:
    """Whether the last batch is too small for a model that cannot be trained on one sample, as with batch
    normalization. ConfigError if all batches are."""
    size = here().size
    least = 2 if size == 1 else size if config.sync_batch_norm else 2 * size
    small = 0 < len(data.train) % batch_size < least or batch_size < least
    if not small or trains_on_one(model, data.spec):
        return False
    if batch_size < least:
        parts = f" in each of {size} processes" if size > 1 else ""
        raise ConfigError(
            f"model {config.model} cannot be trained on one sample at a time{parts}, as with batch normalization: take "
            f"batch_size above {least - 1} (batch_size = {config.batch_size}, {len(data.train):,} training samples)"
        )
    return True


def _groups(config: TrainConfig, model: nn.Module, frozen: tuple[str, ...]) -> tuple[Group, ...]:
    if config.lr_backbone is None and config.layer_decay is None:
        return ()
    assert config.lr is not None
    return rate_groups(
        model,
        backbone=factor(config.lr_backbone, lr=config.lr),
        decay=config.layer_decay,
        never=() if config.unfreeze_at else frozen,
        model_name=config.model,
    )


def _trained_part(built: Experiment) -> str:
    x = next(in_order(built.dataset.train, built.batch_size)).x
    model, precision = built.model, built.config.precision
    found = trained_part(
        model, built.frozen, x, spec=built.dataset.spec, model_name=built.config.model, precision=precision
    )
    samples = len(built.dataset.train) + len(built.dataset.val or ())
    check_room(model, found, x, samples=samples, precision=precision)
    return found


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
