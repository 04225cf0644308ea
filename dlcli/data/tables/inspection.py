"""What would be made of a table, and what in it deserves a look before a training."""

from typing import Any

import numpy as np

from dlcli.data.readers.cells import Table
from dlcli.data.tables.columns import MOST_LEVELS, dates_of, numbers_of
from dlcli.data.tables.encoding import Column, Encoding, Scale
from dlcli.data.tables.table import Opened

_EXAMPLES = 3
# A column that predicts the target better than this alone is suspected to be made of it.
_TOO_GOOD = 0.99
_RARE = 0.05  # a class with a smaller share of the rows


def described(opened: Opened, encoding: Encoding) -> list[dict[str, Any]]:
    """For each column: name, type, missing (cells), distinct (values), examples (the most frequent values), features
    (their number) and treatment, in words."""
    rows = []
    for column in encoding.columns:
        cells = opened.table.columns[column.name]
        rows.append(
            {
                "name": column.name,
                "type": column.kind,
                "missing": int(cells.missing.sum()),
                "distinct": cells.distinct,
                "examples": [text[:24] for text in cells.frequent(_EXAMPLES)],
                "features": len(column.features),
                "treatment": _treatment(column, opened, encoding.scale),
            }
        )
    return rows


def _treatment(column: Column, opened: Opened, scale: Scale) -> str:
    missing = " and one for missing" if column.missing else ""
    if column.kind == "target":
        return f"predicted: {opened.task}"
    if column.kind == "left out":
        return f"left out: {column.reason}"
    if column.kind == "category":
        rare = ", one for rare levels" if column.rare else ""
        return f"0 or 1 for each of {len(column.levels)} levels{rare}{missing}"
    if column.kind == "yes/no":
        return f"1 for {column.levels[1]}{missing}"
    if column.kind == "date":
        return f"{', '.join(column.parts) or 'constant'}{missing}"
    scaled = {"standard": "standardised", "quantile": "normal scores of its quantiles", "none": "as it is"}[scale]
    return f"{scaled}; missing is {column.fills[0]:g}{missing}" if column.missing else scaled


def warnings(opened: Opened, encoding: Encoding, held_out: np.ndarray[Any, Any]) -> list[str]:
    """Sentences. held_out: bool (rows,), whether a row is in the validation or test split."""
    table = opened.table
    found: list[str] = []
    used = [column.name for column in encoding.columns if column.is_used]
    for name in used:
        score, how = _alone(opened, name)
        if score > _TOO_GOOD:
            found.append(f"{name} alone predicts {opened.target} ({how} {score:.3f}): is it known before the answer?")
    if opened.order is None:
        found += [told for name in used if opened.found[name].kind == "date" for told in _later(table, name, held_out)]
    found += _copies(table, [*used, opened.target], held_out)
    if opened.task != "regression":
        cells = table.columns[opened.target]
        shares = cells.counts() / len(table)
        rarest = int(shares.argmin())
        if shares[rarest] < _RARE:
            found.append(f"class {cells.values[rarest][:40]} of {opened.target} has {shares[rarest]:.2%} of the rows")
    return found


def _later(table: Table, name: str, held_out: np.ndarray[Any, Any]) -> list[str]:
    """Whether training rows are later than rows that are held out."""
    days = dates_of(table, name, "days", invalid="missing")
    if np.isnan(days[held_out]).all():
        return []
    count = int((days[~held_out] > np.nanmin(days[held_out])).sum())
    told = f"{count:,} training rows are later than the first held-out row by {name}: if the future is to be predicted"
    return [f"{told}, split with --split-time {name}"] if count else []


def _copies(table: Table, names: list[str], held_out: np.ndarray[Any, Any]) -> list[str]:
    codes = np.stack([table.columns[name].codes for name in names], axis=1)
    _, group, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    copies = len(table) - len(counts)
    if not copies:
        return []
    group = group.reshape(-1)
    seen = np.zeros(len(counts), dtype=bool)
    seen[group[~held_out]] = True
    both = int(seen[group[held_out]].sum())
    told = f"; {both:,} validation and test rows have a copy in the training rows" if both else ""
    return [f"{copies:,} of {len(table):,} rows are copies of others{told}"]


def _alone(opened: Opened, name: str) -> tuple[float, str]:
    """How well a column predicts the target without the others, and the name of that measure."""
    table, is_number = opened.table, opened.found[name].kind == "number"
    few = table.columns[name].distinct <= MOST_LEVELS
    if opened.task == "regression":
        target = numbers_of(table, opened.target, invalid="missing")[:, 0]
        if is_number:
            values = numbers_of(table, name, invalid="missing")[:, 0]
            there = ~np.isnan(values)
            if there.sum() < 3 or not np.ptp(values[there]) or not np.ptp(target[there]):
                return 0.0, "correlation"
            return float(abs(np.corrcoef(values[there], target[there])[0, 1])), "correlation"
        return (_explained(table.columns[name].codes, target) if few else 0.0), "correlation ratio"
    classes = table.columns[opened.target].codes
    usual = np.bincount(classes).max() / len(table)
    if is_number and not few:
        score = _by_threshold(numbers_of(table, name, invalid="missing")[:, 0], classes) if classes.max() == 1 else 0.0
    else:
        score = _by_majority(table.columns[name].codes, classes) if few else 0.0
    return (float(score) if 1 - score < (1 - usual) / 2 else 0.0), "accuracy"


def _by_majority(codes: np.ndarray[Any, Any], classes: np.ndarray[Any, Any]) -> float:
    """Accuracy of the most frequent class of each value."""
    counts = np.zeros((codes.max() + 2, classes.max() + 1))
    np.add.at(counts, (codes, classes), 1)  # missing, -1, is the last row
    return float(counts.max(1).sum() / len(codes))


def _by_threshold(values: np.ndarray[Any, Any], classes: np.ndarray[Any, Any]) -> float:
    """Accuracy of the best threshold between two classes; missing values are above it."""
    order = np.argsort(values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order]) != 0), len(values) - 1)  # a threshold lies between values
    ones = np.cumsum(classes[order])[ends]
    below, total = ends + 1, classes.sum()
    right = (below - ones) + (total - ones)  # 0 below, 1 above
    return float(np.maximum(right, len(values) - right).max() / len(values))


def _explained(codes: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> float:
    """The correlation ratio: the root of the share of the target's variance that is between the values."""
    counts = np.bincount(codes + 1)
    sums = np.bincount(codes + 1, weights=target - target.mean())
    between = (sums[counts > 0] ** 2 / counts[counts > 0]).sum()
    total = ((target - target.mean()) ** 2).sum()
    return float(np.sqrt(between / total)) if total else 0.0
