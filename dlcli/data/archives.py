"""Archives of public data sets, and their unpacking: only the expected files, and never more than their sizes allow."""

import gzip
import hashlib
import io
import tarfile
import zlib
from dataclasses import dataclass
from typing import Any

from dlcli.core.errors import DataError

_TAR_EXTRA = 1 << 20  # bytes that a .tar.gz may hold besides the expected files: headers, a readme


@dataclass(frozen=True)
class File:
    """A raw file: its name in the data folder, its size in bytes, and its sha256, empty if nobody has published it."""

    name: str
    size: int
    sha256: str = ""


@dataclass(frozen=True)
class Archive:
    """What a mirror serves, and the raw files in it: a .tar.gz, a .gz of one file, or that file itself.

    size: in bytes. urls: the mirrors, in the order in which they are tried. inside: the folder of the files within a
    .tar.gz, ending in a slash.
    """

    name: str
    size: int
    sha256: str
    urls: tuple[str, ...]
    files: tuple[File, ...]
    inside: str = ""


def unpack(content: bytes, archive: Archive) -> list[tuple[File, bytes]]:
    """The files of an archive with their bytes. Other members are ignored, and nothing is written to disk.

    DataError if a file is missing, is no regular file, or has the wrong size or sha256. Never decompresses more than
    the published sizes allow.
    """
    if archive.name.endswith(".tar.gz"):
        found = _from_tar(content, archive)
    elif archive.name.endswith(".gz"):
        found = {archive.files[0].name: _inflated(content, archive)}
    else:
        found = {archive.files[0].name: content}
    for file in archive.files:
        raw = found.get(file.name)
        if raw is None:
            raise DataError(f"{archive.name} is refused: it holds no {archive.inside}{file.name}")
        if len(raw) != file.size:
            raise DataError(f"{archive.name} is refused: {file.name} in it has {len(raw)} of {file.size} bytes")
        if file.sha256 and hashlib.sha256(raw).hexdigest() != file.sha256:
            raise DataError(f"{archive.name} is refused: {file.name} in it has not the sha256 {file.sha256}")
    return [(file, found[file.name]) for file in archive.files]


def _inflated(content: bytes, archive: Archive) -> bytes:
    limit = archive.files[0].size
    inflater = zlib.decompressobj(wbits=31)
    try:
        raw = inflater.decompress(content, limit + 1)
    except zlib.error as error:
        raise DataError(f"{archive.name} is refused: it is no gzip file ({error})") from None
    if len(raw) > limit:
        raise DataError(f"{archive.name} is refused: it holds more than {limit} bytes")
    if not inflater.eof:
        raise DataError(f"{archive.name} is refused: the compressed file ends early")
    return raw


def _from_tar(content: bytes, archive: Archive) -> dict[str, bytes]:
    """File name -> bytes. Only regular files are read, and no name in the archive is used as a path."""
    wanted = {archive.inside + file.name: file for file in archive.files}
    stream = Capped(gzip.GzipFile(fileobj=io.BytesIO(content)), sum(f.size for f in archive.files) + _TAR_EXTRA)
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
            for member in tar:
                file = wanted.get(member.name)
                if file is None:
                    continue
                reader = tar.extractfile(member) if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) else None
                if reader is None:
                    raise DataError(f"{archive.name} is refused: {member.name} in it is no regular file")
                found[file.name] = reader.read(file.size + 1)
                if len(found) == len(wanted):
                    break
    except TooLong:
        raise DataError(f"{archive.name} is refused: it holds more than {stream.limit} bytes") from None
    except (tarfile.TarError, zlib.error, OSError, EOFError, ValueError) as error:
        raise DataError(f"{archive.name} is refused: it is not a complete .tar.gz ({str(error).rstrip('.')})") from None
    return found


class TooLong(Exception):
    pass


class Capped:
    """A stream that raises TooLong once more than `limit` bytes have been read."""

    def __init__(self, stream: Any, limit: int) -> None:
        self.limit = self._left = limit
        self._stream = stream

    def read(self, size: int) -> bytes:
        content: bytes = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise TooLong
        return content
