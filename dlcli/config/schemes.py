"""What a name stands for: a registered model or data set, text:FILE, or your own package.module:Name."""

from dlcli.config.registry import DATASETS, MODELS, DataEntry, ModelEntry
from dlcli.core.errors import ConfigError, did_you_mean


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
