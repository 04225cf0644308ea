"""How the text of a language model is spelled in tokens, and read back from them: one way for each unit."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from dlcli.data.texts.tokens import Unit

# Between documents: the control character "end of text", which stands in no document of several.
SEPARATOR = "\x03"
END = "<end>"  # its name

# Stands for all characters that the training text does not have.
REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class Spelled:
    """tokens: int32 (T,). unknown: what the training text does not have, with counts. lost: whether it has no token,
    and is left out."""

    tokens: np.ndarray[Any, Any]
    unknown: Counter[str] = field(default_factory=Counter)
    lost: bool = False


class Reader(Protocol):
    """Makes text of tokens, one by one."""

    def read(self, token: int) -> str:
        """The text that is complete with this token, which may be none."""

    def rest(self) -> str:
        """What was still incomplete, as REPLACEMENT."""


class Spelling(Protocol):
    """V different tokens, numbers from 0 to V - 1."""

    @property
    def unit(self) -> Unit:
        """What a token stands for."""

    @property
    def size(self) -> int:
        """V."""

    @property
    def separator(self) -> int | None:
        """The token between documents, if there is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """What each token is shown as; bytes that are no text by their numbers."""

    @property
    def widths(self) -> np.ndarray[Any, Any]:
        """int64 (V,): the characters that each token stands for. Those of the tokens of a text sum up to its length, in
        which a separator is one character."""

    def encode(self, text: str) -> Spelled:
        """The tokens of a text. SEPARATOR is the separator, or a line end if there is none."""

    def reader(self) -> Reader:
        """A new one, at the beginning of a text."""


def without_separator(spelling: Spelling, text: str) -> str:
    """`text`, in which documents end with a line end if the spelling has no separator for them."""
    if spelling.separator is not None or SEPARATOR not in text:
        return text
    return text.replace(f"\n{SEPARATOR}", "\n").replace(SEPARATOR, "\n")


def told(unit: Unit, unknown: Counter[str]) -> str:
    """A sentence about what is unknown, with counts; empty if nothing is."""
    if not unknown:
        return ""
    frequent = ", ".join(f"{text[:20]!r} ({count:,})" for text, count in unknown.most_common(8))
    seldom = "too rarely for the vocabulary"
    why = f"has once, never, or {seldom}, spelled in bytes" if unit == "words" else f"has not, or {seldom}"
    return f"unknown {unit}, which the training text {why}: {unknown.total():,}, such as {frequent}"
