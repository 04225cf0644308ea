"""The text of a CSV file or its kin -> columns. Every error names its line."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dlcli.core.errors import DataError
from dlcli.data.readers.cells import Builder, Cells, Numbers

Columns = tuple[Mapping[str, Cells | Numbers], np.ndarray[Any, Any]]

MOST_COLUMNS = 10_000

_DELIMITERS = ",;\t|"
_SAMPLE = 100_000  # characters in which the delimiter is looked for
_CHUNK = 20_000  # rows
_LONGEST_CELL = 10_000_000  # characters


@dataclass(frozen=True)
class Format:
    """What the user says of a file. header: whether the first line names the columns. names: of the columns of a file
    without a header; by default c0, c1 and so on. comment: what begins the lines at the top that are no part of the
    table; empty if there are none."""

    header: Literal["first", "none"] = "first"
    names: Sequence[str] = ()
    comment: str = ""

    def below_comments(self, text: str) -> tuple[str, int]:
        """The text without the comments at its top, and their number of lines."""
        start = lines = 0
        while self.comment and text.startswith(self.comment, start):
            end = text.find("\n", start)
            start, lines = (len(text) if end < 0 else end + 1), lines + 1
        return text[start:], lines


def sniffed(text: str) -> str:
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


def read_separated(path: Path, text: str, delimiter: str, how: "Format", *, first_line: int) -> Columns:
    """The columns of the text, and the line in which each row begins. first_line: that of the text."""
    names, chunks = _chunks(path, numbered(path, io.StringIO(text, newline=""), delimiter, first_line), how)
    builders, lines = [Builder() for _ in names], list[int]()
    for chunk in chunks:
        lines += _collect(chunk, builders)
    columns = {name: builder.cells() for name, builder in zip(names, builders, strict=True)}
    return columns, np.array(lines, dtype=np.int64)


def pieces_of(path: Path, rows: Iterator[tuple[int, list[str]]], how: "Format") -> Iterator[Columns]:
    """As `read_separated`, a piece of the rows at a time."""
    names, chunks = _chunks(path, rows, how)
    for chunk in chunks:
        builders = [Builder() for _ in names]
        lines = np.array(_collect(chunk, builders), dtype=np.int64)
        yield {name: builder.cells() for name, builder in zip(names, builders, strict=True)}, lines


def _chunks(
    path: Path, rows: Iterator[tuple[int, list[str]]], how: "Format"
) -> tuple[list[str], Iterator[list[tuple[int, list[str]]]]]:
    """The names of the columns, and the rows, which are all of one length."""
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} is empty")
    names = named(path, *first, how)

    def found() -> Iterator[list[tuple[int, list[str]]]]:
        below = chain([first], rows) if how.header == "none" else rows
        while chunk := list(islice(below, _CHUNK)):
            for line, cells in chunk:
                if len(cells) != len(names):
                    stand = "the first line has" if how.header == "none" else "the header has"
                    raise DataError(f"{path}:{line} has {len(cells)} values, but {stand} {len(names)}")
            yield chunk

    return names, found()


def _collect(chunk: Sequence[tuple[int, list[str]]], builders: Sequence[Builder]) -> list[int]:
    """Add the cells to the builder of their column; the lines of the rows."""
    for builder, column in zip(builders, zip(*(cells for _, cells in chunk), strict=True), strict=True):
        builder.add(column)
    return [line for line, _ in chunk]


def named(path: Path, line: int, first: Sequence[str], how: "Format") -> list[str]:
    """The names of the columns. first: the cells of the first line, which is a row if there is no header."""
    width = len(first)
    if width > MOST_COLUMNS:
        raise DataError(f"{path}:{line} has {width:,} columns, more than {MOST_COLUMNS:,}")
    if how.header == "none":
        found = list(how.names) or [f"c{place}" for place in range(width)]
        if len(found) != width:
            raise DataError(f"{path}:{line} has {width} values, but data.columns names {len(found)} columns")
    else:
        found = [cell.strip() or f"c{place}" for place, cell in enumerate(first)]
    twice = [name for name, count in Counter(found).items() if count > 1]
    if twice:
        raise DataError(f"{path}:{line} names two columns {twice[0]!r}: rename one of them")
    return found


def numbered(path: Path, text: Iterable[str], delimiter: str, first_line: int) -> Iterator[tuple[int, list[str]]]:
    """The line in which each row begins, since a quoted cell may span several, and its cells. Empty lines are
    skipped."""
    csv.field_size_limit(_LONGEST_CELL)  # of the whole process, so each of our readers sets its own
    reader = csv.reader(text, delimiter=delimiter, strict=True, skipinitialspace=True)
    number = first_line
    try:
        for cells in reader:
            if cells and (len(cells) > 1 or cells[0].strip()):
                yield number, cells
            number = reader.line_num + first_line
    except csv.Error as error:
        reason = "a quote that begins there does not end" if "end of data" in str(error) else str(error)
        raise DataError(f"{path}:{number} is no CSV: {reason}") from None
