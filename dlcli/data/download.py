"""Files of public data sets: fetched over https, held against their sha256, unpacked by our own hands.

What arrives stays in memory until it is known to be right; only then is it written, by the commit protocol of
`files`. So no half or wrong file ever has a final name, however the process ends. Of several processes that need
the same files one downloads; the others wait for it. Progress goes to the log "dlcli.data.download".
"""

import contextlib
import fcntl
import gzip
import hashlib
import http.client
import io
import logging
import os
import ssl
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli.core.errors import DataError, ResourceError
from dlcli.core.files import write_bytes
from dlcli.core.version import __version__

SHA256SUMS = "SHA256SUMS"

_TIMEOUT = 10.0  # seconds without a connection, or without a byte
_PAUSES = (0.0, 1.0, 4.0)  # seconds before each round over the mirrors that may still work
_NEWS_EVERY = 10.0  # seconds between two lines about one download
_TAR_EXTRA = 1 << 20  # bytes that a .tar.gz may hold beside the files that are wanted: headers, a readme

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class File:
    """A raw file: its name in the data folder, its size, and its sha256 where somebody has published it."""

    name: str
    size: int
    sha256: str = ""


@dataclass(frozen=True)
class Archive:
    """What a mirror hands out, and the raw files in it: a .tar.gz, a .gz of one file, or that file itself.

    urls: where it lies, tried in this order. inside: the folder of the files within a .tar.gz, with a slash.
    """

    name: str
    size: int
    sha256: str
    urls: tuple[str, ...]
    files: tuple[File, ...]
    inside: str = ""


class _Refused(Exception):
    """A mirror's answer that will be no better when it is asked again."""


def fetch(title: str, archives: Sequence[Archive], folder: Path) -> None:
    """Put the raw files of `archives` that are missing into `folder`.

    An archive that lies in `folder` already is unpacked; else it is downloaded. DataError (exit 3) when it cannot
    be had says which archives to put there by hand.
    """
    if not _missing(archives, folder):
        return
    for file in (file for archive in archives for file in archive.files):
        path = folder / file.name
        if path.is_file() and path.stat().st_size != file.size:
            raise DataError(
                f"{folder} holds not all files of {title}, and {file.name} there is not that of {title}: delete it to "
                "download all, or add what is missing"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot make the data folder {folder}: {error.strerror}; choose --data-dir") from None
    with _alone(folder, title) as alone:
        if alone:
            for leftover in folder.glob(".tmp-*"):  # of a process that was killed
                leftover.unlink(missing_ok=True)
        for archive in _missing(archives, folder):
            content = _by_hand(folder / archive.name, archive)
            if content is None:
                content = _downloaded(title, _missing(archives, folder), folder)
            for file, raw in unpack(content, archive):
                if not file.sha256:
                    _record(folder, file.name, hashlib.sha256(raw).hexdigest())
                write_bytes(folder / file.name, raw)


def verify(path: Path, content: Any, file: File, title: str) -> None:
    """Raise DataError when `content`, which was read from `path`, is not what it should be.

    It is held against SHA256SUMS beside it if that names the file, else against the published sha256. A file of
    another size than the published one is somebody's own data in this layout, and nothing is known of it.
    """
    recorded = _recorded(path.parent).get(path.name)
    expected = recorded or (file.sha256 if len(content) == file.size else "")
    if not expected or hashlib.sha256(content).hexdigest() == expected:
        return
    if recorded:
        raise DataError(
            f"{path} is damaged: its sha256 is not the one in {SHA256SUMS} beside it; delete it to download it again, "
            "or correct that line"
        )
    raise DataError(
        f"{path} is damaged: its sha256 is not that of {title}; delete it to download it again, or, if it is data of "
        f"your own, name it in a file {SHA256SUMS} beside it, as sha256sum writes it"
    )


def unpack(content: bytes, archive: Archive) -> list[tuple[File, bytes]]:
    """The wanted files of an archive, with their bytes; nothing else of it is looked at, nothing is written.

    DataError when one is missing, is no regular file, or is not what it should be. No more is inflated than
    the sizes promise.
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


def _missing(archives: Sequence[Archive], folder: Path) -> list[Archive]:
    return [a for a in archives if not all((folder / file.name).is_file() for file in a.files)]


@contextlib.contextmanager
def _alone(folder: Path, title: str) -> Iterator[bool]:
    """Hold the lock of `folder`, waiting for it; False on a file system that has no locks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ResourceError(f"cannot open the data folder {folder}: {error.strerror}; choose --data-dir") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            _log.warning("waiting for another process that downloads %s to %s", title, folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            alone = True
        except OSError:  # ENOLCK, ENOTSUP, EBADF: each process then downloads for itself, which is slow but right
            alone = False
        yield alone
    finally:
        os.close(descriptor)


# From the network


def _downloaded(title: str, missing: Sequence[Archive], folder: Path) -> bytes:
    """The first of the missing archives, from the first mirror that hands out the right bytes."""
    archive = missing[0]
    reasons: dict[str, str] = {}
    mirrors = list(archive.urls)
    for pause in _PAUSES:
        if not mirrors:
            break
        time.sleep(pause)
        for url in mirrors.copy():
            try:
                return _get(url, archive)
            except _Refused as error:
                reasons[url] = str(error)
                mirrors.remove(url)
            except (OSError, http.client.HTTPException) as error:
                reasons[url] = _in_words(error)
    told = "; ".join(f"{url}: {reason}" for url, reason in reasons.items())
    wanted = ", ".join(f"{a.name} (sha256 {a.sha256})" for a in missing)
    raise DataError(
        f"{title} is not in the data folder and cannot be downloaded ({told}): put {wanted} into {folder}, "
        "or choose --data-dir"
    )


def _get(url: str, archive: Archive) -> bytes:
    """What lies at `url`, if it has the archive's size and sha256. _Refused when it has not, or will never come;
    OSError or HTTPException when it may come another time."""
    _log.warning("downloading %s (%s)", url, _megabytes(archive.size))
    request = urllib.request.Request(url, headers={"User-Agent": f"dlcli/{__version__}"})
    try:
        response = _opener().open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (408, 429) or error.code >= 500:
            raise OSError(f"HTTP status {error.code}") from None
        raise _Refused(f"HTTP status {error.code}") from None
    except urllib.error.URLError as error:  # no such host, no route, refused, no trusted certificate: told at once
        raise _Refused(_in_words(error.reason)) from None
    with response:
        length = response.headers.get("Content-Length")
        if length is not None and length != str(archive.size):
            kind = response.headers.get_content_type()
            raise _Refused(f"it sends {length} bytes of {kind} instead of {archive.size}")
        content, news = bytearray(), time.monotonic()
        while len(content) <= archive.size and (chunk := response.read1(1 << 16)):
            content += chunk
            if time.monotonic() - news >= _NEWS_EVERY:
                news = time.monotonic()
                _log.warning("%s: %s of %s", archive.name, _megabytes(len(content)), _megabytes(archive.size))
    if len(content) > archive.size:
        raise _Refused(f"it sends more than {archive.size} bytes")
    if len(content) < archive.size:
        raise OSError(f"it sent {len(content)} of {archive.size} bytes")
    digest = hashlib.sha256(content).hexdigest()
    if digest != archive.sha256:
        raise _Refused(f"what it sends has the sha256 {digest}")
    return bytes(content)


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith("https://"):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Opens https addresses and nothing else, through the proxy of the environment if there is one."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _HttpsRedirects(),
    ):
        opener.add_handler(handler)
    return opener


def _in_words(error: object) -> str:
    """What a failure says of itself, as the middle of a sentence."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted, {error.verify_message}"
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return " ".join(words.split()).rstrip(".")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


# From an archive


def _by_hand(path: Path, archive: Archive) -> bytes | None:
    """The archive, where somebody has put it into the data folder."""
    if not path.is_file():
        return None
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size == archive.size else b""
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if size != archive.size:
        raise DataError(f"{path} is damaged: it has {size} bytes instead of {archive.size}; delete it")
    if hashlib.sha256(content).hexdigest() != archive.sha256:
        raise DataError(f"{path} is damaged: its sha256 is not {archive.sha256}; delete it")
    return content


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
    """The wanted members by name. Only regular files are taken, and no name in the archive becomes a path."""
    wanted = {archive.inside + file.name: file for file in archive.files}
    stream = _Capped(gzip.GzipFile(fileobj=io.BytesIO(content)), sum(f.size for f in archive.files) + _TAR_EXTRA)
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
    except _TooLong:
        raise DataError(f"{archive.name} is refused: it holds more than {stream.limit} bytes") from None
    except (tarfile.TarError, zlib.error, OSError, EOFError, ValueError) as error:
        raise DataError(f"{archive.name} is refused: it is no whole .tar.gz ({_in_words(error)})") from None
    return found


class _TooLong(Exception):
    pass


class _Capped:
    """A stream that gives out `limit` bytes at most."""

    def __init__(self, stream: Any, limit: int) -> None:
        self.limit = self._left = limit
        self._stream = stream

    def read(self, size: int) -> bytes:
        content: bytes = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise _TooLong
        return content


# SHA256SUMS


def _recorded(folder: Path) -> dict[str, str]:
    """File name -> sha256, from SHA256SUMS as sha256sum writes it; empty when there is none."""
    try:
        lines = (folder / SHA256SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"{folder / SHA256SUMS} cannot be read: {error.strerror}") from None
    pairs = (line.split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2)
    return {name.removeprefix("*"): digest.lower() for digest, name in pairs}


def _record(folder: Path, name: str, digest: str) -> None:
    sums = _recorded(folder) | {name: digest}
    write_bytes(folder / SHA256SUMS, "".join(f"{d}  {n}\n" for n, d in sorted(sums.items())).encode())
