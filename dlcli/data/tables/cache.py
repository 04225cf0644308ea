"""What is kept of large tables in the user's cache: `KEY.columns` (spooled.py) and `KEY.rows` (features.py).

KEY is the sha256 of what they are made of. `KEY.json` is written last; without it there is no entry. `FILE.files` tells
what a table held when it was last changed, so that an unchanged one is not read again. The lock of a file lets one
process write, and others wait for it.
"""

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dlcli.core.cache import told, user_cache
from dlcli.core.errors import ResourceError, RunError
from dlcli.core.files import flush_folder, held, write_json
from dlcli.core.reading import parse_json, read_bytes

_MOST_JSON = 4_000_000_000  # bytes: texts of all columns

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """What is kept of the table in `file`."""

    file: Path

    @property
    def folder(self) -> Path:
        return user_cache() / "tables"

    @property
    def mark(self) -> str:
        """Of everything in the cache that belongs to this file alone."""
        return hashlib.sha256(os.fsencode(self.file.absolute())).hexdigest()[:32]

    @property
    def known(self) -> Path:
        return self.folder / f"{self.mark}.files"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for the lock of the file and hold it; remove what killed processes left. ResourceError (exit 6) if the
        cache cannot be written."""
        path = self.folder / f"{self.mark}.lock"
        with told(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)

        def waiting() -> None:
            _log.warning("waiting for another process that reads %s", self.file)

        with held(descriptor, waiting=waiting) as alone:
            for leftover in self.folder.glob(f".tmp-{self.mark}-*") if alone else ():
                leftover.unlink(missing_ok=True)
            yield

    @contextlib.contextmanager
    def unfinished(self) -> Iterator[BinaryIO]:
        """A new file, which is removed in the end unless `commit` keeps it. The caller holds the lock."""
        path = self.folder / f".tmp-{self.mark}-{uuid.uuid4().hex}"
        try:
            with told(self.folder), open(path, "x+b") as file:
                yield file
        finally:
            path.unlink(missing_ok=True)

    def commit(self, file: BinaryIO, name: str, about: dict[str, Any]) -> None:
        """Keep an `unfinished` file as `name`. about: its description, with its shape."""
        with told(self.folder):
            file.flush()
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
            os.replace(file.name, self.folder / name)
            flush_folder(self.folder)
        write_json(self._about(name), {"folder": str(self.file.absolute()), "size": size, **about})

    def found(self, name: str) -> dict[str, Any] | None:
        """The description of what is kept as `name`; None if it is not there or damaged."""
        about, path = self._about(name), self.folder / name
        try:
            found = parse_json(read_bytes(about, most=_MOST_JSON))
            if os.lstat(path).st_size != found["size"]:
                raise ValueError
            with contextlib.suppress(OSError):
                os.utime(about)  # its last use, for `dlcli cache`
            return dict(found)
        except (RunError, FileNotFoundError, ValueError, KeyError, TypeError):
            if path.exists():
                _log.warning("what the cache holds of %s is damaged: it is made again", self.file)
            return None
        except OSError as error:
            raise ResourceError(f"{path} cannot be read: {error.strerror}") from None

    def _about(self, name: str) -> Path:
        return self.folder / f"{name.partition('.')[0]}.json"

    def need_space(self, size: int) -> None:
        """ResourceError unless the disk has room for so many bytes."""
        with told(self.folder, needed=size):
            if shutil.disk_usage(self.folder).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
