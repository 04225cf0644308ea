"""Settings come in layers, lowest first: own defaults of model and data set, files in order, environment, command line.

A layer is a flat dict, with options of the model and the data set as `model.hidden` and `data.length`. It holds what
somebody wrote, as it was written. Everything else is resolved at the end, from all layers together (derived.py).
"""

from collections.abc import Mapping
from typing import Any

from dlcli.config.registry import DATASETS
from dlcli.core.errors import ConfigError

Layer = Mapping[str, Any]

# The settings with options of their own.
GROUPS = ("model", "data")

# Settings for which None (`none` in a shell) means: resolve it from the others.
DERIVED = (
    "epochs", "steps", "lr", "momentum", "warmup_epochs", "step_epochs", "step_gamma", "lr_backbone", "teacher",
    "temperature", "distill_weight",
)  # fmt: skip


def stack(*layers: Layer) -> dict[str, Any]:
    """All layers as one, lowest precedence first: a later one wins, and removes settings that it makes meaningless."""
    merged: dict[str, Any] = {}
    for layer in layers:
        gone = _set_aside(merged, layer)
        merged = {name: value for name, value in merged.items() if name not in gone} | dict(layer)
    return {name: value for name, value in merged.items() if not is_left_open(name, value)}


def is_left_open(name: str, value: Any) -> bool:
    """Whether a setting with this value counts as not given."""
    return name in DERIVED and value in (None, "none")


def kind(name: Any) -> str:
    """What determines the options of a model or data set: `text` for text:FILE, otherwise the name."""
    before = str(name).partition(":")[0]
    return before if before in DATASETS else str(name)


def flatten(document: Mapping[str, Any]) -> dict[str, Any]:
    """{"model": {"name": "mlp", "hidden": 9}, "lr": 1} as {"model": "mlp", "model.hidden": 9, "lr": 1}."""
    values: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            for option, inner in value.items():
                values[name if option == "name" else f"{name}.{option}"] = inner
        else:
            values[name] = value
    return values


def nested(layer: Layer) -> dict[str, Any]:
    """The inverse of `flatten`."""
    document: dict[str, Any] = {}
    for name, value in layer.items():
        owner, dot, option = name.partition(".")
        if dot or owner in GROUPS:
            document.setdefault(owner, {})[option or "name"] = value
        else:
            document[name] = value
    return document


def group(layer: Layer) -> dict[str, Any]:
    """{"model": "mlp", "model.hidden": 9} as {"model": "mlp", "model_options": {"hidden": 9}}, as TrainConfig takes it.

    Raises ConfigError for an option of anything but the model and the data set.
    """
    settings: dict[str, Any] = {}
    for name, value in layer.items():
        owner, dot, option = name.partition(".")
        if not dot:
            if name in ("model_options", "data_options"):
                raise ConfigError(f"unknown setting {name}: options are written as {name.partition('_')[0]}.NAME")
            settings[name] = value
        elif owner in GROUPS:
            settings.setdefault(f"{owner}_options", {})[option] = value
        else:
            raise ConfigError(f"unknown setting {name}: only model. and data. have options of their own")
    return settings


def ungroup(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `group`."""
    layer = {name: value for name, value in settings.items() if name not in ("model_options", "data_options")}
    for owner in GROUPS:
        layer |= {f"{owner}.{option}": value for option, value in settings.get(f"{owner}_options", {}).items()}
    return layer


def _set_aside(below: Layer, layer: Layer) -> set[str]:
    """The settings of earlier layers that `layer` makes meaningless."""
    gone: set[str] = set()
    for owner in GROUPS:
        if owner in layer and owner in below and kind(layer[owner]) != kind(below[owner]):
            gone |= {name for name in below if name.startswith(f"{owner}.")}
    for one, other in (("epochs", "steps"), ("steps", "epochs")):
        if not is_left_open(one, layer.get(one)):
            gone.add(other)
    if "optimizer" in layer:
        gone |= {
            "gd": {"momentum", "nesterov", "batch_size"}, "adam": {"momentum", "nesterov"},
            "adamw": {"momentum", "nesterov"}, "rmsprop": {"nesterov"},
        }.get(str(layer["optimizer"]), set())  # fmt: skip
    if _is_zero(layer.get("momentum")):
        gone.add("nesterov")
    if layer.get("schedule", "step") != "step":
        gone |= {"step_epochs", "step_gamma"}
    if _is_zero(layer.get("val_fraction")):
        gone |= {"patience", "monitor"}
    if layer.get("freeze") == "none":
        gone |= {"unfreeze_at", "cache_features"}
    if "teacher" in layer and is_left_open("teacher", layer["teacher"]):
        gone |= {"temperature", "distill_weight"}
    penalties = [layer.get(name, below.get(name, 0)) for name in ("weight_decay", "l1")]
    if layer.keys() & {"weight_decay", "l1"} and all(map(_is_zero, penalties)):
        gone.add("decay_all")
    return gone


def _is_zero(value: Any) -> bool:
    """Also for text from a shell."""
    try:
        return value is not None and float(value) == 0
    except (TypeError, ValueError):
        return False
