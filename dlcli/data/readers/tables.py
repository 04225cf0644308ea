"""A file with a table (CSV and its kin, JSON lines; plain or .gz) -> columns of text. Every error names its line.

Values are text here; what they mean is decided in columns.py, for a whole column. A column is stored as its different
values and the number of the value in each row, so that all further work is done once per value.
"""

import csv
import gzip
import hashlib
import io
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dlcli.core.errors import DataError
from dlcli.core.reading import parse_json
from dlcli.data.readers.text import MOST_BYTES, read_content

# How people write that a value is missing.
MISSING = frozenset(("", "?", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None"))

_DELIMITERS = ",;\t|"
_SAMPLE = 100_000  # characters in which the delimiter is looked for
_CHUNK = 20_000  # rows
_PIECE = 1 << 20  # bytes
_MOST_COLUMNS = 10_000


@dataclass(frozen=True)
class Cells:
    """A column. values: the different texts in it, in the order in which they first occur. codes: int32 (rows,), the
    number of each row's value; -1 where it is missing."""

    values: tuple[str, ...]
    codes: np.ndarray[Any, Any]

    def counts(self, rows: np.ndarray[Any, Any] | slice = slice(None)) -> np.ndarray[Any, Any]:
        """How often each value occurs in these rows."""
        codes = self.codes[rows]
        return np.bincount(codes[codes >= 0], minlength=len(self.values))

    def text(self, row: int) -> str:
        """Empty if it is missing."""
        code = int(self.codes[row])
        return "" if code < 0 else self.values[code]


@dataclass(frozen=True)
class Table:
    """columns: name -> cells, in the order of the file. lines: the line of the file in which each row begins.

    decimal_comma: whether 1,5 is a number. sha256: of the file. notes: sentences about how it was read.
    """

    path: Path
    columns: dict[str, Cells]
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
        columns = {name: Cells(cells.values, cells.codes[index]) for name, cells in self.columns.items()}
        return Table(self.path, columns, self.lines[index], self.decimal_comma, self.sha256, self.notes)


def read_table(
    path: Path, *, header: Literal["first", "none"] = "first", names: Sequence[str] = (), streams: bool = False
) -> Table:
    """The table in `path`. DataError (exit 3) for a file that is none, with the line.

    header: whether the first line names the columns. names: of the columns of a file without a header; by default c0,
    c1 and so on. streams: whether `path` may be a stream.
    """
    if path.suffix.lower() in (".parquet", ".feather", ".xlsx", ".xls", ".json", ".h5", ".pkl"):
        raise DataError(f"{path} is not read: save the table as .csv, .tsv or .jsonl (one object per line)")
    content = _inflated(path, read_content(path, streams=streams))
    text, notes = _decoded(path, content)
    comma = False
    if _is_json_lines(path, text):
        found = _json_lines(path, text)
    else:
        delimiter = _sniffed(text)
        comma = delimiter == ";"
        found = _separated(path, text, delimiter, header=header, names=names)
    columns, lines = found
    if not len(lines):
        raise DataError(f"{path} has a header but no rows")
    return Table(path, columns, lines, comma, hashlib.sha256(content).hexdigest(), notes)


def _inflated(path: Path, content: bytes) -> bytes:
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            size = 0
            while size <= MOST_BYTES and (piece := file.read(_PIECE)):  # counted before it takes memory
                size += len(piece)
            if size > MOST_BYTES:
                raise DataError(f"{path} unpacks to more than {MOST_BYTES:,} bytes")
            file.seek(0)
            return file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is a damaged .gz file: {error}") from None


def _decoded(path: Path, content: bytes) -> tuple[str, tuple[str, ...]]:
    """The text, and a sentence if the encoding is a guess."""
    notes: tuple[str, ...] = ()
    try:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            text = content.decode("utf-16")
        else:
            text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise DataError(f"{path} is damaged UTF-16 text: save it as UTF-8") from None
        line = content.count(b"\n", 0, error.start) + 1
        text = content.decode("latin-1")
        notes = (f"{path.name} is read as latin-1, since line {line} is not UTF-8",)
    if (zero := text.find("\0")) >= 0:
        raise DataError(f"{path}:{text.count(chr(10), 0, zero) + 1} is not text: it holds a NUL character")
    return text, notes


def _is_json_lines(path: Path, text: str) -> bool:
    return ".jsonl" in path.suffixes or ".ndjson" in path.suffixes or text.startswith("{")


def _sniffed(text: str) -> str:
    """The delimiter: the one that gives the first rows the same number of cells, and the most; a comma if none does."""
    best, most = ",", 1
    for mark in _DELIMITERS:
        sample = csv.reader(io.StringIO(text[:_SAMPLE], newline=""), delimiter=mark, skipinitialspace=True)
        try:
            widths = [len(row) for row in islice(sample, 101) if row]
        except csv.Error:
            continue
        if len(text) > _SAMPLE or len(widths) > 100:
            widths = widths[:-1]  # it may be cut
        if widths and len(set(widths)) == 1 and widths[0] > most:
            best, most = mark, widths[0]
    return best if most > 1 else _in_the_first_line(text)


def _in_the_first_line(text: str) -> str:
    """The most frequent delimiter of the first line, for a file whose rows are not all of one length."""
    first = text[:_SAMPLE].lstrip().split("\n", 1)[0]
    return max(_DELIMITERS, key=first.count)


def _separated(
    path: Path, text: str, delimiter: str, *, header: str, names: Sequence[str]
) -> tuple[dict[str, Cells], np.ndarray[Any, Any]]:
    rows = _numbered(path, text, delimiter)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} is empty")
    width = len(first[1])
    if width > _MOST_COLUMNS:
        raise DataError(f"{path}:{first[0]} has {width:,} columns, more than {_MOST_COLUMNS:,}")
    chunk: list[tuple[int, list[str]]] = []
    if header == "none":
        chunk = [first]
        found = list(names) or [f"c{place}" for place in range(width)]
        if len(found) != width:
            raise DataError(f"{path}:{first[0]} has {width} values, but data.columns names {len(found)} columns")
    else:
        found = [cell.strip() or f"c{place}" for place, cell in enumerate(first[1])]
    twice = [name for name, count in Counter(found).items() if count > 1]
    if twice:
        raise DataError(f"{path}:{first[0]} names two columns {twice[0]!r}: rename one of them")
    builders, lines = [_Builder() for _ in found], list[int]()
    while chunk := [*chunk, *islice(rows, _CHUNK)]:
        for line, cells in chunk:
            if len(cells) != width:
                stand = "the first line has" if header == "none" else "the header has"
                raise DataError(f"{path}:{line} has {len(cells)} values, but {stand} {width}")
        lines += [line for line, _ in chunk]
        for builder, column in zip(builders, zip(*(cells for _, cells in chunk), strict=True), strict=True):
            builder.add(column)
        chunk = []
    columns = {name: builder.cells() for name, builder in zip(found, builders, strict=True)}
    return columns, np.array(lines, dtype=np.int64)


def _numbered(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The line in which each row begins, since a quoted cell may span several, and its cells. Empty lines are
    skipped."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    number = 1
    try:
        for cells in reader:
            if cells and (len(cells) > 1 or cells[0].strip()):
                yield number, cells
            number = reader.line_num + 1
    except csv.Error as error:
        reason = "a quote that begins there does not end" if "end of data" in str(error) else str(error)
        raise DataError(f"{path}:{number} is no CSV: {reason}") from None


class _Builder:
    """Collects the cells of a column."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = defaultdict(count().__next__)  # a new text gets the next number
        self._codes: list[np.ndarray[Any, Any]] = []

    def add(self, cells: Sequence[str]) -> None:
        codes = map(self._seen.__getitem__, cells)
        self._codes.append(np.fromiter(codes, dtype=np.int32, count=len(cells)))

    def cells(self) -> Cells:
        """Outer blanks are no part of a value, and all ways to write a missing one are the same."""
        values: dict[str, int] = {}
        table = np.empty(len(self._seen), dtype=np.int32)
        for text, code in self._seen.items():
            text = text.strip()
            table[code] = -1 if text in MISSING else values.setdefault(text, len(values))
        codes = np.concatenate(self._codes) if self._codes else np.empty(0, dtype=np.int32)
        return Cells(tuple(values), table[codes] if len(table) else codes)


def _json_lines(path: Path, text: str) -> tuple[dict[str, Cells], np.ndarray[Any, Any]]:
    """One object per line; a name that a line lacks is missing there."""
    rows: list[dict[str, str]] = []
    lines: list[int] = []
    names: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = parse_json(line.encode())
        except ValueError as error:
            raise DataError(f"{path}:{number} is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise DataError(f"{path}:{number} is no object: each line is one, {{'column': value, ...}}")
        rows.append({name: _plain(value, f"{path}:{number}: {name}") for name, value in found.items()})
        lines.append(number)
        names |= dict.fromkeys(found)
    if not rows:
        raise DataError(f"{path} is empty")
    if len(names) > _MOST_COLUMNS:
        raise DataError(f"{path} has {len(names):,} columns, more than {_MOST_COLUMNS:,}")
    columns = {}
    for name in names:
        builder = _Builder()
        builder.add([row.get(name, "") for row in rows])
        columns[name] = builder.cells()
    return columns, np.array(lines, dtype=np.int64)


def _plain(value: Any, where: str) -> str:
    if isinstance(value, dict | list):
        raise DataError(f"{where} is a {type(value).__name__}: each value is text, a number, true, false or null")
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
