"""Shows the progress of a training. The only file that uses rich."""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from dlcli.cli.output import plain, say

_SHORTEST_BAR = 8


class Reporter:
    """Shows a training on stderr: a live progress bar on a terminal, otherwise one line per epoch but at most one per
    10 s. The last epoch is always shown.

    A context manager. `quiet` shows nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self._live: Any = None
        self._bar: Any = None
        self._last_line = float("-inf")
        self._held_back: str | None = None

    def __enter__(self) -> "Reporter":
        if not self.quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            # Drawn only when a record arrives: a drawing thread would slow the training.
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True, markup=False, highlight=False),
                auto_refresh=False,
                expand=True,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._held_back is not None and not self.quiet:
            say(self._held_back)
            self._held_back = None

    def line(self, content: str) -> None:
        """Show a line, unless quiet."""
        if not self.quiet:
            self.warn(content)

    def warn(self, content: str) -> None:
        """Show a line, even if quiet."""
        if self._live is not None:
            self._live.console.print(plain(content), markup=False, highlight=False, soft_wrap=True)
        else:
            say(content)

    def epoch(self, content: str) -> None:
        """Show the line of an epoch, on a pipe only if the last one was 10 s ago."""
        if self._live is not None:
            self.line(content)
        elif time.monotonic() - self._last_line >= 10:
            self._last_line, self._held_back = time.monotonic(), None
            self.line(content)
        else:
            self._held_back = content

    def progress(self, *, done: int, total: int, notes: Sequence[str], what: str) -> None:
        """Update the progress bar. notes: texts after it, as many of them as fit."""
        if self._live is None:
            return
        if self._bar is None:
            self._bar = self._live.add_task(what, total=total, note="")
        room = self._live.console.width - len(f"{what} {'━' * _SHORTEST_BAR} 100% 00:00")
        while sum(len(note) + 2 for note in notes) > room and notes:
            notes = notes[:-1]
        self._live.update(self._bar, completed=done, description=what, note="  ".join(notes))
        self._live.refresh()
