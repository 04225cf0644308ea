"""metrics.csv: one row per evaluation or log interval, appended line by line; read with limits, as it is untrusted."""

import contextlib
import csv
import io
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, cast

from dlcli.core.errors import RunError
from dlcli.core.files import append_line
from dlcli.core.reading import open_regular

Row = dict[str, float | None]

_MOST_ROWS, _MOST_VALUES = 500_000, 5_000_000
_MOST_COLUMNS = 1000  # of a file with more rows or values
_LONGEST_LINE = 100_000  # bytes
_PIECE = 1 << 20  # bytes
_AT_ONCE = 100  # rows; more would leave the processor's cache
_STRETCHES = 500


def append(file: Path, row: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Append a row, and the header before the first one; later rows have the columns of the header. An undefined value
    is an empty cell."""
    if not file.exists() or not file.stat().st_size:
        append_line(file, _csv_line(columns))
    elif (header := _header(file)) != list(columns):  # a resume with another monitor, or of an older version
        columns = header
    append_line(file, _csv_line(["" if row.get(c) is None else row[c] for c in columns]))


def _header(file: Path) -> list[str]:
    with open(open_regular(file), "rb") as opened:
        return next(csv.reader([opened.readline(_LONGEST_LINE).decode()]), [])


@dataclass(frozen=True)
class Stretch:
    """Some rows that follow each other. columns: their values by name. shown: the places of those to be shown."""

    columns: Mapping[str, Sequence[float | None]]
    shown: Sequence[int]

    def rows(self) -> Iterator[Row]:
        """Those to be shown."""
        for place in self.shown:
            yield {name: values[place] for name, values in self.columns.items()}

    def __len__(self) -> int:
        return max(map(len, self.columns.values()), default=0)


def read(file: Path) -> list[Row]:
    """All rows; empty if there is no file. An incomplete last line is ignored. RunError if the file is damaged, or too
    long for it: see `thinned`."""
    with _opened(file) as opened:
        return _parsed(_whole_lines(opened, file, limited=True), file)


def thinned(file: Path) -> Iterator[Stretch]:
    """All rows, and which of them are to be shown: all of up to 500,000 rows and 5,000,000 values. Of more, those with
    the lowest and the highest value of each column in each of 500 stretches of equally many rows (fewer if there are
    more than 70 columns), so that no peak is lost. An incomplete last line is ignored. RunError if the file is damaged,
    or so long and has more than 1,000 columns."""
    if not (count := _too_many(file)):
        rows = read(file)
        yield Stretch({name: [row[name] for row in rows] for name in (rows or [{}])[0]}, range(len(rows)))
        return
    names = list(dict.fromkeys(columns(file)))
    if len(names) > _MOST_COLUMNS:
        raise RunError(f"{file} has {len(names):,} columns and more than {_MOST_VALUES:,} values: read it with pandas")
    stretches = min(_STRETCHES, max(1, _MOST_VALUES // (2 * len(names) ** 2 + 1)))
    blocks, together = stream(file, names), -(-count // stretches // _AT_ONCE)
    while several := list(itertools.islice(blocks, together)):
        whole = [list(itertools.chain.from_iterable(parts)) for parts in zip(*several, strict=True)]
        shown = sorted({place for column in whole for place in _extremes(column)})
        yield Stretch(dict(zip(names, whole, strict=True)), shown)


def ends(file: Path, *, first: int, last: int) -> tuple[list[Row], int]:
    """The first and the last rows, and how many there are. Of a file that is too long for `read` only these are read
    and checked. RunError if they are damaged."""
    if not (count := _too_many(file)):
        rows = read(file)
        return rows if len(rows) <= first + last else rows[:first] + rows[-last:], len(rows)
    with _opened(file) as opened:
        top = list(itertools.islice(_whole_lines(opened, file), first + 1))
        opened.seek(-min(opened.seek(0, os.SEEK_END), (last + 1) * _LONGEST_LINE), os.SEEK_END)
        bottom = opened.read().split(b"\n")[-last - 1 : -1]
    if any(len(line) >= _LONGEST_LINE for line in bottom):
        raise RunError(f"{file} is damaged: one of its last lines is too long")
    rows = _parsed(itertools.chain(top, (line.decode() for line in bottom)), file)
    if len(rows) != first + last:
        raise RunError(f"{file} is damaged: it has empty lines")
    return rows, count


def _too_many(file: Path) -> int:
    """How many rows there are in a file that is too long for `read`; 0 for another."""
    with _opened(file) as opened:
        lines, values = _count(opened, file)
    return lines - 1 if lines - 1 > _MOST_ROWS or values > _MOST_VALUES else 0


def _count(opened: BinaryIO, file: Path) -> tuple[int, int]:
    """Whole lines with the header, and values in them. RunError if a line is far too long."""
    rows = values = 0
    while piece := opened.read(_PIECE):
        if not (lines := piece.count(b"\n")) and len(piece) == _PIECE:
            raise RunError(f"{file} is damaged: line {rows + 1} is too long")
        rows, values = rows + lines, values + lines + piece.count(b",")
    return rows, values


def _extremes(column: Sequence[float | None]) -> Iterator[int]:
    """The places of the lowest and of the highest value."""
    known = [value for value in column if value is not None]
    if known:
        yield column.index(min(known))
        yield column.index(max(known))


def _parsed(lines: Iterable[str], file: Path) -> list[Row]:
    reader = csv.DictReader(lines)
    try:
        return [{name: _metric(value) for name, value in row.items()} for row in reader]
    except (ValueError, TypeError, csv.Error):
        raise RunError(f"{file} is damaged: a value is no number") from None


def columns(file: Path) -> list[str]:
    """The names of the columns; empty if there is no file. RunError if it cannot be read."""
    with _opened(file) as opened:
        return next(_rows(opened, file), [])


def stream(file: Path, names: Sequence[str]) -> Iterator[list[list[float | None]]]:
    """The values of some columns, a hundred rows at a time, in a file of any length: one list per name; None for an
    empty cell or a column that there is not. An incomplete last line is ignored. RunError if the file is damaged."""
    with _opened(file) as opened:
        rows = _rows(opened, file)
        header = next(rows, [])
        there = list(dict.fromkeys(name for name in names if name in header))
        wanted = map(itemgetter(0, *map(header.index, there)), rows)
        try:
            while block := list(itertools.islice(wanted, _AT_ONCE)):
                columns = dict(zip(there, list(zip(*block, strict=True))[1:], strict=True))
                yield [_values(columns[name]) if name in columns else [None] * len(block) for name in names]
        except (ValueError, IndexError, TypeError):
            raise RunError(f"{file} is damaged: a value is no number") from None


def _values(cells: Sequence[str]) -> list[float | None]:
    """As `_metric` of each; fast where no cell is empty, or all are equal."""
    if cells.count(cells[0]) == len(cells):
        return [_metric(cells[0])] * len(cells)
    if "" in cells:
        return [_metric(cell) for cell in cells]
    found = list(map(float, cells))
    if not math.isfinite(sum(found)) and not all(map(math.isfinite, found)):
        raise ValueError
    return cast(list[float | None], found)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    try:
        descriptor = open_regular(file)
    except FileNotFoundError:
        with io.BytesIO() as nothing:
            yield nothing
        return
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror}") from None
    with open(descriptor, "rb") as opened:
        yield opened


def _rows(opened: BinaryIO, file: Path) -> Iterator[list[str]]:
    try:
        yield from csv.reader(_whole_lines(opened, file))
    except (UnicodeDecodeError, csv.Error):
        raise RunError(f"{file} is damaged: a value is no number") from None


def _whole_lines(opened: BinaryIO, file: Path, *, limited: bool = False) -> Iterator[str]:
    """The lines that end in a newline, without it. RunError if a line is too long or, where limited, if there are too
    many rows or values."""
    count, values, rest = 0, 0, b""
    while piece := opened.read(_PIECE):
        content = rest + piece
        end = content.rfind(b"\n") + 1
        rest = content[end:]
        lines = content[:end].decode().split("\n")[:-1]
        if len(rest) >= _LONGEST_LINE or any(len(line) >= _LONGEST_LINE for line in lines):
            place = next((k for k, line in enumerate(lines) if len(line) >= _LONGEST_LINE), len(lines))
            raise RunError(f"{file} is damaged: line {count + place + 1} is too long")
        count, values = count + len(lines), values + len(lines) + content.count(b",", 0, end)
        if limited and (count > _MOST_ROWS + 1 or values > _MOST_VALUES):
            raise RunError(f"{file} has more than {_MOST_ROWS:,} rows or {_MOST_VALUES:,} values: read it with pandas")
        yield from lines


def _metric(value: str | None) -> float | None:
    number = float(value) if value else None
    if number is not None and not abs(number) < float("inf"):
        raise ValueError
    return number


def _csv_line(values: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(values)
    return buffer.getvalue()
