"""A table in pieces of rows, for files that are larger than memory, and for streams."""

import codecs
import contextlib
import gzip
import hashlib
import io
import sys
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from dlcli.core.errors import DataError
from dlcli.core.reading import open_regular
from dlcli.data.readers.cells import Table
from dlcli.data.readers.json_lines import is_json_lines, json_pieces
from dlcli.data.readers.separated import Format, numbered, pieces_of, sniffed
from dlcli.data.readers.tables import parsed, read_table
from dlcli.data.readers.text import STDIN, is_stream

_LARGE = 4_000_000  # bytes: a smaller file is one piece
_START = 1 << 20  # bytes by which the format is recognised
_LONGEST_LINE = 10_000_000  # characters


def read_pieces(path: Path, how: Format, *, texts: Collection[str] = ()) -> Iterator[Table]:
    """The table in `path`, which may be a stream, in one or more pieces. See `read_table`.

    A column that a piece of JSON lines lacks is missing there, if a piece before it has it. The sha256 is not that of
    the file.
    """
    if path.suffix.lower() == ".parquet":
        from dlcli.data.readers.parquet import parquet_pieces

        yield from parquet_pieces(path, texts=texts)
        return
    if not is_stream(path) and not (path.is_file() and path.stat().st_size > _LARGE):
        yield read_table(path, how, texts=texts)
        return
    yield from every_piece(path, how)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of the file, unpacked."""
    if path == STDIN and sys.stdin is None:
        raise DataError(f"{path} cannot be read: it is closed")
    with contextlib.ExitStack() as stack:
        if path == STDIN:
            file = cast(BinaryIO, sys.stdin.buffer)
        else:
            file = stack.enter_context(
                path.open("rb") if is_stream(path) else open(open_regular(path, follow=True), "rb")
            )
        start = file.read(2)
        whole = io.BufferedReader(_Chained(start, file), _START)
        yield cast(BinaryIO, gzip.GzipFile(fileobj=whole) if start == b"\x1f\x8b" else whole)


def every_piece(path: Path, how: Format) -> Iterator[Table]:
    """As `read_pieces`, of a file of text, which may be small."""
    try:
        with _opened(path) as file:
            yield from _pieces(path, file, how)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def first_bytes(path: Path) -> tuple[bytes, int]:
    """Those of the content of a file, unpacked if it is a .gz file, and how many bytes of the file they take, about."""
    with open(open_regular(path, follow=True), "rb") as raw:
        start = raw.read(_START)
    if start.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start, 64 * _START), len(start)
    return start, len(start)


def sha256_unpacked(path: Path) -> str:
    """Of the content of a file, unpacked if it is a .gz file."""
    digest = hashlib.sha256()
    with _opened(path) as file:
        while piece := file.read(_START):
            digest.update(piece)
    return digest.hexdigest()


def _pieces(path: Path, file: BinaryIO, how: Format) -> Iterator[Table]:
    start = file.read(_START)
    encoding = _encoding(start)
    text = codecs.getincrementaldecoder(encoding)().decode(start)
    if len(start) < _START:
        yield parsed(path, start, how)
        return
    notes = (f"{path.name} is read as latin-1, since it is not UTF-8",) if encoding == "latin-1" else ()
    stream = io.TextIOWrapper(io.BufferedReader(_Chained(start, file), _START), encoding, newline="")
    lines = _lines(path, stream)
    if is_json_lines(path, text):
        for columns, numbers in json_pieces(path, lines):
            yield Table(path, columns, numbers, False, "", notes)
        return
    below, above = how.below_comments(text)
    for _ in range(above):
        next(lines)
    delimiter = sniffed(below)
    for columns, numbers in pieces_of(path, numbered(path, lines, delimiter, above + 1), how):
        yield Table(path, columns, numbers, delimiter == ";", "", notes)


def _encoding(start: bytes) -> str:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"


def _lines(path: Path, stream: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    try:
        while line := stream.readline(_LONGEST_LINE):
            number += 1
            if len(line) == _LONGEST_LINE:
                raise DataError(f"{path}:{number} has more than {_LONGEST_LINE:,} characters: it is no table")
            if "\0" in line:
                raise DataError(f"{path}:{number} is not text: it holds a NUL character")
            yield line
    except UnicodeDecodeError:
        raise DataError(f"{path}: below line {number:,} it is not {stream.encoding} text: save it as UTF-8") from None


class _Chained(io.RawIOBase):
    """Bytes that were read already, and the rest of the file, as soon as it comes."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        self._start, self._rest = start, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._start[: len(buffer)] or cast(io.BufferedReader, self._rest).read1(len(buffer))
        self._start = self._start[len(buffer) :]
        buffer[: len(found)] = found
        return len(found)
