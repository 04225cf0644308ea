"""`profile`: where the time and the memory of a training go, what bounds it, and how far the machine's limit is."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli.analysis.profile.bound import Bound, advice, find_bound
from dlcli.analysis.profile.counting import Work
from dlcli.analysis.profile.ledger import Owner
from dlcli.analysis.profile.limit import Limit, measure_limit
from dlcli.analysis.profile.operators import check_trace, operators, recorder, write_trace
from dlcli.analysis.profile.steps import Watched, typical, watch
from dlcli.checkpoints import checkpoint
from dlcli.compute.processor import processor
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError
from dlcli.experiment.build import Experiment, build
from dlcli.experiment.estimate import memory_of
from dlcli.experiment.load import import_own
from dlcli.experiment.teacher import with_teacher_found
from dlcli.runs.run import Run
from dlcli.training.practice import PHASES

BY = ("phase", "module", "operator")
OUTSIDE = "outside modules"


@dataclass(frozen=True)
class Profile:
    """rows: of each phase, module or operator, in one step; `share` is of all rows. See `as_dict` for the rest.

    step: seconds of a step that is not watched, the mean of those between the quartiles. overhead: name of what watched
    -> by what part the steps that it watched were longer.
    """

    built: Experiment
    by: str
    rows: list[dict[str, Any]]
    step: float
    watched: Watched
    limit: Limit
    bound: Bound
    advice: list[str]
    overhead: dict[str, float]
    work: Work

    @property
    def samples_per_second(self) -> float:
        return self.watched.samples / self.step

    def as_dict(self) -> dict[str, Any]:
        config, memory = self.built.config, memory_of(self.built)
        ordered = sorted(self.watched.plain)
        return {
            "model": config.model,
            "data": config.data,
            "device": str(self.built.device),
            "processor": processor(),
            "threads": self.built.threads,
            "precision": config.precision,
            "batch_size": self.built.batch_size,
            "samples_per_step": self.watched.samples,
            "steps": len(ordered),
            "seconds_per_step": self.step,
            "quartiles": [ordered[len(ordered) // 4], ordered[len(ordered) * 3 // 4]],
            "samples_per_second": self.samples_per_second,
            "seconds_of_checks": typical(self.watched.checks),
            "flops": self.work.flops,
            "bytes": self.work.bytes,
            "operators": self.work.operators,
            "peak_bytes": self.work.peak,
            "state_bytes": memory.weights,
            "data_bytes": memory.data,
            "limit": self.limit.as_dict(),
            "bound": self.bound.as_dict(),
            "advice": self.advice,
            "overhead": self.overhead,
            "by": self.by,
            "rows": self.rows,
        }


def build_to_profile(config: TrainConfig, *, run: Run | None = None, runs_dir: str | Path = "runs") -> Experiment:
    """What `dlcli train` would build of these settings. run: the one that they are of; its last weights are taken."""
    config = with_teacher_found(config, run.root if run else runs_dir)
    import_own(config, runs_dir=run.root if run else runs_dir)
    saved = None
    for role in ("last", "best"):  # one that was not trained has no last one
        if run is not None and saved is None and checkpoint.exists(run.checkpoints, role):
            saved = checkpoint.load(run.checkpoints, role)
    return build(config, weights=saved.weights if saved else None, runs_dir=run.root if run else runs_dir)


def profile(
    built: Experiment,
    *,
    steps: int = 20,
    warmup: int = 5,
    by: str = "phase",
    memory: bool = False,
    trace: Path | None = None,
    force: bool = False,
) -> Profile:
    """Train `built` for some steps, as `dlcli train` does, and see where their time goes. Makes no run.

    steps: that are watched; as many that are not take turns with them. warmup: steps before them that do not count.
    by: one of BY, what the rows are of. memory: whether the rows say what they allocate. trace: the file for the Chrome
    trace of `steps` more steps; force: replace it.
    Raises ConfigError for modules inside a model that torch.compile compiles, and what a training raises.
    """
    config = built.config
    if by == "module" and config.compile:
        raise ConfigError("--by module cannot look into a model that is compiled: leave --compile out")
    if trace is not None:
        check_trace(trace, force=force)
    recording = recorder(built.device, memory=memory) if by == "operator" or trace is not None else None
    found = watch(built, steps=steps, warmup=warmup, by_module=by == "module", profiler=recording)
    limit = measure_limit(built.device, precision=config.precision)
    step, seconds = typical(found.plain), found.seconds
    overhead = {by if by != "operator" else "phase": found.overhead}
    if recording is not None:
        overhead["torch.profiler"] = typical(found.recorded) / step - 1
    if trace is not None:
        write_trace(recording, trace, force=force)
    bound = find_bound(seconds, found.work, limit, step=step)
    if by == "operator":
        rows = operators(recording, steps=steps, seconds=statistics.fmean(found.recorded), memory=memory)
    elif by == "module":
        rows = _of_modules(built, seconds, found.work, memory=memory)
    else:
        rows = _of_phases(seconds, found.work, memory=memory)
    return Profile(
        built, by, rows, step, found, limit, bound, advice(bound, built), overhead,
        work=_sum(work for owner, work in found.work.items() if owner.phase != "checks"),
    )  # fmt: skip


def _of_phases(seconds: Mapping[Owner, float], work: Mapping[Owner, Work], *, memory: bool) -> list[dict[str, Any]]:
    whole = sum(seconds.values())
    rows = []
    for phase in PHASES:
        if phase == "checks":
            continue
        taken = sum(s for owner, s in seconds.items() if owner.phase == phase)
        asked = _sum(w for owner, w in work.items() if owner.phase == phase)
        rows.append({"phase": phase, "seconds": taken, "share": taken / whole, **_asked(asked, memory=memory)})
    return rows


def _of_modules(
    built: Experiment, seconds: Mapping[Owner, float], work: Mapping[Owner, Work], *, memory: bool
) -> list[dict[str, Any]]:
    """In the order of the model; a module that holds others has what they do not have. The last row is the rest."""
    whole = sum(seconds.values())
    part = built.working_part(built.model)
    names = {path or built.trained_part or built.config.model: type(m).__name__ for path, m in part.named_modules()}
    rows = []
    for name in [*names, ""]:
        taken = {owner: s for owner, s in seconds.items() if owner.module == name}
        asked = _sum(w for owner, w in work.items() if owner.module == name and owner.phase != "checks")
        if not taken and not asked.operators:
            continue
        forward, backward = (
            None if not name else sum(s for owner, s in taken.items() if owner.phase == phase)
            for phase in ("forward", "backward")
        )
        rows.append(
            {
                "module": name or OUTSIDE, "kind": names.get(name), "forward": forward, "backward": backward,
                "seconds": sum(taken.values()), "share": sum(taken.values()) / whole, **_asked(asked, memory=memory),
            }
        )  # fmt: skip
    return rows


def _asked(work: Work, *, memory: bool) -> dict[str, int]:
    found = {"flops": work.flops, "bytes": work.bytes, "operators": work.operators}
    return found | ({"allocated": work.allocated, "peak": work.peak} if memory else {})


def _sum(works: Iterable[Work]) -> Work:
    total = Work()
    for work in works:
        total.add(work)
    return total
