"""Encoding: how the columns of a table become features. Learned from the training rows, stored in the run."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any, Literal, get_args

import numpy as np
import torch

from dlcli.core.documents import FLAG, NUMBER, TEXT, Kind, check, list_of
from dlcli.core.errors import DataError, did_you_mean
from dlcli.data.readers.cells import Cells, Numbers, Table, number
from dlcli.data.tables.columns import (
    DATE_PARTS,
    NO_DATE,
    NO_NUMBER,
    ColumnKind,
    Found,
    Invalid,
    date_values,
    number_values,
    numbers_of,
    refuse_wrong,
)  # fmt: skip

Scale = Literal["standard", "quantile", "none"]

_MOST_FEATURES = 50_000
_MOST_KNOTS = 1_000
_AT_ONCE = 65_536  # rows
_FARTHEST = 5.199337582605575  # the normal score of 1e-7: that of anything beyond the training rows


@dataclass(frozen=True)
class Column:
    """A column, and what becomes of it: its features are 32-bit numbers, in this order.

    kind: number: its value. yes/no: 1 for the second of `levels`. category: one feature for each of `levels`, 1 for
        that of the cell. date: its `parts`. The target, and what is left out, have no features.
    reason: why it is left out.
    fills: of each feature of a number, yes/no or date: what stands for a missing value.
    knots: of each feature of a number or date that is scaled by quantiles: its quantiles at equal steps from 0 to 1.
    rare: whether a further feature is 1 for all levels that are not in `levels`. Without it none is 1 for them.
    missing: whether a further feature is 1 where the value is missing.
    """

    name: str
    kind: ColumnKind
    reason: str = ""
    levels: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    fills: tuple[float, ...] = ()
    knots: tuple[tuple[float, ...], ...] = ()
    rare: bool = False
    missing: bool = False

    @property
    def is_used(self) -> bool:
        return self.kind not in ("left out", "target")

    @property
    def features(self) -> tuple[str, ...]:
        own = {
            "number": (self.name,),
            "yes/no": tuple(f"{self.name}={level}" for level in self.levels[1:]),
            "category": tuple(f"{self.name}={level}" for level in self.levels),
            "date": tuple(f"{self.name}.{part}" for part in self.parts),
        }.get(self.kind, ())
        return own + (f"{self.name}=other",) * self.rare + (f"{self.name}=missing",) * self.missing

    @property
    def numbers(self) -> int:
        """How many features, the first ones, are numbers; the others are 0 or 1."""
        return {"number": 1, "date": len(self.parts)}.get(self.kind, 0)


@dataclass(frozen=True)
class Encoding:
    """columns: all of the file, in its order. header: whether the file has one. invalid: whether a cell that does not
    suit its column is an error or missing. scale: what becomes of numbers."""

    columns: tuple[Column, ...]
    header: bool = True
    invalid: Invalid = "error"
    scale: Scale = "standard"

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(name for column in self.columns for name in column.features)

    @property
    def target(self) -> str:
        return next((column.name for column in self.columns if column.kind == "target"), "")

    @property
    def flags(self) -> tuple[int, ...]:
        """Which features are 0 or 1, and no numbers."""
        number = [place < column.numbers for column in self.columns for place in range(len(column.features))]
        return tuple(place for place, is_number in enumerate(number) if not is_number)

    @property
    def standardised(self) -> tuple[bool, ...]:
        """Of each feature, whether it is standardised."""
        left = set(self.flags) if self.scale == "standard" else range(len(self.feature_names))
        return tuple(place not in left for place in range(len(self.feature_names)))

    def encode(self, table: Table) -> tuple[np.ndarray[Any, Any], dict[str, int]]:
        """float32 (rows, features), and for each column how many of its cells hold a category that the training
        rows did not have, or rarely, if any. DataError for a column that is needed and not there, and for a cell that
        does not suit its column."""
        self._need_columns(table)
        found = np.empty((len(table), len(self.feature_names)), dtype=np.float32)
        unseen: Counter[str] = Counter()
        for start, part in self.pieces(table, unseen):
            found[start : start + len(part)] = part
        return found, dict(unseen)

    def pieces(self, table: Table, unseen: Counter[str]) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        """As `encode`, some rows at a time: the first of them, and their features, which are valid until the next ones.
        unseen: the numbers of cells are added to it."""
        self._need_columns(table)
        writers, place = [], 0
        for column in self.columns:
            if column.is_used:
                width = len(column.features)
                writers.append((column, slice(place, place + width), _writer(column, table, invalid=self.invalid)))
                place += width
        found = np.empty((min(_AT_ONCE, len(table)), place), dtype=np.float32)
        for start in range(0, len(table), _AT_ONCE):
            rows = np.arange(start, min(start + _AT_ONCE, len(table)))
            for column, features, write in writers:
                if unknown := write(table.some(column.name, rows), found[: len(rows), features]):
                    unseen[column.name] += unknown
            yield start, found[: len(rows)]

    def _need_columns(self, table: Table) -> None:
        for column in self.columns:
            if column.is_used and column.name not in table.columns:
                known = [each.name for each in self.columns]
                near = did_you_mean(column.name, [name for name in table.columns if name not in known])
                raise DataError(
                    f"{table.path} has no column {column.name!r}" + (f": {near}" if near.startswith("did") else "")
                )

    def as_dict(self) -> dict[str, Any]:
        scale = {} if self.scale == "standard" else {"scale": self.scale}
        columns = [_compact(column) for column in self.columns]
        return {"columns": columns, "header": self.header, "invalid": self.invalid, **scale}

    @classmethod
    def from_dict(cls, values: Any) -> "Encoding":
        """The inverse of `as_dict`; ValueError if the values are invalid or do not match each other."""
        check(values, _FIELDS, needed=True)
        check(values, _OPTIONAL)
        scale = values.get("scale", "standard")
        columns = tuple(_column(each) for each in values["columns"])
        names = [column.name for column in columns]
        if len(set(names)) < len(names) or [c.kind for c in columns].count("target") > 1:
            raise ValueError("two of its columns have one name, or two are the target")
        if any(len(c.knots) != (c.numbers if scale == "quantile" else 0) for c in columns):
            raise ValueError(f"its numbers have knots that do not go with scale = {scale}")
        return cls(columns, values["header"], values["invalid"], scale)


def fit(
    table: Table, found: Mapping[str, Found], rows: np.ndarray[Any, Any], *, min_count: int, header: bool,
    invalid: Invalid, scale: Scale,
) -> Encoding:  # fmt: skip
    """Learned from these rows only. found: what each column is. min_count: a category in fewer rows is rare."""
    columns = tuple(
        _fitted(table, rows, name, about, min_count=min_count, invalid=invalid, scale=scale)
        for name, about in found.items()
    )
    encoding = Encoding(columns, header, invalid, scale)
    count = len(encoding.feature_names)
    if count > _MOST_FEATURES:
        widest = max(columns, key=lambda column: len(column.features))
        raise DataError(
            f"{table.path} makes {count:,} features, {len(widest.features):,} of them of {widest.name}: raise "
            "data.min_count, or leave columns out with data.drop"
        )
    if not count:
        told = "; ".join(f"{c.name}: {c.reason}" for c in columns if c.reason) or "the target is its only one"
        raise DataError(
            f"{table.path} has no column to learn from ({told}): name columns in data.numbers or data.categories"
        )
    return encoding


def _fitted(
    table: Table, rows: np.ndarray[Any, Any], name: str, about: Found, *, min_count: int, invalid: Invalid, scale: Scale
) -> Column:
    cells, kind = table.columns[name].rows(rows), about.kind
    missing = bool(cells.missing.any())
    if kind in ("left out", "target"):
        return Column(name, kind, about.reason)
    if kind == "category":
        counts = dict(zip(cells.values, cells.counts().tolist(), strict=True))
        levels = sorted((c for c in counts if counts[c] >= min_count), key=lambda c: (-counts[c], c))
        rare = any(0 < count < min_count for count in counts.values())
        return Column(name, kind, levels=tuple(levels), rare=rare, missing=missing)
    if kind == "yes/no":
        second = about.levels[1]
        counts = dict(zip(cells.values, cells.counts().tolist(), strict=True))
        usual = float(2 * counts[second] > sum(counts.values()))
        return Column(name, kind, levels=about.levels, fills=(usual,), missing=missing)
    # Of all rows, so that all cells that do not suit the column are counted in an error.
    if kind == "date":
        return _fitted_date(table, rows, name, invalid=invalid, scale=scale)
    values = numbers_of(table, name, invalid=invalid)[rows, 0]
    there = values[~np.isnan(values)]
    fill, knots = _fill_and_knots(there, scale)
    return Column(name, kind, fills=(fill,), knots=knots, missing=len(there) < len(values))


def _fitted_date(table: Table, rows: np.ndarray[Any, Any], name: str, *, invalid: Invalid, scale: Scale) -> Column:
    cells = table.columns[name]
    by_value = date_values(cells)
    refuse_wrong(table, name, cells, by_value, invalid=invalid, what=NO_DATE)
    codes = cells.codes[rows]
    codes = codes[~np.isnan(by_value[:, 0])[codes]]
    seen = by_value[np.unique(codes)]
    varies = [place for place in range(len(DATE_PARTS)) if len(seen) and np.ptp(seen[:, place]) > 0]
    learned = [_fill_and_knots(by_value[:, place][codes], scale) for place in varies]
    return Column(
        name,
        "date",
        parts=tuple(DATE_PARTS[place] for place in varies),
        fills=tuple(fill for fill, _ in learned),
        knots=tuple(each for _, knots in learned for each in knots),
        missing=len(codes) < len(rows),
    )


def _fill_and_knots(there: np.ndarray[Any, Any], scale: Scale) -> tuple[float, tuple[tuple[float, ...], ...]]:
    """The median of these values, (N,), and, for quantiles, one list of knots."""
    there = there if len(there) else np.zeros(1)
    return float(np.median(there)), (_knots(there),) if scale == "quantile" else ()


def _knots(values: np.ndarray[Any, Any]) -> tuple[float, ...]:
    steps = np.linspace(0, 1, min(max(len(values), 2), _MOST_KNOTS))
    return tuple(np.quantile(values, steps).tolist())


def _normal_scores(values: np.ndarray[Any, Any], knots: Sequence[float]) -> np.ndarray[Any, Any]:
    """As scikit-learn's QuantileTransformer to a normal distribution; but a value that several knots share is in the
    middle of them even if it is the least or the greatest."""
    at = np.array(knots)
    steps = np.linspace(0, 1, len(at))
    below, above = -np.interp(-values, -at[::-1], -steps[::-1]), np.interp(values, at, steps)
    scores: np.ndarray[Any, Any] = torch.special.ndtri(torch.from_numpy((below + above) / 2)).numpy()
    return scores.clip(-_FARTHEST, _FARTHEST)


# Writes the features of some cells of a column; returns how many cells hold a level that it does not have.
_Writer = Callable[[Cells | Numbers, np.ndarray[Any, Any]], int]


def _writer(column: Column, table: Table, *, invalid: Invalid) -> _Writer:
    """What all further work needs is made once for each value of the column, not for each cell."""
    sample = table.some(column.name, np.arange(0))
    if column.kind in ("category", "yes/no"):
        return partial(_write_levels, column, table, places_of(column.levels, sample, table))
    if column.kind == "number":
        if isinstance(sample, Numbers):
            return partial(_write_numbers, column)
        values, what = number_values(sample, comma=table.decimal_comma), NO_NUMBER
    else:
        values, what = date_values(sample), NO_DATE
    wrong = np.isnan(values[:-1, 0])
    if wrong.any() and invalid == "error":
        refuse_wrong(table, column.name, table.columns[column.name], values, invalid=invalid, what=what)
    if column.kind == "date":
        values = values[:, [0, *(DATE_PARTS.index(part) for part in column.parts)]]
        empty = np.isnan(values[:, 0])
        values = values[:, 1:]
    else:
        empty = np.isnan(values[:, 0])
    features = np.empty((len(values), len(column.features)), dtype=np.float32)
    _fill_in(column, values, empty, features)
    return partial(_write_values, features)


def _write_values(features: np.ndarray[Any, Any], cells: Cells | Numbers, into: np.ndarray[Any, Any]) -> int:
    """features: float32 (values + 1, ...), of each value."""
    into[:] = features[cells.codes]
    return 0


def _write_numbers(column: Column, cells: Cells | Numbers, into: np.ndarray[Any, Any]) -> int:
    assert isinstance(cells, Numbers)
    _fill_in(column, cells.numbers[:, None], np.isnan(cells.numbers), into)
    return 0


def _fill_in(
    column: Column, values: np.ndarray[Any, Any], empty: np.ndarray[Any, Any], into: np.ndarray[Any, Any]
) -> None:
    """The features of a number or date. values: float64 (N, column.numbers). empty: bool (N,)."""
    values = np.where(empty[:, None], np.array(column.fills), values)
    for place, knots in enumerate(column.knots):
        values[:, place] = _normal_scores(values[:, place], knots)
    into[:, : column.numbers] = values
    if column.missing:
        into[:, -1] = empty


def _write_levels(
    column: Column,
    table: Table,
    of_values: np.ndarray[Any, Any],
    cells: Cells | Numbers,
    into: np.ndarray[Any, Any],
) -> int:
    """of_values: int64 (values + 1,), which level each value is; of no use for Numbers, whose values differ."""
    empty = cells.codes < 0
    own = np.take(of_values if isinstance(cells, Cells) else places_of(column.levels, cells, table), cells.codes)
    unknown = (own < 0) & ~empty
    if column.kind == "yes/no":
        into[:, 0] = np.where(own < 0, column.fills[0], own)
        into[:, 1:] = 0
    else:
        into[:] = 0
        known = np.flatnonzero(own >= 0)
        into[known, own[known]] = 1
        if column.rare:
            into[unknown, len(column.levels)] = 1
    if column.missing:
        into[empty, -1] = 1
    return int(unknown.sum())


def places(levels: Sequence[str], table: Table, name: str) -> np.ndarray[Any, Any]:
    """int64 (rows,): which of `levels` is in this column of each row, -1 if none. 1 and 1.0 are the same level."""
    cells = table.columns[name]
    return np.take(places_of(levels, cells, table), cells.codes)


def places_of(levels: Sequence[str], cells: Cells | Numbers, table: Table) -> np.ndarray[Any, Any]:
    """int64 (values + 1,): which of `levels` each value of these cells of the table is; the last one is for missing
    cells."""
    place = {level: at for at, level in enumerate(levels)}
    by_value = {number(level): at for level, at in place.items()}
    by_value.pop(None, None)

    def found(text: str) -> int:
        return place[text] if text in place else by_value.get(number(text, comma=table.decimal_comma), -1)

    return np.array([*map(found, cells.values), -1])


def _compact(column: Column) -> dict[str, Any]:
    """Without what is as by default."""
    values = {f.name: getattr(column, f.name) for f in fields(Column)}
    values["knots"] = [list(knots) for knots in column.knots]
    plain = {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
    return {name: value for name, value in plain.items() if value or name in ("name", "kind")}


def _column(values: Any) -> Column:
    check(values, _COLUMN)
    check(values, {"name": TEXT, "kind": _COLUMN["kind"]}, needed=True)
    known = {f.name: values[f.name] for f in fields(Column) if f.name in values}
    frozen: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in known.items()}
    frozen["knots"] = tuple(tuple(knots) for knots in known.get("knots", ()))
    column = Column(**frozen)
    fills = {"number": 1, "yes/no": 1, "date": len(column.parts)}.get(column.kind, 0)
    if len(column.fills) != fills or (column.kind == "yes/no" and len(column.levels) != 2):
        raise ValueError(f"column {column.name[:40]!r} is a {column.kind} with other levels or fills")
    if any(sorted(knots) != list(knots) for knots in column.knots):
        raise ValueError(f"column {column.name[:40]!r} has knots that do not rise")
    if column.rare and column.kind != "category":
        raise ValueError(f"column {column.name[:40]!r} is a {column.kind} with rare levels")
    if len(set(column.levels)) < len(column.levels):
        raise ValueError(f"column {column.name[:40]!r} has a level twice")
    return column


def _one_of(choices: Sequence[str]) -> Kind:
    return Kind(f"one of {', '.join(choices)}", lambda v: isinstance(v, str) and v in choices)


_COLUMN = {
    "name": TEXT, "kind": _one_of(get_args(ColumnKind)), "reason": TEXT, "levels": list_of(TEXT),
    "parts": list_of(_one_of(DATE_PARTS)), "fills": list_of(NUMBER), "rare": FLAG, "missing": FLAG,
    "knots": list_of(Kind("2 to 1,000 numbers", lambda v: list_of(NUMBER).holds(v) and 2 <= len(v) <= _MOST_KNOTS)),
}  # fmt: skip
_FIELDS = {
    "columns": Kind("a list", lambda v: isinstance(v, list)), "header": FLAG, "invalid": _one_of(get_args(Invalid)),
}  # fmt: skip
_OPTIONAL = {"scale": _one_of(get_args(Scale))}
