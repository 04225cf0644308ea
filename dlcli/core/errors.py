"""Every failure that a user can meet, each with its exit code.

DlcliError (1)
├── ConfigError (2)     usage or settings
├── DataError (3)       data: missing, changed, corrupt
├── RunError (4)        run or checkpoint: missing, damaged, incompatible, refused
├── DivergedError (5)   loss or gradient not finite
├── ResourceError (6)   disk, memory, device, permissions
├── CheckError (7)      a check said no
├── TrialsError (8)     some trials of a sweep failed
├── RankError (8)       a process of a training with several failed, or was lost
└── BusyError (9)       another process trains this run, or drives this sweep

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


class TrialsError(DlcliError):
    exit_code = 8


class RankError(DlcliError):
    exit_code = 8


class BusyError(DlcliError):
    exit_code = 9


def with_code(exit_code: int, message: str) -> DlcliError:
    """The error of another process, which told its exit code."""
    for kind in DlcliError.__subclasses__():
        if kind.exit_code == exit_code:
            return kind(message)
    return DlcliError(message)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known ones, else all of them."""
    choices = list(known)
    near = nearest(name, choices)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known are {', '.join(choices)}" if choices else "there are none"


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names that look like this one, at most three; only those that differ in case and dashes, if any do."""
    import difflib

    choices = list(known)
    same = [choice for choice in choices if plain_name(choice) == plain_name(name)]
    if same or len(name) >= 1000:
        return same[:3]
    folded = {choice.casefold(): choice for choice in choices}
    return [folded[near] for near in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)]


def plain_name(name: str) -> str:
    """A name without its case, dashes, underscores and spaces: FashionMNIST is fashion-mnist."""
    return name.casefold().translate({ord(character): None for character in "-_ "})
