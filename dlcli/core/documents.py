"""What the JSON documents of a run must hold: they are untrusted, so every value is checked before it is used."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Kind:
    """words: what a value must be, for the end of an error message."""

    words: str
    holds: Callable[[Any], bool]


TEXT = Kind("text", lambda v: isinstance(v, str))
FLAG = Kind("true or false", lambda v: isinstance(v, bool))
TABLE = Kind("a table", lambda v: isinstance(v, dict))
NUMBER = Kind("a finite number", lambda v: type(v) in (int, float) and math.isfinite(v))
WHOLE = Kind("a whole number of at least 0", lambda v: type(v) is int and v >= 0)
NUMBERS = Kind("a table of numbers", lambda v: isinstance(v, dict) and all(map(NUMBER.holds, v.values())))
COUNT = Kind("a whole number of at least 1", lambda v: type(v) is int and v >= 1)
TIME = Kind("a time such as 2026-01-31T12:00:00Z", lambda v: isinstance(v, str) and _is_time(v))


def optional(kind: Kind) -> Kind:
    return Kind(f"{kind.words}, or null", lambda v: v is None or kind.holds(v))


def list_of(kind: Kind) -> Kind:
    return Kind(f"a list, each of it {kind.words}", lambda v: isinstance(v, list) and all(map(kind.holds, v)))


# The best evaluation so far, as stored in run.json and state.json.
BEST = {
    "metric": optional(TEXT), "value": optional(NUMBER), "higher_is_better": optional(FLAG),
    "epoch": WHOLE, "step": WHOLE,
}  # fmt: skip


def check(document: Any, kinds: Mapping[str, Kind], *, needed: bool = False) -> None:
    """ValueError, naming the first wrong value, unless each value in the table is of its kind.

    needed: whether all of them must be present. Values that `kinds` does not name are ignored.
    """
    if not isinstance(document, dict):
        raise ValueError("it is not a table")
    for name, kind in kinds.items():
        if name not in document:
            if needed:
                raise ValueError(f"it has no {name}")
        elif not kind.holds(document[name]):
            raise ValueError(f"{name} = {shown(document[name])} is not {kind.words}")


def shown(value: Any) -> str:
    """A value for an error message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _is_time(text: str) -> bool:
    try:
        return len(text) < 40 and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
