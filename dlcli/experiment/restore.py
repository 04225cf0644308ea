"""From a run back to its trained model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dlcli.checkpoints import checkpoint
from dlcli.compute import devices
from dlcli.compute.cost import choose_eval_batch_size, measure_cost
from dlcli.config.settings import TrainConfig
from dlcli.core.reading import told_as_damage
from dlcli.data.preprocessing import Preprocessing
from dlcli.experiment.build import make_task
from dlcli.experiment.guard import build_model
from dlcli.experiment.load import import_own
from dlcli.experiment.probe import sample_input
from dlcli.runs.run import Run
from dlcli.tasks.task import Task


@dataclass(frozen=True)
class Restored:
    """A model as a run's checkpoint holds it, in evaluation mode, and what belongs to it."""

    run: Run
    config: TrainConfig
    device: torch.device
    preprocessing: Preprocessing
    model: nn.Module
    task: Task
    checkpoint: checkpoint.Checkpoint

    @property
    def eval_batch_size(self) -> int:
        """That of the training."""
        setting, largest = self.config.eval_batch_size, 0
        if setting == "auto":
            largest = measure_cost(self.model, sample_input(self.preprocessing.spec, 1).to(self.device)).largest
        return choose_eval_batch_size(setting, device=self.device, largest=largest)


def restore(run: Run, *, role: str = "best", device: str = "auto") -> Restored:
    """The trained model of a run, from nothing but the run's folder.

    device: `auto` is the one that the run was trained on if it is here. Threads are those of the run's evaluations,
    so that sums are rounded as they were.
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
        task=make_task(config, preprocessing),
        checkpoint=saved,
    )


def preprocessing_of(run: Run) -> Preprocessing:
    """From the run's data.json; RunError when it is damaged."""
    with told_as_damage(run.path / "data.json"):
        return Preprocessing.from_dict(run.data())
