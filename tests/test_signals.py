"""A signal in any phase of a training: the exit code, the status of the run, and an exact resume."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlcli.checkpoints import checkpoint
from dlcli.cli.output import say
from dlcli.runs.run import Run
from dlcli.training import loop, saver, session
from dlcli.training.state import TrainingState
from dlcli.training.train import resume
from tests.faults import Dlcli
from tests.test_resume import assert_same

WORDS = (
    "train", "attention", "--data", "recall", "--set", "data.samples=600", "--epochs", "3", "--device", "cpu",
    "--eval-every", "1", "--ema", "0.9",
)  # fmt: skip
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}

# Phase -> function that is about to be called when the signal arrives, and the number of that call.
PHASES: dict[str, tuple[Any, str, int]] = {
    "before the run has a number": (Run, "create", 0),
    "before the first step": (session, "TrainingState", 0),
    "in a step": (TrainingState, "backward", 12),
    "in validation": (loop, "measure", 1),
    "in a save": (checkpoint, "write_folder", 2),
    "in a step after a resume": (TrainingState, "backward", 2),
    "after the last step": (saver.Saver, "close", 0),
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The training without a signal."""
    root = tmp_path_factory.mktemp("straight") / "runs"
    process = Dlcli(root, *WORDS)
    assert process.wait() == 0, process.told
    return Run(root, 1)


def at(phase: str, act: Callable[[], object]) -> Callable[[], None]:
    """Arrange that `act` is called in that phase."""
    owner, name, which = PHASES[phase]

    def arrange() -> None:
        saver._LEAST_SECONDS = 0.0
        original, calls = getattr(owner, name), iter(range(10**9))

        def instead(*positional: Any, **named: Any) -> Any:
            if next(calls) == which:
                act()
            return original(*positional, **named)

        setattr(owner, name, instead)

    return arrange


def send(number: int) -> Callable[[], None]:
    """Send a signal to this process, as the shell or a scheduler does."""
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: signal.Signals(number).name)
@pytest.mark.parametrize("phase", [phase for phase in PHASES if "resume" not in phase])
def test_a_signal(phase: str, number: int, tmp_path: Path, straight: Run) -> None:
    process = Dlcli(tmp_path / "runs", *WORDS, before=at(phase, send(number)))
    assert process.wait() == SIGNALS[number], process.told
    assert "Traceback" not in process.told
    name = signal.Signals(number).name
    assert f"{name}: saving a checkpoint and stopping; a second one stops at once" in process.told.splitlines()
    run = Run(tmp_path / "runs", 1)
    info = run.info()
    if phase == "after the last step":
        assert (info["status"], info["stop"]) == ("finished", None)
    else:
        assert (info["status"], info["stop"]) == ("interrupted", name)
        assert process.told.splitlines()[-3].endswith(f"continue with: dlcli resume {run}")
        if "before" in phase:
            assert info["step"] == 1
        again = Dlcli(tmp_path / "runs", "resume", "1", before=at("in a step after a resume", send(number)))
        assert again.wait() == SIGNALS[number], again.told
        list(resume(run))
    assert_same(straight, run)
    assert list(run.path.rglob(".tmp-*")) == []


def test_a_training_in_the_background_leaves_the_interrupt_to_others(tmp_path: Path, straight: Run) -> None:
    """The shell starts `dlcli train &` with SIGINT ignored; SIGTERM still stops it."""

    def ignoring(*numbers: int) -> Callable[[], None]:
        def before() -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            at("in validation", lambda: [send(number)() for number in numbers])()

        return before

    process = Dlcli(tmp_path / "runs", *WORDS, before=ignoring(signal.SIGINT))
    assert process.wait() == 0, process.told
    assert_same(straight, Run(tmp_path / "runs", 1))
    process = Dlcli(tmp_path / "runs", *WORDS, before=ignoring(signal.SIGINT, signal.SIGTERM))
    assert process.wait() == 143, process.told
    assert Run(tmp_path / "runs", 2).info()["stop"] == "SIGTERM"


def test_a_second_signal_while_a_save_takes_long(tmp_path: Path, straight: Run) -> None:
    """It stops at once; the partial save is never mistaken for a checkpoint, and is removed."""
    reached = tmp_path / "reached"
    rename = os.rename

    def slowly(source: Path, target: Path) -> None:
        reached.touch()
        time.sleep(1)
        rename(source, target)

    def before() -> None:
        os.rename = slowly  # type: ignore[assignment]
        at("in validation", send(signal.SIGTERM))()

    process = Dlcli(tmp_path / "runs", *WORDS, "--checkpoint-every", "9epochs", before=before)
    run = Run(tmp_path / "runs", 1)
    while not reached.exists():
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == 143, process.told
    assert "Traceback" not in process.told
    assert (run.info()["status"], run.info()["stop"]) == ("interrupted", "stopped at once (SystemExit)")
    list(resume(run))
    assert_same(straight, run)
    assert list(run.path.rglob(".tmp-*")) == []


def test_the_process_id_of_a_dead_run_may_be_that_of_another_process(tmp_path: Path, straight: Run) -> None:
    process = Dlcli(tmp_path / "runs", *WORDS, before=at("in validation", send(signal.SIGKILL)))
    assert process.wait() == -signal.SIGKILL
    run = Run(tmp_path / "runs", 1)
    run.write_info(run.info() | {"status": "running", "pid": os.getpid()})
    assert run.info()["status"] == "dead"
    again = Dlcli(tmp_path / "runs", "resume", "1")
    assert again.wait() == 0, again.told
    assert_same(straight, run)


def test_a_sentence_that_a_signal_wants_to_say_in_the_middle_of_another_is_left_unsaid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Busy:
        def write(self, text: str) -> int:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    monkeypatch.setattr("sys.stderr", Busy())
    say("SIGTERM: saving a checkpoint")


def test_a_reader_that_is_gone_before_the_number_is_printed_stops_no_training(tmp_path: Path) -> None:
    words = (sys.executable, "-m", "dlcli", "train", "mlp", "--epochs", "1", "--quiet", "--print", "run")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(words, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
    assert Run(tmp_path / "runs", 1).info()["status"] == "finished"
