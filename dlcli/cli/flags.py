"""The fields of TrainConfig as options of a command; defaults and help texts come from config/settings.py."""

import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Annotated, Any, NamedTuple

import typer

from dlcli.cli.arguments import option, with_options
from dlcli.config.environment import read_environment
from dlcli.config.layers import stack
from dlcli.config.schemes import split_file
from dlcli.config.settings import TrainConfig
from dlcli.config.toml import read_file
from dlcli.core.errors import ConfigError


class _Short(NamedTuple):
    """An option that stands for an option of the data. default: what happens without it, for the help."""

    setting: str
    metavar: str
    help: str
    default: str = ""


# Option -> the option of the data that it stands for.
_STANDS_FOR = {
    "target": _Short("data.target", "COLUMN", "Column that is predicted, of table:FILE or texts:FILE."),
    "text": _Short("data.text", "COLUMN", "Column of texts:FILE with the texts."),
    "split_column": _Short("data.split_column", "COLUMN", "Column of table:FILE that says train, val or test."),
    "split_time": _Short(
        "data.split_time", "COLUMN", "Column of table:FILE with a time: the last rows are for testing."
    ),
    "split_group": _Short(
        "data.split_group", "COLUMN", "Column of table:FILE whose groups are not divided between splits."
    ),
    "val_data": _Short(
        "data.val", "FILE", "File of the same columns as table:FILE, or more text as text:FILE, for validation."
    ),
    "test_data": _Short(
        "data.test", "FILE", "File of the same columns as table:FILE, or more text as text:FILE, for testing."
    ),
    "image_size": _Short("data.size", "N", "Height and width in pixels of images:FOLDER.", "what they share, else 64"),
    "channels": _Short("data.channels", "grey|colour", "Channels of images:FOLDER.", "grey if all are"),
    "storage": _Short(
        "data.storage",
        "memory|cache|files",
        "Where images:FOLDER or table:FILE are read from while training: memory, the user's cache on the disk, or "
        "(images) their files, decoded for each batch.",
        "memory up to 1 GB, else cache, or files if the disk is too small",
    ),
    "workers": _Short("data.workers", "auto|N", "Processes that decode images:FOLDER.", "one for each core"),
}
_IMAGES, _TABLE = {"images": "images:FOLDER"}, {"table": "table:FILE"}
# Option -> the kinds of data that it is for.
_IS_FOR = {"image_size": _IMAGES, "channels": _IMAGES, "storage": _IMAGES | _TABLE, "workers": _IMAGES}

_PANELS = {"Data": "Data", "Training": "Training", "Optimizer": "Optimizer and schedule"}
_PANELS |= {"Fine-tuning": "Fine tuning", "Selection": "Best checkpoint", "Machine": "Machine"}


def with_settings(
    command: Callable[..., Any], *, defaults: bool = True, without: Collection[str] = ()
) -> Callable[..., Any]:
    """Replace the parameter `settings` of a command by one option for each field of TrainConfig, and those
    of _STANDS_FOR.

    The argument `settings` is a dict of setting -> text or bool, with only the options that were given. A list may be
    given in several options.
    defaults: whether the help shows TrainConfig's defaults. without: the fields whose options mean something else in
    this command.
    """
    options = [_option(f, default=defaults) for f in fields(TrainConfig) if f.metadata and f.name not in without]
    options[1:1] = [option(name, hint, default=None) for name, hint in _short(defaults=defaults).items()]

    def settings(given: Mapping[str, Any]) -> dict[str, Any]:
        names = {name: short.setting for name, short in _STANDS_FOR.items()}
        found = {names.get(name, name): value for name, value in given.items() if value is not None and value != []}
        return {name: ",".join(value) if isinstance(value, list) else value for name, value in found.items()}

    return with_options(command, "settings", options, settings)


def _short(*, defaults: bool) -> dict[str, Any]:
    """The types of the options of _STANDS_FOR."""
    found = {}
    for name, (_, metavar, help, default) in _STANDS_FOR.items():
        told = f"{help} (default: {default})" if default and defaults else help
        flag = "--" + name.replace("_", "-")
        info = typer.Option(flag, metavar=metavar, help=told, rich_help_panel="Data", show_default=False)
        found[name] = Annotated[str | None, info]
    return found


def with_data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Replace the parameter `of_data` of a command by the options of _STANDS_FOR. It is a dict of setting -> text."""
    options = [option(name, hint, default=None) for name, hint in _short(defaults=True).items()]

    def settings(given: Mapping[str, Any]) -> dict[str, Any]:
        return {_STANDS_FOR[name].setting: value for name, value in given.items() if value is not None}

    return with_options(command, "of_data", options, settings)


def resolve(*, model: str | None, files: list[str], assignments: list[str], settings: Mapping[str, Any]) -> TrainConfig:
    """One config from all sources; later ones override: files in order, the environment, the command line."""
    config = TrainConfig.from_flat(layer(model=model, files=files, assignments=assignments, settings=settings))
    check_options(config, settings)
    return config


def layer(
    *, model: str | None, files: list[str], assignments: list[str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """As `resolve`, before anything follows from it."""
    typed = typed_layer(assignments, settings)
    if model is not None:
        typed = {"model": model} | typed
    return stack(*(read_file(file) for file in files), read_environment(), typed)


def check_options(config: TrainConfig, settings: Mapping[str, Any]) -> None:
    """ConfigError for an option that is for another kind of data. settings: those of the options that were given."""
    own = split_file(config.data)
    for name, kinds in _IS_FOR.items():
        if _STANDS_FOR[name].setting in settings and (own is None or own[0] not in kinds):
            flag, told = "--" + name.replace("_", "-"), " or ".join(kinds.values())
            raise ConfigError(f"{flag} is for data {told}, but data = {config.data}: leave it out")


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
    if hint == tuple[str, ...]:
        annotation = list[str] | None
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
