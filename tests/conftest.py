"""Shared by all tests: isolation from the settings of the machine, and a fixture that runs the real command."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm import slurm as slurm
from tests.warm import Warm

# For the tests that load ONNX Runtime themselves: its telemetry would create files in the home folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

Dlcli = Callable[..., "subprocess.CompletedProcess[str]"]

# Under nohup, or in the background of a script, these signals are ignored, and child processes of the tests would
# inherit that (and comply, which is tested). The tests need to receive them.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

DATA_DIR = os.environ.get("DLCLI_DATA_DIR", "")


def needs_data(*parts: str) -> pytest.MarkDecorator:
    """Skip, with a reason, unless DLCLI_DATA_DIR contains this path."""
    there = bool(DATA_DIR) and Path(DATA_DIR).joinpath(*parts).exists()
    return pytest.mark.skipif(not there, reason=f"DLCLI_DATA_DIR ({DATA_DIR or 'not set'}) has no {'/'.join(parts)}")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("DLCLI_") or name in ("COLUMNS", "NO_COLOR"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """On a busy machine small steps are slow with many threads. A test that needs more threads sets them."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _nothing_named_as_own() -> None:
    """A test that trains a model of tests/ makes all of tests/ own code, to which later errors would be traced."""
    from dlcli.core import blame

    blame._named.clear()


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    process = Warm()
    yield process
    process.close()


@pytest.fixture
def dlcli(tmp_path: Path, warm: Warm) -> Dlcli:
    """Run `dlcli WORDS` as a process in tmp_path; its runs are in tmp_path/runs."""

    def run(*words: str, check: int | None = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
        done = warm.run(words, cwd=tmp_path, environment=environment, timeout=1200)
        assert check is None or done.returncode == check, done.stderr + done.stdout
        return done

    return run
