"""What bounds a training: its data, the dispatch of operators, memory or arithmetic; and what to try."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlcli.analysis.profile.counting import Work
from dlcli.analysis.profile.ledger import Owner
from dlcli.analysis.profile.limit import Limit
from dlcli.compute.threads import usable_cores
from dlcli.experiment.build import Experiment


@dataclass(frozen=True)
class Bound:
    """Seconds of a step: data as it was measured; dispatch, what its operators take if they compute nothing; memory and
    arithmetic, what they take at the limit of the machine, each operator counted where it needs longer.

    by: data if it is more than half of the step, else the largest of the others. share: of memory and arithmetic
    together in the step: 1 at the limit of the machine.
    """

    by: str
    data: float
    dispatch: float
    memory: float
    arithmetic: float
    share: float

    def as_dict(self) -> dict[str, Any]:
        parts = {name: getattr(self, name) for name in ("data", "dispatch", "memory", "arithmetic")}
        return {"by": self.by, "seconds": parts, "share_of_limit": self.share}


def find_bound(seconds: Mapping[Owner, float], work: Mapping[Owner, Work], limit: Limit, *, step: float) -> Bound:
    """seconds: of each owner in a step. work: of each owner. step: seconds of a whole step that is not watched."""
    arithmetic = memory = 0.0
    count = 0
    for owner, asked in work.items():
        if owner.phase in ("data", "checks"):
            continue
        count += asked.operators
        for flops, moved in asked.each:
            to_compute, to_move = flops / limit.flops, limit.seconds_to_move(moved)
            if to_compute >= to_move:
                arithmetic += to_compute
            else:
                memory += to_move
    data = sum(taken for owner, taken in seconds.items() if owner.phase == "data")
    dispatch = count * limit.operator
    parts = {"dispatch": dispatch, "memory": memory, "arithmetic": arithmetic}
    by = "data" if data > sum(seconds.values()) / 2 else max(parts, key=parts.__getitem__)
    return Bound(by, data, dispatch, memory, arithmetic, (memory + arithmetic) / step)


def advice(bound: Bound, built: Experiment) -> list[str]:
    """What may make this training faster, most promising first."""
    config, on_cpu, cores = built.config, built.device.type == "cpu", usable_cores()
    larger = []
    if config.batch_size != "full" and built.batch_size * 2 <= len(built.dataset.train):
        larger = [f"--batch-size {built.batch_size * 2}: each operator does more"]
    fewer_bits = []
    if config.precision in ("fp32", "tf32"):
        fewer_bits = ["--precision bf16: half the bytes, and faster products where the processor has them"]
    fused = [] if config.compile else ["--compile: fewer operators, after minutes of compilation"]
    found: list[str] = []
    if bound.by == "data":
        if config.data_options.get("storage") == "files":
            found.append("--storage cache: images are decoded once")
        if config.augment:
            found.append(f"fewer augmentations (augment = {','.join(config.augment)})")
        found += larger
    elif bound.by == "dispatch":
        found += larger
        if on_cpu and built.threads > 1:
            found.append("--threads 1: small operators wait for each other's threads")
        found += [] if on_cpu else fused
    elif bound.by == "memory":
        found += fewer_bits + fused
    else:
        if on_cpu and built.threads < cores:
            found.append(f"--threads {cores}: {built.threads} of {cores} cores compute")
        found += fewer_bits
    return found or ["a smaller model, smaller inputs or another machine: no setting is known to help"]
