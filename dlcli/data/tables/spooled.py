"""The columns of a table that is larger than memory, in a file: piece after piece of the rows, each column by column.

Numbers are float64, texts int32 codes. At the end stand the lines of all rows, int64. What the codes mean, and how many
rows each piece has, lies in memory, and in the description of the file.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, Protocol

import numpy as np

from dlcli.core.cache import told
from dlcli.core.errors import DataError
from dlcli.data.readers.cells import Builder, Cells, Distant, Numbers, few_as_text, settled
from dlcli.data.tables.cache import Place

# A column with more different texts would fill the memory.
MOST_TEXTS = 5_000_000


class Spool:
    """Writes columns that a reader yields in pieces. `begin` may be called again: what was written is dropped."""

    def __init__(self, file: BinaryIO, place: Place) -> None:
        self._file, self._place = file, place

    def begin(self, names: Sequence[str], numbers: Collection[int]) -> None:
        """numbers: places of the columns of numbers."""
        self._file.seek(0)
        self._file.truncate()
        self._names, self._numbers = list(names), sorted(numbers)
        self._texts = {place: Builder() for place in range(len(names)) if place not in numbers}
        self._pieces: list[int] = []

    def add_numbers(self, place: int, values: np.ndarray[Any, Any]) -> None:
        self._write(np.ascontiguousarray(values, dtype=np.float64))

    def add_texts(self, place: int, values: Sequence[str], codes: np.ndarray[Any, Any]) -> None:
        """Cells of which each is `values[code]`."""
        builder = self._texts[place]
        self._write(builder.coded(values, codes))
        if builder.distinct > MOST_TEXTS:
            raise DataError(
                f"{self._place.file}: {self._names[place]} has more than {MOST_TEXTS:,} different texts: leave "
                "the column out of the file"
            )

    def _write(self, values: np.ndarray[Any, Any]) -> None:
        with told(self._place.folder):
            _stored(self._file, values)

    def end_piece(self, rows: int) -> None:
        self._pieces.append(rows)

    def finish(self, lines: np.ndarray[Any, Any], *, few: bool) -> dict[str, Any]:
        """The description of the file. few: whether columns of few different numbers are taken as texts."""
        self._write(np.ascontiguousarray(lines, dtype=np.int64))
        with told(self._place.folder):
            self._file.flush()
        about: dict[str, Any] = {
            "names": self._names,
            "numbers": self._numbers,
            "pieces": self._pieces,
            "texts": {str(place): builder.texts for place, builder in self._texts.items()},
            "few": {},
        }
        if few:
            spooled = Spooled(self._file, about)
            for place in self._numbers:
                name = self._names[place]
                if isinstance(few_as_text(found := spooled[name]), Cells):
                    assert isinstance(found, Numbers)
                    about["few"][str(place)] = np.unique(found.numbers[~found.missing]).tolist()
        return about


def _stored(file: BinaryIO, values: np.ndarray[Any, Any]) -> None:
    file.write(values.data)


class Opened(Protocol):
    def fileno(self) -> int: ...


@dataclass(frozen=True)
class Spooled(Distant):
    """The columns of such a file. file: open. about: as `Spool.finish` returns it."""

    file: "Opened"
    about: dict[str, Any]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, name: str) -> Cells | Numbers:
        return self._cells(self._places[name], 0, self.rows)

    def some(self, name: str, index: np.ndarray[Any, Any]) -> Cells | Numbers:
        if not len(index):
            return self._cells(self._places[name], 0, 0)
        first, last = int(index.min()), int(index.max())
        found = self._cells(self._places[name], first, last + 1)
        return found if len(index) == last + 1 - first and (np.diff(index) == 1).all() else found.rows(index - first)

    @cached_property
    def rows(self) -> int:
        return int(self._starts[-1])

    @property
    def lines(self) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = np.empty(self.rows, dtype=np.int64)
        self._read(self.rows * int(self._widths.sum()), found)
        return found

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.about["names"])}

    @cached_property
    def _starts(self) -> np.ndarray[Any, Any]:
        """The first row of each piece, and the number of all rows."""
        return np.concatenate(([0], np.cumsum(self.about["pieces"]))).astype(np.int64)

    @cached_property
    def _widths(self) -> np.ndarray[Any, Any]:
        """Bytes of a cell in each column."""
        numbers = set(self.about["numbers"])
        return np.array([8 if place in numbers else 4 for place in range(len(self.about["names"]))], dtype=np.int64)

    @cached_property
    def _meaning(self) -> dict[int, tuple[tuple[str, ...], np.ndarray[Any, Any]]]:
        """Of each column of texts, its values, and which of them each code stands for."""
        return {int(place): settled(texts) for place, texts in self.about["texts"].items()}

    def _cells(self, place: int, first: int, beyond: int) -> Cells | Numbers:
        """The rows from `first` to below `beyond` of a column."""
        width = int(self._widths[place])
        found: np.ndarray[Any, Any] = np.empty(beyond - first, dtype=np.float64 if width == 8 else np.int32)
        row_bytes, left = int(self._widths.sum()), int(self._widths[:place].sum())
        piece = max(int(np.searchsorted(self._starts, first, side="right")) - 1, 0)
        row = first
        while row < beyond:
            start, end = int(self._starts[piece]), int(self._starts[piece + 1])
            size = min(end, beyond) - row
            column = start * row_bytes + (end - start) * left
            self._read(column + (row - start) * width, found[row - first : row - first + size])
            row, piece = row + size, piece + 1
        if place in self._meaning:
            values, table = self._meaning[place]
            return Cells(values, table[found])
        if (few := self.about["few"].get(str(place))) is not None:
            numbers = np.array(few)
            codes = np.searchsorted(numbers, found).astype(np.int32)
            return Cells(Numbers(numbers).values, np.where(np.isnan(found), np.int32(-1), codes))
        return Numbers(found)

    def _read(self, offset: int, into: np.ndarray[Any, Any]) -> None:
        view = memoryview(into.data).cast("B") if len(into) else memoryview(b"")
        while len(view):
            size = os.preadv(self.file.fileno(), [view], offset)
            if not size:
                raise DataError("what the cache holds of a table ends early: `dlcli cache clear` removes it")
            view, offset = view[size:], offset + size
