"""A large CSV file -> columns, by pyarrow, which reads it with all cores.

It is as fast as the C parser of pandas or faster, rounds numbers correctly, and refuses rows of another length. What it
reads otherwise than readers/tables.py does is not left to it: see `_Watched`.
"""

import hashlib
import re
from collections.abc import Collection, Sequence
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from dlcli.data.readers.cells import LARGEST, MISSING, Builder, Cells, Growing, Numbers

_BLOCK = 1 << 20  # bytes that are parsed at a time; a row must fit into it
_QUOTE, _LINE_FEED, _RETURN = b'"\n\r'

_NO_NUMBER = re.compile(r"CSV column #([0-9]+): CSV conversion error to double")


class Irregular(Exception):
    """The file is not of the kind that pyarrow reads as we do, or is no table: readers/tables.py reads it or says what
    is wrong with it."""


class _LinesInCells(Exception):
    """Cells span several lines, which pyarrow reads more slowly."""


class NoNumbers(Exception):
    """The column is not what its first rows show: a cell is no number, or too large a one."""

    def __init__(self, place: int) -> None:
        self.place = place


class Sink(Protocol):
    """Where the columns of a table are put, a piece of the rows at a time."""

    def begin(self, names: Sequence[str], numbers: Collection[int]) -> None:
        """numbers: places of the columns of numbers; the others are texts. What was put there before is dropped."""

    def add_numbers(self, place: int, values: np.ndarray[Any, Any]) -> None:
        """float64, NaN where the value is missing."""

    def add_texts(self, place: int, values: Sequence[str], codes: np.ndarray[Any, Any]) -> None:
        """Cells of which each is `values[code]`."""

    def end_piece(self, rows: int) -> None:
        """All columns have got so many more rows."""


class Gathered:
    """A Sink in memory."""

    def begin(self, names: Sequence[str], numbers: Collection[int]) -> None:
        self._parts: list[Any] = [Growing(np.float64) if place in numbers else Builder() for place in range(len(names))]

    def add_numbers(self, place: int, values: np.ndarray[Any, Any]) -> None:
        self._parts[place].add(values)

    def add_texts(self, place: int, values: Sequence[str], codes: np.ndarray[Any, Any]) -> None:
        self._parts[place].add_coded(values, codes)

    def end_piece(self, rows: int) -> None:
        pass

    def columns(self) -> list[Cells | Numbers]:
        """What was put there; it is taken away."""
        import pyarrow

        pyarrow.system_memory_pool().release_unused()
        pyarrow.default_memory_pool().release_unused()
        parts, found = self._parts[::-1], list[Cells | Numbers]()
        self._parts = []
        while parts:  # each is freed when its column is made
            part = parts.pop()
            found.append(part.cells() if isinstance(part, Builder) else Numbers(part.values()))
        return found


class Read(NamedTuple):
    """lines, sha256: as in Table."""

    lines: np.ndarray[Any, Any]
    sha256: str


def is_there() -> bool:
    """Whether pyarrow is installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return False
    return True


def read_columns(
    file: BinaryIO,
    into: Sink,
    *,
    delimiter: str,
    names: Sequence[str],
    skip: int,
    numbers: Collection[int],
    most: int | None,
) -> Read:
    """Puts the columns of a UTF-8 file into a Sink. Irregular if it cannot be read in this way.

    names: of all columns. skip: lines above the first row. numbers: places of the columns that hold numbers, as far as
    the first rows show. most: bytes, more of them are Irregular.
    """
    left, lines_in_cells = set(numbers), False
    while True:
        file.seek(0)
        watched = _Watched(file, delimiter, most, lines_in_cells=lines_in_cells)
        try:
            return _read(watched, into, delimiter=delimiter, names=names, skip=skip, numbers=left)
        except NoNumbers as found:
            left.remove(found.place)
        except _LinesInCells:
            lines_in_cells = True


def _read(
    file: "_Watched", into: Sink, *, delimiter: str, names: Sequence[str], skip: int, numbers: Collection[int]
) -> Read:
    import pyarrow
    from pyarrow import csv

    text = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    own = [str(place) for place in range(len(names))]  # a name may be there twice
    options = csv.ConvertOptions(
        column_types={name: pyarrow.float64() if place in numbers else text for place, name in enumerate(own)},
        null_values=sorted(MISSING),
        strings_can_be_null=False,
        decimal_point="," if delimiter == ";" else ".",
    )
    into.begin(names, numbers)
    rows = 0
    try:
        with csv.open_csv(
            pyarrow.PythonFile(file, mode="r"),
            read_options=csv.ReadOptions(column_names=own, skip_rows=skip, block_size=_BLOCK),
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=file.lines_in_cells),
            convert_options=options,
            memory_pool=pyarrow.system_memory_pool(),  # the default one keeps what is freed
        ) as batches:
            for batch in batches:
                for place in numbers:  # pyarrow takes `NAN` and the like as numbers
                    if batch.column(place).null_count != int(np.isnan(_values(batch.column(place))).sum()):
                        raise NoNumbers(place)
                collect(batch.columns, numbers, into)
                rows += len(batch)
    except pyarrow.ArrowInvalid as error:
        if (found := _NO_NUMBER.search(str(error))) and int(found[1]) in numbers:
            raise NoNumbers(int(found[1])) from None
        raise Irregular(str(error)) from None
    lines = file.lines()[skip:]
    if not len(lines) or len(lines) != rows:
        raise Irregular("it has other rows than lines")
    return Read(lines, file.sha256)


def collect(columns: Sequence[Any], numbers: Collection[int], into: Sink) -> None:
    """Put a batch of rows into a Sink: columns of float64 at the places `numbers`, else dictionaries of texts."""
    for place, column in enumerate(columns):
        if place in numbers:
            into.add_numbers(place, _finite(_values(column), place))
        else:
            into.add_texts(place, column.dictionary.to_pylist(), column.indices.to_numpy())
    into.end_piece(len(columns[0]))


def _values(column: Any) -> np.ndarray[Any, Any]:
    """With NaN for null."""
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _finite(values: np.ndarray[Any, Any], place: int) -> np.ndarray[Any, Any]:
    with np.errstate(invalid="ignore"):
        if bool((np.abs(values) > LARGEST).any()):
            raise NoNumbers(place)
    return values


class _Watched:
    """A file that pyarrow reads. Its bytes are hashed, its lines are counted, and it is Irregular if its quotes are not
    as RFC 4180 says: around whole cells, and doubled inside of them."""

    closed = False

    def __init__(self, file: BinaryIO, delimiter: str, most: int | None, *, lines_in_cells: bool) -> None:
        self.lines_in_cells = lines_in_cells
        self._file, self._most, self._size = file, most, 0
        self._digest = hashlib.sha256()
        self._beside = np.frombuffer(f'{delimiter}\n\r"'.encode(), dtype=np.uint8)
        self._open = False  # whether a quote is
        self._is_over = False
        self._before = _LINE_FEED
        self._rest = b""  # the last byte, since what follows it matters
        self._line = 1
        self._starts = [np.array([1])]

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self._size += len(piece)
        if self._most is not None and self._size > self._most:
            raise Irregular("it is too large")
        self._digest.update(piece)
        if b"\0" in piece:
            raise Irregular("it holds a NUL character")
        content = self._rest + piece
        if not piece and not self._is_over:  # what follows the last byte does not matter
            content, self._is_over = self._rest + b"\n", True
        if content:
            self._look(content)
        return piece

    def lines(self) -> np.ndarray[Any, Any]:
        """The line in which each row begins; empty lines are none."""
        if self._open:
            raise Irregular("a quote does not end")
        return np.concatenate(self._starts)

    def _look(self, whole: bytes) -> None:
        """The last byte is looked at with the next ones."""
        content, self._rest = whole[:-1], whole[-1:]
        if not content:
            return
        if b'"' in content or self._open:
            outside, count = self._unquoted(np.frombuffer(whole, dtype=np.uint8))
            self._starts.append(self._line + 1 + outside)
        else:
            count = content.count(b"\n")
            starts = np.arange(self._line + 1, self._line + 1 + count)
            if b"\n\n" in whole or b"\n\r" in whole:
                found = np.frombuffer(whole, dtype=np.uint8)
                starts = starts[~_is_blank(found[np.flatnonzero(found[:-1] == _LINE_FEED) + 1])]
            self._starts.append(starts)
        self._line += count
        self._before = content[-1]

    def _unquoted(self, content: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], int]:
        """Which line feeds, counted from 0, end a row with another one below it, and how many there are. content: ends
        with one more byte."""
        quotes = np.flatnonzero(content[:-1] == _QUOTE)
        feeds = np.flatnonzero(content[:-1] == _LINE_FEED)
        opening, closing = quotes[int(self._open) :: 2], quotes[1 - int(self._open) :: 2]
        before = np.where(opening > 0, content[opening - 1], self._before)
        if not (np.isin(before, self._beside).all() and np.isin(content[closing + 1], self._beside).all()):
            raise Irregular("a quote is inside a cell")
        inside = (np.searchsorted(quotes, feeds) + self._open) % 2 == 1
        self._open = bool((len(quotes) + self._open) % 2)
        if inside.any() and not self.lines_in_cells:
            raise _LinesInCells
        return np.flatnonzero(~inside & ~_is_blank(content[feeds + 1])), len(feeds)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def _is_blank(following: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Whether the line that begins with this byte is empty."""
    return np.asarray((following == _LINE_FEED) | (following == _RETURN))
