"""Settings from the environment: DLCLI_LR, DLCLI_DATA_DIR and so on."""

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from dlcli.config.meant import meant_setting
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError


def read_environment(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The layer of the environment; an empty value counts as not given.

    DLCLI_RUNS_DIR and DLCLI_DEBUG belong to the command line and are left to it, DLCLI_LOCKS to the locks of runs. Any
    other DLCLI_ name is a ConfigError, since a misspelt one would be ignored in silence.
    """
    environment = os.environ if environment is None else environment
    known = {f"DLCLI_{f.name.upper()}": f.name for f in fields(TrainConfig) if f.metadata}
    values = {}
    for variable, value in environment.items():
        if not variable.startswith("DLCLI_") or variable in ("DLCLI_RUNS_DIR", "DLCLI_DEBUG"):
            continue
        if variable == "DLCLI_LOCKS":
            if value not in ("", "files"):
                raise ConfigError(f"DLCLI_LOCKS = {value!r} is not known: choose files, or leave it out")
            continue
        if variable not in known:
            # Compared without what they all share, which would make any two look alike.
            near = meant_setting(variable.removeprefix("DLCLI_"), [n.removeprefix("DLCLI_") for n in known])
            near = re.sub(r"\b([A-Z][A-Z0-9_]*)\b", r"DLCLI_\1", near)
            raise ConfigError(f"unknown environment variable {variable}: {near}")
        if value:
            values[known[variable]] = value
    return values
