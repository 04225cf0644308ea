"""What a network takes and what it reaches: its size, its work, its time, its answers."""

import statistics
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from dlcli.compute.devices import autocast, waiting
from dlcli.compute.threads import computing
from dlcli.data.batches import in_order
from dlcli.evaluation.measure import finite, measure
from dlcli.experiment.build import Experiment

_FEWEST, _MOST, _SECONDS = 11, 40, 1.0  # rounds, and how long they may take
_LEAST = 0.002  # seconds of a turn: a faster network answers several times in it


@dataclass(frozen=True)
class Latency:
    """Seconds for a batch of the network before and after, and after / before: medians over the rounds, with the
    quartiles of the ratio. Both take turns, so that other work on the machine slows both."""

    batch: int
    before: float
    after: float
    ratio: float
    low: float
    high: float
    rounds: int

    def as_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


def sizes(built: Experiment) -> dict[str, Any]:
    """parameters; flops of one sample; file_bytes of the weights as safetensors, and compressed_bytes of that file by
    zlib."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in built.model.state_dict().items()}
    content = save({name: t.clone() for name, t in tensors.items()})
    return {
        "parameters": sum(p.numel() for p in built.model.parameters()),
        "flops": built.cost.flops,
        "file_bytes": len(content),
        "compressed_bytes": len(zlib.compress(content)),
    }


def scores(built: Experiment, split: str) -> dict[str, float | None]:
    """The metrics of the model on a split of its data, as `dlcli eval` measures them."""
    task = built.task
    if isinstance(built.config.threshold, str) and built.dataset.val is not None:
        task = task.settled(_measured(built, "val", task))
    measures = _measured(built, split, task)
    return finite(task.metrics(measures)) | finite(task.tables(measures).metrics)


def _measured(built: Experiment, split: str, task: Any) -> Any:
    return measure(
        built.model, built.dataset.split(split), task, batch_size=built.eval_batch_size, threads=built.eval_threads,
        precision=built.config.precision, device=built.device, whole=True,
    )  # fmt: skip


def latencies(before: Experiment, after: nn.Module) -> list[Latency]:
    """For a batch of one sample, and for one of the evaluation. The threads are those of the evaluation before."""
    split = before.dataset.val or before.dataset.train
    found = []
    for size in dict.fromkeys((1, min(before.eval_batch_size, len(split)))):
        x = next(in_order(split, size)).x
        found.append(_in_turns(before.model, after, x, before))
    return found


@torch.inference_mode()
def _in_turns(before: nn.Module, after: nn.Module, x: Tensor, built: Experiment) -> Latency:
    wait = waiting(built.device)
    models = [before.eval(), after.eval()]
    with computing(built.eval_threads), autocast(built.config.precision, built.device):

        def turn(model: nn.Module, times: int) -> float:
            start = time.perf_counter()
            for _ in range(times):
                model(x)
            wait()
            return (time.perf_counter() - start) / times

        times = [_repetitions(lambda count, model=model: turn(model, count)) for model in models]  # type: ignore[misc]
        pairs: list[tuple[float, float]] = []
        began = time.perf_counter()
        while len(pairs) < _FEWEST or (len(pairs) < _MOST and time.perf_counter() - began < _SECONDS):
            order = (0, 1) if len(pairs) % 2 else (1, 0)
            taken = {number: turn(models[number], times[number]) for number in order}
            pairs.append((taken[0], taken[1]))
    ratios = [b / a for a, b in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Latency(
        batch=len(x),
        before=statistics.median(a for a, _ in pairs),
        after=statistics.median(b for _, b in pairs),
        ratio=middle,
        low=low,
        high=high,
        rounds=len(pairs),
    )


def _repetitions(turn: Callable[[int], float]) -> int:
    """How often a network answers in a turn. The first answers, which take longer, do not count."""
    turn(3)
    return max(1, round(_LEAST / max(turn(3), 1e-9)))
