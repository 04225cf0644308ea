"""Permutation importance (Breiman 2001): how much worse a metric becomes when the values of one column are shuffled."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dlcli.core.errors import ConfigError
from dlcli.core.seeds import derive
from dlcli.data.batches import full
from dlcli.data.dataset import Split
from dlcli.data.preprocessing import Preprocessing
from dlcli.tasks.choose import higher_is_better

_REPEATS = 5
_UNDEFINED = {"importance": None, "std": None}


@dataclass(frozen=True)
class Importance:
    """metric: the one that becomes worse. columns: name, importance (the mean drop of the metric, or the rise of one
    that is better when lower) and std (over the shuffles) of each column, the most important first."""

    metric: str
    columns: list[dict[str, Any]]

    @property
    def undefined(self) -> list[str]:
        """The columns without which the metric has no value."""
        return [row["column"] for row in self.columns if row["importance"] is None]

    def as_dict(self) -> dict[str, Any]:
        return {"metric": self.metric, "repeats": _REPEATS, "columns": self.columns}


def columns_of(about: Preprocessing, *, run: object) -> list[tuple[str, slice]]:
    """The columns of a table, or the features of other data, and their places in the input of the model. ConfigError
    for images and texts."""
    if about.spec.kind != "features":
        raise ConfigError(
            f"--importance is for columns of tables and for features, and {run} expects {about.spec.kind}"
        )
    if about.encoding is None:
        names = about.feature_names or tuple(str(number) for number in range(about.spec.input_shape[0]))
        return [(name, slice(place, place + 1)) for place, name in enumerate(names)]
    found, place = [], 0
    for column in about.encoding.columns:
        width = len(column.features)
        if width:
            found.append((column.name, slice(place, place + width)))
        place += width
    return found


def importance(
    split: Split, columns: list[tuple[str, slice]], score: Callable[[Split], float | None], *, metric: str, seed: int
) -> Importance:
    """All features of a column are shuffled together, among the samples of the split, five times.

    score: the value of `metric` on a split; if it has none for a shuffle, the importance is None. seed: determines the
        shuffles.
    """
    whole = full(split)
    x, sign = whole.x.clone(), 1 if higher_is_better(metric) else -1
    base = score(Split.of(x, whole.y))
    found = []
    for number, (name, place) in enumerate(columns):
        own, values = x[:, place].clone(), []
        for repeat in range(_REPEATS):
            generator = torch.Generator().manual_seed(derive(seed, "importance", number, repeat))
            x[:, place] = own[torch.randperm(len(x), generator=generator).to(x.device)]
            values.append(score(Split.of(x, whole.y)))
        x[:, place] = own
        drops = [sign * (base - value) for value in values if base is not None and value is not None]
        told = len(drops) == _REPEATS
        row = {"importance": float(np.mean(drops)), "std": float(np.std(drops))} if told else _UNDEFINED
        found.append({"column": name, **row})
    return Importance(
        metric,
        sorted(found, key=lambda row: -math.inf if row["importance"] is None else row["importance"], reverse=True),
    )
