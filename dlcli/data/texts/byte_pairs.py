"""Byte pairs (Sennrich et al. 2016, on bytes as in GPT-2): pieces of words that occur often. By the library tokenizers.

A text is cut into pieces, a word with the blank before it, and the UTF-8 bytes of a piece are written as characters,
`byte_characters()[byte]`. Then the first of `merges` that applies is applied, again and again.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from dlcli.core.errors import ResourceError

PIECE = re.compile(r" ?\w+| ?[^\w\s]+|\s")
LONGEST_TOKEN = 1000  # bytes
_AT_ONCE = 1000  # texts


class BytePairs:
    """vocabulary: the 256 bytes as characters, and what is made of them. merges: two numbers of the vocabulary each."""

    def __init__(self, vocabulary: Sequence[str], merges: Sequence[tuple[int, int]]) -> None:
        self._vocabulary, self._merges = vocabulary, merges

    def encode(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """The places in the vocabulary, text by text."""
        waiting: list[list[str]] = []
        for text in texts:
            waiting.append(_pieces(text))
            if len(waiting) == _AT_ONCE:
                yield from self._encoded(waiting)
                waiting = []
        yield from self._encoded(waiting)

    def _encoded(self, texts: list[list[str]]) -> Iterator[list[int]]:
        for found in self._tokenizer.encode_batch(texts, is_pretokenized=True, add_special_tokens=False):
            yield found.ids

    def check(self) -> None:
        """ValueError unless all bytes are there, and each merge is there once and makes a token of the vocabulary."""
        known = set(self._vocabulary)
        if not known.issuperset(byte_characters()):
            raise ValueError("its vocabulary lacks bytes")
        if len(set(self._merges)) < len(self._merges):
            raise ValueError("two of its merges are the same")
        for first, second in self._merges:
            if max(first, second) >= len(self._vocabulary):
                raise ValueError(f"its merges name token {max(first, second)}, which there is not")
            if self._vocabulary[first] + self._vocabulary[second] not in known:
                raise ValueError(f"its merges make {(self._vocabulary[first] + self._vocabulary[second])[:40]!r}")

    @cached_property
    def _tokenizer(self) -> Any:
        library = _library()
        merges = [(self._vocabulary[first], self._vocabulary[second]) for first, second in self._merges]
        places = {text: place for place, text in enumerate(self._vocabulary)}
        return _prepared(library.models.BPE(places, merges))


def learn_byte_pairs(texts: Iterable[str], *, most: int) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Vocabulary and merges, at most `most` tokens of up to LONGEST_TOKEN bytes, but all 256 bytes."""
    library = _library()
    trainer = library.trainers.BpeTrainer(
        vocab_size=max(most, 256),
        min_frequency=2,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=LONGEST_TOKEN,
    )
    tokenizer = _prepared(library.models.BPE())
    tokenizer.train_from_iterator((_pieces(text) for text in texts), trainer)
    import json

    model = json.loads(tokenizer.to_str())["model"]
    places: dict[str, int] = model["vocab"]
    return (
        tuple(sorted(places, key=places.__getitem__)),
        tuple((places[first], places[second]) for first, second in model["merges"]),
    )


def byte_characters() -> list[str]:
    """The character that stands for each byte: itself if it can be seen, else one from 256 on."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(others)) for byte in range(256)]


def _pieces(text: str) -> list[str]:
    return PIECE.findall(text.encode("utf-8", "replace").decode())


def _prepared(model: Any) -> Any:
    library = _library()
    tokenizer = library.Tokenizer(model)
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise ResourceError("data.tokens = bpe needs the library tokenizers: pip install 'dlcli[texts]'") from None
    return tokenizers
