"""Ranges of settings, written as in mathematics: [0, 1), >= 1, > 0."""

from typing import Any

from dlcli.core.errors import ConfigError


def check_range(value: Any, range: str, *, name: str) -> None:
    """Raise ConfigError unless `value` lies in `range`; text (such as auto) and None are not checked."""
    if not range or value is None or isinstance(value, str):
        return
    if range.startswith(">= "):
        inside = float(range[3:]) <= value < float("inf")
    elif range.startswith("> "):
        inside = float(range[2:]) < value < float("inf")
    else:
        low, high = (float(part) for part in range[1:-1].split(","))
        inside = (low <= value if range[0] == "[" else low < value) and (
            value <= high if range[-1] == "]" else value < high
        )
    if not inside:
        words = range if range.startswith(">") else f"in {range}"
        raise ConfigError(f"{name} = {value} is out of range: it must be {words}")
