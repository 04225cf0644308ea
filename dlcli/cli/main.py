"""The `dlcli` command: finds its sub-commands, and turns every error into a message and an exit code."""

import errno
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
from dlcli.core.blame import as_own, asked_for, out_of_memory
from dlcli.core.errors import ConfigError, DlcliError, ResourceError
from dlcli.core.version import __version__

# Name -> module and attribute, and line in `dlcli --help`. A command is imported when it is called, so that it does not
# delay the start of other commands.
COMMANDS = {
    "train": ("dlcli.cli.train:train", "Train a model in a new run, and print its best result."),
    "resume": ("dlcli.cli.resume:resume", "Continue a stopped run, or extend a finished one."),
    "sweep": ("dlcli.cli.sweep:app", "Train a model with many settings, and find the best of them."),
    "average": ("dlcli.cli.average:average", "Average the weights of several runs, as a new run."),
    "prune": ("dlcli.cli.prune:prune", "Make a trained run smaller, as a new run that is trained on."),
    "eval": ("dlcli.cli.evaluate:evaluate", "Measure a trained run."),
    "predict": ("dlcli.cli.predict:predict", "Apply a trained run to new inputs."),
    "explain": ("dlcli.cli.explain:explain", "Show why a trained run answers what it answers."),
    "export": (
        "dlcli.cli.export:export",
        "Write a trained run as a file for other programs, and compare the two.",
    ),
    "generate": ("dlcli.cli.generate:generate", "Generate text with a trained language model."),
    "gradcheck": (
        "dlcli.cli.gradcheck:gradcheck",
        "Compare a model's derivatives with numeric ones, and name the wrong module.",
    ),
    "profile": ("dlcli.cli.profile:profile", "Show where the time and the memory of a training go."),
    "check": (
        "dlcli.cli.check:app",
        "Prove on this machine: exact resume, determinism, a working installation.",
    ),
    "runs": ("dlcli.cli.runs:app", "List all runs, newest first; show, remove or restore them."),
    "plot": ("dlcli.cli.plot:plot", "Draw runs over each other, in the terminal or into a file."),
    "report": ("dlcli.cli.report:report", "Write all about runs into one HTML page, or as a model card."),
    "cache": ("dlcli.cli.cache:app", "List the decoded images and the tables that are kept, or remove them."),
    "models": ("dlcli.cli.listing:models", "List the built-in models."),
    "datasets": ("dlcli.cli.listing:datasets", "List the built-in data sets."),
    "recipes": ("dlcli.cli.recipes:recipes", "List the recipes for `dlcli train --config recipe:NAME`."),
}


class Door(typer.core.TyperGroup):
    """Finds a command by name. Every error becomes an exit code and one line on stderr."""

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
            own = each.context_class(each, parent=ctx, **each.context_settings)  # which knows its names of --help
            _take_as_typed(each.get_params(own))
            each.format_help = functools.partial(write_help, each)
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            os.getcwd()
        except FileNotFoundError:  # MKL would end the process in a deleted folder
            raise ResourceError("the current folder was deleted: change into another one") from None
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from dlcli.cli.advice import about_command

            inner = {
                name: getattr(self.get_command(ctx, name), "commands", {})
                for name in ("runs", "check", "cache", "sweep")
            }
            raise ConfigError(about_command(args[0], COMMANDS, inner))
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        write_help(self, ctx, formatter, commands={name: line for name, (_, line) in COMMANDS.items()})

    def main(self, args: Sequence[str] | None = None, *more: Any, **settings: Any) -> Any:
        words, debug = _without_debug(sys.argv[1:] if args is None else args)
        words = _with_entry(words)
        debug = debug or bool(os.environ.get("DLCLI_DEBUG"))
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
        except (Exception, KeyboardInterrupt) as error:
            message, code = told(error)
            _leave(message, code, words, debug, run=getattr(error, "run", None))
        finally:
            if "triton" not in sys.modules:  # triton complains about objects that Python has not cleaned up
                gc.freeze()  # otherwise Python would traverse all of torch's objects at exit: 0.3 s


class _AsTyped:
    """Passes on a text, a list of texts or a flag unchanged."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        return list(value or ()) if param.multiple or param.nargs == -1 else value


def _take_as_typed(params: Sequence[Any]) -> None:
    """Skip Typer's check of texts and flags: it uses pydantic, whose import takes as long as all of `dlcli runs`.

    In a version of Typer with other internals this has no effect.
    """
    for param in params:
        if getattr(getattr(param, "type_descriptor", None), "annotation", None) in (str, list[str], bool):
            param.get_runtime_param = _AsTyped


def _without_debug(words: Sequence[str]) -> tuple[list[str], bool]:
    """The words without --debug, which may stand anywhere on the line before `--`, and whether it was there."""
    end = list(words).index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word != "--debug"]
    return [*(kept or ["--help"]), *words[end:]], len(kept) < end


def _with_entry(words: Sequence[str]) -> list[str]:
    """--pretrained stands for the default entry where no name of an entry, in capitals, follows; Typer has no options
    whose value may be left out."""
    after = [*words[1:], ""]
    return [
        f"{word}=DEFAULT" if word == "--pretrained" and not following[:1].isupper() else word
        for word, following in zip(words, after, strict=True)
    ]


def _limit_spinning() -> None:
    """Let OpenMP threads give up their core after a short wait. Must run before torch is imported.

    By default they wait for each other by spinning; if another process uses one of the cores, that slows a step a
    hundredfold. Values that the user has set are kept.
    """
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        os.environ["GOMP_SPINCOUNT"] = "5000"


def told(error: BaseException) -> tuple[str, int]:
    """The message for an error, and the exit code."""
    if isinstance(error, DlcliError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "stopped", 130
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's own usage errors
        from dlcli.cli.advice import about_usage

        return about_usage(error), 2
    assert isinstance(error, Exception)
    if out_of_memory(error):
        from dlcli.compute.devices import memory

        return f"there is not enough memory{asked_for(error)}: this machine has {memory() / 1e9:.1f} GB", 6
    if (own := as_own(error)) is not None:
        return str(own), own.exit_code
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        name = str(error.filename or "")
        return f"no file can have a name of {len(name):,} characters: {name[:40]}...", 2
    if isinstance(error, OSError):
        return f"cannot continue: {error.strerror or error}", 6
    return f"this is a bug in dlcli ({type(error).__name__}: {error}); --debug shows where", 1


def _leave(message: str, code: int, words: Sequence[str], debug: bool, *, run: Any = None) -> None:
    """Print the message and exit. run: the run in which the error happened, if any."""
    from dlcli.cli.output import complain, cut, say_json

    if debug:
        import traceback

        traceback.print_exc()
    message = cut(message)
    if "--json" in words:
        where = {} if run is None else {"run": run.number, "path": str(run.path)}
        say_json({"error": message, "exit_code": code, **where})
    else:
        complain(f"error: {message}")
    sys.exit(code)


# Number of new objects after which cyclic garbage is collected. Python's default adds 0.15 s to the import of torch.
_COLLECT_AFTER = 100_000

_CONTEXT = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    cls=Door,
    add_completion=False,  # see completion.py
    pretty_exceptions_enable=False,
    context_settings=_CONTEXT,
    help="Train, evaluate and list deep-learning experiments on PyTorch.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dlcli {__version__}")
        raise typer.Exit


def _install_completion(shell: str | None) -> None:
    if shell is not None:
        from dlcli.cli.completion import install
        from dlcli.cli.output import say

        files = " and ".join(str(file) for file in install(_this_shell(shell)))
        say(f"completion for {_this_shell(shell)} is in {files}: it works in the next shell")
        raise typer.Exit


def _show_completion(shell: str | None) -> None:
    if shell is not None:
        from dlcli.cli.completion import script

        print(script(_this_shell(shell)), end="")
        raise typer.Exit


def _this_shell(name: str) -> str:
    return os.path.basename(os.environ.get("SHELL", "")) if name == "auto" else name


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
    install_completion: Annotated[
        str | None,
        typer.Option(
            "--install-completion",
            metavar="SHELL",
            callback=_install_completion,
            is_eager=True,
            help="Let the tab key complete dlcli's words in bash, zsh, fish, or auto for this shell.",
        ),
    ] = None,
    show_completion: Annotated[
        str | None,
        typer.Option(
            "--show-completion",
            metavar="SHELL",
            callback=_show_completion,
            is_eager=True,
            help="Print what --install-completion installs.",
        ),
    ] = None,
) -> None:
    pass


def main() -> None:
    _open_closed_streams()
    app()


def _open_closed_streams() -> None:
    """Connect streams that were closed, as by `>&-`, to /dev/null. Otherwise the next opened file would get the number
    of the stream, and with it everything that libraries write to the stream."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
