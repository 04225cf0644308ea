"""TrainConfig's fields as options of a command: a default and a help text are written once, in config.py."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Annotated, Any

import typer

from dlcli.config.environment import read_environment
from dlcli.config.settings import TrainConfig, config_from, parse_assignment
from dlcli.config.toml import read_file

_PANELS = {"Data": "Data", "Training": "Training", "Optimizer": "Optimizer and schedule"}
_PANELS |= {"Selection": "Best checkpoint", "Machine": "Machine"}


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `command(*, settings, ...)` an option for each field of TrainConfig.

    What is typed arrives in `settings`, a dict of field -> text or bool, without those not given.
    """
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "settings"]
    options = [_option(f) for f in fields(TrainConfig) if f.metadata]
    names = [p.name for p in options]

    def called(**arguments: Any) -> Any:
        settings = {name: arguments.pop(name) for name in names}
        return command(settings={n: v for n, v in settings.items() if v is not None}, **arguments)

    called.__name__, called.__doc__, called.__module__ = command.__name__, command.__doc__, command.__module__
    called.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in (*own, *options)}
    return called


def resolve(*, model: str | None, files: list[str], assignments: list[str], settings: Mapping[str, Any]) -> TrainConfig:
    """All sources of settings as one config."""
    return config_from(gather(model=model, files=files, assignments=assignments, settings=settings))


def gather(
    *, model: str | None, files: list[str], assignments: list[str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What all sources say, by precedence: files in order, environment, --set, then options."""
    layers: dict[str, Any] = {}
    for file in files:
        layers |= _about_one_model(layers, {k: v for k, v in read_file(file).items() if v is not None})
    layers |= read_environment()
    if model is not None:
        layers = _about_one_model(layers, {"model": model})
        layers["model"] = model
    layers |= dict(parse_assignment(text) for text in assignments)
    return {**layers, **settings}


def _about_one_model(layers: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`layers` under `new`; another model or data set takes the options of the one before away with it."""
    for group in ("model", "data"):
        if group in new and group in layers and new[group] != layers[group]:
            layers = {k: v for k, v in layers.items() if not k.startswith(f"{group}.")}
    return {**layers, **new}


def _option(field: Any) -> inspect.Parameter:
    hint = typing.get_type_hints(TrainConfig)[field.name]
    flag = "--" + field.name.replace("_", "-")
    help = field.metadata["help"]
    if "(default:" not in help and field.default not in (None, (), ""):
        help += f" (default: {_shown(field.default)})"
    panel = _PANELS[field.metadata["group"]]
    annotation: Any
    if hint is bool:
        annotation = Annotated[
            bool | None,
            typer.Option(f"{flag}/--no-{flag[2:]}", help=help, rich_help_panel=panel, show_default=False),
        ]
    else:
        annotation = Annotated[
            str | None,
            typer.Option(flag, help=help, metavar=_metavar(hint), rich_help_panel=panel, show_default=False),
        ]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return str(default)


def _metavar(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _metavar(next(a for a in typing.get_args(hint) if a is not type(None)))
    return {int: "N", float: "X", str: "NAME"}.get(hint, "LIST")
