"""Options that several commands share, and functions that replace one parameter of a command by several options."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from dlcli.cli.output import choose_format
from dlcli.core.errors import ConfigError


def one_of(option: str, *choices: str) -> Callable[[str | None], str | None]:
    """A callback for a typer.Option. Raises ConfigError (exit 2) if the value is not in `choices`."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in choices:
            raise ConfigError(f"{option} {value} is not one of {', '.join(choices)}")
        return value

    return check


def folder(option: str) -> Callable[[str | None], str | None]:
    """As `one_of`, for the path of a folder. An empty path, which would mean the current folder, is refused, and so is
    one that is not UTF-8, in which safetensors cannot open files."""

    def check(value: str | None) -> str | None:
        if value == "":
            raise ConfigError(f"{option} is empty: name a folder, such as . for the current one")
        if value is not None and not value.isascii() and value != value.encode(errors="replace").decode():
            raise ConfigError(f"{option} {value} is not UTF-8 text: name another folder")
        return value

    return check


def split_option(about: str, *, default: str | None = None) -> Any:
    """--split. about: its help. default: shown as the value without it, where the parameter has none."""
    splits = ("train", "val", "test")
    return typer.Option(
        "--split",
        metavar="|".join(splits),
        help=about,
        show_default=default or True,
        callback=one_of("--split", *splits),
    )


JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
CSV = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
MD = Annotated[bool, typer.Option("--md", help="Print a Markdown table.")]

RunsDir = Annotated[
    str,
    typer.Option(
        "--runs-dir",
        metavar="PATH",
        envvar="DLCLI_RUNS_DIR",
        help="The folder of all runs.",
        callback=folder("--runs-dir"),
    ),
]
DataDir = Annotated[
    str | None,
    typer.Option(
        "--data-dir",
        envvar="DLCLI_DATA_DIR",
        metavar="PATH",
        help="The folder of data sets, if it is not the one used in training.",
        callback=folder("--data-dir"),
    ),
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run: 42, runs/42, its name, latest, best:METRIC or best:METRIC@DATA.")
]
RunNames = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN", help="Runs: 42, runs/42, names, latest, best:METRIC[@DATA], 40:45 or 4,7. May be repeated."
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="auto (the device of the training), cpu, cuda, cuda:N or mps.")
]
CheckpointRole = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        metavar="best|last",
        help="Which checkpoint of the run to use.",
        callback=one_of("--checkpoint", "best", "last"),
    ),
]
Model = Annotated[
    str | None, typer.Argument(metavar="MODEL", help="A model of `dlcli models`, or your own package.module:Name.")
]
Configs = Annotated[
    list[str] | None,
    typer.Option(
        "--config", metavar="FILE", help="Settings from a .toml or .json file, or recipe:NAME. May be repeated."
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any setting, such as model.hidden=256. May be repeated."),
]


def with_format(command: Callable[..., Any]) -> Callable[..., Any]:
    """Replace the parameter `format` of a command by the options --json, --csv and --md; without them it is
    Format.table.

    ConfigError (exit 2) if more than one is given.
    """
    options = [option(name, hint, default=False) for name, hint in (("json", JSON), ("csv", CSV), ("md", MD))]
    return with_options(command, "format", options, lambda given: choose_format(**given))


def with_options(
    command: Callable[..., Any],
    parameter: str,
    options: Sequence[inspect.Parameter],
    value: Callable[[Mapping[str, Any]], Any],
) -> Callable[..., Any]:
    """`command` with `options` instead of one parameter.

    value: computes the argument for the parameter from a dict of option name -> value on the command line.
    """
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(command).parameters.values()]
    place = [p.name for p in parameters].index(parameter)
    parameters[place : place + 1] = options

    @functools.wraps(command)
    def called(**arguments: Any) -> Any:
        given = {o.name: arguments.pop(o.name) for o in options}
        return command(**arguments, **{parameter: value(given)})

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    return called


def option(name: str, hint: Any, *, default: Any) -> inspect.Parameter:
    """A keyword-only parameter. hint: an Annotated type with a typer.Option."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
