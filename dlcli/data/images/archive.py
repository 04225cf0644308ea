"""images:FILE.zip, .tar or .tar.gz: an archive with the layout of a folder, read without unpacking it.

Names in an archive are never used as paths. What it unpacks to is limited, whatever it says of itself.
"""

import contextlib
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path
from typing import IO, Any

from dlcli.core.cache import user_cache
from dlcli.core.errors import DataError, ResourceError
from dlcli.core.reading import open_regular
from dlcli.data.archives import Capped, TooLong
from dlcli.data.images.contents import Items, Spans
from dlcli.data.images.layout import MOST_ENTRIES, Entry, Layout, tree
from dlcli.data.images.spans import DEFLATED, STORED, Member, Span

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")

# An archive that unpacks to more than this many times its size, and these bytes, is refused: images hardly shrink.
_MOST_TIMES = 100
_MOST_BEYOND = 100_000_000

_Files = dict[str, Span | None]  # name -> where it is; None for a link


def archive_layout(path: Path) -> Layout:
    """As `layout` of the folder in the archive. A single folder at its top may hold everything. DataError (exit 3) for
    a file that is no archive, is encrypted, or would unpack to too much."""
    files = _zipped(path) if path.suffix.lower() == ".zip" else _tarred(path)
    folders: dict[str, dict[str, Entry]] = {"": {}}
    for name, span in files.items():
        parts = name.split("/")
        if parts[0] == "__MACOSX":
            continue
        for k, part in enumerate(parts):
            inside = "/".join(parts[:k])
            kind = "folder" if k + 1 < len(parts) else "link" if span is None else "file"
            folders.setdefault(inside, {}).setdefault(part, Entry(part, kind))
    top = ""
    while len(folders[top]) == 1 and (only := next(iter(folders[top].values()))).kind == "folder":
        top = f"{top}/{only.name}".lstrip("/")
    start = f"{top}/" if top else ""
    spans = {name.removeprefix(start): span for name, span in files.items() if span and name.startswith(start)}
    packed = path.name.lower().endswith(("gz",))
    contents = _Packed(path, spans) if packed else Spans(path, spans)

    def entries(folder: str) -> Sequence[Entry]:
        return list(folders.get(f"{start}{folder}".rstrip("/"), {}).values())

    return tree(path, entries, contents)


def _zipped(path: Path) -> _Files:
    found: _Files = {}
    with _told(path), open(open_regular(path, follow=True), "rb") as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & 1:
                raise DataError(f"{path} is encrypted: {info.filename} cannot be read without a password; unpack it")
            if info.compress_type not in (STORED, DEFLATED):
                raise DataError(f"{path} is packed by method {info.compress_type}, which is not read: unpack it")
            link = info.external_attr >> 28 == 0o12
            member = Member(info.compress_type, info.file_size, info.CRC)
            span = Span(str(path), info.header_offset, info.compress_size, member)
            _add(found, info.filename, None if link else span, path)
        _check_size(path, sum(span.member.size for span in found.values() if span and span.member))
    return found


def _tarred(path: Path) -> _Files:
    found: _Files = {}
    with _told(path), _tar(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if member.isdir():
                continue
            plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
            span = Span(str(path), member.offset_data, member.size) if plain and not member.issparse() else None
            _add(found, member.name, span, path)
    return found


def _add(found: _Files, name: str, span: Span | None, path: Path) -> None:
    name = name.removeprefix("./")
    if name.startswith("/") or ".." in name.split("/") or "\\" in name:
        raise DataError(f"{path} is refused: {name!r} in it leads out of the archive")
    if name in found:
        raise DataError(f"{path} is refused: it holds {name!r} twice")
    found[name] = span
    if len(found) > MOST_ENTRIES:
        raise DataError(f"{path} is refused: it holds more than {MOST_ENTRIES:,} files")


def _limit(path: Path) -> int:
    return _MOST_TIMES * path.stat().st_size + _MOST_BEYOND


def _check_size(path: Path, unpacked: int) -> None:
    if unpacked > _limit(path):
        size = f"{unpacked / 1e9:,.1f} GB"
        raise DataError(f"{path} is refused: it would unpack to {size}, over {_MOST_TIMES} times its size")


@contextlib.contextmanager
def _tar(path: Path) -> Iterator[Any]:
    """The bytes of a tar file, unpacked if it is a .tar.gz."""
    with open(open_regular(path, follow=True), "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            yield file
            return
        yield Capped(GzipFile(fileobj=file), _limit(path))


@dataclass(frozen=True)
class _Packed(Spans):
    """The members of a .tar.gz, in which no place can be read before all that lies before it. It is unpacked to a plain
    .tar in the cache for as long as it is open; spans: where the members are in that."""

    in_turn = True

    @contextlib.contextmanager
    def opened(self) -> Iterator[Items]:
        folder = user_cache() / "images"
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".tmp-tar-") as plain:
            with _told(self.path), _tar(self.path) as stream:
                _copy(stream, plain, folder)

            def items(names: Sequence[str]) -> Iterable[Span]:
                return [self.spans[name]._replace(path=plain.name) for name in names]

            yield items


def _copy(stream: Any, file: IO[bytes], folder: Path) -> None:
    while piece := stream.read(1 << 20):
        try:
            file.write(piece)
        except OSError as error:
            raise ResourceError(f"cannot write {folder}: {error.strerror}; unpack the .tar.gz elsewhere") from None
    file.flush()


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """DataError (exit 3) for an archive that cannot be read."""
    try:
        yield
    except TooLong:
        raise DataError(f"{path} is refused: it unpacks to over {_MOST_TIMES} times its size") from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} is no whole archive: {str(error).rstrip('.') or type(error).__name__}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
