"""MODELS and DATASETS: what is built in, by name, and where it lives. Nothing is imported until asked for.

A name that is not registered but has the form `package.module:Name` is imported from the Python path or the
current folder, so a user's own model needs no plug-in.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlcli.errors import ConfigError, RunError, did_you_mean


@dataclass(frozen=True)
class ModelEntry:
    """target: "module:attribute" of the nn.Module. data: its default data set. defaults: its own settings."""

    target: str
    summary: str
    takes: str
    data: str = "digits"
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataEntry:
    """target: "module:attribute" of the loader. defaults: settings that suit the data.

    size: training samples (before a validation split) + test samples of an official test set.
    """

    target: str
    summary: str
    task: str
    shape: str
    size: str
    licence: str
    origin: str
    defaults: Mapping[str, Any] = field(default_factory=dict)


MODELS: dict[str, ModelEntry] = {
    "linear": ModelEntry(
        "dlcli.models.linear:Linear",
        "linear regression: y = Wx + b",
        "features or images; regression",
        data="make-regression",
        defaults={"optimizer": "gd", "lr": 0.01, "epochs": 1000, "eval_every": 50},
    ),
    "logistic": ModelEntry(
        "dlcli.models.logistic:Logistic",
        "logistic regression; for k classes, softmax regression",
        "features or images; binary or classes",
        data="breast-cancer",
        defaults={"epochs": 50},
    ),
    "mlp": ModelEntry(
        "dlcli.models.mlp:MLP",
        "fully connected layers with an activation between them",
        "features or images; any task but next-token",
        defaults={"epochs": 20},
    ),
    "lenet": ModelEntry(
        "dlcli.models.lenet:LeNet",
        "LeNet-5 (LeCun et al. 1998) with ReLU and max pooling",
        "images",
        defaults={"epochs": 20},
    ),
    "cnn": ModelEntry(
        "dlcli.models.cnn:CNN",
        "two 3x3 convolutions with pooling, two fully connected layers",
        "images",
        defaults={"epochs": 20},
    ),
    "simple-cnn": ModelEntry(
        "dlcli.models.simple_cnn:SimpleCNN",
        "one 3x3 convolution with pooling, one fully connected layer",
        "images",
        defaults={"optimizer": "adam", "epochs": 10, "batch_size": 32},
    ),
    "rnn": ModelEntry(
        "dlcli.models.rnn:RNN",
        "embedding, GRU, and a linear layer on every step",
        "tokens; next-token",
        data="pydocs",
        defaults={"optimizer": "adam", "lr": 0.005, "epochs": 5, "clip_norm": 1.0},
    ),
    "attention": ModelEntry(
        "dlcli.models.attention:Attention",
        "embedding, positions, multi-head scaled dot-product self-attention, linear",
        "tokens, or images as a sequence of rows; classes or next-token",
        data="recall",
        defaults={"optimizer": "adam", "lr": 0.003, "epochs": 5},
    ),
}

_SKLEARN = "bundled with scikit-learn"
_GENERATED = "generated from a seed"

DATASETS: dict[str, DataEntry] = {
    "digits": DataEntry(
        "dlcli.data.builtin:digits",
        "handwritten digits, 8x8 pixels",
        "classes (10)",
        "1x8x8",
        "1797",
        "CC BY 4.0",
        f"{_SKLEARN} (UCI, Alpaydin and Kaynak 1998)",
    ),
    "breast-cancer": DataEntry(
        "dlcli.data.builtin:breast_cancer",
        "breast tumours, malignant or benign",
        "binary",
        "30",
        "569",
        "CC BY 4.0",
        f"{_SKLEARN} (UCI, Wolberg et al. 1995)",
        {"batch_size": 32},
    ),
    "iris": DataEntry(
        "dlcli.data.builtin:iris",
        "iris flowers by leaf sizes",
        "classes (3)",
        "4",
        "150",
        "CC BY 4.0",
        f"{_SKLEARN} (UCI, Fisher 1936)",
        {"batch_size": 16},
    ),
    "wine": DataEntry(
        "dlcli.data.builtin:wine",
        "wines by chemical analysis",
        "classes (3)",
        "13",
        "178",
        "CC BY 4.0",
        f"{_SKLEARN} (UCI, Aeberhard and Forina 1991)",
        {"batch_size": 16},
    ),
    "diabetes": DataEntry(
        "dlcli.data.builtin:diabetes",
        "progression of diabetes after a year",
        "regression",
        "10",
        "442",
        "free with citation",
        f"{_SKLEARN} (Efron et al. 2004)",
        {"batch_size": 32},
    ),
    "line": DataEntry(
        "dlcli.data.synthetic:line",
        "y = x + 3 noise, x ~ 5 N(0, 1)",
        "regression",
        "1",
        "1000",
        "none needed",
        _GENERATED,
        {"normalize": False},
    ),
    "make-regression": DataEntry(
        "dlcli.data.synthetic:make_regression",
        "scikit-learn's make_regression: a linear function with noise",
        "regression",
        "1",
        "100",
        "none needed",
        _GENERATED,
        {"normalize": False},
    ),
    "random": DataEntry(
        "dlcli.data.synthetic:random",
        "noise with random labels: nothing can be learned from it",
        "classes (10)",
        "3",
        "1000",
        "none needed",
        _GENERATED,
    ),
    "recall": DataEntry(
        "dlcli.data.synthetic:recall",
        "key-value pairs and a query key: the class is the value of that key",
        "classes (8)",
        "9 tokens",
        "20000",
        "none needed",
        _GENERATED,
    ),
    "pydocs": DataEntry(
        "dlcli.data.text:pydocs",
        "characters of Python's own help topics",
        "next token",
        "128 tokens",
        "about 0.4 M characters",
        "PSF",
        "bundled with Python (pydoc_data.topics)",
    ),
    "text": DataEntry(
        "dlcli.data.text:text_file",
        "characters of your own file: --data text:FILE",
        "next token",
        "128 tokens",
        "the file",
        "yours",
        "your file",
    ),
    "tinyshakespeare": DataEntry(
        "dlcli.data.text:tinyshakespeare",
        "40,000 lines of Shakespeare's plays",
        "next token",
        "128 tokens",
        "1.1 M characters",
        "public domain",
        "downloaded (Karpathy 2015)",
    ),
    "mnist": DataEntry(
        "dlcli.data.vision:mnist",
        "handwritten digits, 28x28 pixels",
        "classes (10)",
        "1x28x28",
        "60000 + 10000",
        "CC BY-SA 3.0",
        "downloaded (LeCun et al. 1998)",
        {"epochs": 5},
    ),
    "fashion-mnist": DataEntry(
        "dlcli.data.vision:fashion_mnist",
        "articles of clothing, 28x28 pixels",
        "classes (10)",
        "1x28x28",
        "60000 + 10000",
        "MIT",
        "downloaded (Xiao et al. 2017)",
        {"epochs": 5},
    ),
    "kmnist": DataEntry(
        "dlcli.data.vision:kmnist",
        "cursive Japanese characters, 28x28 pixels",
        "classes (10)",
        "1x28x28",
        "60000 + 10000",
        "CC BY-SA 4.0",
        "downloaded (Clanuwat et al. 2018)",
        {"epochs": 5},
    ),
    "cifar10": DataEntry(
        "dlcli.data.vision:cifar10",
        "small colour photographs of ten kinds of things",
        "classes (10)",
        "3x32x32",
        "50000 + 10000",
        "none stated",
        "downloaded (Krizhevsky 2009)",
        {"epochs": 10},
    ),
}


def model_entry(name: str) -> ModelEntry:
    """The entry of a registered model, or one made of a `package.module:Name`; else ConfigError."""
    if name in MODELS:
        return MODELS[name]
    if ":" in name:
        return ModelEntry(name, "", "")
    raise ConfigError(f"unknown model {name!r}: {did_you_mean(name, MODELS)}")


def data_entry(name: str) -> DataEntry:
    """The entry of a data set (`text:FILE` is that of `text`), or one of a `package.module:Name`."""
    kind = name.partition(":")[0]
    if name in DATASETS or kind == "text":
        return DATASETS[kind]
    if ":" in name:
        return DataEntry(name, "", "", "", "", "", "")
    raise ConfigError(f"unknown data {name!r}: {did_you_mean(name, DATASETS)}")


def load(target: str, *, runs_dir: Path | None = None) -> Any:
    """Import "module:attribute". ConfigError when either is not there; a module that is there but fails
    while it is imported raises its own error.

    runs_dir: when the name may be that of a stranger's run, the folder of the runs. Nothing in it is imported, and
    nothing of Python's own library either, where no model is: RunError and ConfigError, before anything is executed.
    """
    module_name, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)) or len(target) > 500:
        raise ConfigError(f"{target!r} is not of the form package.module:Name")
    try:
        if module_name.startswith("dlcli."):
            module = importlib.import_module(module_name)
        else:
            module = _import_own(module_name, target, runs_dir)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(f"no module {error.name!r} on the Python path, needed for {target!r}") from None
    try:
        return getattr(module, attribute)
    except AttributeError:
        names = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(f"module {module_name!r} has no {attribute!r}: {did_you_mean(attribute, names)}") from None


def _import_own(module_name: str, target: str, runs_dir: Path | None) -> Any:
    """The current folder is on the path only from here on, so that what lies in it cannot pass for a library."""
    here, before = os.getcwd(), list(sys.path)
    if here not in before:
        sys.path.append(here)
    if runs_dir is None:
        return importlib.import_module(module_name)
    try:
        _refuse_what_came_along(module_name, target, runs_dir)
        # Nor may an own module find there what it imports in its turn.
        sys.path[:] = [entry for entry in sys.path if not _lies_in(entry or here, runs_dir)]
        return importlib.import_module(module_name)
    finally:
        sys.path[:] = before if here in before or _lies_in(here, runs_dir) else [*before, here]


def _refuse_what_came_along(module_name: str, target: str, runs_dir: Path) -> None:
    """Every package on the way is looked at before it is imported, which finding the next one does."""
    name = ""
    for part in module_name.split("."):
        name = f"{name}.{part}" if name else part
        if name in (*sys.stdlib_module_names, "__main__"):
            raise ConfigError(f"{target!r} is part of Python, and no model or data set: name one of your own")
        spec = importlib.util.find_spec(name)
        if spec is None:
            return
        places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.has_location else ())]
        for place in places:
            if place is not None and _lies_in(place, runs_dir):
                raise RunError(
                    f"{target!r} is refused: {place} lies in the folder of runs {runs_dir}, and no code that came "
                    "with a run is executed; keep your own in another folder"
                )


def _lies_in(place: str, folder: Path) -> bool:
    return Path(place).resolve().is_relative_to(folder.resolve())
