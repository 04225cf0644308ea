"""What the columns of a table are: numbers, categories, dates, or of no use. Decided by their values in all rows."""

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from dlcli.core.errors import DataError
from dlcli.data.readers.cells import LARGEST, Cells, Numbers, Table, number

ColumnKind = Literal["number", "category", "yes/no", "date", "left out", "target"]

Invalid = Literal["error", "missing"]

# More different texts than this, or than a tenth of the rows, are free text; a table of few rows may have _FEW.
MOST_LEVELS = 50
_FEW = 10
# A column of numbers may have fewer cells than this, in relation to all, that are none: they are a mistake in the file.
_MISTAKES = 0.01

_DATE = re.compile(r"([0-9]{4})[-/]([0-9]{1,2})[-/]([0-9]{1,2})|([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})")
# The cycles are the sine and cosine of a part, so that December is beside January.
_CYCLES = ("month", "weekday", "hour")
DATE_PARTS = (
    "year", "month", "day", "weekday", "hour", "days", *(f"{part}-{f}" for part in _CYCLES for f in ("sin", "cos"))
)  # fmt: skip
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True)
class Found:
    """What a column is. reason: why it is left out. levels: both values of a yes/no column, sorted."""

    kind: ColumnKind
    reason: str = ""
    levels: tuple[str, ...] = ()


def find_out(
    table: Table, name: str, *, numbers: Collection[str], categories: Collection[str], dates: Collection[str]
) -> Found:
    """What the column is. numbers, categories, dates: columns for which the user says it."""
    cells = table.columns[name]
    if name in categories:
        return Found("category")
    if name in numbers:
        return Found("number")
    if name in dates:
        return Found("date")
    if isinstance(cells, Numbers):
        return Found("left out", "it numbers the rows") if _are_consecutive(cells.numbers) else Found("number")
    distinct = cells.distinct
    if not distinct:
        return Found("left out", "it is empty")
    missing = bool(cells.missing.any())
    if distinct == 1 and not missing:
        return Found("left out", f"it is {cells.values[0][:40]!r} in every row")
    parsed = [number(text, comma=table.decimal_comma) for text in cells.values]
    if _mostly(cells, [value is not None for value in parsed]):
        if _counts_rows(cells, parsed):
            return Found("left out", "it numbers the rows")
        two = distinct == 2 and None not in parsed
        return Found("yes/no", levels=ordered(cells.values, table)) if two else Found("number")
    if _mostly(cells, [date(text) is not None for text in cells.values]):
        return Found("date")
    if distinct == 2:
        return Found("yes/no", levels=ordered(cells.values, table))
    present = int((cells.codes >= 0).sum())
    if distinct <= MOST_LEVELS and distinct <= max(_FEW, present / 10):
        return Found("category")
    if distinct == present:
        return Found("left out", "it is an id or free text: different in every row")
    return Found("left out", f"it is free text: {distinct:,} different values in {present:,} rows")


def _mostly(cells: Cells, fits: list[bool]) -> bool:
    """Whether all values are of a kind, or so many that the others are mistakes."""
    if all(fits):
        return True
    if len(fits) <= MOST_LEVELS:
        return False
    counts = cells.counts()
    return bool(counts[~np.array(fits)].sum() < _MISTAKES * counts.sum())


def _counts_rows(cells: Cells, parsed: list[float | None]) -> bool:
    """Whether each number is the one before it plus 1, without a missing one."""
    if len(parsed) != len(cells.codes) or None in parsed or len(parsed) < 3:
        return False
    return _are_consecutive(np.array(parsed, dtype=np.float64))  # in the order of the rows, since each occurs once


def _are_consecutive(values: np.ndarray[Any, Any]) -> bool:
    return bool((np.diff(values) == 1).all() and float(values[0]).is_integer())


def ordered(values: Collection[str], table: Table) -> tuple[str, ...]:
    """Sorted: as numbers if all of them are numbers."""
    parsed = {text: number(text, comma=table.decimal_comma) for text in values}
    if None in parsed.values():
        return tuple(sorted(values))
    return tuple(sorted(values, key=lambda text: (parsed[text], text)))


def date(text: str) -> datetime | None:
    """The time that a text says, else None: 2026-01-31, 2026/1/31 or 31.1.2026, with or without a time of day. A time
    with a zone is taken in UTC."""
    match = _DATE.match(text)
    if match is None or len(text) > 40:
        return None
    year, month, day = (match[1], match[2], match[3]) if match[1] else (match[6], match[5], match[4])
    try:
        found = datetime.fromisoformat(f"{year}-{int(month):02}-{int(day):02}{text[match.end() :]}")
        return found if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None


def numbers_of(table: Table, name: str, *, invalid: Invalid) -> np.ndarray[Any, Any]:
    """float64 (rows, 1), NaN where the value is missing. DataError for a cell that is no number, or too large a one,
    unless `invalid` is missing."""
    cells = table.columns[name]
    if isinstance(cells, Numbers):
        return cells.numbers[:, None]
    values = number_values(cells, comma=table.decimal_comma)
    refuse_wrong(table, name, cells, values, invalid=invalid, what=NO_NUMBER)
    return np.take(values, cells.codes, axis=0)


def dates_of(table: Table, name: str, part: str, *, invalid: Invalid) -> np.ndarray[Any, Any]:
    """float64 (rows,), one of DATE_PARTS of each date, NaN where it is missing. DataError for a cell that is no date,
    unless `invalid` is missing."""
    cells = table.columns[name]
    values = date_values(cells)
    refuse_wrong(table, name, cells, values, invalid=invalid, what=NO_DATE)
    return np.take(values[:, DATE_PARTS.index(part)], cells.codes)


NO_NUMBER, NO_DATE = "no number, or too large a one", "no date"


def number_values(cells: Cells, *, comma: bool) -> np.ndarray[Any, Any]:
    """float64 (values + 1, 1), the number that each value says, NaN if it says none. The last one is for missing cells,
    whose code is -1."""

    def value(text: str) -> tuple[float, ...] | None:
        found = number(text, comma=comma)
        return None if found is None or abs(found) > LARGEST else (found,)

    return _converted(cells, value, 1)


def date_values(cells: Cells | Numbers) -> np.ndarray[Any, Any]:
    """float64 (values + 1, 12), DATE_PARTS of the date that each value says (days are those since 1970), NaN if it says
    none. The last one is for missing cells, whose code is -1."""

    def value(text: str) -> tuple[float, ...] | None:
        found = date(text)
        if found is None:
            return None
        days = (found - _EPOCH).total_seconds() / 86400
        hour = found.hour + found.minute / 60
        turns = ((found.month - 1) / 12, found.weekday() / 7, hour / 24)
        cycles = (each for turn in turns for each in (math.sin(2 * math.pi * turn), math.cos(2 * math.pi * turn)))
        return (found.year, found.month, found.day, found.weekday(), found.hour, days, *cycles)

    return _converted(cells, value, len(DATE_PARTS))


def _converted(
    cells: Cells | Numbers, value: Callable[[str], tuple[float, ...] | None], width: int
) -> np.ndarray[Any, Any]:
    nothing = (np.nan,) * width
    found = np.empty((cells.distinct + 1, width))
    for place, text in enumerate(cells.values):
        found[place] = value(text) or nothing
    found[-1] = nothing
    return found


def refuse_wrong(
    table: Table, name: str, cells: Cells | Numbers, values: np.ndarray[Any, Any], *, invalid: Invalid, what: str
) -> None:
    """DataError for the first cell of a column that is not missing but has no value, unless `invalid` is missing.

    cells: of this column. values: those of `number_values` or `date_values`.
    """
    wrong = np.isnan(values[:, 0])
    wrong[-1] = False
    if invalid == "missing" or not wrong.any():
        return
    rows = np.flatnonzero(wrong[cells.codes])
    if len(rows):
        more = f" (and {len(rows) - 1:,} more)" if len(rows) > 1 else ""
        text = cells.text(int(rows[0]))
        raise DataError(
            f"{table.where(int(rows[0]))}: {name} is {text if len(text) <= 40 else text[:37] + '...'!r}, which is "
            f"{what}{more}: correct it, or take such cells as missing with data.invalid=missing"
        )
