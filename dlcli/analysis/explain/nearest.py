"""The training samples that look most like a sample to the last layer of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlcli.analysis.explain.inputs import Sample, from_split
from dlcli.analysis.explain.subject import Subject
from dlcli.analysis.explain.texts import token_names
from dlcli.analysis.explain.units import cell
from dlcli.core.errors import ConfigError
from dlcli.data.dataset import Dataset, Split
from dlcli.data.kinds import without_padding
from dlcli.evaluation.hidden import hidden
from dlcli.evaluation.importance import columns_of
from dlcli.experiment.restore import Restored


@dataclass(frozen=True)
class Neighbour:
    """place: in the training split. row: in the data. similarity: the cosine. sample: itself, with its target. told:
    its text or its cells; empty for an image."""

    place: int
    row: int
    similarity: float
    sample: Sample
    told: str


@dataclass(frozen=True)
class Neighbours:
    """neighbours: the nearest first."""

    sample: Sample
    told: str
    neighbours: list[Neighbour]


def nearest(
    restored: Restored, subject: Subject, samples: Sequence[Sample], data: Dataset, *, count: int
) -> tuple[str, list[Neighbours]]:
    """The name of the last layer, and for each sample the `count` training samples with the highest cosine between what
    this layer gets of both, exact, over all training samples; of equal ones the first in the split. ConfigError (exit
    2) if the model has no such layer, or the training split fewer samples."""
    if not 1 <= count <= len(data.train):
        raise ConfigError(f"--nearest {count} is out of range: there are {len(data.train):,} training samples")
    path, values = hidden(restored, data.train, what="--nearest")
    known = F.normalize(values.double(), dim=1)
    found = []
    for sample in samples:
        x = without_padding(sample.x, subject.spec).to(restored.device)
        one = Split.of(x, torch.zeros(1, device=restored.device))
        own = F.normalize(hidden(restored, one, what="--nearest")[1].double(), dim=1)
        similarity = (known @ own[0]).cpu()
        places = torch.argsort(-similarity, stable=True)[:count].tolist()
        near = [
            Neighbour(k, _row(data.train, k), float(similarity[k]), each, describe(subject, each.x))
            for k, each in zip(places, from_split(subject, data, "train", places), strict=True)
        ]
        found.append(Neighbours(sample, describe(subject, sample.x), near))
    return path, found


def describe(subject: Subject, x: Tensor) -> str:
    """A text, or the cells of a row, in one line; empty for an image."""
    if subject.spec.kind == "image":
        return ""
    if subject.spec.kind == "tokens":
        names = token_names(subject.about, without_padding(x, subject.spec)[0].tolist())
        whole, cut = subject.about.spelling, subject.about.tokens  # the pieces of a whole text have their blanks
        joined = whole is not None or (cut is not None and cut.unit != "words")
        return ("" if joined else " ").join(names)
    cells = [(name, cell(subject.about, name, place, x[0])) for name, place in columns_of(subject.about, run="")]
    return ", ".join(f"{name} {value if isinstance(value, str) else f'{value:g}'}" for name, value in cells)


def _row(split: Split, place: int) -> int:
    return place if split.index is None else int(split.index[place])


def nearest_document(subject: Subject, layer: str, found: Sequence[Neighbours], *, checkpoint: str) -> dict[str, Any]:
    return {
        "run": str(subject.run),
        "checkpoint": checkpoint,
        "layer": layer,
        "inputs": [
            {
                "input": each.sample.name,
                **({"target": each.sample.target} if each.sample.target else {}),
                **({"sample": each.told} if each.told else {}),
                "nearest": [row(near) for near in each.neighbours],
            }
            for each in found
        ],
    }


def row(near: Neighbour) -> dict[str, Any]:
    return {
        "row": near.row,
        "place": near.place,
        "similarity": near.similarity,
        "target": near.sample.target,
        **({"sample": near.told} if near.told else {}),
    }
