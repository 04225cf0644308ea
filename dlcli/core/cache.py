"""Where the user's cache is."""

import os
from pathlib import Path


def user_cache() -> Path:
    """The folder of what can be downloaded or made again: `dlcli` in XDG_CACHE_HOME, else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlcli"
