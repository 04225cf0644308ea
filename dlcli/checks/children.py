"""Runs dlcli in child processes, so that the checks test the same command that a user runs."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlcli.core.errors import DlcliError, ResourceError


@contextlib.contextmanager
def leave_on_signals() -> Iterator[None]:
    """Inside the block SIGTERM and SIGHUP raise SystemExit, so that every Child is killed, as after Ctrl-C."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Child:
    """A child process: `dlcli WORDS`, or another Python `program`. Its output goes to the file `log`.

    It inherits the current folder and the module path, but no DLCLI_ variables: settings come only from the words.
    A context manager: on exit the process is killed if it still runs. It runs in its own session, so that a signal to
    this process group does not reach it.
    """

    def __init__(
        self, words: Sequence[str | Path], *, log: Path, program: Sequence[str] = ("-m", "dlcli")
    ) -> None:  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DLCLI_")}
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self.log = log
        with open(log, "wb") as file:
            self.started = time.monotonic()
            self.process = subprocess.Popen(
                [sys.executable, "-P", *program, *map(str, words)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.kill()

    @property
    def pid(self) -> int:
        return self.process.pid

    def runs(self) -> bool:
        return self.process.poll() is None

    def ends_within(self, seconds: float) -> bool:
        """Wait until it has ended, but no longer than `seconds`; whether it has ended."""
        try:
            self.process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Send SIGKILL to it and to the processes that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def sentence(self) -> str:
        """The last line that it printed, without `error: `: its error message, if it failed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        told = [line.strip() for line in lines if line.strip()]
        return told[-1].removeprefix("error: ") if told else f"it printed nothing (exit code {self.process.returncode})"

    def error(self) -> DlcliError:
        """Its failure as an exception with the same exit code."""
        kinds = {kind.exit_code: kind for kind in DlcliError.__subclasses__()}
        return kinds.get(self.process.returncode, DlcliError)(self.sentence())


@dataclass
class Place:
    """A folder to work in. It is removed at the end unless `kept`."""

    path: Path
    kept: bool


@contextlib.contextmanager
def place_in(root: str | Path, what: str, *, keep: bool = False) -> Iterator[Place]:
    """A new hidden folder in the runs folder, so that the check tests the right file system."""
    root = Path(root).absolute()
    made = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        place = Place(Path(tempfile.mkdtemp(prefix=f".check-{what}-", dir=root)), keep)
    except OSError as error:
        raise ResourceError(f"cannot write in {root}: {error.strerror}; choose --runs-dir") from None
    try:
        yield place
    finally:
        if not place.kept:
            shutil.rmtree(place.path, ignore_errors=True)
            if made:
                with contextlib.suppress(OSError):
                    root.rmdir()
