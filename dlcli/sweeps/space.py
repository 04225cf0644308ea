"""The values that a sweep tries: `--over lr=loguniform(1e-4,1e-1)`, read and checked.

a,b,c  choice(a,b,c)    these values, quoted where they hold commas
range(1,9,2)            1, 3, 5, 7, as in Python
uniform(a,b)            any number between a and b; loguniform(a,b): evenly in its logarithm
int(a,b)                any whole number from a to b; logint(a,b): evenly in its logarithm
"""

import csv
import functools
import itertools
import math
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import Any

from dlcli.config.layers import GROUPS
from dlcli.config.meant import meant_setting
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError
from dlcli.core.options import convert

Settings = Mapping[str, Any]

_CALL = re.compile(r"([a-z]+)\((.*)\)")
_RANGES = ("uniform", "loguniform", "int", "logint")

# The most values of one range(): more is a mistake of a digit.
_MOST = 10_000

# A number between two others is drawn with this many digits, so that a person can type it again.
_DIGITS = 4

# Settings that decide what a result is measured on: results under different ones cannot be compared.
_NOT_OVER = {
    "data": "results on different data cannot be compared: make a sweep for each",
    "val_fraction": "results on different validation samples cannot be compared",
    "test_fraction": "results on different training samples cannot be compared",
    "monitor": "results in different metrics cannot be compared",
    "seed": "it is no setting to choose: train each with several seeds by --seeds N",
    "processes": "it does not change what is learned: give --processes N to all",
    "data_dir": "it decides which data is read: make a sweep for each",
}


@dataclass(frozen=True)
class Axis:
    """One setting and what it may be. text: as typed, for files and messages.

    kind: choice, uniform, loguniform, int or logint. values: of a choice. low, high: of the others, both included.
    """

    name: str
    text: str
    kind: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0

    @property
    def finite(self) -> bool:
        return self.kind == "choice"

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Values of which each must be allowed: all of a choice, both ends of a range."""
        return self.values if self.finite else (self.at(0.0), self.at(1.0))

    def draw(self, random: Random) -> Any:
        return random.choice(self.values) if self.finite else self.at(random.random())

    def at(self, place: float) -> Any:
        """The value at a place in [0, 1] of the range."""
        if self.kind in ("loguniform", "logint"):
            half = 0.5 if self.kind == "logint" else 0.0  # so that the ends are as likely as the others
            low, high = math.log(self.low - half), math.log(self.high + half)
            return self.rounded(math.exp(low + place * (high - low)))
        if self.kind == "int":
            return min(int(self.high), int(self.low + place * (self.high - self.low + 1)))
        return self.rounded(self.low + place * (self.high - self.low))

    def rounded(self, value: float) -> Any:
        """A value of the range with few digits."""
        if self.kind in ("int", "logint"):
            return min(int(self.high), max(int(self.low), round(value)))
        digits = _DIGITS - 1 - math.floor(math.log10(value if self.kind == "loguniform" else self.high - self.low))
        return min(self.high, max(self.low, round(value, digits)))


def parse(texts: Sequence[str]) -> list[Axis]:
    """`NAME=VALUES` of each --over. ConfigError (exit 2) for an unknown setting, values that it cannot have, an empty
    range, or a setting that is named twice."""
    axes: dict[str, Axis] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not values.strip():
            raise ConfigError(f"--over {text} is not of the form NAME=VALUES, such as lr=0.1,0.01")
        if name in axes:
            raise ConfigError(f"--over names {name} twice: {axes[name].text} and {values}")
        axes[name] = axis(name, values.strip())
    return list(axes.values())


def axis(name: str, text: str) -> Axis:
    """The values `text` of the setting `name`."""
    _check_name(name)
    call = _CALL.fullmatch(text)
    if call is None or call[1] == "choice":
        values = tuple(_typed(name, value) for value in _split(name, text if call is None else call[2]))
    elif call[1] == "range":
        values = tuple(_typed(name, str(value)) for value in _range(name, text, call[2]))
    elif call[1] in _RANGES:
        return _between(name, text, call[1], call[2])
    else:
        known = ", ".join(("choice", "range", *_RANGES))
        raise ConfigError(f"--over {name}={text}: there is no {call[1]}(): known are {known}")
    if len(set(map(repr, values))) < len(values):
        raise ConfigError(f"--over {name}={text} names a value twice")
    return Axis(name, text, "choice", values)


def size(axes: Sequence[Axis]) -> int | None:
    """How many settings there are; None where they are without end."""
    return math.prod(len(one.values) for one in axes) if all(one.finite for one in axes) else None


def grid(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Every combination, the last axis fastest."""
    for values in itertools.product(*(one.values for one in axes)):
        yield {one.name: value for one, value in zip(axes, values, strict=True)}


def told(settings: Settings) -> str:
    """`lr=0.1 model.hidden=64`"""
    return " ".join(f"{name}={shown(value)}" for name, value in settings.items()) or "the settings given"


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(map(shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _check_name(name: str) -> None:
    owner, dot, _ = name.partition(".")
    if dot and owner not in GROUPS:
        raise ConfigError(f"unknown setting {name}: only model. and data. have options of their own")
    if not dot and name not in _types():
        raise ConfigError(f"unknown setting {name}: {meant_setting(name, _types())}")
    if reason := _NOT_OVER.get(name):
        raise ConfigError(f"--over {name}: {reason}")


@functools.cache
def _types() -> dict[str, Any]:
    hints = typing.get_type_hints(TrainConfig)
    return {field.name: hints[field.name] for field in fields(TrainConfig) if field.name not in
            ("model_options", "data_options")}  # fmt: skip


def _typed(name: str, text: str) -> Any:
    """A value of the setting. That of an option of a model or data set stays text: it is typed where it is used."""
    hint = _types().get(name)
    if hint is None:
        return text
    value = convert(text, hint, name=name)
    return list(value) if isinstance(value, tuple) else value


def _split(name: str, text: str) -> list[str]:
    values = [value.strip() for value in next(csv.reader([text], skipinitialspace=True), [])]
    if not values or "" in values:
        raise ConfigError(f"--over {name}={text} has an empty value")
    return values


def _range(name: str, text: str, inner: str) -> list[int | float]:
    numbers = _numbers(name, text, inner)
    if len(numbers) not in (2, 3):
        raise ConfigError(f"--over {name}={text} is not of the form range(FIRST,END) or range(FIRST,END,STEP)")
    first, end, *rest = numbers
    step = rest[0] if rest else 1
    count = math.ceil((end - first) / step - 1e-9) if step else 0
    if count <= 0:
        raise ConfigError(f"--over {name}={text} is empty: END is not in the direction of STEP")
    if count > _MOST:
        raise ConfigError(f"--over {name}={text} has {count:,} values: take int() or uniform() instead")
    return [round(first + number * step, 12) if isinstance(step, float) else first + number * step
            for number in range(count)]  # fmt: skip


def _between(name: str, text: str, kind: str, inner: str) -> Axis:
    numbers = _numbers(name, text, inner)
    whole = kind in ("int", "logint")
    if len(numbers) != 2:
        raise ConfigError(f"--over {name}={text} is not of the form {kind}(LOW,HIGH)")
    low, high = numbers
    if whole and (isinstance(low, float) or isinstance(high, float)):
        raise ConfigError(f"--over {name}={text} needs whole numbers: take {kind.replace('int', 'uniform')}(...)")
    if not low < high:
        raise ConfigError(f"--over {name}={text} is empty: LOW must be below HIGH")
    if kind.startswith("log") and low <= 0:
        raise ConfigError(f"--over {name}={text} goes through zero, where there is no logarithm: LOW must be above 0")
    if not math.isfinite(high - low):
        raise ConfigError(f"--over {name}={text} is too wide for a floating-point number")
    for number in (low, high):
        _typed(name, str(number))
    return Axis(name, text, kind, low=float(low), high=float(high))


def _numbers(name: str, text: str, inner: str) -> list[int | float]:
    found: list[int | float] = []
    for word in inner.split(","):
        try:
            number: int | float = int(word)
        except ValueError:
            try:
                number = float(word)
            except ValueError:
                raise ConfigError(f"--over {name}={text}: {word.strip()!r} is not a number") from None
        if not math.isfinite(number):
            raise ConfigError(f"--over {name}={text}: {word.strip()} is not a finite number")
        found.append(number)
    return found
