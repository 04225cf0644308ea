"""TrainConfig: every setting of a run, with its default, its unit and its check."""

import functools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_type_hints

from dlcli.config.changes import change
from dlcli.config.derived import check_together, derive, with_own_defaults
from dlcli.config.intervals import interval
from dlcli.config.layers import DERIVED, GROUPS, flatten, group, is_left_open, ungroup
from dlcli.config.meant import meant_setting
from dlcli.config.ranges import check_range
from dlcli.config.rates import backbone_rate
from dlcli.core.errors import ConfigError
from dlcli.core.options import convert

FORMAT = 1

MOST_THREADS = 1024

Optimizer = Literal["gd", "sgd", "adam", "adamw", "rmsprop"]

Schedule = Literal["constant", "step", "cosine", "one-cycle"]

Loss = Literal["auto", "mse", "l1", "huber", "bce", "cross-entropy"]

Log = Literal["none", "tensorboard"]

Pruned = Literal["none", "structured", "unstructured"]

Precision = Literal["fp32", "tf32", "bf16", "fp16"]

_TABLES = ("model_options", "data_options")

# What a run of a version that did not record it counts as not given, when it is what would follow from the rest.
_FOLLOWING = {*DERIVED, "batch_size"} - {"epochs", "steps"}


def _setting(default: Any, help: str, *, group: str, range: str = "", shown: str = "", metavar: str = "") -> Any:
    """range: written as in mathematics: "[0, 1)" or ">= 1" or "> 0". shown: the default in words, where it is none of
    the values. metavar: what stands for the value in the help, where its type does not say it."""
    return field(
        default=default,
        metadata={"help": help, "group": group, "range": range, "shown": shown, "metavar": metavar},
    )


@dataclass(frozen=True, init=False)
class TrainConfig:
    """All settings of a training, checked. Made of `TrainConfig(model="cnn", lr=0.1, ...)`.

    What is not given comes from the data set's own defaults, else the model's, else the ones below. Two are equal when
    all their settings are, whichever of them were given.
    Raises ConfigError for an unknown name (naming the nearest), a wrong type, a value out of range, or a
    setting that would have no effect beside another.
    """

    model: str
    data: str = _setting(
        "digits",
        "Data set: a name of `dlcli datasets`, table:FILE, images:FOLDER, texts:FILE, text:FILE, package.module:name.",
        group="Data",
        shown="that of the model, mostly digits",
    )  # fmt: skip
    model_options: dict[str, Any] = field(default_factory=dict)
    data_options: dict[str, Any] = field(default_factory=dict)
    data_dir: str | None = _setting(
        None, "Folder of data sets.", group="Data", shown="the user's cache folder", metavar="PATH"
    )
    val_fraction: float = _setting(
        0.1, "Fraction of the training data that is held out for validation.", group="Data", range="[0, 1)"
    )
    test_fraction: float | None = _setting(
        None, "Fraction that is held out for testing, of data without a test set of its own.", group="Data",
        range="[0, 1)", shown="0.2; 0.1 of a text",
    )  # fmt: skip
    normalize: bool = _setting(
        True, "Subtract the mean of the training data and divide by its standard deviation.", group="Data"
    )
    mean: tuple[float, ...] = _setting(
        (), "Mean of images that is subtracted, one value for each channel, in fractions of white.", group="Data",
        shown="that of the training data; with --pretrained that of the weights",
    )  # fmt: skip
    std: tuple[float, ...] = _setting(
        (), "Standard deviation by which images are divided, as --mean.", group="Data", shown="as --mean"
    )
    augment: tuple[str, ...] = _setting(
        (), "Augmentations, separated by commas: shift=2, flip, rotate=10, erase=0.25, noise=0.1, crop=0.08, "
        "color=0.4, randaugment=9, mixup=0.2, cutmix=1.",
        group="Data", shown="none",
    )  # fmt: skip

    pretrained: str | None = _setting(
        None, "Start from the published weights of a model of `dlcli models --zoo`, and prepare images as they need "
        "it; ENTRY names one of several.",
        group="Training", metavar="[ENTRY]", shown="none",
    )  # fmt: skip
    weights: str | None = _setting(
        None, "Start from the weights in a file (.safetensors, .pth, .pt) or of a run.", group="Training",
        metavar="FILE|RUN", shown="none",
    )  # fmt: skip
    partial: bool = _setting(
        False, "Start from weights that hold less than half of the model's parameters, too.", group="Training"
    )
    pruned: Pruned = _setting(
        "none", "How the weights it starts from were pruned: structured, narrower layers, which it takes over; "
        "unstructured, zeros, which stay zero.",
        group="Training",
    )  # fmt: skip
    epochs: int | None = _setting(
        None, "Passes over the training data.", group="Training", range=">= 1", shown="the model's or 10; see --steps"
    )
    steps: int | None = _setting(
        None, "Optimizer steps of the whole training, instead of --epochs.", group="Training", range=">= 1",
        shown="those of --epochs",
    )  # fmt: skip
    batch_size: int | Literal["full", "auto"] = _setting(
        64, "Samples per batch; full takes all training data; auto measures which size is fast, and records it.",
        group="Training", range=">= 1",
    )  # fmt: skip
    accumulate: int = _setting(
        1, "Batches per optimizer step; their gradients are averaged.", group="Training", range=">= 1"
    )
    loss: Loss = _setting("auto", "Loss function; auto takes the usual one of the task.", group="Training")
    label_smoothing: float = _setting(0.0, "Label smoothing of the cross-entropy.", group="Training", range="[0, 1)")
    class_weights: Literal["none", "balanced"] | tuple[str, ...] = _setting(
        "none", "Weights of the classes in the loss: balanced, one for each class, or NAME=W,NAME=W.",
        group="Training", metavar="balanced|none|WEIGHTS",
    )  # fmt: skip
    optimizer: Optimizer = _setting("sgd", "Optimizer; gd is full-batch gradient descent.", group="Optimizer")
    lr: float | None = _setting(
        None, "Learning rate.", group="Optimizer", range="> 0",
        shown="the model's; sgd 0.01; adam, adamw, rmsprop 0.001; gd 0.1; a tenth for a pretrained network",
    )  # fmt: skip
    momentum: float | None = _setting(
        None, "Momentum of sgd and rmsprop.", group="Optimizer", range="[0, 1)", shown="sgd 0.9; rmsprop 0"
    )
    nesterov: bool = _setting(False, "Nesterov momentum; for sgd.", group="Optimizer")
    weight_decay: float = _setting(
        0.0, "L2 penalty (for adamw decoupled weight decay) on all parameters but biases and normalization layers.",
        group="Optimizer", range=">= 0",
    )  # fmt: skip
    decay_all: bool = _setting(
        False, "Put the L2 and L1 penalties on biases and normalization layers as well.", group="Optimizer"
    )
    l1: float = _setting(0.0, "L1 penalty, on the same parameters as the L2 penalty.", group="Optimizer", range=">= 0")
    clip_norm: float | None = _setting(
        None, "Largest norm of the gradient; a larger gradient is scaled down to it.", group="Optimizer", range="> 0",
        shown="no clipping",
    )  # fmt: skip
    schedule: Schedule = _setting("constant", "Schedule of the learning rate.", group="Optimizer")
    warmup_epochs: float | None = _setting(
        None, "Epochs in which the learning rate rises linearly to --lr.", group="Optimizer", range=">= 0",
        shown="0; one-cycle a quarter of the training; for a pretrained network up to 1",
    )  # fmt: skip
    step_epochs: int | None = _setting(
        None, "With --schedule step: epochs between two drops of the learning rate.", group="Optimizer", range=">= 1",
        shown="a third of the training",
    )  # fmt: skip
    step_gamma: float | None = _setting(
        None, "With --schedule step: factor of each drop.", group="Optimizer", range="(0, 1)", shown="0.1"
    )
    ema: float = _setting(
        0.0, "Decay of an exponential moving average of the weights; above 0 the average is evaluated and saved.",
        group="Optimizer", range="[0, 1)",
    )  # fmt: skip

    freeze: str = _setting(
        "none", "Parameters that are not trained: backbone (all but the head), the first N stages, or patterns of "
        "names such as 'features.*'.",
        group="Fine-tuning", metavar="backbone|N|PATTERN",
    )  # fmt: skip
    unfreeze_at: int | None = _setting(
        None, "Epoch from which on the frozen parameters are trained, too.", group="Fine-tuning", range=">= 2",
        shown="never", metavar="EPOCH",
    )  # fmt: skip

    lr_backbone: float | str | None = _setting(
        None, "Learning rate of all but the head: a number, or a multiple of --lr such as 0.1x.",
        group="Fine-tuning", shown="that of --lr", metavar="X|Xx",
    )  # fmt: skip
    layer_decay: float | None = _setting(
        None, "Factor of the learning rate from each stage to the one before it, from the head down.",
        group="Fine-tuning", range="(0, 1)", shown="1",
    )  # fmt: skip

    cache_features: bool = _setting(
        False, "Compute what is frozen once for each sample, and train the rest on that.", group="Fine-tuning"
    )

    teacher: str | None = _setting(
        None, "Run whose answers the model is trained on, too (distillation).", group="Fine-tuning", shown="none",
        metavar="RUN",
    )  # fmt: skip
    temperature: float | None = _setting(
        None, "With --teacher: temperature of the answers of both.", group="Fine-tuning", range="> 0", shown="4"
    )
    distill_weight: float | None = _setting(
        None, "With --teacher: weight of its answers in the loss; the labels have the rest.", group="Fine-tuning",
        range="(0, 1]", shown="0.9",
    )  # fmt: skip

    monitor: str = _setting(
        "auto", "Validation metric that picks the best checkpoint; auto takes the usual one of the task.",
        group="Selection", metavar="METRIC",
    )  # fmt: skip
    threshold: float | Literal["best:f1", "best:balanced_accuracy", "best:accuracy"] = _setting(
        0.5, "Of two classes, the second is predicted above this probability; best:f1, best:balanced_accuracy or "
        "best:accuracy chooses it on the validation split.",
        group="Selection", range="(0, 1)", metavar="X|best:METRIC",
    )  # fmt: skip
    patience: int = _setting(
        0, "Stop after this many evaluations without improvement; 0 never stops early.", group="Selection",
        range=">= 0",
    )  # fmt: skip
    eval_every: str = _setting(
        "1epoch", "How often to evaluate, such as 1epoch or 250steps.", group="Selection", metavar="INTERVAL"
    )
    checkpoint_every: str = _setting(
        "1epoch", "How often to save a checkpoint to resume from, such as 1epoch, 500steps, 30s or 2min.",
        group="Selection", metavar="INTERVAL",
    )  # fmt: skip
    keep_last: int = _setting(
        2, "How many checkpoints to resume from are kept, beside the best one.", group="Selection", range=">= 1"
    )

    device: str = _setting("auto", "Device: auto, cpu, cuda, cuda:N or mps.", group="Machine", metavar="DEVICE")
    precision: Precision = _setting(
        "fp32", "Precision of the arithmetic; bf16 and fp16 are mixed precision (autocast).", group="Machine"
    )
    compile: bool = _setting(False, "Compile the model with torch.compile.", group="Machine")
    deterministic: bool = _setting(
        False, "Use deterministic algorithms only; a run on CUDA cannot be resumed exactly without.", group="Machine"
    )
    threads: int | Literal["auto"] = _setting("auto", "CPU threads.", group="Machine", range=f"[1, {MOST_THREADS + 1})")
    processes: int = _setting(
        1, "Processes that train one model together, each with a part of each batch.", group="Machine",
        range="[1, 4097)",
    )  # fmt: skip
    rank_timeout: float = _setting(
        600.0, "Seconds after which one of several processes that does not answer has failed.", group="Machine",
        range="> 0",
    )  # fmt: skip
    sync_batch_norm: bool = _setting(
        False, "With several processes, normalise batches over the samples of all of them.", group="Machine"
    )
    compress_gradients: bool = _setting(
        False, "With several processes, send gradients as bfloat16: half as many bytes, rounded.", group="Machine"
    )
    shard: bool = _setting(
        False, "With several processes, each keeps a part of weights, gradients and optimizer state (FSDP).",
        group="Machine",
    )  # fmt: skip
    seed: int = _setting(
        0, "Seed of weights, split, order of the samples, augmentation and dropout.", group="Machine",
        range="[0, 4294967296)",
    )  # fmt: skip
    eval_batch_size: int | Literal["auto"] = _setting(
        "auto", "Samples per batch in evaluation.", group="Machine", range=">= 1"
    )
    log_every: int = _setting(
        0, "Steps between additional rows in metrics.csv; 0 writes one row per evaluation.", group="Machine",
        range=">= 0",
    )  # fmt: skip
    log: Log = _setting(
        "none", "Also write all rows of metrics.csv for TensorBoard, into tensorboard/ in the run.", group="Machine"
    )
    log_weights: bool = _setting(
        False, "With log = tensorboard, also write histograms of all weights and a picture of the first layer's "
        "filters at each evaluation.", group="Machine",
    )  # fmt: skip

    def __init__(self, model: str, **settings: Any) -> None:
        given = {"model": model, **settings}
        known = {f.name: f for f in fields(self)}
        for name in given:
            if name not in known:
                raise ConfigError(f"unknown setting {name}: {meant_setting(name, known)}")
        for name in _TABLES:
            if not isinstance(given.get(name, {}), Mapping):
                raise ConfigError(f"{name} = {given[name]!r} is not a table of options")
        values = with_own_defaults(given)
        hints = _hints()
        for name, f in known.items():
            value = values.get(name, {} if name in _TABLES else f.default)
            if name in ("eval_every", "checkpoint_every"):
                value = str(interval(value, name=name, times=name == "checkpoint_every"))
            elif name == "lr_backbone":
                value = backbone_rate(value, name=name)
            value = dict(value) if name in _TABLES else convert(value, hints[name], name=name)
            value = () if name == "augment" and value == ("none",) else value
            check_range(value, f.metadata.get("range", ""), name=name)
            object.__setattr__(self, name, value)
        check_together(self)
        for name, value in derive(self).items():
            object.__setattr__(self, name, value)
        if self.warmup_epochs is not None and self.epochs is not None and self.warmup_epochs > self.epochs:
            raise ConfigError(f"warmup_epochs = {self.warmup_epochs} is more than epochs = {self.epochs}")
        if self.unfreeze_at is not None and self.epochs is not None and self.unfreeze_at > self.epochs:
            raise ConfigError(f"unfreeze_at = {self.unfreeze_at} is never reached: epochs = {self.epochs}")
        self._remember(name for name, value in ungroup(given).items() if not is_left_open(name, value))

    @property
    def given(self) -> frozenset[str]:
        """The settings that somebody gave, as `lr` or `model.hidden`; all others follow from them, or are defaults."""
        return self._given  # type: ignore[attr-defined,no-any-return]

    def _remember(self, given: Iterable[str]) -> None:
        object.__setattr__(self, "_given", frozenset(given))  # no field: it does not count in a comparison

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole training."""
        return self.steps if self.steps is not None else (self.epochs or 0) * steps_per_epoch

    def warmup_steps(self, steps_per_epoch: int) -> int:
        """ConfigError when the training ends before its warm-up does."""
        if self.warmup_epochs is not None:
            steps, total = round(self.warmup_epochs * steps_per_epoch), self.total_steps(steps_per_epoch)
            if steps > total:
                raise ConfigError(f"warmup_epochs = {self.warmup_epochs} is {steps} steps, more than steps = {total}")
            return steps
        return round(self.total_steps(steps_per_epoch) / 4) if self.schedule == "one-cycle" else 0

    def steps_per_drop(self, steps_per_epoch: int) -> int:
        """Between two drops of the step schedule."""
        if self.step_epochs is not None:
            return self.step_epochs * steps_per_epoch
        return max(1, self.total_steps(steps_per_epoch) // 3)

    def replace(self, **changes: Any) -> "TrainConfig":
        """This config with some settings changed, as if they had been given in the first place: `epochs=40` moves the
        warm-up of a one-cycle, `optimizer="adam"` takes the momentum away. model_options and data_options are replaced
        as a whole. Raises ConfigError as the constructor does.
        """
        return self._changed(ungroup(changes), afresh={o for o in GROUPS if f"{o}_options" in changes})

    def under(self, layer: Mapping[str, Any]) -> "TrainConfig":
        """As `replace`, for a layer of layers.py, whose `model.hidden` leaves the model's other options as they are."""
        return self._changed(layer)

    def _changed(self, layer: Mapping[str, Any], *, afresh: Collection[str] = ()) -> "TrainConfig":
        values, given = change(self, layer, afresh=afresh)
        made = TrainConfig(**values)
        made._remember(given)
        return made

    def with_values(self, **values: Any) -> "TrainConfig":
        """A copy that holds these values, and no other is moved by them. They do not count as given."""
        made = TrainConfig(**({f.name: getattr(self, f.name) for f in fields(self)} | values))
        made._remember(self.given)
        return made

    def as_dict(self) -> dict[str, Any]:
        """As nested plain values for JSON and TOML: model and data are tables with a `name`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for owner in GROUPS:
            values[owner] = {"name": values[owner], **values.pop(f"{owner}_options")}
        return {name: _plain(value) for name, value in values.items()}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], *, given: Iterable[str] | None = None) -> "TrainConfig":
        """The inverse of `as_dict`.

        given: which settings were, names of none are left aside; without it those that are not what would follow.
        """
        layer = flatten(document)
        made = cls.from_flat(layer)
        if given is None:
            stays = {name: value for name, value in layer.items() if name not in _FOLLOWING}
            follows = cls.from_flat(stays)
            given = {n for n in layer if n in stays or getattr(follows, n) != getattr(made, n)}
        made._remember(n for n in {"model", *given} & layer.keys() if not is_left_open(n, layer[n]))
        return made

    @classmethod
    def from_flat(cls, layer: Mapping[str, Any]) -> "TrainConfig":
        """Of a layer, as layers.py describes it."""
        if "model" not in layer:
            raise ConfigError("no model is given: name one, as in `dlcli train cnn`")
        return cls(**group(layer))


@functools.cache
def _hints() -> dict[str, Any]:
    """The types of the settings, by their names."""
    return get_type_hints(TrainConfig)


def _plain(value: Any) -> Any:
    """As JSON would give it back: lists for tuples, at any depth."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
