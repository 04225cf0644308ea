"""Settings as files: .toml and .json read, TOML written."""

import codecs
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlcli.config.layers import DERIVED, flatten
from dlcli.config.recipe import recipe_path
from dlcli.config.schemes import data_entry, model_entry
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError
from dlcli.core.reading import check_depth, parse_record, read_bytes

# Largest config file in bytes. The TOML parser of the standard library takes minutes for 100 kB of a.a.a.a.
_MOST_CONFIG = 20_000

_NO_SETTINGS = ("recipe", "sweep", "format", "given")


def read_file(path: str) -> dict[str, Any]:
    """The layer of a .toml or .json file (the config.json of a run, for example), or of `recipe:NAME`.

    What is not a setting is left out: the [recipe] table of a recipe, `format` and `given` of a run, and the [sweep]
    table, which `read_table` finds.
    """
    document = _read(path)
    return flatten({name: value for name, value in document.items() if name not in _NO_SETTINGS})


def read_table(path: str, name: str) -> dict[str, Any]:
    """The table [NAME] of such a file; empty if it has none. ConfigError if it is no table."""
    table = _read(path).get(name, {})
    if not isinstance(table, dict):
        raise ConfigError(f"config file {path}: {name} must be a table")
    return table


def _read(path: str) -> dict[str, Any]:
    """The document of a file."""
    file = recipe_path(path.removeprefix("recipe:")) if path.startswith("recipe:") else Path(path)
    if file.suffix not in (".toml", ".json"):
        raise ConfigError(f"config file {path} must end in .toml or .json")
    try:
        content = read_bytes(file, most=_MOST_CONFIG, follow=True).removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from None
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        document = parse_record(content) if file.suffix == ".json" else _parse_toml(content)
    except UnicodeDecodeError:
        raise ConfigError(f"config file {path} cannot be read: it is not UTF-8 text") from None
    except ValueError as error:
        raise ConfigError(f"config file {path} is damaged: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"config file {path} must hold a table of settings")
    return document


def _parse_toml(content: bytes) -> dict[str, Any]:
    """ValueError if it is not TOML, or is nested too deeply."""
    try:
        document = tomllib.loads(content.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    check_depth(document)
    return document


def to_toml(config: TrainConfig) -> str:
    """The config as TOML that `--config` accepts.

    TOML has no null. A setting that is None is left out, or written as "none" if the model or the data set has its own
    default for it.
    """
    own = {**model_entry(config.model).defaults, **data_entry(config.data).defaults}
    lines, tables = [], []
    for name, value in config.as_dict().items():
        if isinstance(value, dict):
            tables += ["", f"[{name}]"] + [f"{k} = {_toml(v)}" for k, v in value.items() if v is not None]
        elif value is not None or (own.get(name) is not None and name not in DERIVED):
            lines.append(f"{name} = {_toml('none' if value is None else value)}")
    return "\n".join(lines + tables) + "\n"


def document_to_toml(document: Mapping[str, Any]) -> str:
    """A document as TOML. What is None is left out."""
    return "\n".join(_lines(document, ())) + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"[{'.'.join(map(_key, path))}]"] if path else []
    inner = {name: value for name, value in table.items() if isinstance(value, Mapping)}
    lines += [f"{_key(n)} = {_toml(v)}" for n, v in table.items() if n not in inner and v is not None]
    for name, value in inner.items():
        lines += ["", *_lines(value, (*path, name))]
    return lines


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, str):
        # A JSON string is a TOML basic string, except that TOML requires DEL to be escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(name)} = {_toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)
