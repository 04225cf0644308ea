"""Restores the trained model of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.checkpoints import checkpoint
from dlcli.compute import devices
from dlcli.compute.cost import choose_eval_batch_size, measure_cost
from dlcli.config.settings import TrainConfig
from dlcli.core.documents import NUMBER, Kind, check
from dlcli.core.errors import RunError
from dlcli.core.reading import told_as_damage
from dlcli.data.kinds import sample_input, without_padding
from dlcli.data.preprocessing import Preprocessing
from dlcli.experiment.guard import build_model
from dlcli.experiment.load import import_own
from dlcli.experiment.tasks import make_task
from dlcli.runs.run import Run
from dlcli.tasks.task import AnsweringTask


@dataclass(frozen=True)
class Restored:
    """The model from a run's checkpoint, in evaluation mode, and what belongs to it."""

    run: Run
    config: TrainConfig
    device: torch.device
    preprocessing: Preprocessing
    model: nn.Module
    task: AnsweringTask
    checkpoint: checkpoint.Checkpoint

    @cached_property
    def eval_batch_size(self) -> int:
        """Samples per batch, as in the evaluations of the training."""
        setting, largest = self.config.eval_batch_size, 0
        if setting == "auto":
            largest = measure_cost(self.model, sample_input(self.preprocessing.spec, 1).to(self.device)).largest
        return choose_eval_batch_size(setting, device=self.device, largest=largest)

    @torch.inference_mode()
    def answer(self, raw: Tensor) -> Tensor:
        """The model's output for raw (N, ...) samples: float32 (N, ...), on the model's device.

        Computed in batches of `eval_batch_size`, with the precision of the training. RunError (exit 4) if a value is
        not finite.
        """
        x = self.preprocessing.apply(raw.to(self.device))
        with devices.autocast(self.config.precision, self.device):
            batches = (
                without_padding(batch, self.preprocessing.spec) for batch in torch.split(x, self.eval_batch_size)
            )
            output = torch.cat([self.model(batch).float() for batch in batches])
        return self._finite(output)

    @torch.inference_mode()
    def carry_on(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """A recurrent model's output for (N, T) tokens, float32 (N, T, V), and its state after them.

        state: the state before the tokens; None at the start of a text. RunError (exit 4) if a value is not finite.
        """
        model: Any = self.model
        with devices.autocast(self.config.precision, self.device):
            output, state = model.run(tokens.to(self.device), state)
        return self._finite(output.float()), state

    def _finite(self, output: Tensor) -> Tensor:
        if not bool(torch.isfinite(output).all()):
            raise RunError(f"the model of {self.run} gives values that are not finite: its weights are of no use")
        return output


def restore(run: Run, *, role: str = "best", device: str = "auto") -> Restored:
    """The trained model of a run, restored from the run's folder alone.

    role: `best` or `last` checkpoint. device: `auto` is the CPU if the run was trained on it, else the best device.
    Sets the number of threads to that of the run's evaluations, so that sums are rounded in the same way.
    """
    config, preprocessing = run.config(), preprocessing_of(run)
    info = run.info()
    import_own(config, runs_dir=run.root)
    if device == "auto" and str(info.get("device", "")).startswith("cpu"):
        device = "cpu"
    chosen = devices.choose_device(device)
    devices.set_precision(config.precision if chosen.type == "cuda" else "fp32")
    torch.set_num_threads(int(info.get("eval_threads") or info.get("threads") or 1))
    model: nn.Module = nn.Identity()

    def fits(path: Path, outline: Mapping[str, Tensor]) -> None:
        nonlocal model
        model = build_model(config, preprocessing.spec, weights=outline, where=path)

    saved = checkpoint.load(run.checkpoints, role, fits=fits)
    model.load_state_dict(saved.weights)
    return Restored(
        run=run,
        config=config,
        device=chosen,
        preprocessing=preprocessing,
        model=model.to(chosen).eval(),
        task=make_task(config, preprocessing, threshold=_threshold(config, saved)),
        checkpoint=saved,
    )


def _threshold(config: TrainConfig, saved: checkpoint.Checkpoint) -> float | None:
    """The threshold that was chosen for these weights, if the training chose one: 0.5 if they were not evaluated."""
    if not isinstance(config.threshold, str):
        return None
    chosen = saved.state["metrics"].get("val/threshold", 0.5)
    with told_as_damage(saved.path / "state.json"):
        check(
            {"val/threshold": chosen},
            {"val/threshold": Kind("between 0 and 1", lambda v: NUMBER.holds(v) and 0 < v < 1)},
        )
    return float(chosen)


def preprocessing_of(run: Run) -> Preprocessing:
    """The Preprocessing in the run's data.json; RunError if it is damaged."""
    with told_as_damage(run.path / "data.json"):
        return Preprocessing.from_dict(run.data())
