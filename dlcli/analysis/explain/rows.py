"""What each column of a row adds to the answer: integrated gradients from the mean of the training rows."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dlcli.analysis.explain.inputs import Sample
from dlcli.analysis.explain.parts import Part, Parts
from dlcli.analysis.explain.path import integrated_gradients
from dlcli.analysis.explain.subject import Subject, answer_of
from dlcli.analysis.explain.units import cell
from dlcli.data.batches import in_order
from dlcli.data.dataset import Dataset
from dlcli.evaluation.importance import columns_of

_AT_ONCE = 4096  # rows


def mean_row(data: Dataset) -> Tensor:
    """(F,) the mean model input of the training rows, float32: of a category, how frequent each of its levels is."""
    total: Any = 0
    for batch in in_order(data.train, _AT_ONCE):
        total = total + batch.x.double().sum(0)
    return (total / len(data.train)).float()  # type: ignore[no-any-return]


def explain_rows(
    subject: Subject, samples: Sequence[Sample], baseline: Tensor, *, class_name: str | None
) -> list[Parts]:
    """baseline: (F,). The attributions of all features of a column (of a category its levels, of a date its parts) are
    added up."""
    number, columns = subject.number(class_name), columns_of(subject.about, run=subject.run)
    found = []
    for sample in samples:
        answer = answer_of(subject, sample.x, number)
        attributions = integrated_gradients(
            sample.x[0],
            baseline.to(sample.x),
            gradient=partial(subject.gradient, number=answer.number),
            score=partial(subject.scores_of, number=answer.number),
        )
        parts = [
            Part(name, cell(subject.about, name, place, sample.x[0]), float(values))
            for name, place in columns
            for values in [attributions.values[place].sum()]
        ]
        found.append(Parts(sample, answer, attributions, parts))
    return found


def rows_of(data: Dataset, split: str, most: int) -> Tensor:
    """(N, F) model input: all rows of a split, or an even choice of `most`."""
    part = data.split(split)
    if len(part) > most:
        part = part.part(torch.linspace(0, len(part) - 1, most).round().long())
    return torch.cat([batch.x for batch in in_order(part, _AT_ONCE)])
