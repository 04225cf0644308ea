"""Words and byte pairs as tokens of a language model: nothing of a text is lost. Learned from the training text, stored
in the run.

A text is cut into pieces, a word with the blank before it, see byte_pairs.py. A frequent piece is one token, or its
byte pairs are; any other is spelled in its UTF-8 bytes, each of which is a token.
"""

import codecs
import functools
import itertools
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np

from dlcli.core.documents import TEXT, Kind, check, list_of
from dlcli.data.texts.byte_pairs import LONGEST_TOKEN, PIECE, BytePairs, byte_characters, learn_byte_pairs
from dlcli.data.texts.spelling import END, SEPARATOR, Spelled, without_separator
from dlcli.data.texts.tokens import LARGEST, LONGEST_WORD, PAIR

BYTES = 256
_AT_ONCE = 100_000  # pieces
_FIRST, _AFTER = 0x80, 0xC0  # bytes of UTF-8 that go on with a character


@dataclass(frozen=True)
class Pieces:
    """vocabulary: token i is its i-th; bytes are written as byte_pairs.py describes, and all 256 are there. SEPARATOR
    stands between documents. merges: of byte pairs, in order: two numbers of the vocabulary, whose texts become one."""

    unit: Literal["words", "bpe"]
    vocabulary: tuple[str, ...]
    merges: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> int:
        return len(self.vocabulary)

    @property
    def separator(self) -> int | None:
        return self._places.get(SEPARATOR)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(END if token == SEPARATOR else _name(self.content(k)) for k, token in enumerate(self.vocabulary))

    @cached_property
    def widths(self) -> np.ndarray[Any, Any]:
        contents = map(self.content, range(self.size))
        counts = [sum(not _FIRST <= byte < _AFTER for byte in content) for content in contents]
        return np.array(counts, dtype=np.int64)

    def content(self, token: int) -> bytes:
        """The bytes that a token stands for; of the separator its own."""
        text = self.vocabulary[token]
        return text.encode() if text == SEPARATOR else bytes(_byte_of()[character] for character in text)

    def encode(self, text: str) -> Spelled:
        tokens, unknown = array("i"), Counter[str]()
        known: dict[str, Sequence[int]] = {}
        for number, document in enumerate(without_separator(self, text).split(SEPARATOR)):
            if number:
                tokens.append(cast(int, self.separator))
            for some in _pieces(document):
                new = [piece for piece in dict.fromkeys(some) if piece not in known]
                known.update(zip(new, self._spelled(new), strict=True))
                for piece in some:
                    tokens.extend(known[piece])
                if self.unit == "words":
                    unknown.update(piece.lstrip(" ") for piece in some if len(known[piece]) > 1)
        return Spelled(np.array(tokens, dtype=np.int32), unknown)

    def reader(self) -> "_Reader":
        return _Reader(self)

    def _spelled(self, pieces: Sequence[str]) -> Iterator[Sequence[int]]:
        """The tokens of each piece."""
        if self.unit == "bpe":
            return self._byte_pairs.encode(pieces)
        places, characters = self._places, byte_characters()

        def of(piece: str) -> Sequence[int]:
            written = "".join(characters[byte] for byte in piece.encode())
            place = places.get(written)
            return [places[character] for character in written] if place is None else [place]

        return map(of, pieces)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {text: place for place, text in enumerate(self.vocabulary)}

    @cached_property
    def _byte_pairs(self) -> BytePairs:
        return BytePairs(self.vocabulary, self.merges)

    def as_dict(self) -> dict[str, Any]:
        merges = {"merges": [list(pair) for pair in self.merges]} if self.unit == "bpe" else {}
        return {"unit": self.unit, "vocabulary": list(self.vocabulary), **merges}

    @classmethod
    def from_dict(cls, values: Any) -> "Pieces":
        """The inverse of `as_dict`; ValueError if the values are invalid or do not match each other."""
        check(values, _FIELDS, needed=True)
        check(values, {"merges": list_of(PAIR)})
        vocabulary = tuple(values["vocabulary"])
        if len(vocabulary) > LARGEST or len(set(vocabulary)) < len(vocabulary) or "" in vocabulary:
            raise ValueError("its vocabulary is too large, or two of its tokens are the same")
        if any(len(token) > LONGEST_TOKEN for token in vocabulary):
            raise ValueError(f"its vocabulary holds a token of more than {LONGEST_TOKEN:,} bytes")
        if values["unit"] == "words" and "merges" in values:
            raise ValueError("its words have merges, which only byte pairs have")
        found = cls(values["unit"], vocabulary, tuple((one, other) for one, other in values.get("merges", ())))
        found._byte_pairs.check()
        if any(character not in _byte_of() for text in vocabulary if text != SEPARATOR for character in text):
            raise ValueError("its vocabulary holds a token that is not of bytes")
        return found


class _Reader:
    """Bytes of characters that are not yet complete are kept back."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def read(self, token: int) -> str:
        return self._decoder.decode(self._pieces.content(token))

    def rest(self) -> str:
        return self._decoder.decode(b"", final=True)


def learn_pieces(training: str, unit: Literal["words", "bpe"], *, most: int, separator: bool) -> Pieces:
    """Pieces for texts like this one. most: different tokens, of which 256 are the bytes. separator: whether there is
    one between documents.

    Words that occur once, or are very long, are no tokens.
    """
    most -= separator
    own = (SEPARATOR,) if separator else ()
    documents = training.split(SEPARATOR)
    if unit == "bpe":
        parts = ("".join(some) for document in documents for some in _pieces(document))
        vocabulary, merges = learn_byte_pairs(parts, most=most)
        return Pieces(unit, (*vocabulary, *own), merges)
    counts: Counter[str] = Counter()
    for document in documents:
        for some in _pieces(document):
            counts.update(some)
    characters = byte_characters()
    kept = [
        piece for piece, count in counts.items() if count > 1 and len(piece) <= LONGEST_WORD and len(piece.encode()) > 1
    ]
    usual = sorted(kept, key=lambda piece: (-counts[piece], piece))[: most - BYTES]
    words = ("".join(characters[byte] for byte in piece.encode()) for piece in usual)
    return Pieces(unit, (*characters, *words, *own))


def _pieces(text: str) -> Iterator[list[str]]:
    """Some at a time; halves of surrogate pairs, which no file can hold, are question marks."""
    whole = text.encode("utf-8", "replace").decode()
    found = (match[0] for match in PIECE.finditer(whole))
    while some := list(itertools.islice(found, _AT_ONCE)):
        yield some


@functools.cache
def _byte_of() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(byte_characters())}


def _name(content: bytes) -> str:
    """The text of these bytes, or their numbers: <0xC3>."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in content)


_FIELDS = {"unit": Kind("words or bpe", lambda v: v in ("words", "bpe")), "vocabulary": list_of(TEXT)}
