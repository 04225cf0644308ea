"""Every failure that a user can meet, each with its exit code.

DlcliError (1)
├── ConfigError (2)     usage or settings
├── DataError (3)       data: missing, changed, corrupt
├── RunError (4)        run or checkpoint: missing, damaged, incompatible, refused
├── DivergedError (5)   loss or gradient not finite
├── ResourceError (6)   disk, memory, device, permissions
├── CheckError (7)      a check said no
└── BusyError (9)       another process trains this run

A message is one sentence: the setting, its value, and what to do.
"""

from collections.abc import Iterable
from typing import Any


class DlcliError(Exception):
    """A failure with a sentence for the user; `exit_code` is what the process returns."""

    exit_code = 1


class ConfigError(DlcliError):
    exit_code = 2


class DataError(DlcliError):
    exit_code = 3


class RunError(DlcliError):
    exit_code = 4


class DivergedError(DlcliError):
    """details: where it happened, for run.json."""

    exit_code = 5

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


class ResourceError(DlcliError):
    exit_code = 6


class CheckError(DlcliError):
    exit_code = 7


class BusyError(DlcliError):
    exit_code = 9


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known ones, else all of them."""
    import difflib

    choices = list(known)
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.6) if len(name) < 1000 else []
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known are {', '.join(choices)}" if choices else "there are none"
