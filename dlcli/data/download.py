"""Files of public data sets: downloaded over https and verified by their sha256.

Received bytes are appended to a partial file, which the next attempt continues (HTTP Range). The raw files are written,
by the commit protocol of `files`, only once the archive is complete and its sha256 is right. So an incomplete or wrong
file never has its final name, however the process ends. If several processes need the same files, one downloads and the
others wait. Progress goes to the log "dlcli.data.download".
"""

import contextlib
import hashlib
import http.client
import logging
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dlcli.core.errors import DataError, ResourceError
from dlcli.core.files import held, write_bytes
from dlcli.core.version import __version__
from dlcli.data.archives import Archive, File, unpack

SHA256SUMS = "SHA256SUMS"

_STALLED = 30.0  # seconds without a connection, or without a byte
_PAUSES = (0.0, 1.0, 4.0)  # seconds before each round over the mirrors that have not refused
_NEWS_EVERY = 10.0  # seconds between two progress lines

_log = logging.getLogger(__name__)


class _Refused(Exception):
    """A mirror failed in a way that another attempt would not change."""


def fetch(title: str, archives: Sequence[Archive], folder: Path) -> None:
    """Put the raw files of `archives` that are missing into `folder`.

    An archive that is in `folder` already is unpacked; otherwise it is downloaded. If that fails, DataError (exit 3)
    names the archives to put there by hand.
    """
    if not _missing(archives, folder):
        return
    for file in (file for archive in archives for file in archive.files):
        path = folder / file.name
        if path.is_file() and path.stat().st_size != file.size:
            raise DataError(
                f"{folder} does not hold all files of {title}, and {file.name} there is not the one of {title}: "
                "delete it to download all, or add what is missing"
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
            # Without locks another process may be downloading too, so each has a partial file of its own.
            part = folder / (f".part-{archive.name}" if alone else f".part-{os.getpid()}-{archive.name}")
            content = _by_hand(folder / archive.name, archive)
            if content is None:
                content = _downloaded(title, _missing(archives, folder), folder, part)
            for file, raw in unpack(content, archive):
                if not file.sha256:
                    _record(folder, file.name, hashlib.sha256(raw).hexdigest())
                write_bytes(folder / file.name, raw)
            part.unlink(missing_ok=True)


def verify(path: Path, content: Any, file: File, title: str) -> None:
    """Raise DataError if the sha256 of `content`, the bytes read from `path`, is wrong.

    The expected value is the one in SHA256SUMS in the same folder if that names the file, otherwise the published one.
    A file whose size differs from the published one is the user's own data in this layout, and is not checked.
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


def _missing(archives: Sequence[Archive], folder: Path) -> list[Archive]:
    return [a for a in archives if not all((folder / file.name).is_file() for file in a.files)]


@contextlib.contextmanager
def _alone(folder: Path, title: str) -> Iterator[bool]:
    """Wait for the lock of `folder` and hold it; False on a file system without locks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ResourceError(f"cannot open the data folder {folder}: {error.strerror}; choose --data-dir") from None

    def waiting() -> None:
        _log.warning("waiting for another process that downloads %s to %s", title, folder)

    with held(descriptor, waiting=waiting) as alone:  # without locks each process downloads for itself
        yield alone


# From the network


def _downloaded(title: str, missing: Sequence[Archive], folder: Path, part: Path) -> bytes:
    """The bytes of the first missing archive, from the first mirror that works. part: the partial file."""
    archive = missing[0]
    reasons: dict[str, str] = {}
    mirrors = list(archive.urls)
    for pause in _PAUSES:
        if not mirrors:
            break
        time.sleep(pause)
        for url in mirrors.copy():
            try:
                return _get(url, archive, part)
            except _Refused as error:
                reasons[url] = str(error)
                mirrors.remove(url)
            except (OSError, http.client.HTTPException) as error:
                reasons[url] = _in_words(error)
    told = "; ".join(f"{url}: {reason}" for url, reason in reasons.items())
    wanted = ", ".join(f"{a.name} (sha256 {a.sha256})" for a in missing)
    arrived = _arrived(part)
    again = f"try again, which continues after the {arrived} bytes that have arrived, or " if arrived else ""
    raise DataError(
        f"{title} is not in the data folder and cannot be downloaded ({told}): {again}put {wanted} into {folder}, "
        "or choose --data-dir"
    )


def _get(url: str, archive: Archive, part: Path) -> bytes:
    """The bytes at `url`, if their size and sha256 are those of the archive. part: the partial file to continue.

    _Refused if the bytes are wrong, unavailable or stalled; OSError or HTTPException if another attempt may succeed.
    """
    before = _arrived(part)
    if before < archive.size:
        try:
            _gather(url, archive, part)
        except TimeoutError:
            raise _Refused(f"no byte came for {_STALLED:g} s") from None
    content = part.read_bytes() if part.exists() else b""
    if len(content) < archive.size:
        raise OSError(f"it sent {len(content)} of {archive.size} bytes")
    digest = hashlib.sha256(content).hexdigest()
    if digest == archive.sha256:
        return content
    part.unlink()
    if before:
        raise OSError("what it sends does not continue what had arrived before")
    if len(content) > archive.size:
        raise _Refused(f"it sends more than {archive.size} bytes")
    raise _Refused(f"what it sends has the sha256 {digest}")


def _gather(url: str, archive: Archive, part: Path) -> None:
    """Append the missing bytes to `part`; at most one chunk more than the archive's size is written."""
    start = _arrived(part)
    _log.warning("downloading %s (%s%s)", url, _megabytes(archive.size), f", from byte {start} on" if start else "")
    with _opened(url, part, start) as response:
        if response.status != 206:  # it sends the whole file
            start = 0
        elif not re.fullmatch(rf"bytes {start}-\d+/(\*|{archive.size})", response.headers.get("Content-Range", "")):
            raise _Refused(f"it does not continue from byte {start}")
        length, rest = response.headers.get("Content-Length"), archive.size - start
        if length is not None and length != str(rest):
            kind = response.headers.get_content_type()
            raise _Refused(f"it sends {length} bytes of {kind} instead of {rest}")
        if not start:
            part.unlink(missing_ok=True)
        arrived, news = start, time.monotonic()
        while arrived <= archive.size and (chunk := response.read1(1 << 16)):
            _add(part, chunk)
            arrived += len(chunk)
            if time.monotonic() - news >= _NEWS_EVERY:
                news = time.monotonic()
                _log.warning("%s: %s of %s", archive.name, _megabytes(arrived), _megabytes(archive.size))


def _opened(url: str, part: Path, start: int) -> Any:
    """The server's response to a request for `url` from byte `start` on."""
    headers = {"User-Agent": f"dlcli/{__version__}"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        return _opener().open(urllib.request.Request(url, headers=headers), timeout=_STALLED)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # range not satisfiable
            part.unlink(missing_ok=True)
        if error.code in (408, 416, 429) or error.code >= 500:
            raise OSError(f"HTTP status {error.code}") from None
        raise _Refused(f"HTTP status {error.code}") from None
    except urllib.error.URLError as error:  # no such host, no route, refused, untrusted certificate: no retry
        raise _Refused(_in_words(error.reason)) from None


def _arrived(part: Path) -> int:
    """Number of bytes in the partial file."""
    return part.stat().st_size if part.exists() else 0


def _add(part: Path, chunk: bytes) -> None:
    try:
        with open(part, "ab") as file:
            file.write(chunk)
    except OSError as error:
        raise ResourceError(f"cannot write {part}: {error.strerror}; choose --data-dir") from None


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        if not newurl.lower().startswith("https://"):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """An opener for https addresses only, through the proxy that the environment names, if any."""
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
    """The message of an error, to be used inside a sentence."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted, {error.verify_message}"
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return " ".join(words.split()).rstrip(".")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


# By hand


def _by_hand(path: Path, archive: Archive) -> bytes | None:
    """The bytes of an archive that the user has put into the data folder; None if it is not there."""
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


# SHA256SUMS


def _recorded(folder: Path) -> dict[str, str]:
    """File name -> sha256, from SHA256SUMS as sha256sum writes it; empty if there is no such file."""
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
