"""Settings that follow from others if they are not given, and settings that exclude each other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlcli.config.layers import kind, stack
from dlcli.config.schemes import data_entry, listed_model, model_entry, split_file
from dlcli.config.zoo_settings import with_zoo_settings
from dlcli.core.errors import ConfigError
from dlcli.core.options import convert
from dlcli.core.reading import places

DEFAULT_LR: dict[str, float] = {"gd": 0.1, "sgd": 0.01, "adam": 0.001, "adamw": 0.001, "rmsprop": 0.001}
# Of the default learning rate where all layers of pretrained weights are trained: a larger step undoes them.
FINE_TUNING = 0.1


def with_own_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` over the defaults of the model and the data set, with absolute paths. ConfigError for an unknown name."""
    model = model_entry(convert(given["model"], str, name="model"))
    name = convert(given.get("data", model.data), str, name="data")
    own = {**model.defaults, **data_entry(name).defaults}
    if given.get("optimizer", own.get("optimizer")) != own.get("optimizer"):
        own.pop("lr", None)  # a learning rate for one optimizer does not suit another
    values = stack({**own, "data": name}, given)
    if values.get("optimizer") == "gd" and "batch_size" not in given:
        values["batch_size"] = "full"
    suits = model.data_options.get(kind(name), {})
    if suits and isinstance(values.get("data_options", {}), Mapping):
        values["data_options"] = {**suits, **values.get("data_options", {})}
    values = with_zoo_settings(values)
    if (found := split_file(name)) is not None:
        values["data"] = f"{found[0]}:{','.join(_absolute(found[1], several=found[0] == 'text'))}"
        options = values.get("data_options")
        if isinstance(options, Mapping):
            empty = next((name for name in ("val", "test") if options.get(name) == ""), None)
            if empty is not None:
                raise ConfigError(f"data.{empty} is empty: name a file, or leave it out")
            files = {name: options[name] for name in ("val", "test") if isinstance(options.get(name), str)}
            several = found[0] == "text"
            whole = {name: ",".join(_absolute(file, several=several)) for name, file in files.items()}
            values["data_options"] = {**options, **whole}
        if found[0] == "images":
            values["data_options"] = _with_room(values)
    if values.get("data_dir"):
        try:
            folder = Path(convert(values["data_dir"], str, name="data_dir")).expanduser()
        except RuntimeError:
            raise ConfigError(f"data_dir = {values['data_dir']}: there is no such user") from None
        values["data_dir"] = str(folder.absolute())
    return values


def _absolute(path: str, *, several: bool) -> list[str]:
    """several: whether commas divide it."""
    return [str(Path(place).absolute()) for place in (places(path) if several else [path])]


def _with_room(values: Mapping[str, Any]) -> Any:
    """The options of images; with --augment crop they are stored larger than the size that is given, by 8/7: 256 for
    224, from which evaluations take the centre."""
    options, names = values.get("data_options", {}), values.get("augment", ())
    names = names.split(",") if isinstance(names, str) else names
    if not isinstance(options, Mapping) or "stored_size" in options or not isinstance(names, list | tuple):
        return options
    size = str(options.get("size", ""))
    if not any(str(name).strip(" []()").startswith("crop") for name in names) or not size.isdigit() or size == "0":
        return options
    return {**options, "stored_size": min(int(size) * 8 // 7, 2048)}


def fine_tunes_all(config: Any) -> bool:
    """Whether all layers of a model of the zoo are trained from weights that it starts from, at one learning rate."""
    starts, known = config.pretrained or config.weights, listed_model(config.model)
    return bool(starts) and known is not None and config.freeze == "none" and not config.lr_backbone


def derive(config: Any) -> dict[str, Any]:
    """The values of the settings that are None in `config`, as far as they follow from others."""
    gentle = fine_tunes_all(config)
    found: dict[str, Any] = {"lr": DEFAULT_LR[config.optimizer] * (FINE_TUNING if gentle else 1)}
    if config.optimizer in ("sgd", "rmsprop"):
        found["momentum"] = 0.9 if config.optimizer == "sgd" else 0.0
    epochs = config.epochs
    if config.steps is None:
        found["epochs"] = epochs = epochs or 10
    if config.schedule != "one-cycle":
        found["warmup_epochs"] = min(1.0, epochs / 10) if gentle and epochs is not None else 0.0
    elif epochs is not None:
        found["warmup_epochs"] = epochs / 4
    if config.schedule == "step":
        found["step_gamma"] = 0.1
        if epochs is not None:
            found["step_epochs"] = max(1, epochs // 3)
    if config.teacher is not None:
        found |= {"temperature": 4.0, "distill_weight": 0.9}
    return {name: value for name, value in found.items() if getattr(config, name) is None}


def check_together(config: Any) -> None:
    """ConfigError for a setting that another one would make ineffective. To be called before `derive`."""
    optimizer = config.optimizer
    if optimizer == "gd":
        if config.batch_size != "full":
            raise ConfigError(
                f"batch_size = {config.batch_size} does not go with optimizer = gd, which takes all data "
                "at once: use optimizer = sgd or batch_size = full"
            )
        if config.nesterov or config.momentum:
            raise ConfigError("momentum does not go with optimizer = gd: use optimizer = sgd")
    if optimizer in ("adam", "adamw") and (config.momentum is not None or config.nesterov):
        raise ConfigError(f"momentum does not go with optimizer = {optimizer}: use sgd or rmsprop")
    if config.nesterov and (optimizer != "sgd" or config.momentum == 0):
        raise ConfigError("nesterov needs optimizer = sgd with a momentum above 0")
    if config.schedule != "step" and (config.step_epochs is not None or config.step_gamma is not None):
        raise ConfigError(f"step_epochs and step_gamma need schedule = step, not {config.schedule}")
    if config.log_weights and config.log != "tensorboard":
        raise ConfigError("log_weights needs log = tensorboard")
    if config.decay_all and not (config.weight_decay or config.l1):
        raise ConfigError("decay_all needs a weight_decay or l1 above 0")
    if config.patience and not config.val_fraction:
        raise ConfigError("patience needs a validation split: val_fraction above 0")
    if config.unfreeze_at is not None and config.freeze == "none":
        raise ConfigError(f"unfreeze_at = {config.unfreeze_at} needs something that is frozen: freeze = backbone")
    if config.teacher is None and (config.temperature is not None or config.distill_weight is not None):
        raise ConfigError("temperature and distill_weight need a teacher: teacher = RUN")
    if config.cache_features:
        _check_features_stay(config)
    if config.shard:
        _check_shardable(config)
    if config.weights == "":
        raise ConfigError("weights is empty: name a file or a run, or leave it out")
    if config.pretrained and config.weights:
        raise ConfigError(
            f"pretrained = {config.pretrained} and weights = {config.weights} exclude each other: give one of them"
        )
    if config.partial and not (config.pretrained or config.weights):
        raise ConfigError("partial needs weights to start from: weights or pretrained")
    if config.pruned != "none" and not config.weights:
        raise ConfigError(f"pruned = {config.pruned} needs the weights of a pruned run to start from: weights = RUN")
    if bool(config.mean) != bool(config.std) or len(config.mean) != len(config.std):
        raise ConfigError(f"mean has {len(config.mean)} values and std {len(config.std)}: give as many of both")
    if config.mean and not config.normalize:
        raise ConfigError("mean and std need normalize = true")
    if any(value <= 0 for value in config.std):
        raise ConfigError(f"std = {','.join(map(str, config.std))} is out of range: each value must be > 0")
    if config.epochs is not None and config.steps is not None:
        raise ConfigError(f"epochs = {config.epochs} and steps = {config.steps} exclude each other: give one of them")


def _check_shardable(config: Any) -> None:
    """ConfigError for what needs whole weights in each process."""
    others = ("compile", "cache_features", "unfreeze_at", "log_weights")
    found = next((name for name in others if getattr(config, name)), None)
    if found is not None or config.precision == "fp16":
        told = "precision = fp16" if found is None else f"{found} = {getattr(config, found)}"
        raise ConfigError(f"shard does not go with {told}: leave one out")


def _check_features_stay(config: Any) -> None:
    """ConfigError if the features of a frozen backbone change while it is trained."""
    if config.freeze == "none":
        raise ConfigError("cache_features needs something that is frozen: freeze = backbone")
    if config.unfreeze_at is not None:
        raise ConfigError(f"cache_features does not go with unfreeze_at = {config.unfreeze_at}: leave one out")
    if config.augment:
        raise ConfigError(
            f"cache_features does not go with augment = {','.join(config.augment)}, which changes the samples in each "
            "epoch: leave one out"
        )
