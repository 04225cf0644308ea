"""Recipes: settings that come with dlcli, and the results that they reach."""

import tomllib
from pathlib import Path
from typing import Any

from dlcli.config.layers import flatten
from dlcli.core.errors import ConfigError, did_you_mean


def recipe_path(name: str) -> Path:
    """The file of a recipe; ConfigError, suggesting the closest name, if there is none."""
    folder = Path(__file__).parent / "recipes"
    path = folder / f"{name}.toml"
    names = sorted(p.stem for p in folder.glob("*.toml"))
    if name not in names:
        raise ConfigError(f"unknown recipe {name!r}: {did_you_mean(name, names)}")
    return path


def recipes() -> dict[str, dict[str, Any]]:
    """All recipes: name -> its [recipe] table (summary, reaches, split, require) and, as `settings`, its layer."""
    folder = Path(__file__).parent / "recipes"
    found = {}
    for path in sorted(folder.glob("*.toml")):
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        about = document.pop("recipe")
        found[path.stem] = {**about, "settings": flatten(document)}
    return found
