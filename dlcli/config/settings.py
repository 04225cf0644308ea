"""TrainConfig: every setting of a run, with its default, its unit and its check."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from dlcli.config.intervals import interval
from dlcli.config.schemes import data_entry, model_entry
from dlcli.core.errors import ConfigError, did_you_mean
from dlcli.core.options import convert

FORMAT = 1

MOST_THREADS = 1024

Optimizer = Literal["gd", "sgd", "adam", "adamw", "rmsprop"]

Schedule = Literal["constant", "step", "cosine", "one-cycle"]

Loss = Literal["auto", "mse", "l1", "huber", "bce", "cross-entropy"]

Precision = Literal["fp32", "tf32", "bf16", "fp16"]

DEFAULT_LR: dict[str, float] = {"gd": 0.1, "sgd": 0.01, "adam": 0.001, "adamw": 0.001, "rmsprop": 0.001}


def _setting(default: Any, help: str, *, group: str, range: str = "") -> Any:
    """`range` is written as in mathematics: "[0, 1)" or ">= 1" or "> 0"."""
    return field(default=default, metadata={"help": help, "group": group, "range": range})


@dataclass(frozen=True, init=False)
class TrainConfig:
    """All settings of a training, checked. Made of `TrainConfig(model="cnn", lr=0.1, ...)`.

    What is not given comes from the data set's own defaults, else the model's, else the ones below.
    Raises ConfigError for an unknown name (naming the nearest), a wrong type, a value out of range, or a
    setting that would have no effect beside another.
    """

    model: str
    data: str = _setting("digits", "Data set; see `dlcli datasets`, or text:FILE.", group="Data")
    model_options: dict[str, Any] = field(default_factory=dict)
    data_options: dict[str, Any] = field(default_factory=dict)
    data_dir: str | None = _setting(None, "Folder of data sets. (default: the user's cache folder)", group="Data")
    val_fraction: float = _setting(
        0.1, "Part of the training data held out for validation.", group="Data", range="[0, 1)"
    )
    test_fraction: float | None = _setting(
        None,
        "Part held out for testing where the data has no test set of its own. (default: 0.2; of a text 0.1)",
        group="Data",
        range="[0, 1)",
    )
    normalize: bool = _setting(True, "Subtract the training part's mean and divide by its deviation.", group="Data")
    augment: tuple[str, ...] = _setting(
        (), "Any of shift=2, flip, rotate=10, erase=0.25, noise=0.1, mixup=0.2; comma-separated.", group="Data"
    )

    epochs: int | None = _setting(
        None, "Passes over the training data. (default: 10, unless --steps is given)", group="Training", range=">= 1"
    )
    steps: int | None = _setting(
        None, "Optimizer steps, in place of epochs. (default: as many as the epochs have)", group="Training",
        range=">= 1",
    )  # fmt: skip
    batch_size: int | Literal["full"] = _setting(64, "Samples a step, or full.", group="Training", range=">= 1")
    accumulate: int = _setting(1, "Batches whose gradients are averaged for a step.", group="Training", range=">= 1")
    loss: Loss = _setting("auto", "Loss; auto is the task's own.", group="Training")
    label_smoothing: float = _setting(0.0, "Label smoothing of cross-entropy.", group="Training", range="[0, 1)")
    optimizer: Optimizer = _setting("sgd", "Optimizer; gd is plain full-batch descent.", group="Optimizer")
    lr: float | None = _setting(
        None,
        "Learning rate. (default: 0.01; adam, adamw, rmsprop 0.001; gd 0.1)",
        group="Optimizer",
        range="> 0",
    )
    momentum: float | None = _setting(
        None, "Momentum of sgd and rmsprop. (default: 0.9; rmsprop 0)", group="Optimizer", range="[0, 1)"
    )
    nesterov: bool = _setting(False, "Nesterov momentum of sgd.", group="Optimizer")
    weight_decay: float = _setting(
        0.0, "L2 penalty (decoupled for adamw); not on biases and norms.", group="Optimizer", range=">= 0"
    )
    decay_all: bool = _setting(False, "Decay biases and norms as well.", group="Optimizer")
    l1: float = _setting(0.0, "L1 penalty, on what weight decay is on.", group="Optimizer", range=">= 0")
    clip_norm: float | None = _setting(
        None, "Scale the gradient down to this norm. (default: no clipping)", group="Optimizer", range="> 0"
    )
    schedule: Schedule = _setting("constant", "Course of the learning rate.", group="Optimizer")
    warmup_epochs: float | None = _setting(
        None,
        "Linear warm-up, in epochs. (default: 0; one-cycle a quarter of the run)",
        group="Optimizer",
        range=">= 0",
    )
    step_epochs: int | None = _setting(
        None, "With --schedule step: epochs between drops. (default: a third of the run)",
        group="Optimizer", range=">= 1",
    )  # fmt: skip
    step_gamma: float | None = _setting(
        None, "With --schedule step: factor of each drop. (default: 0.1)", group="Optimizer", range="(0, 1)"
    )
    ema: float = _setting(
        0.0, "Decay of an average of the weights, which is then evaluated and saved.", group="Optimizer", range="[0, 1)"
    )

    monitor: str = _setting(
        "auto", "Validation metric that picks the best checkpoint; auto is the task's own.", group="Selection"
    )
    patience: int = _setting(
        0, "Stop after so many evaluations without improvement; 0 never.", group="Selection", range=">= 0"
    )
    eval_every: str = _setting("1epoch", "When to evaluate: such as 1epoch or 250steps.", group="Selection")
    checkpoint_every: str = _setting(
        "1epoch", "When to save what a resume needs: such as 500steps, 30s, 2min or 1epoch.", group="Selection"
    )
    keep_last: int = _setting(
        2, "How many of these are kept; the best checkpoint always is.", group="Selection", range=">= 1"
    )

    device: str = _setting("auto", "auto, cpu, cuda, cuda:N or mps.", group="Machine")
    precision: Precision = _setting("fp32", "Arithmetic; bf16 and fp16 are autocast.", group="Machine")
    compile: bool = _setting(False, "Compile the model with torch.compile.", group="Machine")
    deterministic: bool = _setting(
        False, "Only algorithms that give the same bits each time; a CUDA run needs it to be resumed exactly.",
        group="Machine",
    )  # fmt: skip
    threads: int | Literal["auto"] = _setting("auto", "CPU threads.", group="Machine", range=f"[1, {MOST_THREADS + 1})")
    seed: int = _setting(0, "Seed of everything random.", group="Machine", range="[0, 4294967296)")
    eval_batch_size: int | Literal["auto"] = _setting(
        "auto", "Samples a batch in evaluation.", group="Machine", range=">= 1"
    )
    log_every: int = _setting(
        0, "Steps between extra rows in metrics.csv; 0 writes one row an evaluation.", group="Machine", range=">= 0"
    )

    def __init__(self, model: str, **settings: Any) -> None:
        values = {"model": model, **settings}
        known = {f.name: f for f in fields(self)}
        for name in values:
            if name not in known:
                raise ConfigError(f"unknown setting {name}: {did_you_mean(name, known)}")
        values = _with_own_defaults(values)
        hints = get_type_hints(type(self))
        for name, f in known.items():
            if name in ("model_options", "data_options"):
                value = values.get(name, {})
                if not isinstance(value, Mapping):
                    raise ConfigError(f"{name} = {value!r} is not a table of options")
                value = dict(value)
            else:
                value = values.get(name, f.default)
                if name.endswith("_every") and name != "log_every":
                    value = str(value)
                value = convert(value, hints[name], name=name)
                _check_range(name, value, f.metadata.get("range", ""))
            object.__setattr__(self, name, value)
        object.__setattr__(self, "eval_every", str(interval(self.eval_every, name="eval_every", times=False)))
        object.__setattr__(self, "checkpoint_every", str(interval(self.checkpoint_every, name="checkpoint_every")))
        self._settle()

    def _settle(self) -> None:
        """Fill what depends on other settings, and refuse what would be ignored beside them."""
        if self.optimizer == "gd":
            if self.batch_size != "full":
                raise ConfigError(
                    f"batch_size = {self.batch_size} does not go with optimizer = gd, which takes all data "
                    "at once: use optimizer = sgd or batch_size = full"
                )
            if self.nesterov or self.momentum:
                raise ConfigError("momentum does not go with optimizer = gd: use optimizer = sgd")
        if self.optimizer in ("adam", "adamw") and (self.momentum is not None or self.nesterov):
            raise ConfigError(f"momentum does not go with optimizer = {self.optimizer}: use sgd or rmsprop")
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ConfigError("nesterov needs optimizer = sgd with a momentum above 0")
        if self.schedule != "step" and (self.step_epochs is not None or self.step_gamma is not None):
            raise ConfigError(f"step_epochs and step_gamma need schedule = step, not {self.schedule}")
        if self.decay_all and not (self.weight_decay or self.l1):
            raise ConfigError("decay_all needs a weight_decay or l1 above 0")
        if self.patience and not self.val_fraction:
            raise ConfigError("patience needs a validation split: val_fraction above 0")

        def default(name: str, value: Any) -> None:
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

        default("lr", DEFAULT_LR[self.optimizer])
        if self.optimizer in ("sgd", "rmsprop"):
            default("momentum", 0.9 if self.optimizer == "sgd" else 0.0)
        if self.epochs is not None and self.steps is not None:
            raise ConfigError(f"epochs = {self.epochs} and steps = {self.steps} exclude each other: give one of them")
        if self.steps is None:
            default("epochs", 10)
        if self.epochs is not None:
            default("warmup_epochs", self.epochs / 4 if self.schedule == "one-cycle" else 0.0)
            if self.warmup_epochs is not None and self.warmup_epochs > self.epochs:
                raise ConfigError(f"warmup_epochs = {self.warmup_epochs} is more than epochs = {self.epochs}")
        if self.schedule == "step":
            default("step_gamma", 0.1)
            if self.epochs is not None:
                default("step_epochs", max(1, self.epochs // 3))

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole training."""
        return self.steps if self.steps is not None else (self.epochs or 0) * steps_per_epoch

    def warmup_steps(self, steps_per_epoch: int) -> int:
        if self.warmup_epochs is not None:
            return min(round(self.warmup_epochs * steps_per_epoch), self.total_steps(steps_per_epoch))
        return round(self.total_steps(steps_per_epoch) / 4) if self.schedule == "one-cycle" else 0

    def steps_per_drop(self, steps_per_epoch: int) -> int:
        """Between two drops of the step schedule."""
        if self.step_epochs is not None:
            return self.step_epochs * steps_per_epoch
        return max(1, self.total_steps(steps_per_epoch) // 3)

    def replace(self, **changes: Any) -> "TrainConfig":
        """A copy with some settings changed; all else, defaults included, stays as it is."""
        return TrainConfig(**({f.name: getattr(self, f.name) for f in fields(self)} | changes))

    def as_dict(self) -> dict[str, Any]:
        """As nested plain values for JSON and TOML: model and data are tables with a `name`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        model_options, data_options = values.pop("model_options"), values.pop("data_options")
        values["model"] = {"name": self.model, **model_options}
        values["data"] = {"name": self.data, **data_options}
        return {name: _plain(value) for name, value in values.items()}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "TrainConfig":
        """The inverse of `as_dict`."""
        return config_from(flatten(document))


def config_from(values: Mapping[str, Any]) -> TrainConfig:
    """A TrainConfig of flat values, where `model.hidden` is an option of the model (see `flatten`)."""
    settings: dict[str, Any] = {}
    for name, value in values.items():
        group, dot, option = name.partition(".")
        if not dot:
            if name in ("model_options", "data_options"):
                raise ConfigError(f"unknown setting {name}: options are written as {group.partition('_')[0]}.NAME")
            settings[name] = value
        elif group in ("model", "data"):
            settings.setdefault(f"{group}_options", {})[option] = value
        else:
            raise ConfigError(f"unknown setting {name}: only model. and data. have options of their own")
    if "model" not in settings:
        raise ConfigError("no model is given: name one, as in `dlcli train cnn`")
    return TrainConfig(**settings)


def flatten(document: Mapping[str, Any]) -> dict[str, Any]:
    """{"model": {"name": "mlp", "hidden": 9}, "lr": 1} as {"model": "mlp", "model.hidden": 9, "lr": 1}."""
    values: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            for option, inner in value.items():
                values[name if option == "name" else f"{name}.{option}"] = inner
        else:
            values[name] = value
    return values


def parse_assignment(text: str) -> tuple[str, str]:
    """`model.hidden=256` of --set as a pair."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {text} is not of the form name=value")
    return name.strip().replace("-", "_"), value.strip()


def _plain(value: Any) -> Any:
    """As JSON would give it back: lists for tuples, at any depth."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _with_own_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Put the model's and the data set's own defaults below what is given."""
    model = model_entry(convert(values["model"], str, name="model"))
    values = {"data": model.data} | values
    data = data_entry(convert(values["data"], str, name="data"))
    own = {**model.defaults, **data.defaults}
    if values.get("optimizer", own.get("optimizer")) != own.get("optimizer"):
        own.pop("lr", None)  # a learning rate that suits one optimizer says nothing of another
    if values.get("optimizer", own.get("optimizer")) == "gd":
        own["batch_size"] = "full"
    merged = own | values
    if merged["data"].startswith("text:"):
        merged["data"] = "text:" + str(Path(merged["data"].removeprefix("text:")).absolute())
    if merged.get("data_dir"):
        try:
            folder = Path(convert(merged["data_dir"], str, name="data_dir")).expanduser()
        except RuntimeError:
            raise ConfigError(f"data_dir = {merged['data_dir']}: there is no such user") from None
        merged["data_dir"] = str(folder.absolute())
    return merged


def _check_range(name: str, value: Any, range: str) -> None:
    """Raise ConfigError unless `value` lies in `range`, which is written "[0, 1)" or ">= 1" or "> 0"."""
    if not range or value is None or isinstance(value, str):
        return
    if range.startswith(">= "):
        inside = float(range[3:]) <= value < float("inf")
    elif range.startswith("> "):
        inside = float(range[2:]) < value < float("inf")
    else:
        low, high = (float(part) for part in range[1:-1].split(","))
        inside = (low <= value if range[0] == "[" else low < value) and value < high
    if not inside:
        raise ConfigError(f"{name} = {value} is out of range: it must be {_in_words(range)}")


def _in_words(range: str) -> str:
    return range if range.startswith(">") else f"in {range}"
