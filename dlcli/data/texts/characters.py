"""Characters of a text as tokens: a token is the place of its character in an alphabet."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from dlcli.core.errors import DataError
from dlcli.data.texts.spelling import END, REPLACEMENT, SEPARATOR, Spelled, without_separator

_CODES = 0x110000  # characters of Unicode
_AT_ONCE = 1 << 24  # characters


@dataclass(frozen=True)
class Characters:
    """alphabet: token i is its i-th character. If REPLACEMENT is in it, it stands for all characters that are not."""

    alphabet: str
    unit: Literal["characters"] = "characters"

    @property
    def size(self) -> int:
        return len(self.alphabet)

    @property
    def separator(self) -> int | None:
        place = self.alphabet.find(SEPARATOR)
        return place if place >= 0 else None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(END if character == SEPARATOR else character for character in self.alphabet)

    @property
    def widths(self) -> np.ndarray[Any, Any]:
        return np.ones(self.size, dtype=np.int64)

    def encode(self, text: str) -> Spelled:
        codes = _codes(without_separator(self, text))
        tokens = self._tokens[codes]
        missing = tokens < 0
        if not missing.any():
            return Spelled(tokens)
        unknown = Counter(map(chr, codes[missing].tolist()))
        place = self.alphabet.find(REPLACEMENT)
        if place < 0:
            return Spelled(tokens[~missing], unknown, lost=True)
        return Spelled(np.where(missing, np.int32(place), tokens), unknown)

    def reader(self) -> "Characters":
        return self

    def read(self, token: int) -> str:
        return self.alphabet[token]

    def rest(self) -> str:
        return ""

    @cached_property
    def _tokens(self) -> np.ndarray[Any, Any]:
        """int32: of each character of Unicode its token, or -1."""
        found = np.full(_CODES, -1, dtype=np.int32)
        found[_codes(self.alphabet)] = np.arange(self.size)
        return found


def learn_alphabet(training: str, others: str, *, most: int) -> Characters:
    """The sorted alphabet of a training text. others: the texts that are held out. most: different ones, REPLACEMENT
    among them, of which the most frequent are kept; 0 for all.

    Where the first character would stand that is not kept, or that only `others` have, stands REPLACEMENT for all of
    them. So the held-out texts show only whether there are such characters, and a text all of whose characters are in
    its training part has its whole alphabet.
    """
    counts = character_counts(training)
    known = np.flatnonzero(counts)
    every = np.flatnonzero(counts + character_counts(others)).tolist()

    def keeping(codes: np.ndarray[Any, Any]) -> str:
        kept = set(codes.tolist())
        return "".join(dict.fromkeys(chr(code) if code in kept else REPLACEMENT for code in every))

    found = keeping(known)
    if most and len(found) > most:
        usual = known[np.lexsort((known, -counts[known]))]
        found = keeping(usual[: most - 1])
    return Characters(found)


def refuse_lost(spelled: Spelled, what: str) -> None:
    """DataError for characters that have no token. what: names the text in it."""
    if spelled.lost:
        shown = " ".join(map(repr, sorted(spelled.unknown)[:8]))
        raise DataError(f"{what} has characters that the model never saw: {shown}")


def character_counts(text: str) -> np.ndarray[Any, Any]:
    """int64: how often each character of Unicode occurs."""
    found = np.zeros(_CODES, dtype=np.int64)
    for part in _parts(text):
        found += np.bincount(_codes(part), minlength=_CODES)
    return found


def _parts(text: str) -> Iterator[str]:
    return (text[start : start + _AT_ONCE] for start in range(0, len(text), _AT_ONCE))


def _codes(text: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
