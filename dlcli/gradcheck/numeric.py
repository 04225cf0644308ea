"""The numeric side: derivatives of a function of one variable at 0, and what they say of an analytic one.

Central differences at h and h/2 are extrapolated (Richardson 1911): (4 d(h/2) - d(h)) / 3 has an error of
h^4 instead of h^2. Whether there is a kink within the step is told by the second difference
(f(h) - 2 f(0) + f(-h)) / h: it halves with h where the function is smooth, and stays where the slope jumps.
The central difference itself cannot tell: that of |x| at 0 is 0 for every h.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

TOLERANCE = 1e-5
STEPS = (1e-3, 1e-4, 1e-5, 1e-6)

# A second difference that keeps more than this part of its size when the step is halved is a kink; 1/2 is smooth.
_KINK_RATIO = 0.65


@dataclass(frozen=True)
class Slope:
    """The numeric derivative at one step. noise: what rounding can do to it."""

    step: float
    value: float
    noise: float
    kinked: bool


@dataclass(frozen=True)
class Outcome:
    """One probe against one objective.

    what: agree; differ, at several steps that agree with each other; kink; or unresolved, when no two steps
    agree with each other or rounding hides the answer. error: absolute. relative: to the scale of the
    tensor's gradient. caught: relative error of the analytic derivative that would have been noticed.
    """

    what: Literal["agree", "differ", "kink", "unresolved"]
    analytic: float
    numeric: float
    error: float
    relative: float
    caught: float | None


def probe(
    along: Callable[[float], Sequence[float]],
    *,
    centre: Sequence[float],
    analytic: Sequence[float],
    floors: Sequence[float],
    roundoff: Sequence[float],
    tolerance: float = TOLERANCE,
) -> list[Outcome]:
    """Compare derivatives at 0 of the functions that `along(t)` gives the values of, all at once.

    centre: their values at 0. analytic: the derivatives in question. floors: the size below which a
    derivative counts as zero (see `check`). roundoff: the rounding error in a value.
    """
    scales = [max(abs(a), floor) for a, floor in zip(analytic, floors, strict=True)]
    fine = all(_noise(r, 1e-4) <= 0.1 * tolerance * s for r, s in zip(roundoff, scales, strict=True))
    # The smaller step meets fewer kinks; the larger one has less noise, for gradients that are nearly zero.
    order = (1e-4, 1e-5, 1e-6, 1e-3) if fine else STEPS
    slopes: list[list[Slope]] = [[] for _ in centre]
    outcomes: list[Outcome | None] = [None for _ in centre]
    for h in order:
        plus, minus, half_plus, half_minus = along(h), along(-h), along(h / 2), along(-h / 2)
        for j in range(len(centre)):
            if outcomes[j] is None:
                slopes[j].append(
                    _slope(
                        plus[j], minus[j], half_plus[j], half_minus[j],
                        centre=centre[j], step=h, roundoff=roundoff[j], threshold=tolerance * scales[j],
                    )
                )  # fmt: skip
                outcomes[j] = _agreement(slopes[j], analytic[j], floors[j], tolerance)
        if all(outcome is not None for outcome in outcomes):
            break
    return [
        outcome or _disagreement(slopes[j], analytic[j], floors[j], tolerance) for j, outcome in enumerate(outcomes)
    ]


def _noise(roundoff: float, step: float) -> float:
    return 3 * roundoff / step  # at worst 4/3 of two roundings over h, and 1/3 of two over 2h


def _slope(
    plus: float,
    minus: float,
    half_plus: float,
    half_minus: float,
    *,
    centre: float,
    step: float,
    roundoff: float,
    threshold: float,
) -> Slope:
    whole, half = (plus - minus) / (2 * step), (half_plus - half_minus) / step
    bend, half_bend = (plus - 2 * centre + minus) / step, (half_plus - 2 * centre + half_minus) / (step / 2)
    noise = _noise(roundoff, step)
    kinked = abs(half_bend) > max(threshold, 10 * noise) and abs(half_bend) > _KINK_RATIO * abs(bend)
    return Slope(step, (4 * half - whole) / 3, noise, kinked)


def _agreement(slopes: Sequence[Slope], analytic: float, floor: float, tolerance: float) -> Outcome | None:
    """The newest step's agreement, if it is one. A step counts if it resolves the tolerance, or is the one
    with the least noise: otherwise a small step would excuse any error of a small gradient by its noise."""
    last = slopes[-1]
    if last.kinked or not abs(last.value) < float("inf"):
        return None
    scale = max(abs(analytic), abs(last.value), floor)
    quietest = min(slope.noise for slope in slopes if not slope.kinked)
    allowed = tolerance * scale + last.noise
    if abs(last.value - analytic) <= allowed and (last.noise <= tolerance * scale or last.noise == quietest):
        return _outcome("agree", last, analytic, scale, caught=allowed / abs(analytic) if analytic else None)
    return None


def _disagreement(slopes: Sequence[Slope], analytic: float, floor: float, tolerance: float) -> Outcome:
    """No step agreed. It is an error if the two smallest steps that rounding leaves readable agree with each
    other; smaller ones are nearer to the truth where there is a kink beside the point."""
    clean = sorted((s for s in slopes if not s.kinked), key=lambda s: s.step)
    readable = [s for s in clean if s.noise <= 0.2 * abs(s.value - analytic)]
    for first, second in itertools.pairwise(readable):
        gap = 0.2 * abs(first.value - analytic)
        contradicted = any(s.step < first.step and abs(s.value - first.value) > gap + 2 * s.noise for s in clean)
        if abs(first.value - second.value) <= gap and not contradicted:
            scale = max(abs(analytic), abs(first.value), floor)
            if abs(first.value - analytic) > tolerance * scale + first.noise:
                return _outcome("differ", first, analytic, scale)
    what: Literal["kink", "unresolved"] = "kink" if len(clean) < len(slopes) else "unresolved"
    return _outcome(what, slopes[0], analytic, max(abs(analytic), floor))


def _outcome(
    what: Literal["agree", "differ", "kink", "unresolved"],
    slope: Slope,
    analytic: float,
    scale: float,
    *,
    caught: float | None = None,
) -> Outcome:
    """Where rounding is a large part of what is allowed (a gradient that is nearly zero), it is taken off the
    relative error."""
    error = abs(slope.value - analytic)
    counted = error if slope.noise < 0.01 * TOLERANCE * scale else max(error - slope.noise, 0.0)
    return Outcome(what, analytic, slope.value, error, counted / scale if scale else 0.0, caught)
