"""Published weights: downloaded over https into the data folder, and verified by the sha256 in the name of the file.

As in download.py, whose functions are used: one process downloads while others wait, received bytes are continued by
the next attempt, and a file has its final name only if it is right.
"""

import hashlib
import http.client
import logging
import os
import re
import time
from pathlib import Path

from dlcli.core.errors import DataError, ResourceError
from dlcli.core.files import flush_folder
from dlcli.data import download

FOLDER = "weights"

# The size that is published is rounded, and of some files it is that of another version.
_MOST_OVER = 1.1

_HASH = re.compile(r"-([0-9a-f]{8,64})\.")

_log = logging.getLogger(download.__name__)


def fetch_weights(url: str, *, title: str, megabytes: float, data_folder: Path) -> Path:
    """The file of `url` in the folder `weights` of the data folder, downloaded if it is not there.

    Its name ends with the first digits of its sha256, as in resnet18-f37072fd.pth. title: the model, for messages.
    megabytes: its size in 2**20 bytes; a file that is more than a tenth larger is refused.
    DataError (exit 3), which says where to put the file, if it is not there and cannot be downloaded, or is damaged.
    """
    name, folder = url.rsplit("/", 1)[1], data_folder / FOLDER
    named = _HASH.search(name)
    if named is None:
        raise DataError(f"{url} is refused: its name does not have the sha256 of its content")
    path = folder / name
    if _verified(path, named[1]):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot make the data folder {folder}: {error.strerror}; choose --data-dir") from None
    with download._alone(folder, name) as alone:
        if not _verified(path, named[1]):
            part = folder / (f".part-{name}" if alone else f".part-{os.getpid()}-{name}")
            _downloaded(url, part, digest=named[1], most=int(megabytes * 2**20 * _MOST_OVER), title=title)
            try:
                os.replace(part, path)
                flush_folder(folder)
            except OSError as error:
                raise ResourceError(f"cannot write {path}: {error.strerror}; choose --data-dir") from None
    return path


def _verified(path: Path, digest: str) -> bool:
    """Whether the file is there; DataError if it is another one."""
    if not path.is_file():
        return False
    if not _sha256(path).startswith(digest):
        raise DataError(f"{path} is damaged: its sha256 does not begin with {digest}; delete it to download it again")
    return True


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _downloaded(url: str, part: Path, *, digest: str, most: int, title: str) -> None:
    reason = ""
    for pause in download._PAUSES:
        time.sleep(pause)
        try:
            _gather(url, part, most)
            if _sha256(part).startswith(digest):
                return
            part.unlink()
            reason = f"the sha256 of what it sends does not begin with {digest}"
            break
        except download._Refused as error:
            reason = str(error)
            break
        except TimeoutError:
            reason = f"no byte came for {download._STALLED:g} s"
            break
        except (OSError, http.client.HTTPException) as error:
            reason = download._in_words(error)
    arrived = download._arrived(part)
    again = f"try again, which continues after the {arrived:,} bytes that have arrived, or " if arrived else ""
    raise DataError(
        f"the weights of {title} are not in the data folder and cannot be downloaded ({url}: {reason}): {again}put "
        f"{url.rsplit('/', 1)[1]} (its sha256 begins with {digest}) into {part.parent}, or choose --data-dir"
    )


def _gather(url: str, part: Path, most: int) -> None:
    """Append the missing bytes to `part`. _Refused if there are more than `most`; OSError if it breaks off."""
    start = download._arrived(part)
    _log.warning("downloading %s (%s)", url, f"from byte {start} on" if start else "once; it is kept")
    with download._opened(url, part, start) as response:
        total = re.fullmatch(rf"bytes {start}-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if response.status != 206:  # it sends the whole file
            start = 0
        elif total is None:
            raise download._Refused(f"it does not continue from byte {start}")
        length = response.headers.get("Content-Length", "")
        whole = int(total[1]) if start and total else start + int(length) if length.isdigit() else None
        if whole is not None and whole > most:
            raise download._Refused(f"it sends {whole:,} bytes, more than {most:,}")
        if not start:
            part.unlink(missing_ok=True)
        arrived, news = start, time.monotonic()
        while chunk := response.read1(1 << 16):
            arrived += len(chunk)
            if arrived > most:
                part.unlink(missing_ok=True)
                raise download._Refused(f"it sends more than {most:,} bytes")
            download._add(part, chunk)
            if time.monotonic() - news >= download._NEWS_EVERY:
                news = time.monotonic()
                of = f" of {download._megabytes(whole)}" if whole else ""
                _log.warning("%s: %s%s", part.name.removeprefix(".part-"), download._megabytes(arrived), of)
    if whole is not None and arrived < whole:
        raise OSError(f"it sent {arrived:,} of {whole:,} bytes")
