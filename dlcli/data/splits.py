"""Which rows are for training, validation and testing."""

import torch
from torch import Tensor

from dlcli.core.errors import DataError

# If there is no official test set, the test split is drawn with this seed and not with the run's, so that all runs on a
# data set are measured on the same samples.
_TEST_SEED = 20240229

# What a table may say of a row, as a number.
TRAIN, VAL, TEST = 0, 1, 2

# What a sub-folder, or a cell of a column that says the split, may be called.
PARTS = {"train": TRAIN, "training": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}


def divide(
    count: int,
    *,
    test_fraction: float,
    val_fraction: float,
    seed: int,
    ordered: bool = False,
    classes: Tensor | None = None,
    parts: Tensor | None = None,
    order: Tensor | None = None,
    groups: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The row numbers of the training, validation and test split, each in ascending order.

    The test split is `test_fraction` of all, the same rows for every seed; the validation split, drawn with `seed`,
    `val_fraction` of the others, and at least one. ordered: they are cut from the end instead.
    classes: (N,) the class of each row: each class is divided in the same proportions, and keeps a training row.
    parts: (N,) TRAIN, VAL or TEST of each row; only what it leaves out is drawn, from its TRAIN rows.
    order: (N,) the rows in the order of time, of which the last are held out.
    groups: (N,) the group of each row: whole groups are held out, as many as come nearest to the fraction of rows.
    """
    if order is not None:
        found = divide(count, test_fraction=test_fraction, val_fraction=val_fraction, seed=seed, ordered=True)
        train, val, test = (order[index].sort().values for index in found)
        return train, val, test
    if groups is not None:
        return _by_group(groups, test_fraction=test_fraction, val_fraction=val_fraction, seed=seed)
    rows = torch.arange(count)
    val, test = rows[:0], rows[:0]
    if parts is not None:
        rows, val, test = (rows[parts == part] for part in (TRAIN, VAL, TEST))
    if not len(test):
        size = round(len(rows) * test_fraction)
        rows, test = _hold_out(rows, size, seed=None if ordered else _TEST_SEED, classes=classes)
    if not len(val):
        size = round(len(rows) * val_fraction)
        size = size if size or not val_fraction else 1
        rows, val = _hold_out(rows, size, seed=None if ordered else seed, classes=classes)
    return rows, val, test


def _hold_out(rows: Tensor, size: int, *, seed: int | None, classes: Tensor | None) -> tuple[Tensor, Tensor]:
    """The entries of `rows` that are kept and the `size` entries that are held out: the last ones, or, with a seed,
    random ones. Both keep the order of `rows`. More than there are: all of them."""
    if not size:
        return rows, rows[:0]
    if seed is None:
        return rows[:-size], rows[-size:]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    if classes is not None:
        order, size = _balanced(order, classes[rows[order]], size)
    return rows[order[size:].sort().values], rows[order[:size].sort().values]


def _by_group(groups: Tensor, *, test_fraction: float, val_fraction: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `divide`, in whole groups."""
    sizes = groups.bincount()
    left = sizes.nonzero().flatten()
    parts = []
    for fraction, own_seed in ((test_fraction, _TEST_SEED), (val_fraction, seed)):
        chosen = _groups_of(left, sizes, round(int(sizes[left].sum()) * fraction), seed=own_seed) if fraction else []
        if fraction and not chosen:
            raise DataError(
                f"{len(sizes.nonzero())} groups are too few for a training, a validation and a test split: split by a "
                "column with more different values"
            )
        parts.append(torch.isin(groups, torch.tensor(chosen, dtype=torch.int64)).nonzero().flatten())
        left = left[~torch.isin(left, torch.tensor(chosen, dtype=torch.int64))]
    test, val = parts
    return torch.isin(groups, left).nonzero().flatten(), val, test


def _groups_of(left: Tensor, sizes: Tensor, wanted: int, *, seed: int) -> list[int]:
    """Some groups of `left`, at least one but not all: in random order each that brings their sum of rows nearer to the
    `wanted` one; the nearest alone if none does."""
    order = left[torch.randperm(len(left), generator=torch.Generator().manual_seed(seed))].tolist()
    chosen: list[int] = []
    total = 0
    for group in order:
        size = int(sizes[group])
        if abs(total + size - wanted) < abs(total - wanted):
            chosen.append(group)
            total += size
    if not chosen and order:
        chosen = [min(order, key=lambda group: abs(int(sizes[group]) - wanted))]
    return chosen[: len(order) - 1]


def _balanced(order: Tensor, classes: Tensor, size: int) -> tuple[Tensor, int]:
    """`order` with the rows first that are held out, each class in proportion, and their number: `size`, or less where
    a class would lose its last row. classes: (N,) of the rows in this order."""
    counts = classes.bincount().double()
    share = counts * size / len(order)
    quota = torch.minimum(share.floor(), (counts - 1).clamp_min(0))
    for number in (share - share.floor()).argsort(descending=True, stable=True).tolist():
        if quota.sum() < size and quota[number] + 1 < counts[number]:
            quota[number] += 1
    # The how-manieth of its class each row is, from 0.
    by_class = classes.argsort(stable=True)
    first = counts.cumsum(0) - counts
    rank = torch.empty(len(order), dtype=torch.float64)
    rank[by_class] = torch.arange(len(order), dtype=torch.float64) - first[classes[by_class]]
    held = rank < quota[classes]
    return torch.cat((order[held], order[~held])), int(held.sum())
