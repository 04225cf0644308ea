"""The fields of TrainConfig as options of a command; defaults and help texts come from config/settings.py."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Annotated, Any

import typer

from dlcli.cli.arguments import option, with_options
from dlcli.config.environment import read_environment
from dlcli.config.layers import stack
from dlcli.config.settings import TrainConfig
from dlcli.config.toml import read_file
from dlcli.core.errors import ConfigError

Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="COLUMN",
        help="Column of table:FILE that is predicted: the same as --set data.target=COLUMN.",
        rich_help_panel="Data",
        show_default=False,
    ),
]
# Options of table:FILE with a flag of their own: flag -> the option of the data, placeholder, help.
_TABLES = {
    "split-column": ("split_column", "COLUMN", "Column of table:FILE that says train, val or test."),
    "split-time": ("split_time", "COLUMN", "Column of table:FILE with a time: the last rows are for testing."),
    "split-group": ("split_group", "COLUMN", "Column of table:FILE whose groups are not divided between splits."),
    "val-data": ("val", "FILE", "File of the same columns as table:FILE, for validation."),
    "test-data": ("test", "FILE", "File of the same columns as table:FILE, for testing."),
}
# Option -> the setting that it stands for, where the two have different names.
_STANDS_FOR = {"target": "data.target"} | {
    flag.replace("-", "_"): f"data.{name}" for flag, (name, _, _) in _TABLES.items()
}

_PANELS = {"Data": "Data", "Training": "Training", "Optimizer": "Optimizer and schedule"}
_PANELS |= {"Selection": "Best checkpoint", "Machine": "Machine"}


def with_settings(command: Callable[..., Any], *, defaults: bool = True) -> Callable[..., Any]:
    """Replace the parameter `settings` of a command by one option for each field of TrainConfig, --target
    and the like.

    The argument `settings` is a dict of setting -> text or bool, with only the options that were given.
    defaults: whether the help shows TrainConfig's defaults.
    """
    options = [_option(f, default=defaults) for f in fields(TrainConfig) if f.metadata]
    options[1:1] = [option("target", Target, default=None), *_table_options()]

    def settings(given: Mapping[str, Any]) -> dict[str, Any]:
        return {_STANDS_FOR.get(name, name): value for name, value in given.items() if value is not None}

    return with_options(command, "settings", options, settings)


def _table_options() -> list[inspect.Parameter]:
    found = []
    for flag, (_, metavar, help) in _TABLES.items():
        info = typer.Option(f"--{flag}", metavar=metavar, help=help, rich_help_panel="Data", show_default=False)
        found.append(option(flag.replace("-", "_"), Annotated[str | None, info], default=None))
    return found


def resolve(*, model: str | None, files: list[str], assignments: list[str], settings: Mapping[str, Any]) -> TrainConfig:
    """One config from all sources; later ones override: files in order, the environment, the command line."""
    typed = typed_layer(assignments, settings)
    if model is not None:
        typed = {"model": model} | typed
    return TrainConfig.from_flat(stack(*(read_file(file) for file in files), read_environment(), typed))


def typed_layer(assignments: list[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings on the command line: those of --set, overridden by the options."""
    return dict(parse_assignment(text) for text in assignments) | dict(settings)


def parse_assignment(text: str) -> tuple[str, str]:
    """`model.hidden=256` of --set as a pair."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {text} is not of the form name=value")
    return name.strip().replace("-", "_"), value.strip()


def _option(field: Any, *, default: bool) -> inspect.Parameter:
    hint = typing.get_type_hints(TrainConfig)[field.name]
    flag, metavar = "--" + field.name.replace("_", "-"), field.metadata["metavar"] or _metavar(hint)
    help = field.metadata["help"]
    if default:
        help += f" (default: {field.metadata['shown'] or _shown(field.default)})"
    panel = _PANELS[field.metadata["group"]]
    annotation: Any = str | None
    if hint is bool:
        flag, annotation = f"{flag}/--no-{flag[2:]}", bool | None
    info = typer.Option(flag, help=help, metavar=metavar, rich_help_panel=panel, show_default=False)
    return option(field.name, Annotated[annotation, info], default=None)


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _metavar(hint: Any) -> str:
    """The placeholder for the value in the help: its choices or a word; empty for a flag."""
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return "|".join(_metavar(member) for member in typing.get_args(hint) if member is not type(None))
    return {bool: "", int: "N", float: "X", str: "NAME"}.get(hint, "LIST")
