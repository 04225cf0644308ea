"""Whether torch.compile saves time: compares a run that uses it with an estimate of the same run without it."""

import copy
import statistics
import time

import torch

from dlcli.compute.devices import autocast
from dlcli.data import batches
from dlcli.experiment.build import Experiment
from dlcli.models.freezing import training_mode

_WARM_UP, _MEASURED = 2, 5


def seconds_of_an_eager_step(built: Experiment) -> float:
    """Median seconds of the forward and backward passes of one step without compilation, on a copy of the model.

    The weights, the buffers and the random states do not change.
    """
    config, objective = built.config, built.objective
    model = built.working_part(training_mode(copy.deepcopy(built.model), built.frozen))
    batch = next(
        batches.shuffled(
            built.working.train,
            built.batch_size,
            seed=config.seed,
            epoch=1,
            count=built.batches_per_epoch,
            part=built.ranks.part_of if built.ranks.size > 1 else None,
        )  # fmt: skip
    )
    times = []
    with torch.random.fork_rng(devices=[built.device] if built.device.type == "cuda" else []):
        for _ in range(_WARM_UP + _MEASURED):
            start = time.perf_counter()
            for _ in range(config.accumulate):
                with autocast(config.precision, built.device):
                    loss = objective(model, batch)
                loss.backward()  # type: ignore[no-untyped-call]
            float(loss.detach())  # waits for the device
            times.append(time.perf_counter() - start)
    return statistics.median(times[_WARM_UP:])


def verdict(*, seconds: float, steps: int, eager_step: float) -> dict[str, float | bool]:
    """The entry `compile` of run.json: seconds of training, an estimate without compilation, and whether it saved time.

    seconds: of training with torch.compile, compilation included. eager_step: seconds per step without it.
    """
    eager = eager_step * steps
    return {"seconds": round(seconds, 3), "eager_seconds": round(eager, 3), "paid": seconds < eager}
