"""The columns of a table as they were read. What they mean is decided in columns.py, for a whole column."""

import re
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

# How people write that a value is missing.
MISSING = frozenset(("", "?", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None"))

# Python's float() also accepts 1_000, nan, and digits of other scripts.
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_COMMA = re.compile(r"[-+]?([0-9]+,[0-9]*|,[0-9]+)([eE][-+]?[0-9]+)?")
LARGEST = float(np.finfo(np.float32).max)


# A column of numbers with more different ones than this may be stored as Numbers.
MANY = 50

_RESERVED = 10_000  # cells


def number(text: str, *, comma: bool = False) -> float | None:
    """The number that a text says, else None. comma: whether 1,5 is one."""
    if _NUMBER.fullmatch(text):
        return float(text)
    return float(text.replace(",", ".")) if comma and _COMMA.fullmatch(text) else None


@dataclass(frozen=True)
class Cells:
    """A column of text, stored so that all further work is done once per value.

    values: the different texts in it, in the order in which they first occur. codes: int32 (rows,), the number of each
    row's value; -1 where it is missing.
    """

    values: tuple[str, ...]
    codes: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def distinct(self) -> int:
        return len(self.values)

    @property
    def missing(self) -> np.ndarray[Any, Any]:
        """bool (rows,)"""
        return np.asarray(self.codes < 0)

    def counts(self, rows: np.ndarray[Any, Any] | slice = slice(None)) -> np.ndarray[Any, Any]:
        """How often each value occurs in these rows."""
        codes = self.codes[rows]
        return np.bincount(codes[codes >= 0], minlength=len(self.values))

    def frequent(self, most: int) -> list[str]:
        """The most frequent values."""
        return [self.values[place] for place in np.argsort(-self.counts(), kind="stable")[:most]]

    def text(self, row: int) -> str:
        """Empty if it is missing."""
        code = int(self.codes[row])
        return "" if code < 0 else self.values[code]

    def rows(self, index: np.ndarray[Any, Any]) -> "Cells":
        return Cells(self.values, self.codes[index])


@dataclass(frozen=True)
class Numbers:
    """A column of a large table in which every value is a number that float32 can hold, and many are different.

    numbers: float64 (rows,), NaN where the value is missing. It can be used as `Cells` are, but slowly, and its texts
    are not those of the file: 1.0 for 1.00.
    """

    numbers: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def distinct(self) -> int:
        return len(self._sorted[0])

    @property
    def missing(self) -> np.ndarray[Any, Any]:
        return np.asarray(np.isnan(self.numbers))

    @cached_property
    def _sorted(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The different numbers, and how often each occurs."""
        return np.unique(self.numbers[~self.missing], return_counts=True)

    @cached_property
    def values(self) -> tuple[str, ...]:
        """The different numbers as text, in ascending order."""
        return tuple(map(_shown, self._sorted[0].tolist()))

    @cached_property
    def codes(self) -> np.ndarray[Any, Any]:
        found = np.searchsorted(self._sorted[0], self.numbers).astype(np.int32)
        return np.where(self.missing, np.int32(-1), found)

    def counts(self, rows: np.ndarray[Any, Any] | slice = slice(None)) -> np.ndarray[Any, Any]:
        codes = self.codes[rows]
        return np.bincount(codes[codes >= 0], minlength=self.distinct)

    def frequent(self, most: int) -> list[str]:
        numbers, counts = self._sorted
        return [_shown(float(numbers[place])) for place in np.argsort(-counts, kind="stable")[:most]]

    def text(self, row: int) -> str:
        number = float(self.numbers[row])
        return "" if number != number else _shown(number)

    def rows(self, index: np.ndarray[Any, Any]) -> "Numbers":
        return Numbers(self.numbers[index])


def _shown(number: float) -> str:
    return repr(number).removesuffix(".0")


@dataclass(frozen=True)
class Table:
    """columns: name -> cells, in the order of the file. lines: the line of the file in which each row begins, or, in a
    file without lines, the number of the row, from 1.

    decimal_comma: whether 1,5 is a number. sha256: of the file. notes: sentences about how it was read.
    """

    path: Path
    columns: Mapping[str, Cells | Numbers]
    lines: np.ndarray[Any, Any]
    decimal_comma: bool
    sha256: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        """`file:line` of a row."""
        return f"{self.path}:{self.lines[row]}"

    def rows(self, index: np.ndarray[Any, Any]) -> "Table":
        """The table with these rows only."""
        columns = _Part(self.columns, index)
        return Table(self.path, columns, self.lines[index], self.decimal_comma, self.sha256, self.notes)

    def parts(self, size: int) -> Iterator["Table"]:
        """The table in parts of so many rows."""
        for start in range(0, len(self), size):
            yield self.rows(np.arange(start, min(start + size, len(self))))

    def some(self, name: str, index: np.ndarray[Any, Any]) -> Cells | Numbers:
        """These rows of a column."""
        return _some(self.columns, name, index)


class Distant(Mapping[str, Cells | Numbers]):
    """Columns that are made when they are asked for, and not kept, since all of them may be large."""

    @abstractmethod
    def some(self, name: str, index: np.ndarray[Any, Any]) -> Cells | Numbers:
        """These rows of a column, without the others."""


@dataclass(frozen=True)
class _Part(Distant):
    """Some rows of columns."""

    columns: Mapping[str, Cells | Numbers]
    index: np.ndarray[Any, Any]

    def __getitem__(self, name: str) -> Cells | Numbers:
        return _some(self.columns, name, self.index)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def some(self, name: str, index: np.ndarray[Any, Any]) -> Cells | Numbers:
        return _some(self.columns, name, self.index[index])


def _some(columns: Mapping[str, Cells | Numbers], name: str, index: np.ndarray[Any, Any]) -> Cells | Numbers:
    return columns.some(name, index) if isinstance(columns, Distant) else columns[name].rows(index)


class Growing:
    """An array, (N,), that grows at its end. Memory beyond it is reserved but not used."""

    def __init__(self, dtype: type) -> None:
        self._values: np.ndarray[Any, Any] = np.empty(0, dtype)
        self._size = 0

    def add(self, more: np.ndarray[Any, Any]) -> None:
        size = self._size + len(more)
        if size > len(self._values):
            values = np.empty(max(2 * size, _RESERVED), self._values.dtype)
            values[: self._size] = self.values()
            self._values = values
        self._values[self._size : size] = more
        self._size = size

    def values(self) -> np.ndarray[Any, Any]:
        return self._values[: self._size]


class Builder:
    """Collects the cells of a column of text."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = defaultdict(count().__next__)  # a new text gets the next number
        self._codes = Growing(np.int32)

    @property
    def distinct(self) -> int:
        return len(self._seen)

    @property
    def texts(self) -> list[str]:
        """The different texts so far, by their code."""
        return list(self._seen)

    def add(self, cells: Sequence[str]) -> None:
        codes = map(self._seen.__getitem__, cells)
        self._codes.add(np.fromiter(codes, dtype=np.int32, count=len(cells)))

    def coded(self, values: Sequence[str], codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """int32, the own codes of cells of which each is `values[code]`; they are not added."""
        own: np.ndarray[Any, Any] = np.fromiter(map(self._seen.__getitem__, values), np.int32, len(values))
        return np.take(own, codes)

    def add_coded(self, values: Sequence[str], codes: np.ndarray[Any, Any]) -> None:
        """Cells of which each is `values[code]`."""
        self._codes.add(self.coded(values, codes))

    def cells(self) -> Cells:
        values, table = settled(self._seen)
        codes = self._codes.values()
        return Cells(values, table[codes] if len(table) else codes)


def settled(texts: Collection[str]) -> tuple[tuple[str, ...], np.ndarray[Any, Any]]:
    """The different values among different texts, and int32, which of them each text is, -1 if it says that a value is
    missing. Outer blanks are no part of a value, and all ways to write a missing one are the same."""
    values: dict[str, int] = {}
    table = np.empty(len(texts), dtype=np.int32)
    for code, text in enumerate(texts):
        text = text.strip()
        table[code] = -1 if text in MISSING else values.setdefault(text, len(values))
    return tuple(values), table


def few_as_text(cells: Cells | Numbers) -> Cells | Numbers:
    """A column of numbers with few different values may be one of categories."""
    if isinstance(cells, Cells) or len(np.unique(cells.numbers[:10_000])) > MANY or cells.distinct > MANY:
        return cells
    return Cells(cells.values, cells.codes)
