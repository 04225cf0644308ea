"""The cost of a training, estimated before it starts: `dlcli train --dry-run`."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from dlcli.compute import devices
from dlcli.core.errors import ResourceError
from dlcli.experiment.build import Experiment

# Values that an optimizer keeps per parameter.
_STATE = {"gd": 0, "sgd": 1, "adam": 2, "adamw": 2, "rmsprop": 1}


class Memory(NamedTuple):
    """Bytes that a training needs at least. weights: with gradients, optimizer state and average. activations: of one
    batch. data: the splits, which are stored on the device.
    """

    weights: int
    activations: int
    data: int


def memory_of(built: Experiment) -> Memory:
    """The memory of this training. Activations are measured in the evaluation of one sample; the memory of the
    framework itself is not included."""
    parameters = sum(p.numel() for p in built.model.parameters())
    weights = 4 * (parameters + built.trained_parameters * (1 + _copies(built)))
    weights //= built.ranks.size if built.sharded else 1
    return Memory(weights, built.cost.bytes * built.batch_size, built.dataset.bytes)


def check_memory(built: Experiment) -> None:
    """ResourceError (exit 6) if the device has less memory than this training needs."""
    if sum(memory_of(built)) > devices.memory(built.device):
        raise ResourceError(memory_told(built))


def memory_told(built: Experiment) -> str:
    """A sentence: the memory that this training needs, for what, and the memory of the device."""
    found, there = memory_of(built), devices.memory(built.device)
    largest = max(found._fields, key=lambda name: int(getattr(found, name)))
    mend = {"weights": "model", "activations": "--batch-size", "data": "part of the data"}[largest]
    return (
        f"this training takes at least {_size(sum(found))} of memory (weights and optimizer {_size(found.weights)}, "
        f"a batch of {built.batch_size:,} {_size(found.activations)}, data {_size(found.data)}), "
        f"and {built.device} has {_size(there)}: take a smaller {mend}"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.3f} MB"


def estimate(built: Experiment) -> dict[str, Any]:
    """Parameters, steps, floating-point operations and bytes, by name.

    flops: of the matrix products; a multiply-add counts as two, a backward pass as two forward passes.
    memory: see `memory_of`.
    """
    parameters = sum(p.numel() for p in built.model.parameters())
    found = memory_of(built)
    return {
        "parameters": parameters,
        "train samples": len(built.dataset.train),
        "val samples": len(built.dataset.val or ()),
        "test samples": len(built.dataset.test or ()),
        "batch size": built.batch_size,
        "steps per epoch": built.steps_per_epoch,
        "steps": built.total_steps,
        "flops per step": int(built.flops_per_step),
        "flops": int(built.flops_per_step) * built.total_steps,
        "memory of weights (bytes)": found.weights,
        "memory of activations (bytes)": found.activations,
        "memory of data (bytes)": found.data,
        "memory (bytes)": sum(found),
        "memory of the device (bytes)": devices.memory(built.device),
        "checkpoints (bytes)": _checkpoint_bytes(built),
        "device": str(built.device),
        "threads": built.threads,
    }


def check_space(built: Experiment, runs_dir: str | Path) -> None:
    """ResourceError (exit 6) if the disk of `runs_dir` has too little free space for the checkpoints."""
    folder = Path(runs_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    needed, free = _checkpoint_bytes(built), shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"runs_dir = {runs_dir} has {free / 1e6:,.1f} MB free, but the checkpoints of this training take "
            f"{needed / 1e6:,.1f} MB: free some, choose another --runs-dir or a smaller --keep-last"
        )


def _copies(built: Experiment) -> int:
    """The number of tensors per parameter that the optimizer and the average keep."""
    config = built.config
    return (_STATE[config.optimizer] if config.optimizer != "sgd" or config.momentum else 0) + bool(config.ema)


def _checkpoint_bytes(built: Experiment) -> int:
    """The most that checkpoints need: `keep_last` last ones, one that is being written, and two best ones."""
    weights: int = sum(t.numel() * t.element_size() for t in built.model.state_dict().values())
    return weights * ((1 + _copies(built)) * (built.config.keep_last + 1) + 2)
