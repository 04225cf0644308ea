"""Hashes of the complete result of a training, and their comparison with those of another training."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlcli.checkpoints import checkpoint
from dlcli.experiment.guard import build_model
from dlcli.experiment.restore import preprocessing_of
from dlcli.runs.run import Run

# part -> name -> sha256 of a tensor, or a plain value as JSON
Snapshot = dict[str, dict[str, str]]

_TIMES = ("seconds", "samples_per_second")
_SIZES = ("metrics_bytes", "log_bytes")  # of files that contain times
_PARTS = {"optimizer": "optimizer", "random": "random states"}


@dataclass(frozen=True)
class Comparison:
    """The comparison of one part. compared: number of tensors or values. first, hashes: name and both hashes of the
    first that differs; None if all are equal."""

    part: str
    compared: int
    first: str | None = None
    hashes: tuple[str, str] | None = None

    @property
    def equal(self) -> bool:
        return self.first is None

    def as_dict(self) -> dict[str, Any]:
        return {
            "part": self.part,
            "compared": self.compared,
            "equal": self.equal,
            "first_difference": self.first,
            "hashes": None if self.hashes is None else list(self.hashes),
        }


def digest(tensor: Tensor) -> str:
    """sha256 of dtype, shape and bytes. It is equal only for tensors with equal bits, also with NaN."""
    plain = tensor.detach().cpu().contiguous()
    found = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    found.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def snapshot(run: Run) -> Snapshot:
    """The hashes of both checkpoints of a run, and of its metrics without times."""
    last = checkpoint.load(run.checkpoints, "last", with_training=True)
    best = checkpoint.load(run.checkpoints, "best")
    training = last.training or {}
    model = {name.removeprefix("model."): t for name, t in training.items() if name.startswith("model.")}
    weights = last.weights | model  # with `ema`, last.weights is the average; it shares what is frozen
    parameters = dict(build_model(run.config(), preprocessing_of(run).spec).named_parameters())
    found: Snapshot = {
        "parameters": {name: digest(t) for name, t in weights.items() if name in parameters},
        "buffers": {name: digest(t) for name, t in weights.items() if name not in parameters},
        "average": {name: digest(t) for name, t in last.weights.items()} if model else {},
        "optimizer": {},
        "random states": {},
        "sums": {},
    }
    for name, tensor in training.items():
        kind = name.partition(".")[0]
        if kind != "model":
            found[_PARTS.get(kind, "sums")][name] = digest(tensor)
    found["best weights"] = {name: digest(t) for name, t in best.weights.items()}
    found["position and best"] = _values({"last": last.state, "best": best.state})
    found["metrics.csv"] = {
        f"row {number} {name}": json.dumps(value)
        for number, row in enumerate(run.metrics(), 1)
        for name, value in row.items()
        if name not in _TIMES
    }
    return {part: values for part, values in found.items() if values}


def compare(one: Mapping[str, Mapping[str, str]], other: Mapping[str, Mapping[str, str]]) -> list[Comparison]:
    """One Comparison per part, in the order of `one`."""
    found = []
    for part in [*one, *(part for part in other if part not in one)]:
        here, there = one.get(part, {}), other.get(part, {})
        names = [*here, *(name for name in there if name not in here)]
        first = next((name for name in names if here.get(name) != there.get(name)), None)
        hashes = None if first is None else (here.get(first, "missing"), there.get(first, "missing"))
        found.append(Comparison(part, len(names), first, hashes))
    return found


def short(value: str) -> str:
    """The first 12 digits of a hash; a plain value unchanged."""
    return value[:12] if len(value) == 64 else value


def _values(state: Mapping[str, Any], place: str = "") -> dict[str, str]:
    """The plain values of a nested state, named by their path in it: `training.epoch`."""
    found: dict[str, str] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            found |= _values(value, f"{place}{name}.")
        elif name not in _SIZES:
            found[place + name] = json.dumps(value)
    return found
