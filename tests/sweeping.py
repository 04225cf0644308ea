"""What the tests of sweeps share: sweeps whose workers are forked from this process, and models that misbehave."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.core.spec import DataSpec
from tests.faults import Dlcli

SMALL = ("mlp", "--data", "digits", "--epochs", "2", "--device", "cpu", "--set", "model.hidden=8")


class _Forking:
    """A context of multiprocessing that forks, and leaves no end of the driver's pipes open in its children: a fork
    server, which would import torch for each test, has none of them."""

    def __init__(self) -> None:
        self._context, self._ends = multiprocessing.get_context("fork"), []  # type: ignore[var-annotated]

    def set_forkserver_preload(self, modules: list[str]) -> None:
        """Torch is here."""

    def Pipe(self) -> tuple[Any, Any]:
        mine, its = self._context.Pipe()
        self._ends.append(mine)
        return mine, its

    def Process(self, *, target: Any, args: tuple[Any, ...]) -> Any:
        def begin(*given: Any) -> None:
            for end in self._ends:
                end.close()
            target(*given)

        return self._context.Process(target=begin, args=args)


def fork_workers() -> None:
    forking = _Forking()
    multiprocessing.get_context = lambda method=None: forking  # type: ignore[assignment, method-assign, return-value]


class Sweeping(Dlcli):
    """`dlcli WORDS` as a forked process, whose workers are forked, too."""

    def __init__(self, root: Path, *words: str) -> None:
        super().__init__(root, *words, before=fork_workers)


def sweeping(root: Path, *words: str, code: int = 0) -> str:
    """Run a command to its end; what it printed."""
    process = Sweeping(root, *words)
    found = process.wait()
    assert found == code, process.told
    return process.told


class Deadly(nn.Module):
    """Kills its process in the forward pass of step `at`, `times` times; then it is an ordinary linear model."""

    def __init__(self, spec: DataSpec, *, marks: str, rate: float = 0.0, at: int = 25, times: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(64, spec.outputs)
        self.marks, self.at, self.times, self.steps = Path(marks), at, times, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.requires_grad is False and torch.is_grad_enabled() and len(x) > 2:
            self.steps += 1
            if self.steps == self.at and len(list(self.marks.iterdir())) < self.times:
                (self.marks / f"{os.getpid()}-{time.monotonic_ns()}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return self.linear(x.flatten(1))  # type: ignore[no-any-return]


class Slow(nn.Module):
    """A linear model whose steps take a while."""

    def __init__(self, spec: DataSpec, *, seconds: float = 0.02, rate: float = 0.0) -> None:
        super().__init__()
        self.linear, self.seconds = nn.Linear(64, spec.outputs), seconds

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            time.sleep(self.seconds)
        return self.linear(x.flatten(1))  # type: ignore[no-any-return]


def wait_for(condition: Any, *, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)
