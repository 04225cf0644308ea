"""Settings that follow from a model of the zoo and its published weights: the size of the images, and how they are
prepared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlcli.config.layers import kind
from dlcli.config.schemes import listed_model
from dlcli.core.errors import ConfigError, did_you_mean
from dlcli.core.zoo import Weights

# What --pretrained stands for without the name of an entry, as torchvision calls it.
DEFAULT = "DEFAULT"


def with_zoo_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with what a model of the zoo suggests, and which is not given: the size of images of files, and with
    `pretrained` their normalisation, the size in which they are stored, and the interpolation.

    ConfigError for `pretrained` of a model without published weights, or an unknown entry.
    """
    made = dict(values)
    if isinstance(made.get("weights"), str) and Path(made["weights"]).is_file():
        made["weights"] = str(Path(made["weights"]).absolute())
    entry = published(str(made["model"]), made.get("pretrained"))
    made["pretrained"] = None if entry is None else entry.entry
    known, options = listed_model(str(made["model"])), made.get("data_options", {})
    if known is None or not isinstance(options, Mapping):
        return made
    if entry is not None and "mean" not in made and "std" not in made and made.get("normalize", True) in _YES:
        made |= {"mean": entry.mean, "std": entry.std}
    small = str(dict(made.get("model_options") or {}).get("stem")) == "small"
    if kind(made.get("data", "")) != "images" or (small and entry is None):
        return made
    options = {"size": known.size if entry is None else entry.crop, **options}
    if entry is not None:
        if stored := _stored_size(entry, options["size"]):
            options = {"stored_size": stored, **options}
        options = {"interpolation": entry.interpolation, **options}
    return made | {"data_options": options}


_YES = (True, "true", "yes", "1")


def published(model: str, entry: object) -> Weights | None:
    """The published weights of a model that `pretrained` names; None without."""
    if entry in (None, "", "none"):
        return None
    known = listed_model(model)
    if known is None:
        raise ConfigError(
            f"pretrained = {entry}, but of model {model} no published weights are known: `dlcli models --zoo` lists "
            "the models that have some, and --weights FILE takes your own"
        )
    if entry in (DEFAULT, "default", True):
        return known.weights[0]
    names = [weights.entry for weights in known.weights]
    if entry not in names:
        raise ConfigError(f"pretrained = {entry} is no entry of {known.name}: {did_you_mean(str(entry), names)}")
    return known.weights[names.index(str(entry))]


def _stored_size(entry: Weights, size: object) -> int:
    """To which images are fitted before the centre is cut out, in the proportion of the weights; 0 for none."""
    if not str(size).isdigit() or entry.resize <= entry.crop:
        return 0
    return min(round(int(str(size)) * entry.resize / entry.crop), 2048)
