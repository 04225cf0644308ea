"""Writes --help: plain text, the same on a terminal and in a pipe, with line breaks only between words.

Typer's own help uses rich, whose import takes longer than everything else, to draw boxes, and truncates names to fit.
"""

import inspect
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dlcli.cli.layout import fold

_WIDEST = 80

_NAMES = 28  # width of the names; a longer one gets its own line

_VALUES = {int: "N", float: "X"}


def write_help(command: Any, ctx: Any, formatter: Any, *, commands: Mapping[str, str] | None = None) -> None:
    """Write the help of a Typer command or group. commands: one line for each sub-command, if it is not the first
    paragraph of its help."""
    if commands is None:
        inner = getattr(command, "commands", {})
        commands = {name: _paragraphs(each)[0] for name, each in inner.items()}
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    params = [param for param in command.get_params(ctx) if not param.hidden]
    arguments = [param for param in params if param.param_type_name == "argument"]
    sections = {"Arguments": [(_argument(param), param.help or "") for param in arguments]}
    for param in params:
        if param not in arguments:
            panel = getattr(param, "rich_help_panel", None) or "Options"
            sections.setdefault(panel, []).append((_names(param), _about(param)))
    sections["Commands"] = list(commands.items())

    path = " ".join(["dlcli", *_words(ctx)])
    words = ["[OPTIONS]", *map(_argument, arguments), *_inner(command, commands)]
    lines = fold(f"Usage: {path} {' '.join(words)}", width=width)
    for paragraph in _paragraphs(command):
        lines += ["", *fold(paragraph, width=width)]
    for title, entries in sections.items():
        if entries:
            lines += ["", f"{title}:", *_listed(entries, width=width)]
    formatter.write("".join(f"{line}\n" for line in lines))


def _inner(command: Any, commands: Mapping[str, str]) -> list[str]:
    if not commands:
        return []
    return ["[COMMAND]" if command.invoke_without_command else "COMMAND"]


def _paragraphs(command: Any) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in inspect.cleandoc(command.help or "").split("\n\n")]


def _listed(entries: Sequence[tuple[str, str]], *, width: int) -> Iterator[str]:
    """Names on the left, descriptions on the right."""
    left = min(_NAMES, max(len(name) for name, _ in entries))
    for name, about in entries:
        first, *more = fold(about, width=width - left - 4)
        if len(name) > left:
            yield from (f"  {line}" for line in _broken(name, width=width - 2))
            name = ""
        yield f"  {name:{left}}  {first}".rstrip()
        yield from (f"  {'':{left}}  {line}" for line in more)


def _broken(name: str, *, width: int) -> list[str]:
    """A name in lines, which end after a | where it is too long."""
    lines = [""]
    for part in re.split(r"(?<=\|)", name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("    ")
        lines[-1] += part
    return lines


def _words(ctx: Any) -> list[str]:
    """The names of the commands that lead to this help, without that of the program."""
    return [*_words(ctx.parent), ctx.info_name] if ctx.parent is not None else []


def _argument(param: Any) -> str:
    name = param.metavar or param.name.upper()
    name += "..." if param.nargs == -1 and not name.endswith("...") else ""
    return name if param.required else f"[{name}]"


def _names(param: Any) -> str:
    """`-n, --limit N`, `--quiet`, `--compile, --no-compile`."""
    names = ", ".join(sorted([*param.opts, *param.secondary_opts], key=lambda name: name.startswith("--")))
    if param.is_flag:
        return names
    annotation: Any = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    return f"{names} {param.metavar or _VALUES.get(annotation, 'TEXT')}"


def _about(param: Any) -> str:
    """The help, followed by the default and the environment variable, if any."""
    facts = []
    if isinstance(param.show_default, str):  # in words, where the default follows from something else
        facts.append(f"default: {param.show_default}")
    elif not param.is_flag and param.show_default and param.default not in (None, ""):
        facts.append(f"default: {param.default:g}" if isinstance(param.default, float) else f"default: {param.default}")
    if param.envvar:
        facts.append(f"environment: {param.envvar}")
    return f"{param.help or ''} ({'; '.join(facts)})" if facts else param.help or ""
