"""What a name stands for: a registered model or data set, one with a file (text:FILE, images:FOLDER), or your own
package.module:Name."""

from dlcli.config.meant import meant_data, meant_model
from dlcli.config.registry import DATASETS, MODELS, DataEntry, ModelEntry
from dlcli.core.errors import ConfigError


def model_entry(name: str) -> ModelEntry:
    """The entry of a registered model, or one made of a `package.module:Name`; else ConfigError, with what
    was probably meant."""
    if name in MODELS:
        return MODELS[name]
    meant = meant_model(name)
    if meant is None:
        return ModelEntry(name, "", "")
    raise ConfigError(f"unknown model {name!r}: {meant}")


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
