"""Four methods that say which places of an image speak for a class, each as a map (H, W)."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from dlcli.analysis.explain.layers import activation_and_gradient
from dlcli.analysis.explain.path import integrated_gradients
from dlcli.analysis.explain.subject import Subject, at_once

METHODS = ("gradient", "integrated", "gradcam", "occlusion")

_PATCHES = 8  # in a row, for occlusion


@dataclass(frozen=True)
class Map:
    """values: (H, W) float64, of the size of the image. signed: whether a place can speak against the class. grain: the
    height and width in which the method sees: of the layer, of the patches, or of the image. facts: what is told of
    this map."""

    values: Tensor
    signed: bool
    grain: tuple[int, int]
    facts: dict[str, float | int | None] = field(default_factory=dict)


def compute(subject: Subject, x: Tensor, number: int, *, method: str, layer: str | None) -> Map:
    """x: (1, C, H, W) model input. number: of the class. layer: for gradcam."""
    found: dict[str, Callable[[], Map]] = {
        "gradient": lambda: gradient(subject, x, number),
        "integrated": lambda: integrated(subject, x, number),
        "gradcam": lambda: gradcam(subject, x, number, layer or ""),
        "occlusion": lambda: occlusion(subject, x, number),
    }
    return found[method]()


def gradient(subject: Subject, x: Tensor, number: int) -> Map:
    """The largest absolute derivative of a pixel over its channels (Simonyan, Vedaldi, Zisserman 2013, section 3.1)."""
    values = subject.gradient(x, number)[0].double().abs().amax(0)
    return Map(values, signed=False, grain=_size(x))


def integrated(subject: Subject, x: Tensor, number: int) -> Map:
    """Integrated gradients against a black image, the sum over the channels of a pixel."""
    found = integrated_gradients(
        x[0],
        subject.about.blank(x.device).expand_as(x[0]),
        gradient=lambda points: subject.gradient(points, number),
        score=lambda points: subject.scores_of(points, number),
    )
    facts = {
        "attributions": found.total, "difference": found.difference, "completeness_error": found.error,
        "points": found.points,
    }  # fmt: skip
    return Map(found.values.sum(0), signed=True, grain=_size(x), facts=facts)


def gradcam(subject: Subject, x: Tensor, number: int, layer: str) -> Map:
    """ReLU of the activations of a layer, weighted by the mean derivative of the score over each channel (Selvaraju et
    al. 2017, equations 1 and 2), interpolated to the size of the image."""
    coarse = coarse_gradcam(subject, x, number, layer)
    return Map(_enlarged(coarse, _size(x)), signed=False, grain=(coarse.shape[0], coarse.shape[1]))


def coarse_gradcam(subject: Subject, x: Tensor, number: int, layer: str) -> Tensor:
    """(h, w) of the layer, float64."""
    activation, slope = activation_and_gradient(subject, x, number, layer)
    weights = slope.double().mean((2, 3), keepdim=True)
    return (weights * activation.double()).sum(1)[0].relu()


def occlusion(subject: Subject, x: Tensor, number: int) -> Map:
    """How much the score falls when a patch of an eighth of the height and width has the mean colour of the image
    (Zeiler, Fergus 2014, section 4.2): the mean over all patches, half a patch apart, that cover a pixel."""
    height, width = _size(x)
    high, wide = max(1, round(height / _PATCHES)), max(1, round(width / _PATCHES))
    tops, lefts = _starts(height, high), _starts(width, wide)
    colour, size = neutral(x)[0], at_once(x)
    patches = [(slice(top, top + high), slice(left, left + wide)) for top in tops for left in lefts]
    total, count = x.new_zeros(height, width, dtype=torch.float64), x.new_zeros(height, width, dtype=torch.float64)
    whole = float(subject.scores_of(x, number)[0])
    for some in (patches[k : k + size] for k in range(0, len(patches), size)):
        covered = x.repeat(len(some), 1, 1, 1)
        for image, (rows, columns) in zip(covered, some, strict=True):
            image[:, rows, columns] = colour
        for score, (rows, columns) in zip(subject.scores_of(covered, number).tolist(), some, strict=True):
            total[rows, columns] += whole - score
            count[rows, columns] += 1
    return Map(total / count, signed=True, grain=(len(tops), len(lefts)))


def neutral(x: Tensor) -> Tensor:
    """(N, C, 1, 1) the mean colour of each image."""
    return x.mean((2, 3), keepdim=True)


def random_map(x: Tensor, grain: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(H, W) uniform values in the grain of a method, enlarged as a map of Grad-CAM is."""
    return _enlarged(torch.rand(grain, generator=generator, dtype=torch.float64), _size(x))


def _enlarged(coarse: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(coarse.shape) == size:
        return coarse
    return F.interpolate(coarse[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def _starts(length: int, size: int) -> list[int]:
    """Half a patch apart; the last patch may reach over the edge."""
    step = max(1, size // 2)
    return [k * step for k in range(-(-(length - size) // step) + 1)]


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]
