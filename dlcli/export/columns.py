"""The inputs of an exported model of a table: one for each group of columns of a kind.

    numbers     float32 (batch, columns), float64 if the scale is quantile: values as they are; NaN if missing
    dates       float64 (batch, columns): seconds since 1970-01-01T00:00:00, in UTC if they have a zone; NaN if missing
    categories  int64 (batch, columns): codes of categories and yes/no columns

The code of a level is its place in the `levels` of the column. After them come the code of any other value and that of
a missing one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlcli.data.tables.encoding import Column, Encoding
from dlcli.export.signature import BATCH, Port

SINCE = "seconds since 1970-01-01T00:00:00"

_KINDS = {"numbers": ("number",), "dates": ("date",), "categories": ("category", "yes/no")}


@dataclass(frozen=True)
class Group:
    """Columns of a kind, in the order of the table; those that have no feature are in none."""

    name: str
    dtype: str
    columns: tuple[Column, ...]

    def port(self) -> Port:
        return Port(self.name, self.dtype, (BATCH, len(self.columns)), tuple(map(_described, self.columns)))


def groups_of(encoding: Encoding) -> tuple[Group, ...]:
    """Those that the table has, in the order of the inputs.

    Quantiles need the whole number: rounded to float32, it may lie on the other side of one.
    """
    dtypes = {"numbers": "float64" if encoding.scale == "quantile" else "float32", "dates": "float64"}
    found = [
        Group(name, dtypes.get(name, "int64"), tuple(c for c in encoding.columns if c.kind in kinds and c.features))
        for name, kinds in _KINDS.items()
    ]
    return tuple(group for group in found if group.columns)


def other_code(column: Column) -> int:
    """The code of a value that is not in `levels`."""
    return len(column.levels)


def missing_code(column: Column) -> int:
    return len(column.levels) + 1


def sizes(groups: Sequence[Group]) -> tuple[int, ...]:
    """How many columns each of them has."""
    return tuple(len(group.columns) for group in groups)


def _described(column: Column) -> dict[str, Any]:
    about: dict[str, Any] = {"name": column.name, "kind": column.kind}
    if column.kind == "date":
        return about | {"unit": SINCE}
    if column.kind == "number":
        return about
    codes = {level: code for code, level in enumerate(column.levels)}
    return about | {"codes": codes, "other": other_code(column), "missing": missing_code(column)}
