"""The `dlcli` command: its sub-commands, and the one door through which errors leave."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.core

from dlcli import __version__
from dlcli.cli import evaluate, generate, listing, predict, recipes, runs, train
from dlcli.cli.output import plain
from dlcli.errors import DlcliError


class _Door(typer.core.TyperGroup):
    """Turns every way in which a command can end into an exit code and at most one line on stderr."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **settings: Any) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in words or bool(os.environ.get("DLCLI_DEBUG"))
        settings["standalone_mode"] = False
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # an ASCII terminal gets `?`, not a traceback
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # the user's own modules; last, so that they hide none of ours
        try:
            code = super().main(words, *more, **settings)
            sys.stdout.flush()
            sys.exit(code if isinstance(code, int) else 0)
        except DlcliError as error:
            _leave(str(error), error.exit_code, words, debug)
        except typer.Abort:
            _leave("stopped", 130, words, debug)
        except KeyboardInterrupt:
            _leave("stopped", 130, words, debug)
        except BrokenPipeError:
            # The reader of our output went away, as `head` does: no error. Nothing may be flushed at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(0)
        except OSError as error:
            _leave(f"cannot go on: {error.strerror or error}", 6, words, debug)
        except Exception as error:
            message = getattr(error, "format_message", None)
            if message is not None and hasattr(error, "exit_code"):  # typer's own usage errors
                _leave(" ".join(message().split()), 2, words, debug)
            _leave(f"this is a bug in dlcli ({type(error).__name__}: {error}); --debug shows where", 1, words, debug)


def _leave(message: str, code: int, words: Sequence[str], debug: bool) -> None:
    if debug:
        traceback.print_exc()
    if "--json" in words:
        import json

        line = json.dumps({"error": message, "exit_code": code}, ensure_ascii=False)
    else:
        line = f"error: {plain(message)}"
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
    sys.exit(code)


app = typer.Typer(
    cls=_Door,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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


app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("generate")(generate.generate)
app.add_typer(runs.app, name="runs")
app.command("models")(listing.models)
app.command("datasets")(listing.datasets)
app.command("recipes")(recipes.recipes)


def main() -> None:
    app()
