"""The models of torchvision and their published weights, as zoo.csv lists them: known without importing torchvision.

`python -m tests.make_zoo` writes zoo.csv from torchvision's own registry, and tests compare the two.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

IMAGENET1K = "ImageNet-1K"


@dataclass(frozen=True)
class Weights:
    """Published weights of a model, as their metadata describes them.

    entry: their name, such as IMAGENET1K_V1. accuracy: top-1 on ImageNet-1K, in percent. gflops: of one image.
    crop: height and width of the input; resize: of the shorter side before the centre is cut out. interpolation:
    bilinear or bicubic. mean, std: what the input is normalised with, one value for each of three channels, in
    fractions of white. megabytes: of the file (2**20 bytes). licence: empty if the metadata states none.
    """

    entry: str
    accuracy: float
    gflops: float
    crop: int
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    megabytes: float
    licence: str


@dataclass(frozen=True)
class ZooModel:
    """A model of torchvision. parameters: with 1000 classes. least: the smallest height and width that it can be built
    for. multiple: what height and width must be a multiple of. weights: the entry that torchvision calls DEFAULT first.
    """

    name: str
    parameters: int
    least: int
    multiple: int
    weights: tuple[Weights, ...]

    @property
    def size(self) -> int:
        """The height and width for which it was designed: those of its default weights."""
        return self.weights[0].crop


@cache
def zoo() -> dict[str, ZooModel]:
    """Name -> model, in alphabetical order."""
    text = Path(__file__).with_name("zoo.csv").read_text(encoding="utf-8")
    found: dict[str, ZooModel] = {}
    for row in csv.DictReader(text.splitlines()):
        weights = Weights(
            entry=row["entry"],
            accuracy=float(row["accuracy"]),
            gflops=float(row["gflops"]),
            crop=int(row["crop"]),
            resize=int(row["resize"]),
            interpolation=row["interpolation"],
            mean=tuple(map(float, row["mean"].split())),
            std=tuple(map(float, row["std"].split())),
            megabytes=float(row["megabytes"]),
            licence=row["licence"],
        )
        before = found[row["model"]].weights if row["model"] in found else ()
        parameters, least, multiple = (int(row[name]) for name in ("parameters", "least", "multiple"))
        found[row["model"]] = ZooModel(row["model"], parameters, least, multiple, (*before, weights))
    return found


def zoo_model(name: str) -> ZooModel | None:
    """The model that `resnet18` or `torchvision:resnet18` names; None if the list does not have it."""
    kind, colon, rest = name.partition(":")
    return zoo().get(rest if colon and kind == "torchvision" else name)
