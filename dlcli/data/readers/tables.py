"""A file with a table (CSV and its kin, JSON lines, Parquet; plain or .gz) -> columns. Every error names its line.

Values are text here, or numbers of a large file; what they mean is decided in columns.py, for a whole column.
"""

import codecs
import gzip
import hashlib
import io
import zlib
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from dlcli.core.errors import DataError, ResourceError
from dlcli.core.reading import open_regular
from dlcli.data.readers import arrow
from dlcli.data.readers.cells import MANY, MISSING, Table, number
from dlcli.data.readers.json_lines import is_json_lines, whole_json_lines
from dlcli.data.readers.separated import Format, named, numbered, read_separated, sniffed
from dlcli.data.readers.text import MOST_BYTES, read_content

_PIECE = 1 << 20  # bytes
# A file of more bytes is read by pyarrow, if it is there.
_LARGE = 4_000_000

_PLAIN = Format()


def read_table(path: Path, how: Format = _PLAIN, *, texts: Collection[str] = ()) -> Table:
    """The table in `path`. DataError (exit 3) for a file that is none, with the line.

    texts: columns whose texts are needed as they are.
    """
    refuse_other_formats(path)
    if path.suffix.lower() == ".parquet":
        from dlcli.data.readers.parquet import read_parquet

        return read_parquet(path, texts=texts)
    large = _large(path, how, texts) if path.is_file() else None
    if large is not None:
        return large
    return parsed(path, read_content(path), how)


def refuse_other_formats(path: Path) -> None:
    """DataError for a file whose name says that it is of a format that is not read."""
    if path.suffix.lower() in (".feather", ".xlsx", ".xls", ".json", ".h5", ".pkl"):
        raise DataError(f"{path} is not read: save the table as .csv, .tsv, .parquet or .jsonl (one object per line)")


def parsed(path: Path, content: bytes, how: Format) -> Table:
    """The table that is in these bytes of `path`."""
    content = _inflated(path, content)
    text, notes = _decoded(path, content)
    comma = False
    if is_json_lines(path, text):
        found = whole_json_lines(path, text)
    else:
        text, above = how.below_comments(text)
        delimiter = sniffed(text)
        comma = delimiter == ";"
        found = read_separated(path, text, delimiter, how, first_line=above + 1)
    columns, lines = found
    if not len(lines):
        raise DataError(f"{path} has a header but no rows")
    return Table(path, columns, lines, comma, hashlib.sha256(content).hexdigest(), notes)


def _large(path: Path, how: Format, texts: Collection[str]) -> Table | None:
    """The table, read by pyarrow; None for a small file, and for one that must be read otherwise."""
    try:
        size = path.stat().st_size
        if size <= _LARGE:
            return None
        if not arrow.is_there():
            if size > MOST_BYTES:
                raise ResourceError(f"{path} is too large to be read without pyarrow: pip install 'dlcli[tables]'")
            return None
        gathered = arrow.Gathered()
        with open(open_regular(path, follow=True), "rb") as file:
            read = read_by_arrow(path, file, how, gathered, texts=texts, most=MOST_BYTES)
        if read is None:
            return None
        columns = dict(zip(read.names, gathered.columns(), strict=True))
        return Table(path, columns, read.lines, read.decimal_comma, read.sha256)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (arrow.Irregular, EOFError, zlib.error) as error:
        if size > MOST_BYTES:
            raise DataError(
                f"{path} has more than {MOST_BYTES:,} bytes, and cannot be read in pieces: {error}"
            ) from None
        return None


class ByArrow(NamedTuple):
    """names: of the columns. numeric: of those whose first values are numbers, with those of `texts`. The others: as in
    Table."""

    names: list[str]
    numeric: list[str]
    lines: np.ndarray[Any, Any]
    decimal_comma: bool
    sha256: str


def read_by_arrow(
    path: Path, raw: BinaryIO, how: Format, into: arrow.Sink, *, texts: Collection[str], most: int | None
) -> ByArrow | None:
    """The columns of an open CSV file, into a Sink; None or Irregular if it must be read otherwise.

    texts: columns whose texts are needed. most: bytes of a .gz file, unpacked.
    """
    packed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
    start = file.read(_PIECE)
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(start)
    except UnicodeDecodeError:
        return None
    if is_json_lines(path, text):
        return None
    text, above = how.below_comments(text)
    delimiter = sniffed(text)
    try:
        rows = list(
            islice(numbered(path, io.StringIO(text[: text.rfind("\n") + 1], newline=""), delimiter, above + 1), 5_000)
        )
    except DataError:  # a cell may be cut
        return None
    if len(rows) < 2 or rows[0][0] != above + 1 or len(rows[0][1]) < 2:
        return None  # empty lines at the top, or a file of one column, in which they may be cells
    if how.header == "first" and any("\n" in cell for cell in rows[0][1]):
        return None
    names = named(path, *rows[0], how)
    below = rows if how.header == "none" else rows[1:]
    if any(len(cells) != len(names) for _, cells in below):
        return None
    columns = zip(*(cells for _, cells in below), strict=True)
    numeric = [
        name
        for name, cells in zip(names, columns, strict=True)
        if are_numbers({cell.strip() for cell in cells} - MISSING, comma=delimiter == ";")
    ]
    numbers = {place for place, name in enumerate(names) if name in numeric and name not in texts}
    found = arrow.read_columns(
        file, into, delimiter=delimiter, names=names, skip=above + (how.header == "first"), numbers=numbers,
        most=most if packed else None,
    )  # fmt: skip
    return ByArrow(names, numeric, found.lines, delimiter == ";", found.sha256)


def are_numbers(values: set[str], *, comma: bool) -> bool:
    """Whether they are many, and numbers with a comma or, without `comma`, a point."""
    return len(values) > MANY and all(
        number(text, comma=comma) is not None and not (comma and "." in text) for text in values
    )


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
