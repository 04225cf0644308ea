"""Options are the keyword-only arguments of a model's constructor or of a data set's function.

Names, defaults and types are read from the signature, so that each default is written only where it is used, and
`--set model.hidden=256` is checked before anything is built.
"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from dlcli.core.errors import ConfigError, did_you_mean

_BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The options of `function` with their defaults, in order."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def described(function: Callable[..., Any]) -> list[dict[str, Any]]:
    """name, type (in words) and default of each option of `function`, in order; `required` where it has no default."""
    hints = _hints(function)
    return [
        {
            "name": name,
            "type": _describe(_annotation(hints, name, default)),
            "default": None if default is inspect.Parameter.empty else default,
            "required": default is inspect.Parameter.empty,
        }
        for name, default in defaults(function).items()
    ]


def resolve(function: Callable[..., Any], values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """All options of `function`: `values` (checked, converted to the annotated types) over its defaults.

    where: `model` or `data`, for messages. Raises ConfigError for an unknown name, a value of the wrong type, or an
    option that has no default and is not given.
    """
    known = defaults(function)
    hints = _hints(function)
    for name in values:
        if name not in known:
            raise ConfigError(f"unknown setting {where}.{name}: {did_you_mean(name, known)}")
    resolved = {}
    for name, default in known.items():
        value = values.get(name, default)
        if value is inspect.Parameter.empty:
            raise ConfigError(f"{where}.{name} must be given: --set {where}.{name}=VALUE")
        resolved[name] = convert(value, _annotation(hints, name, default), name=f"{where}.{name}")
    return resolved


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise ConfigError(
            f"an annotation of {function.__qualname__} cannot be resolved at run time: {error}"
        ) from error


def _annotation(hints: Mapping[str, Any], name: str, default: Any) -> Any:
    """Without an annotation, the type of the default."""
    return hints.get(name, type(default) if isinstance(default, bool | int | float) else str)


def convert(value: Any, annotation: Any, *, name: str) -> Any:
    """`value` (text from a shell, or a value from TOML or JSON) as `annotation`, else ConfigError.

    Supported are bool, int, float, str, Literal, tuple[T, ...], and unions of these with None, which is written `none`
    in a shell.
    """
    try:
        return _convert(value, annotation)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise ConfigError(f"{name} = {value!r} is not {_describe(annotation)}") from None


def _convert(value: Any, annotation: Any) -> Any:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, typing.get_args(annotation))
    if origin is typing.Literal:
        for choice in typing.get_args(annotation):
            if value == choice or str(value) == str(choice):
                return choice
        raise ValueError
    if origin is tuple:
        items = _items(value) if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        return tuple(_convert(item, typing.get_args(annotation)[0]) for item in items)
    if annotation is bool:
        return value if isinstance(value, bool) else _BOOLEANS[str(value).lower()]
    if isinstance(value, bool):
        raise TypeError
    if annotation is int:
        if isinstance(value, float) and not value.is_integer():
            raise ValueError
        number = int(value.replace("_", "") if isinstance(value, str) else value)
        if not -(2**63) <= number < 2**63:
            raise OverflowError
        return number
    if annotation is float:
        return float(value)
    if annotation is str:
        if not isinstance(value, str):
            raise TypeError
        value.encode()  # ValueError for bytes of a shell that are not UTF-8, which no file of a run can hold
        return value
    raise TypeError


def _items(text: str) -> list[str]:
    """`[a, b]`, `(a, b)` or `a,b` as a list."""
    return [item.strip() for item in text.strip("[]() ").split(",") if item.strip()]


def _convert_union(value: Any, members: tuple[Any, ...]) -> Any:
    if type(None) in members and (value is None or (value == "none" and str not in members)):
        return None
    for member in members:
        if member is type(None):
            continue
        try:
            return _convert(value, member)
        except (ValueError, TypeError, KeyError, OverflowError):
            continue
    raise ValueError


def _describe(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(a) for a in typing.get_args(annotation) if a is not type(None))
    if origin is typing.Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(annotation))
    if origin is tuple:
        return f"a list of {_describe(typing.get_args(annotation)[0]).removeprefix('a ')}s"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return words.get(annotation, str(annotation))
