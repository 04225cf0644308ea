"""metrics.csv: one row per evaluation or log interval, appended line by line; read with limits, as it is untrusted."""

import contextlib
import csv
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, cast

from dlcli.core.errors import RunError
from dlcli.core.files import append_line
from dlcli.core.reading import open_regular

_MOST_ROWS, _MOST_VALUES = 500_000, 5_000_000
_LONGEST_LINE = 100_000  # bytes
_AT_ONCE = 1000  # rows


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


def read(file: Path) -> list[dict[str, float | None]]:
    """All rows; empty if there is no file. An incomplete last line is ignored. RunError if the file is damaged."""
    with _opened(file) as opened:
        reader = csv.DictReader(_whole_lines(opened, file))
        try:
            return [{name: _metric(value) for name, value in row.items()} for row in reader]
        except (ValueError, TypeError, csv.Error):
            raise RunError(f"{file} is damaged: a value is no number") from None


def columns(file: Path) -> list[str]:
    """The names of the columns; empty if there is no file. RunError if it cannot be read."""
    with _opened(file) as opened:
        return next(_rows(opened, file), [])


def stream(file: Path, names: Sequence[str]) -> Iterator[list[list[float | None]]]:
    """The values of some columns, a thousand rows at a time, in a file of any length: one list per name; None for an
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
    """As `_metric` of each; fast where no cell is empty."""
    if "" in cells:
        return [_metric(cell) for cell in cells]
    found = list(map(float, cells))
    if not all(map(math.isfinite, found)):
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
        yield from csv.reader(_whole_lines(opened, file, limited=False))
    except (UnicodeDecodeError, csv.Error):
        raise RunError(f"{file} is damaged: a value is no number") from None


def _whole_lines(opened: BinaryIO, file: Path, *, limited: bool = True) -> Iterator[str]:
    """The lines that end in a newline. RunError if a line is too long or, where limited, if there are too many rows or
    values."""
    values = 0
    for count, line in enumerate(iter(lambda: opened.readline(_LONGEST_LINE), b"")):
        values += line.count(b",") + 1
        if limited and (count > _MOST_ROWS or values > _MOST_VALUES):
            raise RunError(f"{file} has more than {_MOST_ROWS:,} rows or {_MOST_VALUES:,} values")
        if len(line) == _LONGEST_LINE:
            raise RunError(f"{file} is damaged: line {count + 1} is too long")
        if line.endswith(b"\n"):
            yield line.decode()


def _metric(value: str | None) -> float | None:
    number = float(value) if value else None
    if number is not None and not abs(number) < float("inf"):
        raise ValueError
    return number


def _csv_line(values: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(values)
    return buffer.getvalue()
