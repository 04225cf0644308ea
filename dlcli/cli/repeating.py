"""A table that is shown again and again: `dlcli runs --watch`."""

import contextlib
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from dlcli.cli.output import write

_EVERY = 2.0  # seconds
_CLEAR = "\033[H\033[2J\033[3J"


class Seen(NamedTuple):
    """what: is compared with what was seen before. live: whether it can still change. draw: prints it."""

    what: object
    live: bool
    draw: Callable[[], None]


def repeated(look: Callable[[], Seen]) -> None:
    """On a terminal, draw again and again in the same place until Ctrl-C. Elsewhere draw when something has changed,
    and end when nothing can change any more."""
    terminal, before = sys.stdout.isatty(), None
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            seen = look()
            if terminal:
                write(_CLEAR)
            if terminal or seen.what != before:
                seen.draw()
            if not seen.live and not terminal:
                return
            before = seen.what
            time.sleep(_EVERY)
