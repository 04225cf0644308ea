"""Where the user's cache is, and what is said when it cannot be written."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from dlcli.core.errors import ResourceError


def user_cache() -> Path:
    """The folder of what can be downloaded or made again: `dlcli` in XDG_CACHE_HOME, else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlcli"


@contextlib.contextmanager
def told(path: Path, *, needed: int = 0) -> Iterator[None]:
    """Turns OSError into ResourceError (exit 6). needed: bytes to be written."""
    try:
        yield
    except OSError as error:
        space = f" ({needed / 1e6:,.1f} MB needed)" if needed else ""
        raise ResourceError(
            f"cannot write {path}: {error.strerror}{space}; name another folder for caches in XDG_CACHE_HOME"
        ) from None
