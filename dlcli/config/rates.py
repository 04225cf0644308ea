"""The learning rate of a part of a model: a number, or a multiple of --lr as `0.1x`."""

import re
from typing import Any

from dlcli.core.errors import ConfigError


def backbone_rate(value: Any, *, name: str) -> float | str | None:
    """`value` as a number above 0 or as a text such as `0.1x`; None if it is None or `none`. ConfigError otherwise."""
    if value is None or value == "none":
        return None
    if isinstance(value, str) and re.fullmatch(r"[0-9.]+(e-?[0-9]+)?x", value):
        times = _number(value[:-1])
        if times is not None:
            return f"{times:g}x"
    number = _number(value)
    if number is None:
        raise ConfigError(f"{name} = {value!r} is not a number above 0, or a multiple of lr such as 0.1x")
    return number


def factor(value: float | str | None, *, lr: float) -> float:
    """What `backbone_rate` returned as a factor of `lr`; 1 of None."""
    if value is None:
        return 1.0
    return float(value[:-1]) if isinstance(value, str) else value / lr


def _number(value: Any) -> float | None:
    """A finite number above 0, else None."""
    try:
        number = float(value) if not isinstance(value, bool) else 0.0
    except (TypeError, ValueError):
        return None
    return number if 0 < number < float("inf") else None
