"""Recipes: settings that ship with dlcli, with what they reach."""

import tomllib
from pathlib import Path
from typing import Any

from dlcli.config.settings import flatten
from dlcli.core.errors import ConfigError, did_you_mean


def recipe_path(name: str) -> Path:
    folder = Path(__file__).parent / "recipes"
    path = folder / f"{name}.toml"
    names = sorted(p.stem for p in folder.glob("*.toml"))
    if name not in names:
        raise ConfigError(f"unknown recipe {name!r}: {did_you_mean(name, names)}")
    return path


def recipes() -> dict[str, dict[str, Any]]:
    """Every recipe that ships with dlcli: name -> its [recipe] table (summary, reaches) and `settings`."""
    folder = Path(__file__).parent / "recipes"
    found = {}
    for path in sorted(folder.glob("*.toml")):
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        about = document.pop("recipe")
        found[path.stem] = {**about, "settings": flatten(document)}
    return found
