"""Writes dlcli/cli/words.json, the words of the command line for completion: to be run after a change of an option."""

import json
from pathlib import Path
from typing import Any

import typer.main

from dlcli.cli.main import COMMANDS, app

FILE = Path(__file__).parent.parent / "dlcli" / "cli" / "words.json"

# What completion knows the values of, by the name of the option or argument.
_KINDS = {"--data": "DATA", "--metric": "METRIC", "--sort": "METRIC", "--monitor": "METRIC", "--require": "METRIC",
          "--columns": "METRIC", "--baseline": "RUN", "--data-of": "RUN", "--status": "finished|running|interrupted|"
          "pruned|failed|diverged|dead|broken"}  # fmt: skip


def words() -> dict[str, Any]:
    root = typer.main.get_command(app)
    context = root.context_class(root)
    commands = {name: _about(root.get_command(context, name)) for name in COMMANDS}  # type: ignore[attr-defined]
    return {"options": [o for p in root.get_params(context) for o in p.opts], "commands": commands}


def _about(command: Any) -> dict[str, Any]:
    context = command.context_class(command, **command.context_settings)
    params = command.get_params(context)
    options = {o: _kind(p, o) for p in params if p.param_type_name == "option" for o in (*p.opts, *p.secondary_opts)}
    arguments = [p.metavar or "" for p in params if p.param_type_name == "argument"]
    found: dict[str, Any] = {"options": options, "arguments": arguments[0].strip("[]") if arguments else ""}
    if inner := getattr(command, "commands", None):
        found["commands"] = {name: _about(each) for name, each in inner.items()}
    return found


def _kind(param: Any, option: str) -> str:
    """Empty for a flag, which has no value."""
    return "" if param.is_flag or param.count else _KINDS.get(option, param.metavar or "VALUE")


if __name__ == "__main__":
    FILE.write_text(json.dumps(words(), indent=1) + "\n")
