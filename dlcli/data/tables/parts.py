"""What a table says of its split: a column that names the part, a time, or a group that must not be divided."""

import numpy as np
import torch
from torch import Tensor

from dlcli.core.errors import ConfigError, DataError
from dlcli.data.readers.cells import Table
from dlcli.data.splits import PARTS
from dlcli.data.tables.columns import dates_of, numbers_of


def parts_of(table: Table, name: str) -> Tensor:
    """TRAIN, VAL or TEST of each row, by the words in this column."""
    cells = table.columns[name]
    table_of = np.array([*(PARTS.get(text.lower(), -1) for text in cells.values), -1])
    parts = table_of[cells.codes]
    if len(wrong := np.flatnonzero(parts < 0)):
        row = int(wrong[0])
        raise DataError(f"{table.where(row)}: {name} is {cells.text(row)[:40]!r}, but train, val or test is expected")
    return torch.from_numpy(parts)


def order_of(table: Table, name: str) -> Tensor:
    """int64 (rows,): the rows, sorted by the dates or numbers in this column; those of one time as in the file."""
    if not np.isnan(dates_of(table, name, "days", invalid="missing")).all():
        values = dates_of(table, name, "days", invalid="error")
    elif np.isnan(numbers_of(table, name, invalid="missing")[:, 0]).all():
        raise ConfigError(f"data.split_time = {name} is a column without dates or numbers: name another one")
    else:
        values = numbers_of(table, name, invalid="error")[:, 0]
    if len(missing := np.flatnonzero(np.isnan(values))):
        raise DataError(
            f"{table.where(int(missing[0]))}: {name} is missing in {len(missing):,} rows, which cannot be split by "
            "time: fill it in, or leave such rows out of the file"
        )
    return torch.from_numpy(np.argsort(values, kind="stable"))


def groups_of(table: Table, name: str) -> Tensor:
    """int64 (rows,): the number of each row's group; a row without one is a group of its own."""
    cells = table.columns[name]
    codes = cells.codes.astype(np.int64)
    missing = codes < 0
    codes[missing] = cells.distinct + np.arange(int(missing.sum()))
    return torch.from_numpy(codes)
