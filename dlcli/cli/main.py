"""The `dlcli` command: its sub-commands, and the one door through which errors leave."""

import functools
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core

from dlcli.cli.help import write_help
from dlcli.core.blame import as_own, out_of_memory
from dlcli.core.errors import DlcliError
from dlcli.core.version import __version__

# name -> where it lives, and its line in `dlcli --help`. A command is imported when it is called, so that
# no other command's start waits for it.
COMMANDS = {
    "train": ("dlcli.cli.train:train", "Train a model in a new run, and print its best result."),
    "resume": ("dlcli.cli.resume:resume", "Continue a stopped run, or extend a finished one."),
    "eval": ("dlcli.cli.evaluate:evaluate", "Measure a trained run."),
    "predict": ("dlcli.cli.predict:predict", "Apply a trained run to new inputs."),
    "export": (
        "dlcli.cli.export:export",
        "Write a trained run as a file for other programs, and compare the two.",
    ),
    "generate": ("dlcli.cli.generate:generate", "Generate text with a trained language model."),
    "gradcheck": (
        "dlcli.cli.gradcheck:gradcheck",
        "Compare a model's derivatives with numeric ones, and name the wrong module.",
    ),
    "check": (
        "dlcli.cli.check:app",
        "Prove on this machine: exact resume, determinism, a working installation.",
    ),
    "runs": ("dlcli.cli.runs:app", "List all runs, newest first; show, remove or restore them."),
    "models": ("dlcli.cli.listing:models", "List the built-in models."),
    "datasets": ("dlcli.cli.listing:datasets", "List the built-in data sets."),
    "recipes": ("dlcli.cli.recipes:recipes", "List the recipes for `dlcli train --config recipe:NAME`."),
}


class Door(typer.core.TyperGroup):
    """Finds a command by name, and turns every way in which it can end into an exit code and at most one
    line on stderr."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_params(self, ctx: Any) -> Any:
        params = super().get_params(ctx)
        _take_as_typed(params)
        return params

    def get_command(self, ctx: Any, name: str) -> Any:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name][0].split(":")
        found = getattr(import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            app = typer.Typer(add_completion=False, context_settings=_CONTEXT)
            app.command(name)(found)
            found = app
        command = typer.main.get_command(found)
        command.name = name
        for each in (command, *getattr(command, "commands", {}).values()):
            _take_as_typed(each.get_params(ctx))
            each.format_help = functools.partial(write_help, each)
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        write_help(self, ctx, formatter, commands={name: line for name, (_, line) in COMMANDS.items()})

    def main(self, args: Sequence[str] | None = None, *more: Any, **settings: Any) -> Any:
        words = list(sys.argv[1:] if args is None else args) or ["--help"]
        debug = "--debug" in words or bool(os.environ.get("DLCLI_DEBUG"))
        settings["standalone_mode"] = False
        _limit_spinning()
        gc.set_threshold(_COLLECT_AFTER)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # an ASCII terminal gets `?`, not a traceback
        try:
            code = super().main(words, *more, **settings)
            sys.stdout.flush()
            sys.exit(code if isinstance(code, int) else 0)
        except DlcliError as error:
            _leave(str(error), error.exit_code, words, debug)
        except (KeyboardInterrupt, typer.Abort):
            _leave("stopped", 130, words, debug)
        except Exception as error:
            message = getattr(error, "format_message", None)
            if message is not None and hasattr(error, "exit_code"):  # typer's own usage errors
                _leave(" ".join(message().split()), 2, words, debug)
            if out_of_memory(error):
                _leave("there is not enough memory for this", 6, words, debug)
            if (own := as_own(error)) is not None:
                _leave(str(own), own.exit_code, words, debug)
            if isinstance(error, OSError):
                _leave(f"cannot go on: {error.strerror or error}", 6, words, debug)
            _leave(f"this is a bug in dlcli ({type(error).__name__}: {error}); --debug shows where", 1, words, debug)
        finally:
            if "triton" not in sys.modules:  # which complains about what Python has not cleaned up
                gc.freeze()  # at the exit Python would look through all that torch has made: 0.3 s


class _AsTyped:
    """Takes a text, a list of texts, or a flag as it is."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        return list(value or ()) if param.multiple or param.nargs == -1 else value


def _take_as_typed(params: Sequence[Any]) -> None:
    """Typer checks each value with pydantic, whose import takes as long as all of `dlcli runs`; a text or a flag
    needs no check. A Typer that is built otherwise checks them all the same."""
    for param in params:
        if getattr(getattr(param, "type_descriptor", None), "annotation", None) in (str, list[str], bool):
            param.get_runtime_param = _AsTyped


def _limit_spinning() -> None:
    """Must run before torch is imported.

    OpenMP's threads wait for each other by spinning. Where another process holds a core that stalls a step
    a hundredfold, so they give up the core after a short wait. What the user has set is left as it is.
    """
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        os.environ["GOMP_SPINCOUNT"] = "5000"


def _leave(message: str, code: int, words: Sequence[str], debug: bool) -> None:
    import json

    from dlcli.cli.output import cut, say

    if debug:
        import traceback

        traceback.print_exc()
    message = cut(message)
    if "--json" in words:
        say(json.dumps({"error": message, "exit_code": code}, ensure_ascii=False))
    else:
        say(f"error: {message}")
    sys.exit(code)


# Garbage in cycles is looked for after so many new objects. Python's own 700 costs 0.15 s of the import of torch.
_COLLECT_AFTER = 100_000

_CONTEXT = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    cls=Door,
    pretty_exceptions_enable=False,
    context_settings=_CONTEXT,
    help="Train, evaluate and list deep-learning experiments on PyTorch.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dlcli {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    pass


def main() -> None:
    app()
