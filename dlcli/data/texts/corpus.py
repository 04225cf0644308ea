"""The text of a language model -> rows of tokens, when it is known which part of it is for training.

It is divided where its characters say it, in blocks of `length` characters, whatever a token is: the held-out text is
the same for characters, words and byte pairs.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dlcli.core.errors import ConfigError, DataError
from dlcli.core.spec import DataSpec
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.source import Source
from dlcli.data.splits import TEST, TRAIN, VAL
from dlcli.data.texts.characters import Characters, character_counts, learn_alphabet, refuse_lost
from dlcli.data.texts.documents import Documents, joined
from dlcli.data.texts.pieces import BYTES, Pieces, learn_pieces
from dlcli.data.texts.spelling import SEPARATOR, Spelled, Spelling, told, without_separator
from dlcli.data.texts.tokens import LARGEST, NAMES, Unit

# Of so many documents or more whole ones are held out, of fewer the end of their text.
MANY = 20

MOST_PIECES: dict[Unit, int] = {"characters": 0, "words": 20_000, "bpe": 1_000}

_NAMES = {TRAIN: "train", VAL: "val", TEST: "test"}


@dataclass(frozen=True)
class Corpus:
    """Documents, read but not yet tokens: it is Unfitted, but cut into rows by `cut`. Its `rows` are blocks of
    characters.

    most: how many different tokens are kept; 0 for the usual number. length: tokens of a row.
    """

    documents: Documents
    unit: Unit
    most: int
    length: int

    classes = order = None
    held_out = 0.1

    @classmethod
    def of(cls, documents: Documents, *, tokens: Unit, vocabulary: int, length: int) -> "Corpus":
        """ConfigError for an option out of range, DataError for a text that is too short."""
        least = 2 if tokens == "characters" else BYTES + 1
        if vocabulary and not least <= vocabulary <= LARGEST:
            told = f", of which {BYTES} are the bytes" if tokens != "characters" else ""
            raise ConfigError(
                f"data.vocabulary = {vocabulary} is out of range: it must be in [{least}, {LARGEST}]{told}"
            )
        found = cls(documents, tokens, vocabulary, length)
        check_length(found._training, length)
        _refuse_even(found._training)
        return found

    @property
    def by_document(self) -> bool:
        """Whether whole documents are held out."""
        return self.documents.parts is None and len(self.documents.texts) >= MANY

    @property
    def ordered(self) -> bool:
        return not self.by_document

    @property
    def rows(self) -> int:
        return len(self._blocks)

    @property
    def has_val(self) -> bool:
        return VAL in (self.documents.parts or ())

    @property
    def has_test(self) -> bool:
        return TEST in (self.documents.parts or ())

    @property
    def parts(self) -> Tensor | None:
        return None if self.documents.parts is None else self._blocks

    @property
    def groups(self) -> Tensor | None:
        return self._blocks if self.by_document else None

    @cached_property
    def fingerprint(self) -> str:
        """Of one text as it always was, of its characters in rows; of several, of their names and contents."""
        if self.documents.sums or self.documents.parts:
            return self.documents.sha256
        return from_text(self._training, length=self.length).fingerprint

    def as_it_was(self, fingerprint: str | None) -> "Corpus":
        """This, or for a model that was trained when the files of a folder were one text, that text. fingerprint: of
        the data of the model."""
        if fingerprint in (None, self.fingerprint) or not self.documents.sums:
            return self
        once = "".join(text if text.endswith("\n") else f"{text}\n" for text in self.documents.texts)
        before = dataclasses.replace(self, documents=Documents((once,)))
        return before if before.fingerprint == fingerprint else self

    @cached_property
    def _training(self) -> str:
        """All documents, or those that are said to be for training, as one text."""
        return self._of(TRAIN)

    def _of(self, part: int) -> str:
        texts, parts = self.documents.texts, self.documents.parts
        chosen = [text for place, text in enumerate(texts) if parts is None or parts[place] == part]
        return joined(chosen, separated=self._separated)

    @cached_property
    def _separated(self) -> bool:
        """Whether a part has several documents, so that a separator stands after each."""
        parts = self.documents.parts or (TRAIN,) * len(self.documents.texts)
        return max(Counter(parts).values()) > 1

    @cached_property
    def _blocks(self) -> Tensor:
        """int64: of each block of characters its document if whole ones are held out, else TRAIN, or the part that is
        said, which is one block."""
        if self.by_document:
            counts = torch.tensor([-(-len(text) // self.length) for text in self.documents.texts])
            return torch.repeat_interleave(torch.arange(len(counts)), counts)
        said = [part for part, there in ((VAL, self.has_val), (TEST, self.has_test)) if there]
        training = torch.full(((len(self._training) - 1) // self.length,), TRAIN)
        return torch.cat([training, torch.tensor(said, dtype=torch.int64)])

    def fit(self, train: Tensor, about: Preprocessing | None) -> Source:
        """See `Unfitted.fit`; of these blocks alone."""
        none = train[:0]
        return self.cut(train, none, none, about)[0]

    def cut(
        self, train: Tensor, val: Tensor, test: Tensor, about: Preprocessing | None
    ) -> tuple[Source, tuple[Tensor, Tensor, Tensor]]:
        """The rows of all parts, and the numbers of those of each part. train, val, test: their blocks. about: that of
        a trained model, whose tokens and whose length of a row are taken.

        DataError if a part is too short for a row, or has characters that the model never saw.
        """
        length = self.length if about is None else about.spec.input_shape[0]
        texts = [self._text(part, index) for part, index in ((TRAIN, train), (VAL, val), (TEST, test))]
        spelling: Characters | Pieces
        if about is None:
            spelling = self._learned(texts[0], "".join(texts[1:]))
        else:
            assert about.spelling is not None
            spelling = about.spelling
        spelled = [spelling.encode(without_separator(spelling, text)) for text in texts]
        for each in spelled:
            refuse_lost(each, "the text")
        parts = [
            _in_rows(each, length=length, small=spelling.size <= 256, part=_NAMES[part], unit=spelling.unit)
            for part, each in zip((TRAIN, VAL, TEST), spelled, strict=True)
        ]
        ends = np.cumsum([0, *map(len, parts)]).tolist()
        source = Source(
            DataSpec("next-token", "tokens", (length,), spelling.size, vocabulary=spelling.size),
            torch.cat(parts),
            None,
            alphabet=spelling.alphabet if isinstance(spelling, Characters) else "",
            pieces=spelling if isinstance(spelling, Pieces) else None,
            ordered=True,
            resolved={} if isinstance(spelling, Characters) else {"vocabulary": self._most},
            unknown={
                _NAMES[part]: sentence
                for part, each in zip((TRAIN, VAL, TEST), spelled, strict=True)
                if (sentence := told(spelling.unit, each.unknown))
            },
        )
        documents = [len(self._held(index)) for index in (train, val, test)] if self.by_document else []
        notes = self._notes(spelling, sum(map(len, texts)), sum(len(each.tokens) for each in spelled), documents)
        told_of = ("train", "val", "test") if isinstance(spelling, Characters) else ("val", "test")
        notes += [f"{name} text: {source.unknown[name]}" for name in told_of if name in source.unknown]
        first, second, third = (torch.arange(start, stop) for start, stop in itertools.pairwise(ends))
        return dataclasses.replace(source, notes=tuple(notes)), (first, second, third)

    @property
    def _most(self) -> int:
        return self.most or MOST_PIECES[self.unit]

    def _held(self, index: Tensor) -> list[int]:
        """The documents of these blocks, if whole ones are held out."""
        return sorted(set(self._blocks[index].tolist()))

    def _text(self, part: int, index: Tensor) -> str:
        """The text of some blocks, and the character after it, which is the last one that is predicted."""
        if not len(index):
            return ""
        if self.by_document:
            return joined([self.documents.texts[place] for place in self._held(index)], separated=True)
        if part != TRAIN and part in (self.documents.parts or ()):
            return self._of(part)
        return self._training[int(index[0]) * self.length : (int(index[-1]) + 1) * self.length + 1]

    def _learned(self, training: str, others: str) -> Characters | Pieces:
        if self.unit == "characters":
            return learn_alphabet(training, others, most=self.most)
        separator = SEPARATOR in training or SEPARATOR in others
        return learn_pieces(training, self.unit, most=self._most, separator=separator)

    def _notes(self, spelling: Spelling, characters: int, tokens: int, documents: Sequence[int]) -> list[str]:
        """documents: of each part, if whole ones are held out."""
        found = list(self.documents.notes)
        if self._separated:
            if documents:
                _, val, test = documents
                how = f"{val:,} whole ones are held out for validation, {test:,} for testing"
            elif self.documents.parts is not None:
                how = "their files say the splits"
            else:
                how = "the end of their text is held out"
            after = "a separator" if spelling.separator is not None else "a line end"
            found.append(f"{len(self.documents.texts):,} documents, {after} after each; {how}")
        if spelling.unit != "characters":
            unit = NAMES[spelling.unit]
            found.append(f"{characters:,} characters as {tokens:,} {unit}, {spelling.size:,} different ones")
        return found


def _in_rows(spelled: Spelled, *, length: int, small: bool, part: str, unit: Unit) -> Tensor:
    """(N, length + 1) tokens, in rows that overlap by one. DataError if there are too few for one."""
    tokens = spelled.tokens
    if 0 < len(tokens) <= length:
        raise DataError(
            f"the {part} text has {len(tokens):,} {NAMES[unit]}, too few for a row of {length}: take a longer text or "
            "a smaller data.length"
        )
    stream = torch.from_numpy(tokens.astype(np.uint8 if small else np.int32))
    return stream.unfold(0, length + 1, length) if len(stream) else stream.view(0, length + 1)


def _refuse_even(text: str) -> None:
    if text.count(text[0]) == len(text):
        raise DataError(f"a text of nothing but {text[0]!r} has nothing to predict: take another one")


def from_text(text: str, *, length: int) -> Source:
    """`text` as rows of `length` + 1 tokens that overlap by one, with its whole alphabet. The model sees the first
    `length` characters of a row and predicts the last `length`, so that every character of the text but the first is
    predicted once."""
    check_length(text, length)
    alphabet = "".join(map(chr, np.flatnonzero(character_counts(text))))
    _refuse_even(text)
    spelling = Characters(alphabet)
    rows = _in_rows(spelling.encode(text), length=length, small=spelling.size <= 256, part="train", unit="characters")
    spec = DataSpec("next-token", "tokens", (length,), spelling.size, vocabulary=spelling.size)
    return Source(spec, rows, None, alphabet=alphabet, ordered=True)


def check_length(text: str, length: int) -> None:
    """ConfigError for a row of no tokens, DataError for a text that is too short for rows of this length."""
    if length < 1:
        raise ConfigError(f"data.length = {length} must be at least 1")
    if len(text) < 10 * length + 1:
        raise DataError(
            f"a text of {len(text)} characters is too short: rows of {length} need at least {10 * length + 1}; "
            "take a longer text or a smaller data.length"
        )


def respelt(source: Source, alphabet: str) -> Source:
    """The same text, encoded with another `alphabet`; DataError if the text has a character that is not in it."""
    spelled = Characters(alphabet).encode(source.alphabet)
    refuse_lost(spelled, "the text")
    table = torch.from_numpy(spelled.tokens)
    spec = dataclasses.replace(source.spec, outputs=len(alphabet), vocabulary=len(alphabet))
    return dataclasses.replace(source, spec=spec, x=table[source.x.int()], alphabet=alphabet)
