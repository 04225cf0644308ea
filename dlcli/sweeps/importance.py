"""Which settings of a sweep matter: by how much a forest's prediction of the result suffers without each of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlcli.core.errors import RunError
from dlcli.runs.trials import Trial

# Trials without which a forest says nothing.
_FEWEST = 10

_TREES, _REPEATS = 300, 30


@dataclass(frozen=True)
class Importance:
    """mean, std: of the loss of R2 when the values of this setting are permuted, over the permutations."""

    name: str
    mean: float
    std: float


@dataclass(frozen=True)
class Importances:
    """settings: the most important first. r2: of the forest for trials that it was not trained on; near 0 or below it,
    the importances mean nothing."""

    settings: Sequence[Importance]
    r2: float
    trials: int


def importances(trials: Sequence[Trial]) -> Importances:
    """Of the finished trials: permutation importance (Breiman 2001) in a random forest that predicts the result.

    RunError (exit 4) if there are fewer than 10, or all of them have the same result.
    """
    finished = [one for one in trials if one.loss is not None]
    names = list(dict.fromkeys(name for one in finished for name in one.settings))
    losses = [one.loss for one in finished]
    if len(finished) < _FEWEST or not names:
        raise RunError(f"importances need {_FEWEST} finished trials of several settings, and there are {len(finished)}")
    if len(set(losses)) < 2:
        raise RunError(f"all {len(finished)} finished trials have the same result: no setting matters")
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    columns = [_as_numbers([one.settings.get(name) for one in finished]) for name in names]
    rows = [list(row) for row in zip(*columns, strict=True)]
    forest = RandomForestRegressor(  # type: ignore[no-untyped-call]
        _TREES, oob_score=True, random_state=0, min_samples_leaf=2
    ).fit(rows, losses)
    found = permutation_importance(forest, rows, losses, n_repeats=_REPEATS, random_state=0)
    settings = [
        Importance(name, float(mean), float(std))
        for name, mean, std in zip(names, found.importances_mean, found.importances_std, strict=True)
    ]
    return Importances(sorted(settings, key=lambda one: -one.mean), float(forest.oob_score_), len(finished))


def _as_numbers(values: Sequence[Any]) -> list[float]:
    """Numbers as they are, and anything else by the place of its value: a forest needs no more."""
    try:
        numbers = [float(value) for value in values]
        if all(map(math.isfinite, numbers)):
            return numbers
    except (TypeError, ValueError):
        pass
    places = {text: place for place, text in enumerate(sorted({repr(value) for value in values}))}
    return [float(places[repr(value)]) for value in values]
