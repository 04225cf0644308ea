"""From a config to the things it describes, and from a run back to its trained model."""

import contextlib
import dataclasses
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import is_lazy
from torch.utils import deterministic

from dlcli import options, tasks
from dlcli.config import TrainConfig
from dlcli.data import augment, dataset
from dlcli.data.augment import Augmentation
from dlcli.data.dataset import Dataset, Preprocessing, Source
from dlcli.errors import ConfigError, DataError, DlcliError, ResourceError, RunError
from dlcli.files import told_as_damage
from dlcli.registry import DATASETS, data_entry, load, model_entry
from dlcli.runs import Run
from dlcli.seeds import derive
from dlcli.spec import DataSpec
from dlcli.training import checkpoint, devices
from dlcli.training.cost import Cost, choose_eval_batch_size, measure_cost
from dlcli.training.threads import choose_threads

# Of a parameter: itself, its gradient, and one value at least that the optimizer or the average keeps.
_BYTES_TO_TRAIN = 12
# Parameters and buffers of a model that starts from nothing; what one that has weights may have beside them.
_MOST_TENSORS = 10_000
_SPARE_TENSORS, _SPARE_VALUES = 100, 2**24


@dataclass(frozen=True)
class Experiment:
    """Everything that a config describes, built and checked. `config` has every `auto` settled but `device`'s,
    `threads`', `eval_batch_size`'s and `monitor`'s, which stand here.

    cost: of one sample's evaluation.
    """

    config: TrainConfig
    device: torch.device
    threads: int
    dataset: Dataset
    model: nn.Module
    task: tasks.Task
    augmentations: tuple[Augmentation, ...]
    monitor: str
    cost: Cost

    @property
    def flops_per_step(self) -> float:
        """Matrix-product work of one optimizer step, forward and backward."""
        return _flops_to_train(self.cost, self.batch_size * self.config.accumulate)

    @property
    def eval_batch_size(self) -> int:
        return choose_eval_batch_size(self.config.eval_batch_size, device=self.device, largest=self.cost.largest)

    @property
    def eval_threads(self) -> int:
        """As many as train, or more where a batch of the evaluation is worth them."""
        flops = self.cost.flops * self.eval_batch_size / self.cost.chain
        return max(self.threads, choose_threads(self.config.threads, device=self.device, flops=flops))

    @property
    def batch_size(self) -> int:
        size = self.config.batch_size
        return len(self.dataset.train) if size == "full" else min(int(size), len(self.dataset.train))

    @property
    def steps_per_epoch(self) -> int:
        batches = -(-len(self.dataset.train) // self.batch_size)
        return -(-batches // self.config.accumulate)


@dataclass(frozen=True)
class Restored:
    """A model as a run's checkpoint holds it, in evaluation mode, and what belongs to it."""

    run: Run
    config: TrainConfig
    device: torch.device
    preprocessing: Preprocessing
    model: nn.Module
    task: tasks.Task
    checkpoint: checkpoint.Checkpoint

    @property
    def eval_batch_size(self) -> int:
        """That of the training."""
        setting, largest = self.config.eval_batch_size, 0
        if setting == "auto":
            largest = measure_cost(self.model, sample_input(self.preprocessing.spec, 1).to(self.device)).largest
        return choose_eval_batch_size(setting, device=self.device, largest=largest)


def import_own(config: TrainConfig, *, runs_dir: str | Path) -> None:
    """Import the own model and data set that `config` names, if it does, but nothing from the folder of runs.

    To be called first with the settings of a run, which may be a stranger's. RunError when the code came with it.
    """
    for target in (model_entry(config.model).target, data_entry(config.data).target):
        load(target, runs_dir=Path(runs_dir))


def build(
    config: TrainConfig, *, weights: Mapping[str, Tensor] | None = None, fingerprint: str | None = None
) -> Experiment:
    """Load the data, build the model, and check that all settings fit them. Writes nothing.

    Sets the number of threads and the arithmetic of this process. The weights follow from `config.seed`.
    weights: those of a run that goes on; RunError when the model is another.
    fingerprint: of its data; DataError when they have changed.
    """
    device = devices.choose_device(config.device)
    devices.check_precision(config.precision, device)
    devices.set_precision(config.precision)
    devices.set_deterministic(config.deterministic)
    torch.set_num_threads(1 if config.threads == "auto" else config.threads)
    config = resolve_options(config)
    data = load_data(config, device=device, fingerprint=fingerprint)
    torch.manual_seed(derive(config.seed, "weights"))
    model = build_model(config, data.spec, weights=weights, where="the run's last checkpoint")
    batch_size = len(data.train) if config.batch_size == "full" else min(int(config.batch_size), len(data.train))
    cost = measure_cost(model, sample_input(data.spec, 1))
    # An accumulated batch waits for the one before it, as a time step does.
    flops = _flops_to_train(cost, batch_size) / cost.chain
    threads = choose_threads(config.threads, device=device, flops=flops)
    torch.set_num_threads(threads)
    task = make_task(config, data.preprocessing)
    return Experiment(
        config=config.replace(loss=tasks.default_loss(data.spec.task) if config.loss == "auto" else config.loss),
        device=device,
        threads=threads,
        dataset=data,
        model=model.to(device),
        task=task,
        augmentations=augment.parse(config.augment, data.spec),
        monitor=_monitor(config, data, task),
        cost=cost,
    )


def with_data(built: Experiment, data: Dataset) -> Experiment:
    """The same experiment on other data of the same shape."""
    return dataclasses.replace(built, dataset=data)


def resolve_options(config: TrainConfig) -> TrainConfig:
    """`config` with every option of its model and data set spelt out and checked."""
    model_options = options.resolve(_model_class(config.model), config.model_options, where="model")
    data_options = options.resolve(_loader(config.data), _with_path(config), where="data")
    data_options.pop("path" if config.data.startswith("text:") else "", None)  # it stands in the name
    return config.replace(model_options=model_options, data_options=data_options)


def load_data(
    config: TrainConfig,
    *,
    device: torch.device | str,
    name: str | None = None,
    preprocessing: Preprocessing | None = None,
    fingerprint: str | None = None,
) -> Dataset:
    """The data set of `config`, split and on `device`.

    name: a data set of the same shape to take instead; of another one, the splits are those of `config`'s settings.
    preprocessing: the one that a model was trained with: the data must have its shape, and a text is spelt in its
        alphabet.
    fingerprint: of the data that a model was trained on. DataError when these are not the same.
    """
    if name is not None and name != config.data:
        same_loader = data_entry(name).target == data_entry(config.data).target
        kept = config.data_options if same_loader else {}
        config = config.replace(
            data=name, data_options=kept, test_fraction=config.test_fraction if same_loader else None
        )
    source = _read(config)
    changed = (
        f"data {config.data} has changed since the model was trained on it: put it back, or take what is there with "
        f"--data {config.data}"
    )
    if preprocessing is not None:
        if fingerprint is not None and (source.spec, source.alphabet) != (preprocessing.spec, preprocessing.alphabet):
            raise DataError(changed)
        source = _fitting(source, preprocessing, config.data)
    found = dataset.prepare(
        source,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        normalize=config.normalize,
        seed=derive(config.seed, "split"),
        device=device,
        preprocessing=preprocessing,
    )
    if fingerprint is not None and found.fingerprint != fingerprint:
        raise DataError(changed)
    return found


def build_model(
    config: TrainConfig, spec: DataSpec, *, weights: Mapping[str, Tensor] | None = None, where: object = ""
) -> nn.Module:
    """The model of `config` for data of `spec`, on the CPU, convolutions in channels-last memory.

    weights: what it must take, by name, or an outline of it, from `where`; RunError when it does not.
    Settings of a few bytes can ask for a model of any size, so it is stopped when it grows beyond its weights or
    the memory of this machine.
    """
    model_class = _model_class(config.model)
    chosen = options.resolve(model_class, config.model_options, where="model")
    settings = ", ".join(f"{k}={v}" for k, v in chosen.items())
    memory = devices.memory()
    most_values, most_tensors = memory // _BYTES_TO_TRAIN, _MOST_TENSORS
    too_large: DlcliError = ResourceError(
        f"model {config.model} with {settings} does not fit into {memory / 1e9:.1f} GB of memory: take a smaller one"
    )
    if weights is not None:
        # Some slack: a parameter may be set twice, and not every buffer is saved.
        most_values = min(most_values, 2 * sum(t.numel() for t in weights.values()) + _SPARE_VALUES)
        most_tensors = 2 * len(weights) + _SPARE_TENSORS
        too_large = RunError(f"{where} does not fit the model that the run describes, which is far larger")
    try:
        with _stopped_beyond(most_tensors, most_values, too_large):
            model = model_class(spec, **chosen)
    except DlcliError:
        raise
    except (RuntimeError, ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"model {config.model} cannot be built with {settings}: {reason}") from error
    if weights is not None:
        _check_fit(model, weights, where)
    return model.to(memory_format=torch.channels_last) if spec.kind == "image" else model


def make_task(config: TrainConfig, preprocessing: Preprocessing) -> tasks.Task:
    return tasks.make(
        preprocessing.spec,
        loss=config.loss,
        label_smoothing=config.label_smoothing,
        target_mean=preprocessing.target_mean,
        target_std=preprocessing.target_std,
    )


def sample_input(spec: DataSpec, batch_size: int) -> Tensor:
    """An input of the right shape and type: zeros."""
    kind = torch.int64 if spec.kind == "tokens" else torch.float32
    x = torch.zeros(batch_size, *spec.input_shape, dtype=kind)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def restore(run: Run, *, role: str = "best", device: str = "auto") -> Restored:
    """The trained model of a run, from nothing but the run's folder.

    device: `auto` is the one that the run was trained on if it is here. Threads are those of the run's evaluations,
    so that sums are rounded as they were.
    """
    config, preprocessing = run.config(), preprocessing_of(run)
    info = run.info()
    import_own(config, runs_dir=run.root)
    if device == "auto" and str(info.get("device", "")).startswith("cpu"):
        device = "cpu"
    chosen = devices.choose_device(device)
    devices.set_precision(config.precision if chosen.type == "cuda" else "fp32")
    torch.set_num_threads(int(info.get("eval_threads") or info.get("threads") or 1))
    model: nn.Module = nn.Identity()

    def fits(path: Path, outline: Mapping[str, Tensor]) -> None:
        nonlocal model
        model = build_model(config, preprocessing.spec, weights=outline, where=path)

    saved = checkpoint.load(run.checkpoints, role, fits=fits)
    model.load_state_dict(saved.weights)
    return Restored(
        run=run,
        config=config,
        device=chosen,
        preprocessing=preprocessing,
        model=model.to(chosen).eval(),
        task=make_task(config, preprocessing),
        checkpoint=saved,
    )


def preprocessing_of(run: Run) -> Preprocessing:
    """From the run's data.json; RunError when it is damaged."""
    with told_as_damage(run.path / "data.json"):
        return Preprocessing.from_dict(run.data())


def data_folder(config: TrainConfig) -> Path:
    """Where data sets lie: `data_dir`, else the user's cache folder."""
    if config.data_dir:
        return Path(config.data_dir)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "dlcli" / "data"


def _flops_to_train(cost: Cost, samples: int) -> float:
    return 3.0 * samples * cost.flops


def _read(config: TrainConfig) -> Source:
    loader = _loader(config.data)
    chosen = options.resolve(loader, _with_path(config), where="data")
    try:
        source = loader(data_folder(config), **chosen)
    except (MemoryError, RuntimeError) as error:
        # torch tells it in the text of a RuntimeError
        if isinstance(error, RuntimeError) and not re.search("allocate|Storage size|too large", str(error)):
            raise
        raise ResourceError(f"data {config.data} does not fit into memory: take a smaller part of it") from None
    return source


def _fitting(source: Source, about: Preprocessing, name: str) -> Source:
    """`source` as a model that was trained with `about` takes it; DataError when it cannot."""
    if source.alphabet and about.alphabet and source.alphabet != about.alphabet:
        from dlcli.data.text import respelt

        source = respelt(source, about.alphabet)
    if source.spec != about.spec:
        raise DataError(
            f"data {name} ({source.spec}, {source.spec.outputs} outputs, {source.spec.task}) has not the shape that "
            f"the model was trained on ({about.spec}, {about.spec.outputs} outputs, {about.spec.task})"
        )
    return source


def _with_path(config: TrainConfig) -> dict[str, Any]:
    """The data's options; `text:FILE` gives the loader its path."""
    kind, colon, path = config.data.partition(":")
    return config.data_options | ({"path": path} if colon and kind == "text" else {})


def _loader(name: str) -> Callable[..., Source]:
    """The function that loads a data set. An own one says so itself, by its annotation: a name that a stranger
    wrote must not get any other function called."""
    loader = load(data_entry(name).target)
    if name.partition(":")[0] not in DATASETS and not _returns_source(loader):
        raise ConfigError(f"data {name!r} is no function that is annotated to load data: def NAME(data_dir) -> Source")
    return cast(Callable[..., Source], loader)


def _returns_source(function: Any) -> bool:
    try:
        return isinstance(function, types.FunctionType) and typing.get_type_hints(function).get("return") is Source
    except (NameError, TypeError, AttributeError, SyntaxError):  # an annotation that cannot be resolved
        return False


def _model_class(name: str) -> type[nn.Module]:
    found = load(model_entry(name).target)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigError(f"model {name!r} is no torch.nn.Module class")
    return found


def _monitor(config: TrainConfig, data: Dataset, task: tasks.Task) -> str:
    """The watched metric without its `val/`, checked against what the task reports."""
    if config.monitor == "auto":
        return task.monitor
    known = task.names
    name = config.monitor.removeprefix("val/")
    if name not in known:
        raise ConfigError(f"monitor = {config.monitor} is no metric of {data.spec.task}: use {', '.join(known)}")
    if data.val is None:
        raise ConfigError(f"monitor = {config.monitor} needs a validation split: val_fraction above 0")
    return name


def _check_fit(model: nn.Module, weights: Mapping[str, Tensor], where: object) -> None:
    own = model.state_dict()
    missing, unexpected = own.keys() - weights.keys(), weights.keys() - own.keys()
    both = own.keys() & weights.keys()
    shape = [n for n in both if own[n].shape != weights[n].shape]
    dtype = [n for n in both if own[n].shape == weights[n].shape and own[n].dtype != weights[n].dtype]
    parts = [("missing", missing), ("unexpected", unexpected), ("of another shape", shape), ("of another type", dtype)]
    told = "; ".join(f"{what}: {_first(names)}" for what, names in parts if names)
    if told:
        raise RunError(f"{where} does not fit the model that the run describes ({told})")


def _first(names: Collection[str]) -> str:
    shown = ", ".join(name[:80] for name in sorted(names)[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


@contextlib.contextmanager
def _stopped_beyond(tensors: int, values: int, error: DlcliError) -> Iterator[None]:
    """Raise `error` as soon as the modules that are made have more parameters and buffers than this.

    torch's own layers ask for memory, register it, and only then fill it, so that none is used by then.
    """
    made = [0, 0]

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is not None and not is_lazy(tensor):
            made[0] += 1
            made[1] += tensor.numel()
            if made[0] > tensors or made[1] > values:
                raise error

    hooks = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    fill = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        for hook in hooks:
            hook.remove()
