"""The probes of a subject: the choice of directions and coordinates, their results, and the verdict on each tensor."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dlcli.core.seeds import derive
from dlcli.gradcheck import numeric
from dlcli.gradcheck.numeric import Outcome
from dlcli.gradcheck.report import Row, Worst
from dlcli.gradcheck.subject import OBJECTIVES, Gradients, Subject, Variable


@dataclass(frozen=True)
class Effort:
    """The number of probes per tensor.

    directions: random directions. coordinates: single elements of a tensor with more than `whole` elements; of a
    smaller one all are probed. boundary_...: the same for the inputs and outputs of modules. boundaries_always: probe
    these even if no parameter or input is wrong. exhaustive: probe all elements of parameters and inputs.
    """

    directions: int = 2
    coordinates: int = 8
    whole: int = 64
    boundary_directions: int = 2
    boundary_coordinates: int = 8
    boundary_whole: int = 64
    boundaries_always: bool = True
    exhaustive: bool = False

    def of(self, variable: Variable) -> tuple[int, int, int]:
        """The values of directions, coordinates and whole that apply to this variable."""
        if variable.tap is None:
            return self.directions, self.coordinates, math.prod(variable.shape) if self.exhaustive else self.whole
        return self.boundary_directions, self.boundary_coordinates, self.boundary_whole


@dataclass(frozen=True, eq=False)
class Probe:
    """direction: of unit length, in the shape of the tensor. index: of the one element that is not zero, in the
    flattened tensor; None for a random direction."""

    index: int | None
    direction: Tensor


@dataclass(frozen=True, eq=False)
class Result:
    """The outcome of a probe for each objective, in the units of the derivative."""

    probe: Probe
    outcomes: tuple[Outcome, ...]


def choose(variable: Variable, gradients: Gradients, effort: Effort, *, seed: int) -> Iterator[Probe]:
    """The probes of a variable: random directions, then coordinates. The same seed gives the same probes.

    If a tensor has too many elements to probe all, half of the coordinates are those with the largest gradients, and
    half are drawn at random.
    """
    generator = torch.Generator().manual_seed(derive(seed, f"probes of {variable.name}"))
    directions, coordinates, whole = effort.of(variable)
    for _ in range(directions):
        direction = torch.randn(variable.shape, generator=generator, dtype=torch.float64)
        yield Probe(None, direction / direction.norm())
    if variable in gradients.values and bool((gradients.values[variable] == 0).any()):
        # An exact 0 after a ReLU is often at a kink of the next operation (max pooling over a window of zeros), and one
        # such element makes a whole direction unusable. So one direction leaves out all zeros.
        direction = direction * (gradients.values[variable] != 0)
        if bool(direction.any()):
            yield Probe(None, direction / direction.norm())
    size = math.prod(variable.shape)
    if size <= whole:
        indices = list(range(size))
    else:
        sizes = torch.stack([g.abs().flatten() for o in gradients.of if (g := o[variable]) is not None] or
                            [torch.zeros(size)]).sum(0)  # fmt: skip
        largest = sizes.topk(min(coordinates // 2, size)).indices.tolist()
        drawn = torch.randint(size, (coordinates - len(largest),), generator=generator).tolist()
        indices = list(dict.fromkeys(largest + drawn))
    for index in indices:
        yield coordinate(variable.shape, index)


def coordinate(shape: Sequence[int], index: int) -> Probe:
    direction = torch.zeros(math.prod(shape), dtype=torch.float64)
    direction[index] = 1.0
    return Probe(index, direction.view(tuple(shape)))


def results(
    subject: Subject,
    gradients: Gradients,
    variable: Variable,
    probes: Iterable[Probe],
    *,
    floors: Sequence[float],
    roundoff: Sequence[float],
    evaluate: Callable[[], Sequence[float]] | None = None,
) -> Iterator[Result]:
    """The results of the probes, one after the other.

    floors: see `floors_of`. roundoff: the rounding error of each objective. evaluate: returns the values whose
    gradients `gradients` holds; by default the objectives of the subject.
    """
    evaluate = evaluate or subject.value
    values = gradients.values.get(variable)
    values = subject.leaves[variable.name].detach() if values is None else values
    # Steps are relative to the values if these are large.
    unit = max(1.0, float(values.square().mean().sqrt()) if values.numel() else 1.0)
    for probe in probes:
        with subject.moving(variable, probe.direction * unit) as move:

            def along(t: float, move: Callable[[float], None] = move) -> Sequence[float]:
                move(t)
                return evaluate()

            analytic = [_dot(objective[variable], probe.direction) for objective in gradients.of]
            outcomes = numeric.probe(
                along,
                centre=gradients.centre,
                analytic=[a * unit for a in analytic],
                floors=[floor * unit for floor in floors],
                roundoff=roundoff,
            )
        yield Result(probe, tuple(_in_units(outcome, unit) for outcome in outcomes))


def floors_of(gradients: Gradients, variable: Variable) -> list[float]:
    """For each objective the size below which a derivative counts as zero: 1e-2 of the largest element of the tensor's
    gradient, or 1e-6 of the largest of all gradients if that is more.

    Some gradients are mathematically zero (a bias before batch normalisation, the bias of attention's keys), and then
    an error can only be measured relative to the other gradients.
    """
    floors = []
    for objective in gradients.of:
        own = objective[variable]
        largest = max((_largest(g) for v, g in objective.items() if v.tap is None), default=0.0)
        floors.append(max(1e-2 * _largest(own), 1e-6 * largest, 1e-300))
    return floors


def worst_coordinate(
    subject: Subject,
    gradients: Gradients,
    variable: Variable,
    start: Tensor,
    objective: int,
    *,
    roundoff: Sequence[float],
) -> Worst | None:
    """A wrong coordinate, found by bisection: a wrong direction is halved, and the half with the larger error kept.
    None if the coordinate found is not wrong."""
    direction, size = start.flatten().clone(), start.numel()
    low, high = 0, size
    floors = floors_of(gradients, variable)

    def error(first: int, last: int) -> float:
        part = torch.zeros_like(direction)
        part[first:last] = direction[first:last]
        if not bool(part.any()):
            return 0.0
        probe = Probe(None, part.view(start.shape))
        (result,) = results(subject, gradients, variable, [probe], floors=floors, roundoff=roundoff)
        return result.outcomes[objective].error

    while high - low > 1:
        middle = (low + high) // 2
        if error(low, middle) >= error(middle, high):
            high = middle
        else:
            low = middle
    probe = coordinate(variable.shape, low)
    (result,) = results(subject, gradients, variable, [probe], floors=floors, roundoff=roundoff)
    outcome = result.outcomes[objective]
    if outcome.what != "differ":
        return None
    return Worst(unravel(low, variable.shape), outcome.analytic, outcome.numeric, subject.mode, OBJECTIVES[objective])


def row(
    subject: Subject,
    gradients: Gradients,
    variable: Variable,
    found: Sequence[Result],
    objective: int,
    *,
    floors: Sequence[float],
) -> Row:
    """The report row of one variable for one objective, from the results of its probes."""
    gradient = gradients.of[objective][variable]
    outcomes = [(r.probe, r.outcomes[objective]) for r in found]
    compared = [(p, o) for p, o in outcomes if o.what in ("agree", "differ")]
    kinks = sum(o.what == "kink" for _, o in outcomes)
    unresolved = sum(o.what == "unresolved" for _, o in outcomes)
    differing = [(p, o) for p, o in compared if o.what == "differ"]
    # A wrong coordinate is more useful to report than a direction; among several, the one with the largest error.
    ranked = sorted(
        differing or compared, key=lambda item: (item[0].index is not None and bool(differing), item[1].relative)
    )
    worst = None
    if ranked:
        probe, outcome = ranked[-1]
        index = None if probe.index is None else unravel(probe.index, variable.shape)
        worst = Worst(index, outcome.analytic, outcome.numeric, subject.mode, OBJECTIVES[objective])
    verdict, reason = _verdict(variable, gradient, found, objective, differing=bool(differing))
    caught = [o.caught for _, o in compared if o.caught is not None]
    zero = gradient is None or _largest(gradient) <= floors[objective]
    return Row(
        tensor=variable.name,
        kind=variable.kind,
        module=variable.module,
        shape=variable.shape,
        gradient_norm=0.0 if gradient is None else float(gradient.norm()),
        max_absolute=max((o.error for _, o in compared), default=0.0),
        max_relative=max((o.relative for _, o in compared), default=0.0),
        probes=len(compared),
        kinks=kinks,
        unresolved=unresolved,
        verdict=verdict,  # type: ignore[arg-type]
        reason=reason,
        worst=worst,
        smallest_caught=None if zero else min(caught, default=None),
    )


def _verdict(
    variable: Variable, gradient: Tensor | None, found: Sequence[Result], objective: int, *, differing: bool
) -> tuple[str, str]:
    if gradient is not None and not bool(torch.isfinite(gradient).all()):
        count = int((~torch.isfinite(gradient)).sum())
        return "non-finite", f"{count} of {gradient.numel()} elements of the gradient are not finite"
    if differing:
        if gradient is None or not bool(gradient.any()):
            how = "autograd has no gradient for it" if gradient is None else "its gradient is zero"
            return "detached", f"{how}, but the output depends on it"
        return "wrong", ""
    outcomes = [r.outcomes[objective] for r in found]
    dropped = sum(o.what in ("kink", "unresolved") for o in outcomes)
    if outcomes and 2 * dropped > len(outcomes):
        kinks = sum(o.what == "kink" for o in outcomes)
        why = "are at kinks" if 2 * kinks > dropped else "are lost in rounding"
        return "undecided", f"{dropped} of {len(outcomes)} probes {why}"
    if gradient is None and variable.tap is None:
        return "unused", "the output does not depend on it"
    return "pass", ""


def unravel(index: int, shape: Sequence[int]) -> tuple[int, ...]:
    position = []
    for size in reversed(shape):
        index, rest = divmod(index, size)
        position.append(rest)
    return tuple(reversed(position))


def _dot(gradient: Tensor | None, direction: Tensor) -> float:
    return 0.0 if gradient is None else float((gradient.double() * direction).sum())


def _largest(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None or not gradient.numel() else float(gradient.abs().max().nan_to_num(0.0, posinf=0.0))


def _in_units(outcome: Outcome, unit: float) -> Outcome:
    return Outcome(
        outcome.what,
        outcome.analytic / unit,
        outcome.numeric / unit,
        outcome.error / unit,
        outcome.relative,
        outcome.caught,
    )
