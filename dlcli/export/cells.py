"""The cells of a table as the inputs of its exported model: what a program that uses the file has to do.

It shares nothing with features.py, which decodes them in the graph: the comparison could not find a fault in shared
code.
"""

from datetime import datetime
from typing import Any

import numpy as np

from dlcli.data.readers.cells import Table
from dlcli.data.tables.columns import Invalid, date, numbers_of
from dlcli.data.tables.encoding import Column, Encoding, places
from dlcli.export.columns import Group, groups_of, missing_code, other_code
from dlcli.export.strings import CATEGORIES, MISSING

_EPOCH = datetime(1970, 1, 1)


def inputs_of(table: Table, encoding: Encoding, *, strings: bool = False) -> dict[str, np.ndarray[Any, Any]]:
    """(rows, columns) of each group, see columns.py. strings: whether categories are texts, see strings.py. DataError
    for a cell that does not suit its column."""
    return {
        group.name: _texts(table, group)
        if strings and group.name == CATEGORIES
        else _group(table, group, encoding.invalid)
        for group in groups_of(encoding)
    }


def _texts(table: Table, group: Group) -> np.ndarray[Any, Any]:
    """The level of each cell, the text of one that is no level, MISSING of an empty one."""
    columns = []
    for column in group.columns:
        cells, codes = table.columns[column.name], places(column.levels, table, column.name)
        texts = (column.levels[code] if code >= 0 else cells.text(row) for row, code in enumerate(codes.tolist()))
        gone = cells.missing
        columns.append([MISSING if gone[row] else text for row, text in enumerate(texts)])
    return np.array(columns, dtype=np.str_).T


def _group(table: Table, group: Group, invalid: Invalid) -> np.ndarray[Any, Any]:
    found = np.empty((len(table), len(group.columns)), dtype=group.dtype)
    for place, column in enumerate(group.columns):
        if column.kind == "number":
            found[:, place] = numbers_of(table, column.name, invalid=invalid)[:, 0]
        elif column.kind == "date":
            found[:, place] = _seconds(table, column.name)
        else:
            found[:, place] = _codes(table, column)
    return found


def _seconds(table: Table, name: str) -> np.ndarray[Any, Any]:
    cells = table.columns[name]
    known = [date(text) for text in cells.values]
    seconds = [np.nan if each is None else (each - _EPOCH).total_seconds() for each in known]
    return np.take([*seconds, np.nan], cells.codes)


def _codes(table: Table, column: Column) -> np.ndarray[Any, Any]:
    codes = places(column.levels, table, column.name)
    codes[codes < 0] = other_code(column)
    codes[table.columns[column.name].missing] = missing_code(column)
    return codes
