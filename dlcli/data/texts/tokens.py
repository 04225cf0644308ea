"""Tokens: how texts become rows of whole numbers. Learned from the training texts, stored in the run."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from dlcli.core.documents import COUNT, TEXT, Kind, check, list_of
from dlcli.data.texts.byte_pairs import BytePairs, learn_byte_pairs

Unit = Literal["characters", "words", "bpe"]
NAMES: dict[Unit, str] = {"characters": "characters", "words": "words", "bpe": "byte pairs"}

# Token 0 fills a row up, token 1 stands for all that the training texts did not have; the vocabulary follows.
PADDING, UNKNOWN, FIRST = 0, 1, 2

# What is kept if nothing is asked for: different tokens, and tokens of a text.
MOST_TOKENS: dict[Unit, int] = {"characters": 10_000, "words": 20_000, "bpe": 4_000}
MOST_STEPS: dict[Unit, int] = {"characters": 1024, "words": 512, "bpe": 512}
LARGEST = 30_000  # so that the document stays below what is read of a run

LONGEST_WORD = 100  # characters of a word
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Encoded:
    """rows: int32 (texts, length). cut: how many texts were longer. unknown: what the training texts did not have, with
    counts."""

    rows: np.ndarray[Any, Any]
    cut: int
    unknown: Counter[str]


@dataclass(frozen=True)
class Tokens:
    """unit: what a token stands for. vocabulary: token i + 2 is the i-th. merges: of byte pairs, in order: two numbers
    of the vocabulary, whose texts become one. length: tokens of a row.
    column, target: the names of the columns of a table that hold text and class; empty if it was none.
    """

    unit: Unit
    vocabulary: tuple[str, ...]
    length: int
    merges: tuple[tuple[int, int], ...] = ()
    column: str = ""
    target: str = ""

    @property
    def size(self) -> int:
        """How many different tokens there are."""
        return FIRST + len(self.vocabulary)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """What is longer than a row is cut off, what is shorter filled up with PADDING."""
        if self.unit == "characters":
            return self._characters(texts)
        rows = np.zeros((len(texts), self.length), dtype=np.int32)
        unknown: Counter[str] = Counter()
        cut = 0
        for row, found in zip(rows, self._tokenised(texts, unknown), strict=True):
            cut += len(found) > self.length
            kept = found[: self.length]
            row[: len(kept)] = kept
        return Encoded(rows, cut, unknown)

    def _tokenised(self, texts: Sequence[str], unknown: Counter[str]) -> Iterable[Sequence[int]]:
        if self.unit == "bpe":
            return ([FIRST + place for place in found] for found in self._byte_pairs.encode(texts))
        places = self._places

        def of(text: str) -> list[int]:
            words = _WORD.findall(text)
            unknown.update(word for word in words[: self.length] if word not in places)
            return [places.get(word, UNKNOWN) for word in words]

        return map(of, texts)

    def _characters(self, texts: Sequence[str]) -> Encoded:
        """All texts at once: character by character, a Python loop would take longer than the training."""
        kept = [text[: self.length] for text in texts]
        lengths = np.array([len(text) for text in kept], dtype=np.int64)
        codes = _codes("".join(kept))
        known = self._codes
        order = np.argsort(known)
        place = np.searchsorted(known, codes, sorter=order).clip(max=len(known) - 1)
        tokens = np.where(known[order[place]] == codes, order[place] + FIRST, UNKNOWN)
        rows = np.zeros((len(kept), self.length), dtype=np.int32)
        rows[np.arange(self.length) < lengths[:, None]] = tokens
        unknown = Counter(map(chr, codes[tokens == UNKNOWN].tolist()))
        return Encoded(rows, sum(len(text) > self.length for text in texts), unknown)

    @cached_property
    def _codes(self) -> np.ndarray[Any, Any]:
        return _codes("".join(self.vocabulary))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {text: FIRST + place for place, text in enumerate(self.vocabulary)}

    @cached_property
    def _byte_pairs(self) -> BytePairs:
        return BytePairs(self.vocabulary, self.merges)

    def as_dict(self) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "vocabulary": list(self.vocabulary),
            "length": self.length,
            **({"merges": [list(pair) for pair in self.merges]} if self.unit == "bpe" else {}),
            **({"column": self.column, "target": self.target} if self.column else {}),
        }

    @classmethod
    def from_dict(cls, values: Any) -> "Tokens":
        """The inverse of `as_dict`; ValueError if the values are invalid or do not match each other."""
        check(values, _FIELDS, needed=True)
        check(values, _OPTIONAL)
        vocabulary = tuple(values["vocabulary"])
        if not 0 < len(vocabulary) <= LARGEST or len(set(vocabulary)) < len(vocabulary) or "" in vocabulary:
            raise ValueError("its vocabulary is empty or too large, or two of its tokens are the same")
        if values["unit"] == "characters" and any(len(text) != 1 for text in vocabulary):
            raise ValueError("its vocabulary holds a token that is not one character")
        merges = tuple((first, second) for first, second in values.get("merges", ()))
        found = cls(
            values["unit"], vocabulary, values["length"], merges, values.get("column", ""), values.get("target", "")
        )
        if found.unit == "bpe":
            found._byte_pairs.check()
        return found


def learn(texts: Sequence[str], unit: Unit, *, most: int, length: int) -> Tokens:
    """Tokens for texts like these. most: different ones, the most frequent are kept. length: of a row; 0 for that of
    the longest text, up to MOST_STEPS.

    Characters and words that occur once are not kept: they are what UNKNOWN is learned from; nor are words that are
    very long.
    """
    merges: tuple[tuple[int, int], ...] = ()
    if unit == "bpe":
        vocabulary, merges = learn_byte_pairs(texts, most=most)
    else:
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text if unit == "characters" else _WORD.findall(text))
        kept = (t for t, count in counts.items() if count > 1 and len(t) <= LONGEST_WORD and not _is_surrogate(t))
        usual = sorted(kept, key=lambda t: (-counts[t], t))
        vocabulary = tuple(usual[:most])
    made = Tokens(unit, vocabulary or (" ",), length or MOST_STEPS[unit], merges)
    if length:
        return made
    longest = max(map(len, texts)) if unit == "characters" else int((made.encode(texts).rows > 0).sum(1).max())
    return replace(made, length=min(max(longest, 1), MOST_STEPS[unit]))


def _codes(text: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _is_surrogate(text: str) -> bool:
    """Whether it holds half of a surrogate pair, which no file of a run can hold."""
    return any("\ud800" <= character <= "\udfff" for character in text)


PAIR = Kind(
    "two whole numbers", lambda v: isinstance(v, list) and len(v) == 2 and all(type(n) is int and n >= 0 for n in v)
)
_FIELDS = {
    "unit": Kind(f"one of {', '.join(get_args(Unit))}", lambda v: v in get_args(Unit)),
    "vocabulary": list_of(TEXT), "length": COUNT,
}  # fmt: skip
_OPTIONAL = {"merges": list_of(PAIR), "column": TEXT, "target": TEXT}
