"""What a name stands for: a registered model or data set, one of a zoo (resnet18, torchvision:NAME, timm:NAME), one
with a file (text:FILE, images:FOLDER), or your own package.module:Name."""

from dlcli.config.meant import meant_data, meant_model
from dlcli.config.registry import DATASETS, MODELS, DataEntry, ModelEntry
from dlcli.core.errors import ConfigError
from dlcli.core.zoo import ZooModel, zoo_model

# A zoo -> the file that builds its models by their names.
ZOOS = {"torchvision": "dlcli.models.zoo", "timm": "dlcli.models.timm_zoo"}


def model_entry(name: str) -> ModelEntry:
    """The entry of a registered model, or one made of the name of a zoo's or of a `package.module:Name`; else
    ConfigError, with what was probably meant."""
    if name in MODELS:
        return MODELS[name]
    if (zoo := zoo_name(name)) is not None:
        return _zoo_entry(*zoo)
    meant = meant_model(name)
    if meant is None:
        return ModelEntry(name, "", "")
    raise ConfigError(f"unknown model {name!r}: {meant}")


def zoo_name(name: str) -> tuple[str, str] | None:
    """`torchvision` and `resnet18` of torchvision:resnet18, or of resnet18; None for a model of no zoo.

    Any name after `torchvision:` and `timm:` is looked up when the model is built: they may have models that we do not
    know.
    """
    kind, colon, rest = name.partition(":")
    if colon:
        return (kind, rest) if kind in ZOOS and rest.isidentifier() and not rest.startswith("_") else None
    return ("torchvision", name) if name not in MODELS and zoo_model(name) is not None else None


def listed_model(name: str) -> ZooModel | None:
    """What is known of a model of torchvision without importing it; None for any other model."""
    found = zoo_name(name)
    return zoo_model(found[1]) if found is not None and found[0] == "torchvision" else None


def _zoo_entry(zoo: str, name: str) -> ModelEntry:
    known = zoo_model(name) if zoo == "torchvision" else None
    size = f", designed for images of {known.size} pixels" if known is not None else ""
    return ModelEntry(f"{ZOOS[zoo]}:{name}", f"{name} of {zoo}{size}", "images", builds=True)


def split_file(name: str) -> tuple[str, str] | None:
    """`text` and `FILE` of text:FILE; None for a data set that is not named with a file or folder."""
    kind, colon, path = name.partition(":")
    return (kind, path) if colon and kind in DATASETS and DATASETS[kind].file else None


def data_entry(name: str) -> DataEntry:
    """The entry of a data set (`text:FILE` is that of `text`), or one of a `package.module:Name`; else ConfigError,
    with what was probably meant."""
    if name in DATASETS:
        return DATASETS[name]
    if (found := split_file(name)) is not None:
        return DATASETS[found[0]]
    meant = meant_data(name)
    if meant is None:
        return DataEntry(name, "", "", "", "", "", "")
    raise ConfigError(f"unknown data {name!r}: {meant}")
