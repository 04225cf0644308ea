"""A table that is larger than memory: read once into the user's cache, from which a column is loaded at a time."""

import contextlib
import hashlib
import json
import logging
import os
import time
import weakref
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from dlcli.core.cache import told
from dlcli.core.errors import DataError, RunError
from dlcli.core.files import write_bytes
from dlcli.core.reading import open_regular, parse_json, read_bytes
from dlcli.data.readers import arrow
from dlcli.data.readers.cells import Cells, Numbers, Table
from dlcli.data.readers.pieces import every_piece, first_bytes, sha256_unpacked
from dlcli.data.readers.separated import Format
from dlcli.data.readers.tables import are_numbers, read_by_arrow, refuse_other_formats
from dlcli.data.readers.text import no_file
from dlcli.data.tables.cache import Place
from dlcli.data.tables.columns import number_values
from dlcli.data.tables.spooled import Spool, Spooled

# Of the code that reads: other cells of the same file need another number.
_VERSION = 1

_MOST_KNOWN = 100_000_000  # bytes
_CLOCK_TICK = 20_000_000  # ns in which a file may change twice without another time

_log = logging.getLogger(__name__)


def cells_in(path: Path) -> int:
    """How many cells a table has; estimated by its start, but for a Parquet file."""
    if path.suffix.lower() == ".parquet":
        from dlcli.data.readers.parquet import parquet_cells

        return parquet_cells(path)
    try:
        start, packed = first_bytes(path)
        marks = max(start.count(mark) for mark in (b",", b";", b"\t", b"|")) + start.count(b"\n")
        return int(marks / max(packed, 1) * path.stat().st_size)
    except (OSError, EOFError, zlib.error):  # whoever reads it says what is wrong
        return 0


def stored_table(path: Path, how: Format, *, texts: Collection[str] = ()) -> Table:
    """As `read_table`, but the columns are loaded one by one, when they are asked for. ResourceError (exit 6) if the
    cache cannot be written."""
    refuse_other_formats(path)
    if not path.is_file():
        raise DataError(f"{path} {no_file(path)}")
    place = Place(path)
    found = _found(place, how, texts)
    if found is None:
        with place.alone():
            found = _found(place, how, texts)  # by the process that was waited for
            if found is None:
                _read(place, how, texts)
                found = _found(place, how, texts, sure=True)
    assert found is not None
    return found


def _name(sha256: str, how: Format, texts: Collection[str], numeric: Collection[str]) -> str:
    """Of the file with the columns. Of the texts that are needed, only those matter that would be numbers otherwise."""
    made_of = [_VERSION, sha256, _way(how), sorted(set(texts) & set(numeric))]
    return f"{hashlib.sha256(json.dumps(made_of).encode('utf-8', 'surrogatepass')).hexdigest()}.columns"


def _way(how: Format) -> str:
    """How a file is read."""
    return json.dumps([how.header, list(how.names), how.comment])


def _found(place: Place, how: Format, texts: Collection[str], *, sure: bool = False) -> Table | None:
    """From the cache; None if the file has changed, or its columns are not there or damaged. sure: the file was just
    read."""
    try:
        known = parse_json(read_bytes(place.known, most=_MOST_KNOWN))
        if known["version"] != _VERSION or (not sure and known["stamp"] != list(_stamp(place.file))):
            return None
        name = _name(known["sha256"], how, texts, known["numeric"][_way(how)])
    except (OSError, ValueError, KeyError, TypeError, RunError):  # also an unreadable record
        return None
    about = place.found(name)
    if about is None:
        return None
    with told(place.folder):
        columns = Spooled(_Descriptor(place.folder / name), about)
    return Table(
        place.file, columns, columns.lines, bool(about["decimal_comma"]), known["sha256"], tuple(about["notes"])
    )


class _Descriptor:
    """An open file, which is closed when nobody uses it any more."""

    def __init__(self, path: Path) -> None:
        self._number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        weakref.finalize(self, os.close, self._number)

    def fileno(self) -> int:
        return self._number


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes whenever the content of a file does: size, and the times of its last change in ns."""
    about = os.stat(path)
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _read(place: Place, how: Format, texts: Collection[str]) -> None:
    """Read the file, and add its columns to the cache. The caller holds the lock."""
    started, stamp = time.time_ns(), _stamp(place.file)
    _log.warning("reading %s, once; what it holds is kept in %s", place.file, place.folder)
    with place.unfinished() as file:
        spool = Spool(file, place)
        read = _spooled(place.file, how, texts, spool)
        about = spool.finish(read.lines, few=place.file.suffix.lower() == ".parquet")
        about |= {"decimal_comma": read.decimal_comma, "notes": read.notes}
        shape = [len(read.lines), len(about["names"])]
        place.commit(file, _name(read.sha256, how, texts, read.numeric), {"shape": shape, **about})
    # A file that has just been changed could change again without another time: it is read again the next time.
    fresh = max(stamp[1:]) >= started - _CLOCK_TICK or _stamp(place.file) != stamp
    record = {
        "version": _VERSION,
        "stamp": [] if fresh else list(stamp),
        "sha256": read.sha256,
        "numeric": _numeric(place, read.sha256) | {_way(how): read.numeric},
    }
    write_bytes(place.known, json.dumps(record).encode("utf-8", "surrogatepass"))


def _numeric(place: Place, sha256: str) -> dict[str, list[str]]:
    """Of the same file, read in other ways."""
    try:
        known = parse_json(read_bytes(place.known, most=_MOST_KNOWN))
        return dict(known["numeric"]) if (known["version"], known["sha256"]) == (_VERSION, sha256) else {}
    except (OSError, ValueError, KeyError, TypeError, RunError):
        return {}


class _Read(NamedTuple):
    """numeric: the columns that would be numbers if no texts were needed. The others: as in Table."""

    numeric: list[str]
    lines: np.ndarray[Any, Any]
    decimal_comma: bool
    sha256: str
    notes: list[str]


def _spooled(path: Path, how: Format, texts: Collection[str], spool: Spool) -> _Read:
    if path.suffix.lower() == ".parquet":
        from dlcli.data.readers.parquet import read_parquet_into

        _, numeric, read = read_parquet_into(path, spool, texts=texts)
        return _Read(numeric, read.lines, False, read.sha256, [])
    with contextlib.suppress(arrow.Irregular, EOFError, zlib.error), _opened(path) as file:
        found = read_by_arrow(path, file, how, spool, texts=texts, most=None) if arrow.is_there() else None
        if found is not None:
            return _Read(found.numeric, found.lines, found.decimal_comma, found.sha256, [])
    return _by_ourselves(path, how, texts, spool)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(open_regular(path, follow=True), "rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _by_ourselves(path: Path, how: Format, texts: Collection[str], spool: Spool) -> _Read:
    """As `_spooled`, for what pyarrow does not read as we do."""
    names: list[str] = []
    numeric: list[str] = []
    left: set[str] | None = None  # columns of numbers; at first those that the first piece shows
    while True:
        try:
            first, lines, shown = _written(path, how, spool, names, texts, left)
            numeric = numeric or shown
            break
        except _Otherwise as found:
            names, left, numeric = found.names, found.numbers, numeric or found.numeric
    if not len(lines):
        raise DataError(f"{path} has a header but no rows")
    return _Read(numeric, lines, first.decimal_comma, sha256_unpacked(path), list(first.notes))


class _Otherwise(Exception):
    """The columns are not what the first rows show: it must begin again, with these names and columns of numbers.
    numeric: see _Read."""

    def __init__(self, names: list[str], numbers: set[str], numeric: list[str]) -> None:
        self.names, self.numbers, self.numeric = names, numbers, numeric


def _written(
    path: Path, how: Format, spool: Spool, names: list[str], texts: Collection[str], numbers: set[str] | None
) -> tuple[Table, np.ndarray[Any, Any], list[str]]:
    """All columns, put into the spool; a piece of the file, the lines of all rows, and what _Read calls numeric. names,
    numbers: what is known of the columns, if anything."""
    first: Table | None = None
    numeric: list[str] = []
    lines: list[np.ndarray[Any, Any]] = []
    for piece in every_piece(path, how):
        if first is None:
            first, names = piece.rows(np.arange(0)), names or list(piece.columns)
            if numbers is None:
                numeric = [n for n in names if are_numbers(_values(piece, n), comma=piece.decimal_comma)]
                numbers = set(numeric) - set(texts)
            spool.begin(names, {place for place, name in enumerate(names) if name in numbers})
        assert numbers is not None
        if more := [name for name in piece.columns if name not in names]:
            raise _Otherwise(names + more, numbers, numeric)
        for place, name in enumerate(names):
            cells = piece.columns.get(name)
            if name in numbers:
                values = _numbers(cells, piece)
                if values is None:
                    raise _Otherwise(names, numbers - {name}, numeric)
                spool.add_numbers(place, values)
            elif cells is None:
                spool.add_texts(place, ("",), np.zeros(len(piece), dtype=np.int32))
            else:
                spool.add_texts(place, (*cells.values, ""), cells.codes)  # a missing cell has the last text
        spool.end_piece(len(piece))
        lines.append(piece.lines)
    assert first is not None  # a file without rows is an error
    return first, np.concatenate(lines), numeric


def _values(piece: Table, name: str) -> set[str]:
    return set(piece.columns[name].values) if name in piece.columns else set()


def _numbers(cells: Cells | Numbers | None, piece: Table) -> np.ndarray[Any, Any] | None:
    """float64 (rows,); None if a cell is no number."""
    if cells is None:
        return np.full(len(piece), np.nan)
    assert isinstance(cells, Cells)
    found = number_values(cells, comma=piece.decimal_comma)[:, 0]
    if np.isnan(found[:-1]).any():
        return None
    return np.take(found, cells.codes)
