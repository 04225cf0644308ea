"""Whether a map is right about the model: what happens to a class when the places that speak for it are taken away.

Deletion and insertion (Petsiuk, Das, Saenko 2018, section 3.2) of the score that the map explains (Samek et al. 2017;
Montavon, Samek, Müller 2018, section 7.2), and the same for random maps. Petsiuk et al. take the probability of the
class: it is flat where the model is certain, whatever is taken away.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dlcli.analysis.explain.maps import Map, neutral, random_map
from dlcli.analysis.explain.subject import Subject
from dlcli.core.seeds import derive

_STEPS = 20  # of 5 % of the pixels
_RANDOM = 3  # maps


@dataclass(frozen=True)
class Scores:
    """Areas under the logit of the class over the share of pixels, so its mean. deletion: pixels get the mean colour of
    the image, the highest of the map first: low is good. insertion: pixels come into the blurred image: high is good.
    random_: the mean of three random maps of the same grain. emptied: the probability of the class when all pixels have
    the mean colour; if it is high, the class is what is left of nothing."""

    deletion: float
    insertion: float
    emptied: float
    random_deletion: float
    random_insertion: float

    @property
    def beats_random(self) -> bool:
        return self.deletion < self.random_deletion and self.insertion > self.random_insertion

    def as_dict(self) -> dict[str, float | bool]:
        return {
            "deletion": self.deletion, "random_deletion": self.random_deletion, "insertion": self.insertion,
            "random_insertion": self.random_insertion, "emptied": self.emptied, "beats_random": self.beats_random,
        }  # fmt: skip


def removal_scores(subject: Subject, x: Tensor, number: int, found: Map) -> Scores | None:
    """x: (1, C, H, W). None for a regression, in which no place speaks for a class."""
    if subject.spec.task == "regression":
        return None
    ties = random_map(x, found.grain, torch.Generator().manual_seed(derive(0, "ties")))
    deletion, insertion = areas(subject, x, number, found.values, ties=ties)
    emptied = subject.probabilities_of(neutral(x).expand_as(x))
    assert emptied is not None
    others = []
    for k in range(_RANDOM):
        generator = torch.Generator().manual_seed(derive(0, "explain", k))
        others.append(areas(subject, x, number, random_map(x, found.grain, generator), ties=ties))
    by_deletion, by_insertion = (sum(areas) / _RANDOM for areas in zip(*others, strict=True))
    return Scores(deletion, insertion, float(emptied[0, number]), by_deletion, by_insertion)


def areas(subject: Subject, x: Tensor, number: int, order: Tensor, *, ties: Tensor) -> tuple[float, float]:
    """Deletion and insertion for a map (H, W), by the trapezoidal rule. ties: (H, W), by which pixels are ordered that
    are equal in the map, as all are that Grad-CAM cuts off: not by their places, which would be an order of its own."""
    pixels = order.numel()
    drawn = torch.argsort(ties.flatten(), descending=True, stable=True)
    places = drawn[torch.argsort(order.flatten()[drawn], descending=True, stable=True)].to(x.device)
    ranks = torch.empty_like(places)
    ranks[places] = torch.arange(pixels, device=x.device)
    counts = torch.linspace(0, pixels, _STEPS + 1, device=x.device).round()
    taken = (ranks[None] < counts[:, None]).view(-1, 1, *order.shape)
    found = []
    for inside, outside in ((neutral(x), x), (x, blurred(x))):
        scores = subject.scores_of(torch.where(taken, inside, outside), number)
        found.append(float(torch.trapezoid(scores, dx=1 / _STEPS)))
    return found[0], found[1]


def blurred(x: Tensor) -> Tensor:
    """By a Gaussian whose standard deviation is a sixteenth of the longer side, at least one pixel; beyond the edges is
    what is at them."""
    sigma = max(1.0, max(x.shape[2:]) / 16)
    reach = round(2 * sigma)
    at = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    weights = torch.exp(-at.square() / (2 * sigma * sigma))
    weights = (weights / weights.sum()).expand(x.shape[1], 1, 1, -1)
    wide = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), weights, groups=x.shape[1])
    tall = F.pad(wide, (0, 0, reach, reach), mode="replicate")
    return F.conv2d(tall, weights.transpose(2, 3), groups=x.shape[1])
