"""Whose mistake an exception is: finds the file and line of the user's own code that it came from.

Own code is what a user wrote: not dlcli, not Python's standard library, and no installed package (unless a model or
data set was named in it).
"""

import contextlib
import inspect
import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

from dlcli.core.errors import ConfigError, DataError, DlcliError, ResourceError

_DLCLI = str(Path(__file__).parents[1]) + os.sep
_PYTHON = os.path.dirname(os.__file__) + os.sep

# Top-level packages in which a model or data set was named: own code even where they are installed.
_named: set[str] = set()


def name_own(module: str) -> None:
    """From now on the top-level package of `module` counts as own code, wherever it is installed; torch never does."""
    _named.update({module.partition(".")[0]} - {"torch"})


def told(error: BaseException) -> str:
    """`NameError in mine.py, line 3: ...` for an error from own code, otherwise its message, in one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    text = " ".join(text.split())
    place = None if isinstance(error, DlcliError) else own_line(error)
    if place is None:
        return text or type(error).__name__
    return f"{type(error).__name__} in {place}" + (f": {text}" if text else "")


def own_line(error: BaseException) -> str | None:
    """`mine.py, line 3`: the innermost line of own code in the traceback; None when there is none."""
    if isinstance(error, SyntaxError) and error.filename and _is_own(error.filename):
        return _place(error.filename, error.lineno or 1)
    frames = [
        (frame.f_code.co_filename, line, frame.f_globals.get("__name__") or "")
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    for file, line, _ in reversed(frames):
        if _is_own(file):
            return _place(file, line)
    for file, line, module in reversed(frames):
        if module.partition(".")[0] in _named:
            return _place(file, line)
    return None


def defined(thing: object) -> str:
    """`mine.py, line 3`: where own code defines a function or class; empty for anything else."""
    try:
        file, line = inspect.getsourcefile(thing), inspect.getsourcelines(thing)[1]  # type: ignore[arg-type]
    except (TypeError, OSError):
        return ""
    return _place(file, max(line, 1)) if file and _is_own(file) else ""


@contextlib.contextmanager
def blamed(kind: type[DlcliError], sentence: str) -> Iterator[None]:
    """Turns an exception inside the block into a `kind`: `SENTENCE: NameError in mine.py, line 3: ...`.

    A DlcliError, an error for lack of memory, KeyboardInterrupt and SystemExit are passed on unchanged.
    """
    try:
        yield
    except DlcliError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise kind(f"{sentence}: {told(error)}") from error


def as_own(error: Exception) -> DlcliError | None:
    """An error of own code as a DlcliError, with an exit code and a sentence; None for any other error."""
    if own_line(error) is None:
        return None
    kind = DataError if isinstance(error, FileNotFoundError) else ResourceError
    return (kind if isinstance(error, OSError) else ConfigError)(f"{told(error)}; --debug shows the traceback")


def out_of_memory(error: Exception) -> bool:
    """torch reports it in the message of a RuntimeError; on CUDA, in the name of the error."""
    named = type(error).__name__ == "OutOfMemoryError"
    return named or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def asked_for(error: Exception) -> str:
    """` for another 4.0 GB`, if the error of an allocation states it, or else nothing."""
    match = re.search(r"(?:tried|unable) to allocate ([\d.]+) (bytes|[KMGT]iB)", str(error), re.I)
    if match is None:
        return ""
    unit = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}[match[2].lower()]
    return f" for another {float(match[1]) * unit / 1e9:.1f} GB"


def _is_own(file: str) -> bool:
    if file.startswith("<"):
        return False
    path = os.path.abspath(file)
    installed = path.startswith(_PYTHON) or {"site-packages", "dist-packages"} & set(path.split(os.sep))
    return not (path.startswith(_DLCLI) or installed)


def _place(file: str, line: int) -> str:
    """Relative to the current folder when the file lies in it."""
    path = os.path.abspath(file)
    with contextlib.suppress(OSError):  # the current folder was deleted
        path = path.removeprefix(os.getcwd() + os.sep)
    return f"{path}, line {line}"
