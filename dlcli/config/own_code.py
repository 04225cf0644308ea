"""Imports a user's own model or data set by name, and refuses code that came with a run."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from dlcli.core.blame import name_own, told
from dlcli.core.errors import ConfigError, DlcliError, RunError, did_you_mean


def load(target: str, *, runs_dir: Path | None = None) -> Any:
    """Import "module:attribute". ConfigError if either does not exist, or if importing the module fails; the message
    then has the file and line.

    runs_dir: the folder of runs, where the name may come from an untrusted run. Nothing in that folder is imported
    (RunError), and nothing of Python's standard library, which has no models (ConfigError). Both are raised before
    anything is executed.
    """
    module_name, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)) or len(target) > 500:
        raise ConfigError(f"{target!r} is not of the form package.module:Name")
    try:
        if module_name.startswith("dlcli."):
            module = importlib.import_module(module_name)
        else:
            module = _import_own(module_name, target, runs_dir)
    except DlcliError:
        raise
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            raise ConfigError(f"no module {missing!r} on the Python path, needed for {target!r}") from None
        if module_name.startswith("dlcli."):
            raise
        raise ConfigError(f"{target} cannot be imported: {told(error)}") from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        names = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(f"module {module_name!r} has no {attribute!r}: {did_you_mean(attribute, names)}") from None


def _import_own(module_name: str, target: str, runs_dir: Path | None) -> Any:
    """The current folder is put on the path only here, so that files in it cannot be imported in place of a library."""
    name_own(module_name)
    here, before = os.getcwd(), list(sys.path)
    if here not in before:
        sys.path.append(here)
    if runs_dir is None:
        return importlib.import_module(module_name)
    try:
        _refuse_what_came_along(module_name, target, runs_dir)
        # Nor may an own module import from there.
        sys.path[:] = [entry for entry in sys.path if not _lies_in(entry or here, runs_dir)]
        return importlib.import_module(module_name)
    finally:
        sys.path[:] = before if here in before or _lies_in(here, runs_dir) else [*before, here]


def _refuse_what_came_along(module_name: str, target: str, runs_dir: Path) -> None:
    """Check each parent package before it is imported: looking for the next part imports it."""
    name = ""
    for part in module_name.split("."):
        name = f"{name}.{part}" if name else part
        if name in (*sys.stdlib_module_names, "__main__"):
            raise ConfigError(f"{target!r} is part of Python, not a model or data set: name one of your own")
        spec = importlib.util.find_spec(name)
        if spec is None:
            return
        places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.has_location else ())]
        for place in places:
            if place is not None and _lies_in(place, runs_dir):
                raise RunError(
                    f"{target!r} is refused: {place} lies in the folder of runs {runs_dir}, and no code that came "
                    "with a run is executed; keep your own in another folder"
                )


def _lies_in(place: str, folder: Path) -> bool:
    return Path(place).resolve().is_relative_to(folder.resolve())
