"""`batch_size = auto`: the smallest batch that trains nearly as many samples per second as any, and fits in memory."""

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from dlcli.compute import devices
from dlcli.compute.ranks import launched
from dlcli.compute.threads import bound, places
from dlcli.config.settings import TrainConfig
from dlcli.core.blame import out_of_memory
from dlcli.core.errors import ConfigError
from dlcli.experiment.build import Experiment, build
from dlcli.experiment.estimate import memory_of
from dlcli.experiment.load import import_own
from dlcli.training.loop import steps
from dlcli.training.practice import practice
from dlcli.training.step_clock import Timer

_SMALLEST, _BATCHES = 16, 10  # samples of the first batch, and batches that an epoch has at least
_STEPS, _FIRST, _ROUNDS = 8, 2, 2  # that are measured at each size, after some that do not count, so many times
_NEARLY = 0.9  # of the highest speed
_MEMORY = 0.8  # of the device that a training may take: the rest is head-room
_GAIN, _PATIENCE = 1.05, 2  # the search ends when so many doublings have gained less


@dataclass(frozen=True)
class Measured:
    """size: of a batch. rate: samples per second. memory: bytes that this process, or the device, has held at most."""

    size: int
    rate: float
    memory: int


@dataclass(frozen=True)
class Found:
    """config: with the size that was taken. measured: of each size, from the smallest. reason: why no larger ones."""

    config: TrainConfig
    measured: list[Measured]
    reason: str

    @property
    def line(self) -> str:
        """For the person and for the log of the run."""
        told = ", ".join(f"{m.size} {m.rate:,.0f}/s" for m in self.measured)
        return f"batch size {self.config.batch_size}, of {told}; no larger one, since {self.reason}"


def find_batch_size(config: TrainConfig, *, runs_dir: str | Path = "runs") -> Found:
    """Measure sizes from 16 on, each twice the last, in real steps without a run, and take the smallest that reaches
    0.9 of the highest speed.

    The search ends at a tenth of the training data, before a fifth of the memory would not be left, or when two
    doublings have not gained 5 %. The loss is not looked at: a larger batch takes fewer steps, and may want a larger
    learning rate. ConfigError for a training in several processes.
    """
    if config.processes > 1 or launched():
        raise ConfigError("batch_size = auto is measured in one process: give a number for several")
    import_own(config, runs_dir=runs_dir)
    built = build(config.with_values(batch_size=_SMALLEST), runs_dir=runs_dir)
    most = max(1, len(built.dataset.train) // _BATCHES)
    size, measured, reason = min(_SMALLEST, most), list[Measured](), f"an epoch would have less than {_BATCHES} batches"
    while True:
        if (told := _too_large(built, size, measured)) is not None:
            reason = told
            break
        try:
            measured.append(_measure(built, size))
        except Exception as error:
            if not out_of_memory(error) or not measured:
                raise
            reason = f"{size} do not fit in memory"
            break
        if _gains_no_more([m.rate for m in measured]):
            reason = "the speed has stopped rising"
            break
        if 2 * size > most:
            break
        size *= 2
    best = max(m.rate for m in measured)
    taken = next(m.size for m in measured if m.rate >= _NEARLY * best)
    return Found(config.with_values(batch_size=taken), measured, reason)


def _gains_no_more(rates: list[float]) -> bool:
    if len(rates) <= _PATIENCE:
        return False
    return max(rates[-_PATIENCE:]) < _GAIN * max(rates[:-_PATIENCE])


def _too_large(built: Experiment, size: int, measured: list[Measured]) -> str | None:
    """Why a batch of this size is not tried: the memory of the sizes before it, or that of its activations, says so."""
    there = devices.memory(built.device)
    expected = sum(memory_of(built)) + built.cost.bytes * (size - built.batch_size)
    if len(measured) >= 2:
        expected = max(expected, measured[-1].memory + 2 * (measured[-1].memory - measured[-2].memory))
    elif measured:
        expected = max(expected, measured[-1].memory)
    if not measured or expected <= _MEMORY * there:
        return None
    return f"{size} would take {expected / 1e9:.1f} of {there / 1e9:.1f} GB of memory"


def _measure(built: Experiment, size: int) -> Measured:
    """Of a training with batches of this size, the faster of two rounds: a busy machine only slows."""
    weights = {name: tensor.clone() for name, tensor in built.model.state_dict().items()}
    config = built.config.with_values(batch_size=size)
    tried = build(config, weights=weights, load=lambda config, **how: built.dataset)
    timer, on_gpu = Timer(tried.device), tried.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(tried.device)
    rates = []
    with practice(tried, timer, steps=_ROUNDS * (_STEPS + _FIRST) + 1) as session:
        for _ in range(_ROUNDS):
            timer.begin(_STEPS + _FIRST)
            with bound(places(tried.threads)):
                for _ in steps(session, timer.stop):
                    pass
            session.saver.wait()
            counted = timer.times[_FIRST:]
            rates.append(sum(samples for samples, _ in counted) / sum(seconds for _, seconds in counted))
    held = torch.cuda.max_memory_allocated(tried.device) if on_gpu else _held()
    return Measured(size, max(rates), held)


def _held() -> int:
    """Bytes that this process has held at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
