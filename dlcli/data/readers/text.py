"""A text file or a stream -> text."""

import contextlib
import errno
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from dlcli.core.errors import DataError, did_you_mean
from dlcli.core.reading import open_regular, read_bytes

STDIN = Path("/dev/stdin")

MOST_BYTES = 1_000_000_000

_PIECE = 1 << 20  # bytes
_LONGEST_LINE = 100_000_000  # bytes

# Characters that no text has: all below the blank but tab, line and page breaks, and escape.
_CONTROL = re.compile("[\\x00-\\x08\\x0e-\\x1a\\x1c-\\x1f]")
_NUL = re.compile("\\x00")


def is_stream(path: Path) -> bool:
    """Whether `path` is standard input, or what a shell substitutes for `<(command)`."""
    return path == STDIN or re.fullmatch(r"/dev/fd/[0-9]+", str(path)) is not None


def read_text(path: Path, *, streams: bool = False) -> str:
    """The content of a UTF-8 text file, without a byte order mark and with lines ending in \\n; DataError if it is not
    UTF-8 text or cannot be read.

    streams: whether `path` may be a stream, which can be read only once.
    """
    content = read_content(path, streams=streams)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is not UTF-8 text but UTF-16: save it as UTF-8")
    if (zero := content.find(0)) >= 0:
        raise DataError(f"{path}:{_line(content, zero)} is not text: it holds a NUL character")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place, byte = error.start, content[error.start]
        raise DataError(
            f"{path}:{_line(content, place)} is not UTF-8 text: byte {place} is {byte:#04x}; save the file as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_any_text(path: Path, *, streams: bool = False, control: bool = False) -> tuple[str, bool]:
    """As `read_text`, but UTF-16 with a byte order mark is read too, and what is neither as latin-1; and whether it was
    not. DataError if it is no text.

    control: whether UTF-8 text may hold control characters, but for NUL, as `read_text` allows it.
    """
    content = read_content(path, streams=streams)
    marked = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text, known = content.decode("utf-16" if marked else "utf-8-sig"), True
    except UnicodeDecodeError:
        text, known = content.decode("latin-1"), False
    found = (_NUL if control and known and not marked else _CONTROL).search(text)
    if found is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise DataError(f"{path}:{line} is not text: it holds the control character {ord(found[0]):#04x}")
    return text.replace("\r\n", "\n").replace("\r", "\n"), known


def read_content(path: Path, *, streams: bool = False) -> bytes:
    """The bytes of a regular file or, with `streams`, of a stream; DataError if it cannot be read."""
    try:
        if streams and is_stream(path):
            return _drained(path)
        if path.is_file():
            return read_bytes(path, most=MOST_BYTES, follow=True)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    raise DataError(f"{path} {no_file(path)}")


def text_pieces(path: Path) -> Iterator[str]:
    """As `read_text` of a file or a stream, some lines at a time; the last one may have no end."""
    opened = False
    try:
        with _opened(path) as file:
            opened = True
            yield from _decoded(path, file)
    except OSError as error:
        if not opened and not path.is_file() and not is_stream(path):
            raise DataError(f"{path} {no_file(path)}") from None
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if path == STDIN:
        if sys.stdin is None:
            raise OSError(errno.EBADF, "it is closed")
        yield cast(BinaryIO, sys.stdin.buffer)
        return
    with path.open("rb") if is_stream(path) else open(open_regular(path, follow=True), "rb") as file:
        yield file


def _decoded(path: Path, file: BinaryIO) -> Iterator[str]:
    rest, before, lines = b"", 0, 0
    while True:
        piece = file.read(_PIECE)
        content = rest + piece
        cut = 1 + max(content.rfind(b"\n"), content.rfind(b"\r", 0, -1)) if piece else len(content)
        content, rest = content[:cut], content[cut:]
        if len(rest) > _LONGEST_LINE:
            raise DataError(f"{path}:{lines + 1} has more than {_LONGEST_LINE:,} bytes: it is no table")
        if content:
            if not before and content.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DataError(f"{path} is not UTF-8 text but UTF-16: save it as UTF-8")
            if (zero := content.find(0)) >= 0:
                raise DataError(f"{path}:{lines + _line(content, zero)} is not text: it holds a NUL character")
            try:
                text = content.decode("utf-8" if before else "utf-8-sig")
            except UnicodeDecodeError as error:
                place, byte = error.start, content[error.start]
                raise DataError(
                    f"{path}:{lines + _line(content, place)} is not UTF-8 text: byte {before + place} is {byte:#04x}; "
                    "save the file as UTF-8"
                ) from None
            yield text.replace("\r\n", "\n").replace("\r", "\n")
            before, lines = before + len(content), lines + content.count(b"\n")
        if not piece:
            return


def _drained(path: Path) -> bytes:
    """All bytes of a stream."""
    if path != STDIN:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    elif sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    else:
        content = sys.stdin.buffer.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MOST_BYTES:,} bytes")
    return content


def no_file(path: Path) -> str:
    """Why `path` is not a file, as the end of a sentence."""
    if path.is_dir():
        return "is a folder: name a file in it"
    if path.exists():
        return "is no regular file"
    near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
    return f"does not exist: {near}" if near.startswith("did") else "does not exist"


def _line(content: bytes, place: int) -> int:
    return content.count(b"\n", 0, place) + 1
