"""Model input of a table, back in the units and words of its columns."""

import numpy as np
import torch
from torch import Tensor

from dlcli.data.preprocessing import Preprocessing
from dlcli.data.tables.encoding import Column


def cell(about: Preprocessing, name: str, place: slice, x: Tensor) -> str | float:
    """What stands in a column of a row x (F,) of model input: a number, a category, or the parts of a date; `missing`
    and `other` where the cell is missing or holds a rare category. place: of the column in x."""
    values = x[place].double().cpu()
    if about.mean:
        values = values * torch.tensor(about.std[place]) + torch.tensor(about.mean[place])
    found = values.numpy()
    if about.encoding is None:
        return _short(found[0])
    column = next(each for each in about.encoding.columns if each.name == name)
    if column.missing and found[-1] > 0.5:
        return "missing"
    if column.kind in ("number", "date"):
        numbers = [_short(_unscaled(column, k, float(found[k]))) for k in range(column.numbers)]
        if column.kind == "number":
            return numbers[0]
        return ", ".join(f"{part} {value:g}" for part, value in zip(column.parts, numbers, strict=True)) or "-"
    if column.kind == "yes/no":
        return column.levels[int(found[0] > 0.5)]
    own = found[: len(column.levels)]
    return column.levels[int(own.argmax())] if len(own) and own.max() > 0.5 else "other"


def _unscaled(column: Column, k: int, value: float) -> float:
    if not column.knots:
        return value
    knots = np.array(column.knots[k])
    return float(np.interp(float(torch.special.ndtr(torch.tensor(value))), np.linspace(0, 1, len(knots)), knots))


def _short(value: float) -> float:
    """Rounded as float32 is."""
    return float(f"{value:.6g}")
