"""What all tests share: nothing of the machine's settings, and a way to run the real command."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# For the tests that load ONNX Runtime themselves: without it, it leaves files in the home folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

Dlcli = Callable[..., "subprocess.CompletedProcess[str]"]

# Under nohup, or in the background of a script, these are ignored, which the processes that tests start would inherit
# (and honour: that is tested). Here they are to be received.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

DATA_DIR = os.environ.get("DLCLI_DATA_DIR", "")


def needs_data(*parts: str) -> pytest.MarkDecorator:
    """Skip, saying so, unless the data folder of the environment holds this."""
    there = bool(DATA_DIR) and Path(DATA_DIR).joinpath(*parts).exists()
    return pytest.mark.skipif(not there, reason=f"DLCLI_DATA_DIR ({DATA_DIR or 'not set'}) has no {'/'.join(parts)}")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("DLCLI_") or name in ("COLUMNS", "NO_COLOR"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small steps stall on many threads where the machine is busy. A test that wants more sets them."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def dlcli(tmp_path: Path) -> Dlcli:
    """Run `dlcli WORDS` as a process in tmp_path; its runs land in tmp_path/runs."""

    def run(*words: str, check: int | None = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, "-m", "dlcli", *words],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert check is None or done.returncode == check, done.stderr + done.stdout
        return done

    return run
