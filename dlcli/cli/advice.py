"""Suggestions for an unknown command or option."""

from collections.abc import Iterable, Mapping
from typing import Any

from dlcli.config.meant import meant_setting
from dlcli.config.registry import DATASETS, MODELS
from dlcli.core.errors import nearest

_OTHER_NAMES = {"test": "eval", "validate": "eval", "fit": "train", "continue": "resume", "ls": "runs", "list": "runs"}


def about_command(name: str, commands: Iterable[str], inner: Mapping[str, Iterable[str]]) -> str:
    """The error message for an unknown command. inner: sub-commands of a command, such as runs: show, rm, restore."""
    choices = list(commands)
    if name in MODELS:
        meant = [f"`dlcli train {name}`"]
    else:
        meant = [f"`dlcli {group} {name}`" for group, names in inner.items() if name in names]
        near = [_OTHER_NAMES[name]] if name in _OTHER_NAMES else nearest(name, choices)
        meant = meant or [f"`dlcli {choice}`" for choice in near]
    ending = f"did you mean {' or '.join(meant)}?" if meant else f"known are {', '.join(choices)}"
    return f"no such command {name!r}: {ending}"


def about_usage(error: Any) -> str:
    """The message of one of Typer's usage errors, with a suggestion if there is one."""
    if hasattr(error, "possibilities") and error.ctx is not None:
        return f"no such option {error.option_name}: {_meant_option(error.option_name, error.ctx)}"
    told = " ".join(error.format_message().split())
    extra = told.partition("unexpected extra argument(s) (")[2].rstrip(")").split(" ")[0]
    if extra in DATASETS:
        return f"unexpected extra argument {extra}: did you mean --data {extra}?"
    return str(told)


def _meant_option(name: str, ctx: Any) -> str:
    known = [
        option for param in ctx.command.params for option in (*param.opts, *param.secondary_opts) if "--" in option
    ]
    ending = meant_setting(name, known)
    if ending.startswith("did you mean"):
        return ending
    see = f"see `{ctx.command_path} --help`".replace("python -m dlcli", "dlcli")
    if "--set" in known and name.startswith("--"):
        return (
            f"{see}; an option of the model itself is set with --set model.{name.lstrip('-').replace('-', '_')}=VALUE"
        )
    return see
