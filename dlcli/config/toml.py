"""Settings as files: .toml and .json read, TOML written."""

import codecs
import json
import tomllib
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


def read_file(path: str) -> dict[str, Any]:
    """The layer of a .toml or .json file (the config.json of a run, for example), or of `recipe:NAME`.

    What is not a setting is left out: the [recipe] table of a recipe, and `format` and `given` of a run.
    """
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
    return flatten({name: value for name, value in document.items() if name not in ("recipe", "format", "given")})


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


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, str):
        # A JSON string is a TOML basic string, except that TOML requires DEL to be escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)
