"""texts:FILE and texts:FOLDER -> data for a model of tokens: which texts there are, in which class and split."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dlcli.core.errors import ConfigError, DataError, did_you_mean
from dlcli.core.spec import DataSpec
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.readers.cells import Table
from dlcli.data.readers.tables import read_table
from dlcli.data.source import Source
from dlcli.data.splits import PARTS, TEST, TRAIN
from dlcli.data.texts.folder import Labelled, labelled_files
from dlcli.data.texts.tokens import LARGEST, MOST_TOKENS, NAMES, Tokens, Unit, learn

_MOST_CLASSES = 1_000
_MOST_LENGTH = 65_536
_RARE = 0.05  # a class with a smaller share of the texts is told


@dataclass(frozen=True)
class Opened:
    """Texts, read but not yet tokens: it is Unfitted. column, target: of the table that they came from, if any.

    most, length: see data.vocabulary and data.length; 0 if they follow from the texts.
    """

    path: Path
    labelled: Labelled
    names: tuple[str, ...]
    unit: Unit
    most: int
    length: int
    column: str
    target: str

    has_val = has_test = ordered = False
    held_out = 0.2
    order = groups = None

    @property
    def rows(self) -> int:
        return len(self.labelled.texts)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.labelled.sha256} {self.column} {self.target}".encode())
        digest.update(bytes(self.labelled.parts or ()))
        return digest.hexdigest()

    @property
    def classes(self) -> Tensor:
        return self._classes(self.names)

    @property
    def parts(self) -> Tensor | None:
        return None if self.labelled.parts is None else torch.tensor(self.labelled.parts)

    def fit(self, train: Tensor, about: Preprocessing | None) -> Source:
        """See `Unfitted.fit`. DataError for a class that no training text has."""
        texts, rows = self.labelled.texts, train.tolist()
        if about is None:
            names = _ordered({self.labelled.labels[row] for row in rows})
            if len(names) < 2:
                raise DataError(f"{self.path}: the training texts are of one class only ({', '.join(names)[:40]})")
            learned = learn([texts[row] for row in rows], self.unit, most=self.most, length=self.length)
            tokens = replace(learned, column=self.column, target=self.target)
        else:
            if about.tokens is None:
                raise DataError(f"{self.path} holds texts, but the model was trained on other data: {about.spec}")
            names, tokens = about.class_names, about.tokens
        y = self._classes(names)
        encoded = tokens.encode(texts)
        task: Literal["binary", "multiclass"] = "binary" if len(names) == 2 else "multiclass"
        small = torch.from_numpy(encoded.rows)
        return Source(
            DataSpec(
                task, "tokens", (tokens.length,), 1 if task == "binary" else len(names), tokens.size, padding=True
            ),
            small.to(torch.int16) if tokens.size <= 2**15 else small,
            y,
            class_names=names,
            tokens=tokens,
            resolved={"length": tokens.length, "vocabulary": self.most},
            notes=(*self.labelled.notes, *self._notes(tokens, encoded.cut, set(rows))),
        )

    def _classes(self, names: Sequence[str]) -> Tensor:
        number = {name: place for place, name in enumerate(names)}
        labels = self.labelled.labels
        for place, label in enumerate(labels):
            if label not in number:
                raise DataError(
                    f"{self.labelled.places[place]} is of class {label[:40]!r}, which no training text has: known are "
                    f"{', '.join(names[:20])}"
                )
        return torch.tensor([number[label] for label in labels])

    def _notes(self, tokens: Tokens, cut: int, train: set[int]) -> list[str]:
        texts = self.labelled.texts
        unit = NAMES[tokens.unit]
        found = [f"texts as at most {tokens.length:,} {unit}, {tokens.size:,} different ones"]
        if cut:
            found.append(f"{cut:,} of {len(texts):,} texts are cut off: they have more than {tokens.length:,} {unit}")
        copies = len(texts) - len(set(texts))
        if copies:
            known = {texts[row] for row in train}
            both = sum(text in known for row, text in enumerate(texts) if row not in train)
            told = f"; {both:,} validation and test texts have a copy in the training texts" if both else ""
            found.append(f"{copies:,} of {len(texts):,} texts are copies of others{told}")
        rarest, count = Counter(self.labelled.labels).most_common()[-1]
        if count < _RARE * len(texts):
            found.append(f"class {rarest[:40]} has {count / len(texts):.2%} of the texts")
        return found


def texts(
    data_dir: Path,
    *,
    path: str,
    target: str | None = None,
    text: str | None = None,
    tokens: Unit = "characters",
    vocabulary: int = 0,
    length: int = 0,
    test: str | None = None,
    split_column: str | None = None,
) -> Opened:
    """Texts with a class each: the rows of a table, or .txt files in one sub-folder for each class.

    target, text: the columns of class and text. vocabulary: how many different tokens are kept. length: tokens of a
    text, more are cut off; 0 takes that of the longest. test: a file of the same columns. split_column: says the split.
    """
    if not 0 <= vocabulary <= LARGEST:
        raise ConfigError(f"data.vocabulary = {vocabulary} is out of range: it must be in [0, {LARGEST}]")
    if not 0 <= length <= _MOST_LENGTH:
        raise ConfigError(f"data.length = {length} is out of range: it must be in [0, {_MOST_LENGTH}]")
    place = Path(path)
    if place.is_dir():
        given = {"target": target, "text": text, "test": test, "split_column": split_column}
        for option, value in given.items():
            if value is not None:
                raise ConfigError(f"data.{option} = {value} is for a table of texts, but {path} is a folder")
        found = labelled_files(place)
    else:
        found = _of_table(place, target, text, test, split_column)
    names = _ordered(set(found.labels))
    if len(names) < 2:
        raise DataError(f"{path} has texts of one class only ({', '.join(names)[:40]}): there is nothing to predict")
    if len(names) > _MOST_CLASSES or 2 * len(names) > len(found.labels):
        what = f"data.target = {target}" if target else path
        raise ConfigError(f"{what} has {len(names):,} different classes for {len(found.labels):,} texts: too many")
    return Opened(
        place, found, names, tokens, vocabulary or MOST_TOKENS[tokens], length, text or "", target or ""
    )  # fmt: skip


def _of_table(path: Path, target: str | None, text: str | None, test: str | None, split_column: str | None) -> Labelled:
    table = read_table(path)
    for option, about, name in (("target", "the class", target), ("text", "the text", text)):
        if name is None:
            known = ", ".join(list(table.columns)[:20])
            raise ConfigError(f"data.{option} must be given, the column with {about}: {known} in {path}")
    assert target is not None and text is not None
    if target == text:
        raise ConfigError(f"data.target and data.text both name {text}: text and class are two columns")
    for option, name in (("target", target), ("text", text), ("split_column", split_column)):
        if name is not None and name not in table.columns:
            raise ConfigError(f"data.{option} = {name} is no column of {path}: {did_you_mean(name, table.columns)}")
    found = _rows(table, target, text, split_column)
    if test is None:
        return found
    if split_column is not None:
        raise ConfigError(f"data.test = {test} does not go with data.split_column = {split_column}: give one of them")
    other = read_table(Path(test))
    for name in (target, text):
        if name not in other.columns:
            raise DataError(f"{test} has no column {name!r}: {did_you_mean(name, other.columns)}")
    more = _rows(other, target, text, None)
    return Labelled(
        found.texts + more.texts,
        found.labels + more.labels,
        found.places + more.places,
        [TRAIN] * len(found.texts) + [TEST] * len(more.texts),
        f"{found.sha256} {more.sha256}",
        found.notes + more.notes,
    )


def _rows(table: Table, target: str, text: str, split_column: str | None) -> Labelled:
    """The rows that have both a text and a class. DataError if there are none."""
    rows = range(len(table))
    texts, labels = table.columns[text], table.columns[target]
    kept = [row for row in rows if texts.codes[row] >= 0 and labels.codes[row] >= 0]
    notes = list(table.notes)
    gone = Counter(name for name, cells in ((text, texts), (target, labels)) for row in rows if cells.codes[row] < 0)
    if len(kept) < len(table):
        told = ", ".join(f"{count:,} have no {name}" for name, count in gone.items())
        notes.append(f"{len(table) - len(kept):,} of {len(table):,} rows of {table.path.name} are left out: {told}")
    if not kept:
        raise DataError(f"{table.path} has no row with both {text} and {target}: name other columns")
    parts = None
    if split_column is not None:
        parts = [_part(table, split_column, row) for row in kept]
        if TRAIN not in parts:
            raise DataError(f"{table.path}: {split_column} is train in no row that has a text and a class")
    return Labelled(
        [texts.text(row) for row in kept], [labels.text(row) for row in kept], [table.where(row) for row in kept],
        parts, table.sha256, tuple(notes),
    )  # fmt: skip


def _part(table: Table, name: str, row: int) -> int:
    said = table.columns[name].text(row)
    if said.lower() not in PARTS:
        raise DataError(f"{table.where(row)}: {name} is {said[:40]!r}, but train, val or test is expected")
    return PARTS[said.lower()]


def _ordered(names: set[str]) -> tuple[str, ...]:
    """Sorted: as numbers if all of them are whole numbers."""
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
