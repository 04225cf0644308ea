"""Numeric derivatives of a function of one variable at 0, and their comparison with an analytic one.

Central differences d at h and h/2 are extrapolated (Richardson 1911): (4 d(h/2) - d(h)) / 3 has an error of order h^4
instead of h^2. A kink within the step is detected by the second difference (f(h) - 2 f(0) + f(-h)) / h: it halves with
h if the function is smooth, and keeps its size if the slope jumps. The central difference itself cannot detect a kink:
for |x| at 0 it is 0 for every h.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

TOLERANCE = 1e-5
STEPS = (1e-3, 1e-4, 1e-5, 1e-6)

# There is a kink if halving the step leaves more than this part of the second difference; 1/2 remains if it is smooth.
_KINK_RATIO = 0.65


@dataclass(frozen=True)
class Slope:
    """The numeric derivative with one step size. noise: the largest error that rounding can cause in it."""

    step: float
    value: float
    noise: float
    kinked: bool


@dataclass(frozen=True)
class Outcome:
    """The result of one probe for one objective.

    what: agree; differ (several step sizes agree with each other, but not with the analytic derivative); kink; or
    unresolved (no two step sizes agree with each other, or rounding is too large). error: absolute. relative: error
    relative to the scale of the tensor's gradient. caught: the smallest relative error of the analytic derivative that
    would have been detected.
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
    """Compare numeric with analytic derivatives at t = 0 of several functions, whose values are `along(t)`.

    Per function: centre: its value at 0. analytic: the derivative to check. floors: the size below which a derivative
    counts as zero (see `probing.floors_of`). roundoff: the rounding error of a value.
    """
    scales = [max(abs(a), floor) for a, floor in zip(analytic, floors, strict=True)]
    fine = all(_noise(r, 1e-4) <= 0.1 * tolerance * s for r, s in zip(roundoff, scales, strict=True))
    # A smaller step crosses fewer kinks; a larger one has less noise, which matters if the gradient is nearly zero.
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
    """The outcome "agree" if the last step agrees, else None. Only a step that resolves the tolerance, or the one with
    the least noise, counts: otherwise the noise of a small step would excuse any error of a small gradient."""
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
    """The outcome if no step agreed: "differ" if two successive steps with little noise agree with each other, smallest
    steps first, and no smaller step contradicts them. Small steps are more accurate if there is a kink nearby."""
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
    """An Outcome. If rounding is a large part of the allowed error (a gradient that is nearly zero), it is subtracted
    from the relative error."""
    error = abs(slope.value - analytic)
    counted = error if slope.noise < 0.01 * TOLERANCE * scale else max(error - slope.noise, 0.0)
    return Outcome(what, analytic, slope.value, error, counted / scale if scale else 0.0, caught)
