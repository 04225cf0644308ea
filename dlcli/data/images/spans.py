"""Where the bytes of an image are: a file, or a part of an archive, which is read without unpacking the rest."""

import errno
import struct
import zlib
from typing import BinaryIO, NamedTuple

STORED, DEFLATED = 0, 8  # the methods of a .zip that are read

_HEADER = struct.Struct("<4s22xHH")  # of a member of a .zip: its mark, and the lengths of its name and extra field


class Member(NamedTuple):
    """Of a .zip. method: STORED or DEFLATED. size: in bytes, once it is unpacked."""

    method: int
    size: int
    crc: int


class Span(NamedTuple):
    """Bytes of a file: all of them, or `size` from `start` on.

    member: of a .zip; `start` is then where its header begins.
    """

    path: str
    start: int = 0
    size: int = -1
    member: Member | None = None


def read_span(file: BinaryIO, span: Span, *, most: int) -> bytes:
    """At most `most` bytes. OSError if they are not as the archive says."""
    file.seek(span.start)
    if span.size < 0:
        return file.read(most)
    if span.member is None:
        return _whole(file, span.size, most)
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(b"PK\3\4"):
        raise _damaged()
    _, name, extra = _HEADER.unpack(header)
    file.seek(name + extra, 1)
    content = _whole(file, span.size, most)
    if span.member.method == DEFLATED:
        try:
            content = zlib.decompressobj(-15).decompress(content, min(span.member.size + 1, most))
        except zlib.error:
            raise _damaged() from None
    if len(content) < most and (len(content) != span.member.size or zlib.crc32(content) != span.member.crc):
        raise _damaged()
    return content


def _whole(file: BinaryIO, size: int, most: int) -> bytes:
    content = file.read(min(size, most))
    if len(content) < min(size, most):
        raise _damaged()
    return content


def _damaged() -> OSError:
    return OSError(errno.EINVAL, "the archive is damaged there")
