"""Leases: the lock of a run where the file system has no flock, or one that other machines do not see."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dlcli.core.errors import BusyError, ConfigError
from dlcli.runs import lease
from dlcli.runs.run import Run

# Holds the lock of the run in the folder argv[1], says so, and keeps it until it is told to let it go.
_HOLDER = """
import sys
from pathlib import Path
from dlcli.runs import lease
from dlcli.runs.run import Run
lease._RENEWED = float(sys.argv[2])
with Run(Path(sys.argv[1]), 1).locked():
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path)


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_RENEWED", 0.05)
    monkeypatch.setattr(lease, "_LOST", 0.5)


def holder(run: Run, *before: str, renewed: float = 0.05) -> subprocess.Popen[str]:
    """A process that holds the lock of a run by a lease. before: the words of a program that starts it."""
    words = [*before, sys.executable, "-c", _HOLDER, str(run.root), str(renewed)]
    environment = os.environ | {"DLCLI_LOCKS": "files"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "held\n", (line, process.stderr and process.stderr.read())
    return process


@pytest.fixture
def held(run: Run) -> Iterator[subprocess.Popen[str]]:
    process = holder(run)
    yield process
    process.kill()
    process.communicate()


def test_a_file_system_without_locks_still_has_one_process_a_run(run: Run, no_flock: None) -> None:
    with run.locked():
        assert run.is_locked()
        with pytest.raises(BusyError, match=f"{run} is being trained by another process"), run.locked():
            pass
    assert not run.is_locked()
    for _ in range(3):
        with run.locked():
            pass
    assert [path.name for path in run.path.glob("lease-*")] == ["lease-000004"]  # earlier ones are cleared away
    assert (run.path / "lease-000004").read_text().strip() == "free"


def test_a_lease_is_seen_by_those_who_have_locks(
    run: Run, held: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, how: None)  # each machine has flocks of its own
    assert run.is_locked()
    with pytest.raises(BusyError), run.locked():
        pass


def test_the_lease_of_a_killed_process_is_free_at_once(run: Run, held: subprocess.Popen[str], no_flock: None) -> None:
    held.send_signal(signal.SIGKILL)
    held.wait()
    assert not run.is_locked()
    began = time.monotonic()
    with run.locked():
        assert run.is_locked()
    assert time.monotonic() - began < lease._LOST / 2


def test_the_same_number_of_a_process_is_not_the_same_process(run: Run, no_flock: None) -> None:
    record = {"place": lease._place(), "pid": os.getpid(), "started": "1", "count": 3}
    (run.path / "lease-000007").write_text(json.dumps(record))
    assert not run.is_locked()
    with run.locked():
        assert (run.path / "lease-000008").exists()


def test_a_lease_of_another_machine_is_free_when_its_count_stands_still(run: Run, no_flock: None, quick: None) -> None:
    file = run.path / "lease-000001"
    file.write_text(json.dumps({"place": "elsewhere", "pid": 1, "started": "1", "count": 3}))
    os.utime(file, (1, 1))  # whatever the clock of that machine says
    with run.locked():
        assert sorted(path.name for path in run.path.glob("lease-*")) == ["lease-000002"]


def test_a_lease_of_another_machine_that_is_renewed_is_held(run: Run, no_flock: None, quick: None) -> None:
    file, done = run.path / "lease-000001", threading.Event()

    def renew() -> None:
        for count in range(1000):
            file.write_text(json.dumps({"place": "elsewhere", "pid": 1, "started": "1", "count": count}))
            if done.wait(0.05):
                return

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        while not file.exists():
            time.sleep(0.01)
        assert run.is_locked()
        with pytest.raises(BusyError), run.locked():
            pass
    finally:
        done.set()
        thread.join()


def test_a_holder_that_was_overtaken_ends_before_it_writes(run: Run, held: subprocess.Popen[str]) -> None:
    """It was frozen for longer than others wait, and goes on then."""
    (run.path / "lease-000002").write_text(json.dumps({"place": "elsewhere", "pid": 1, "started": "1", "count": 0}))
    code = held.wait(timeout=60)
    _, error = held.communicate()
    assert (code, error) == (9, f"error: {run} was not renewed for 30 s, and another process has it now\n")


def test_one_of_many_gets_it(run: Run, no_flock: None, quick: None) -> None:
    start, end = threading.Barrier(8), threading.Barrier(8)

    def attempt(_: int) -> bool:
        start.wait()
        try:
            with run.locked():
                end.wait()
                return True
        except BusyError:
            end.wait()
            return False

    for _ in range(20):
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(attempt, range(8))) == 1


def test_an_old_list_of_the_folder_takes_nothing(run: Run, no_flock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS keeps lists of folders for a minute: this one names a lease that others have taken twenty times since."""
    record = {"place": lease._place(), "pid": os.getpid(), "started": lease._started(os.getpid()), "count": 3}
    (run.path / "lease-000020").write_text(json.dumps(record))
    lists = iter([1])
    newest = lease._newest
    monkeypatch.setattr(lease, "_newest", lambda folder: next(lists, None) or newest(folder))
    (run.path / "lease-000001").write_text("free")
    with pytest.raises(BusyError), run.locked():
        pass
    assert sorted(path.name for path in run.path.glob("lease-*")) == ["lease-000001", "lease-000020"]


def test_a_lease_that_is_nonsense_is_waited_for(run: Run, no_flock: None, quick: None) -> None:
    (run.path / "lease-000001").write_text('["a"')
    (run.path / "lease-xyz").write_text("")
    with run.locked():
        assert (run.path / "lease-000002").exists()


def test_another_way_to_lock_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from dlcli.config.environment import read_environment

    assert read_environment({"DLCLI_LOCKS": "files"}) == {}
    with pytest.raises(ConfigError) as caught:
        read_environment({"DLCLI_LOCKS": "flock"})
    assert str(caught.value) == "DLCLI_LOCKS = 'flock' is not known: choose files, or leave it out"


@pytest.mark.slow
def test_two_processes_that_share_nothing_but_the_folder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them has its own process numbers and its own name of the machine, as on another machine."""
    apart = ["unshare", "--pid", "--uts", "--fork", "--kill-child", "sh", "-c", 'hostname other; exec "$@"', "-"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("unshare cannot make namespaces here")
    monkeypatch.setenv("DLCLI_LOCKS", "files")
    process = holder(run, *apart, renewed=5.0)
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, how: None)  # each machine has flocks of its own
    began = time.monotonic()
    with pytest.raises(BusyError), run.locked():
        pass
    assert time.monotonic() - began < 10  # it has seen a new count
    process.kill()
    process.wait()
    time.sleep(1)  # its child is killed, and has not let the lock go
    process.communicate()
    began = time.monotonic()
    with run.locked():
        assert 25 < time.monotonic() - began < 60
