"""Signals that ask a training to stop: the first one after a checkpoint, the second one at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether a signal has asked the training to stop, and which one. tell: called with a message for the user."""

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self.signal: int | None = None
        self._tell = tell

    def reason(self) -> str | None:
        """The name of the signal, as SIGINT, or None. The loop asks after every step."""
        return None if self.signal is None else signal.Signals(self.signal).name

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)  # a third one ends the process at any point
            raise SystemExit(128 + number)
        self.signal = number
        if self._tell is not None:
            self._tell(f"{signal.Signals(number).name}: saving a checkpoint and stopping; a second one stops at once")

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Receive SIGINT, SIGTERM and SIGHUP inside the block, except those that are ignored, as `cmd &` and nohup
        request. In a thread other than the main one this does nothing: Python delivers signals to the main thread."""
        before = {}
        if threading.current_thread() is threading.main_thread():
            for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(which) is not signal.SIG_IGN:
                    before[which] = signal.signal(which, self.receive)
        try:
            yield
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)

    def pass_on(self) -> None:
        """Give a received signal its usual effect now: KeyboardInterrupt, or the end of the process."""
        if self.signal is not None:
            signal.raise_signal(self.signal)
