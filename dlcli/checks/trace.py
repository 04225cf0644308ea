"""Trains and hashes every tensor of each step: `python -m dlcli.checks.trace CONFIG RUNS TRACE`.

The file TRACE gets one line of JSON for the start (step 0) and for each step: {"step": 3, "hashes": {name: hash}}, with
the names in the order in which a step uses the tensors.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dlcli.checks.snapshot import digest
from dlcli.config.settings import TrainConfig
from dlcli.config.toml import read_file
from dlcli.core.errors import DlcliError
from dlcli.experiment.build import build
from dlcli.tasks.task import Task
from dlcli.training.session import begun
from dlcli.training.train import fit


class _Overheard:
    """A task that stores the inputs and outputs of its losses until `hashes` is called.

    A step with several batches, or with mixup, computes several losses; each is one part.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.heard: list[tuple[Tensor, Tensor, Tensor]] = []

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        loss = self.task.loss(output, target)
        self.heard.append((target, output.detach(), loss.detach()))
        return loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def hashes(self) -> dict[str, str]:
        heard, self.heard = self.heard, []
        found: dict[str, str] = {}
        for number, tensors in enumerate(heard, 1):
            which = f"part {number}" if len(heard) > 1 else "the step"
            names = (f"{what} of {which}" for what in ("targets", "output", "loss"))
            found |= {name: digest(tensor) for name, tensor in zip(names, tensors, strict=True)}
        return found


def trace(config: TrainConfig, runs_dir: Path, file: Path) -> None:
    """Train `config` in a new run as `dlcli train` does; hashing draws no random numbers and changes no tensor."""
    built = build(config)
    task: Any = _Overheard(built.task)
    built = dataclasses.replace(built, task=task)
    step = 0
    with open(file, "w", encoding="utf-8") as lines:

        def write(hashes: dict[str, str]) -> None:
            lines.write(json.dumps({"step": step, "hashes": hashes}) + "\n")

        def after_step() -> None:
            nonlocal step
            step += 1
            write(task.hashes() | _gradients(built.model) | _weights(built.model))

        write({"data": built.dataset.fingerprint} | _weights(built.model))
        with begun(built, runs_dir=runs_dir) as session:
            for _ in fit(session, stop=after_step):
                pass


def _gradients(model: nn.Module) -> dict[str, str]:
    """The gradients of the last step, as the optimizer used them."""
    return {f"gradient of {n}": digest(p.grad) for n, p in model.named_parameters() if p.grad is not None}


def _weights(model: nn.Module) -> dict[str, str]:
    return {name: digest(tensor) for name, tensor in model.state_dict().items()}


def _main(config: str, runs_dir: str, file: str) -> Any:
    sys.path.append(os.getcwd())
    try:
        trace(TrainConfig.from_flat(read_file(config)), Path(runs_dir), Path(file))
    except DlcliError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
