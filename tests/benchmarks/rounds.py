"""Things that are compared take turns, round after round; a ratio is the median of the rounds' ratios."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.noise import Guard

Job = Callable[[], float | Mapping[str, float]]


@dataclass(frozen=True)
class Comparison:
    """values: name -> a value a round, of the quiet rounds; of all rounds where too few were quiet.

    noise: the largest of these rounds, or the median of all where too few were quiet.
    """

    values: dict[str, list[float]]
    noise: float
    quiet: bool

    def median(self, name: str) -> float:
        return statistics.median(self.values[name])

    def ratio(self, name: str, to: str) -> float | None:
        """None where the machine was too noisy to say."""
        if not self.quiet:
            return None
        return statistics.median(a / b for a, b in zip(self.values[name], self.values[to], strict=True))

    def as_dict(self) -> dict[str, Any]:
        medians = {name: self.median(name) for name in self.values}
        return {"noise": round(self.noise, 3), "quiet": self.quiet, "median": medians, "values": self.values}


def compare(jobs: Mapping[str, Job], *, rounds: int, guard: Guard) -> Comparison:
    """Run all jobs in turn until `rounds` rounds were quiet, but no more than twice as many rounds.

    A job returns its value, or several by name, which are then called `JOB NAME`.
    """
    kept: list[tuple[float, dict[str, float]]] = []
    dropped: list[tuple[float, dict[str, float]]] = []
    while len(kept) < rounds and len(kept) + len(dropped) < 2 * rounds:
        values: dict[str, float] = {}
        guard.wait()
        for name, job in jobs.items():
            guard.probe()
            found = job()
            values |= {f"{name} {n}": v for n, v in found.items()} if isinstance(found, Mapping) else {name: found}
        guard.probe()
        noise = guard.take()
        (kept if noise <= guard.bound else dropped).append((noise, values))
    quiet = len(kept) == rounds
    used = kept if quiet else kept + dropped
    noise = max(n for n, _ in used) if quiet else statistics.median(n for n, _ in used)
    return Comparison({name: [values[name] for _, values in used] for name in used[0][1]}, noise, quiet)
