"""Whether a map depends on what the model has learned: it must change when the weights are made random.

The cascading randomisation of Adebayo et al. 2018, section 3: stage after stage, from the last one on, the weights are
replaced, and each map is compared with the map of the trained model.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.analysis.explain.images import Explained, Method
from dlcli.analysis.explain.maps import compute
from dlcli.analysis.explain.subject import Subject
from dlcli.core.errors import RunError
from dlcli.core.seeds import derive
from dlcli.models.parts import head, inside, stage_of, stages

CHANGED = 0.7  # a rank correlation above which a map is called the same


@dataclass(frozen=True)
class Stage:
    """name: of the part of the model that is random from here on, with all parts after it. correlation: the mean of
    the absolute value of Spearman's rank correlation between the maps before and after; None if all maps after it are
    flat, or the model gives no numbers any more."""

    name: str
    correlation: float | None


@dataclass(frozen=True)
class Sanity:
    """stages: from the last one of the model to the first."""

    stages: tuple[Stage, ...]

    @property
    def holds(self) -> bool:
        """Whether the maps of the model that is random as a whole are others."""
        last = self.stages[-1].correlation
        return last is None or last <= CHANGED

    def as_dict(self) -> dict[str, Any]:
        return {
            "stages": [{"stage": stage.name, "rank_correlation": stage.correlation} for stage in self.stages],
            "least_change": CHANGED,
            "holds": self.holds,
        }


def check_sanity(subject: Subject, found: Sequence[Explained], method: Method) -> Sanity | None:
    """The maps of `found` against those of a copy of the model with random weights. None if there is nothing to
    compare: all maps are flat, or the model has no weights."""
    compared = [each for each in found if float(each.map.values.amax()) > float(each.map.values.amin())]
    parts = _parts(subject.model)
    if not compared or not parts:
        return None
    model = copy.deepcopy(subject.model)
    other, told = replace(subject, model=model), []
    weights = dict(model.named_parameters())
    for number, (name, members) in enumerate(parts):
        generator = torch.Generator().manual_seed(derive(0, "sanity", number))
        for each in members:
            _randomise(weights[each], generator)
        told.append(Stage(name, _correlation(other, compared, method)))
    return Sanity(tuple(told))


def _parts(model: nn.Module) -> list[tuple[str, list[str]]]:
    """Names of parts and of their parameters: the head, and the stages before it from the last one on."""
    of_head, names = head(model), stages(model)
    found: dict[str, list[str]] = {}
    for name, _ in reversed(list(model.named_parameters())):
        if inside(name, of_head) and of_head != ("",):
            found.setdefault(", ".join(of_head), []).append(name)
    rest = [name for name, _ in model.named_parameters() if not any(name in members for members in found.values())]
    for number in reversed(range(max(1, len(names)))):
        members = [name for name in rest if stage_of(name, names) == number]
        if members:
            found.setdefault(names[number] if names else "model", []).extend(members)
    return list(found.items())


@torch.no_grad()
def _randomise(weight: Tensor, generator: torch.Generator) -> None:
    """Normal values with the mean and the standard deviation of the trained ones, so that later layers get values of
    a size that they know; of a single value, around 0."""
    values = weight.double()
    mean, spread = (values.mean(), values.std()) if values.numel() > 1 else (0.0, values.abs().max())
    drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)
    weight.copy_(drawn * spread + mean)


def _correlation(subject: Subject, compared: Sequence[Explained], method: Method) -> float | None:
    found = []
    for each in compared:
        try:
            values = compute(subject, each.sample.x, each.answer.number, method=method.name, layer=method.layer).values
        except RunError:  # values that are not finite
            continue
        if (one := rank_correlation(each.map.values, values)) is not None:
            found.append(abs(one))  # random weights may turn the sign of the score
    return sum(found) / len(found) if found else None


def rank_correlation(first: Tensor, second: Tensor) -> float | None:
    """Spearman's, with mean ranks for equal values; None if all values of one are equal."""
    ranks = [_ranks(values.flatten()) for values in (first, second)]
    one, other = (each - each.mean() for each in ranks)
    scale = float(one.norm() * other.norm())
    return float(one @ other) / scale if scale else None


def _ranks(values: Tensor) -> Tensor:
    """(N,) float64."""
    order, counts = torch.unique(values, return_inverse=True, return_counts=True)[1:]
    ends = counts.cumsum(0).double()
    ranks: Tensor = (ends - (counts.double() - 1) / 2)[order]
    return ranks
