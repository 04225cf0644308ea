"""dlcli in child processes: what a check proves, it proves of the command that a user types."""

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
    """SIGTERM and SIGHUP raise SystemExit, as Ctrl-C raises KeyboardInterrupt: every Child is killed on the way out."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Child:
    """`dlcli WORDS`, or another `program` of Python, with the folder and the module path of this process, but without
    its DLCLI_ variables: settings come from the words alone. What it prints goes to `log`.

    A context manager: at its end the process is killed if it still runs. It leads a session of its own, so that
    a signal to this process's group does not reach it.
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
        """Wait that long, or until it has ended."""
        try:
            self.process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to it and to what it has started: nothing of it runs another instruction."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def sentence(self) -> str:
        """The last line that it printed: its error, if it ended with one."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        told = [line.strip() for line in lines if line.strip()]
        return told[-1].removeprefix("error: ") if told else f"it ended with code {self.process.returncode} in silence"

    def error(self) -> DlcliError:
        """Its failure as one of this process, with the same exit code."""
        kinds = {kind.exit_code: kind for kind in DlcliError.__subclasses__()}
        return kinds.get(self.process.returncode, DlcliError)(self.sentence())


@dataclass
class Place:
    """A folder to work in; it is removed in the end unless `kept`."""

    path: Path
    kept: bool


@contextlib.contextmanager
def place_in(root: str | Path, what: str, *, keep: bool = False) -> Iterator[Place]:
    """A new hidden folder in the folder of all runs, so that the check is made on the file system that counts."""
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
