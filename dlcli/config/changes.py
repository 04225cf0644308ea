"""A config with some settings changed: what depends on them changes too, and nothing else."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from dlcli.config.layers import GROUPS, flatten, group, kind, stack


def change(config: Any, layer: Mapping[str, Any], *, afresh: Collection[str] = ()) -> tuple[dict[str, Any], set[str]]:
    """The values of `config`, a TrainConfig, under one more layer, and the names of those that now count as given.

    afresh: `model` or `data` where the options are replaced as a whole. A setting that was not given keeps its value
    unless the layer changes it, so that a run keeps its values under a later version with other defaults.
    """
    stays = flatten(config.as_dict())
    given = {name: stays[name] for name in config.given if name.partition(".")[0] not in afresh or "." not in name}
    under = stack(given, layer)
    before, after = type(config)(**group(given)), type(config)(**group(under))
    values = {name: getattr(after, name) for name in (f.name for f in fields(config))}
    for name, value in values.items():
        if name not in under and value == getattr(before, name):
            values[name] = getattr(config, name)
    for owner in GROUPS:
        same = kind(getattr(after, owner)) == kind(getattr(config, owner))
        resolved = getattr(config, f"{owner}_options") if same and owner not in afresh else {}
        values[f"{owner}_options"] = resolved | getattr(after, f"{owner}_options")
    if after.data != config.data:
        values["loss"] = after.loss  # auto, unless given: another task may have another usual loss
    return values, set(after.given)
