"""table:FILE -> data for a model of features: what the columns are, what is predicted, and which rows are for what."""

import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dlcli.core.errors import ConfigError, DataError, did_you_mean
from dlcli.core.spec import DataSpec, TaskName
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.readers.cells import Cells, Numbers, Table, number
from dlcli.data.readers.separated import Format
from dlcli.data.readers.tables import read_table
from dlcli.data.source import Source
from dlcli.data.splits import TEST, VAL
from dlcli.data.tables.columns import Found, Invalid, find_out, numbers_of, ordered
from dlcli.data.tables.copies import copied, marks
from dlcli.data.tables.encoding import Encoding, Scale, fit, places
from dlcli.data.tables.features import features
from dlcli.data.tables.parts import groups_of, order_of, parts_of
from dlcli.data.tables.stored import cells_in, stored_table

Task = Literal["auto", "regression", "binary", "multiclass"]

Storage = Literal["auto", "memory", "cache"]

MOST_IN_MEMORY = 1_000_000_000  # bytes of the numbers of a table, 4 bytes each, unless it is said where they are put

# Whole numbers with this many different values at most may be classes or not: the user must say it.
_MAY_BE_CLASSES = 20
_MOST_CLASSES = 1_000


@dataclass(frozen=True)
class Opened:
    """A table, read and understood, but not yet encoded: it is Unfitted. All rows have a target.

    val, test: the tables of files for validation and testing. found: what each column is. header: whether the file
    names its columns. parts, order, groups: see Unfitted. storage: where the features are put.
    notes: sentences for the user.
    """

    table: Table
    val: Table | None
    test: Table | None
    target: str
    task: TaskName
    found: dict[str, Found]
    header: bool
    min_count: int
    invalid: Invalid
    scale: Scale
    storage: Storage
    parts: Tensor | None
    order: Tensor | None
    groups: Tensor | None
    notes: tuple[str, ...]

    ordered = False
    held_out = 0.2

    @property
    def rows(self) -> int:
        return len(self.table)

    @property
    def has_val(self) -> bool:
        return self.val is not None

    @property
    def has_test(self) -> bool:
        return self.test is not None

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.table.sha256} {self.test and self.test.sha256} {self.target}".encode())
        if self.val is not None:
            digest.update(self.val.sha256.encode())
        if self.parts is not None:
            digest.update(self.parts.numpy().data)
        return digest.hexdigest()

    @property
    def classes(self) -> Tensor | None:
        if self.task == "regression":
            return None
        return torch.from_numpy(self.table.columns[self.target].codes.astype(np.int64))

    def fit(self, train: Tensor, about: Preprocessing | None) -> Source:
        """See `Unfitted.fit`. DataError for a class that no training row has."""
        rows = train.numpy()
        if about is None:
            encoding = fit(
                self.table, self.found, rows, min_count=self.min_count, header=self.header, invalid=self.invalid,
                scale=self.scale,
            )  # fmt: skip
            names = self._classes_in(rows)
        else:
            encoding, names = _stored(about, self.table), about.class_names
        rows_in_all = sum(len(each) for each in (self.table, self.val, self.test) if each is not None)
        numbers = rows_in_all * (len(encoding.feature_names) + 1)
        cached = self.storage == "cache" or (self.storage == "auto" and 4 * numbers > MOST_IN_MEMORY)
        put = partial(self._encoded, encoding=encoding, names=names, cached=cached)
        x, y = put(self.table)
        val_x, val_y = (None, None) if self.val is None else put(self.val)
        test_x, test_y = (None, None) if self.test is None else put(self.test)
        outputs = len(names) if self.task == "multiclass" else 1
        return Source(
            DataSpec(self.task, "features", (x.shape[1],), outputs, flags=encoding.flags),
            x,
            y,
            test_x,
            test_y,
            class_names=names,
            feature_names=encoding.feature_names,
            val_x=val_x,
            val_y=val_y,
            encoding=encoding,
            mapped=cached,
            resolved={"storage": "cache"} if cached else {},
            notes=self.notes + _copies((x, y), rows, (val_x, val_y), (test_x, test_y)),
        )

    def part(self, name: str, index: Tensor | None) -> Table:
        """The rows of a split as they were read. index: its rows, if it is a part of the table; None for all."""
        own = {"val": self.val, "test": self.test}.get(name)
        if own is not None:
            return own
        return self.table if index is None else self.table.rows(index.numpy())

    def _classes_in(self, rows: np.ndarray[Any, Any]) -> tuple[str, ...]:
        """The classes of these rows, sorted; empty for a regression."""
        if self.task == "regression":
            return ()
        cells = self.table.columns[self.target]
        counts = cells.counts(rows)
        names = ordered([name for name, count in zip(cells.values, counts, strict=True) if count], self.table)
        if len(names) < 2 or (self.task == "binary" and len(names) > 2):
            raise DataError(
                f"{self.table.path}: the training rows have {len(names)} different values of {self.target}, but "
                f"{self.task} needs {'2' if self.task == 'binary' else 'at least 2'}"
            )
        return names

    def _encoded(self, table: Table, encoding: Encoding, names: Sequence[str], cached: bool) -> tuple[Tensor, Tensor]:
        x = features(table, encoding) if cached else torch.from_numpy(encoding.encode(table)[0])
        if self.task == "regression":
            return x, torch.from_numpy(numbers_of(table, self.target, invalid="error")[:, 0].astype(np.float32))
        classes = places(names, table, self.target)
        if len(wrong := np.flatnonzero(classes < 0)):
            row = int(wrong[0])
            raise DataError(
                f"{table.where(row)}: {self.target} is {table.columns[self.target].text(row)[:40]!r}, a class that no "
                f"training row has: known are {', '.join(names[:20])}"
            )
        return x, torch.from_numpy(classes)


def table(
    data_dir: Path,
    *,
    path: str,
    target: str | None = None,
    task: Task = "auto",
    header: Literal["first", "none"] = "first",
    columns: tuple[str, ...] = (),
    comment: str = "",
    drop: tuple[str, ...] = (),
    numbers: tuple[str, ...] = (),
    categories: tuple[str, ...] = (),
    dates: tuple[str, ...] = (),
    val: str | None = None,
    test: str | None = None,
    split_column: str | None = None,
    split_time: str | None = None,
    split_group: str | None = None,
    min_count: int = 2,
    invalid: Invalid = "error",
    scale: Scale = "standard",
    storage: Storage = "auto",
) -> Opened:
    """The rows of a table, with one column as the target.

    storage: memory; or cache: in the user's cache, from which only the rows of a batch are read. auto takes the cache
    for more than 1 GB of numbers, 4 bytes each.

    ConfigError (exit 2) for an option that does not fit the table, DataError (exit 3) for a table that cannot be used.
    """
    if columns and header != "none":
        raise ConfigError("data.columns names the columns of a file without a header: add data.header=none")
    if min_count < 1:
        raise ConfigError(f"data.min_count = {min_count} must be at least 1")
    splitting = {"split_column": split_column, "split_time": split_time, "split_group": split_group}
    given = {option: name for option, name in splitting.items() if name}
    if len(given) > 1:
        told = " and ".join(f"data.{option} = {name}" for option, name in given.items())
        raise ConfigError(f"{told} exclude each other: keep one of them")
    texts = {*categories, *dates, *given.values(), (target or "") if task in ("binary", "multiclass") else ""}
    read = partial(_read, how=Format(header, columns, comment), texts=texts, storage=storage)
    whole = read(Path(path))
    if target is None:
        raise ConfigError(f"data.target must be given, the column to predict: {_shown(whole.columns)} in {path}")
    _need_columns(whole, header, target=[target], drop=drop, numbers=numbers, categories=categories, dates=dates)
    _need_columns(whole, header, **{option: [name] for option, name in given.items()})
    _need_one_kind(numbers=numbers, categories=categories, dates=dates, drop=drop)
    for name in {*drop, *numbers, *categories, *dates, *given.values()} & {target}:
        raise ConfigError(f"data.target = {name} is named in another option as well: leave it out there")
    goal = _task(whole, target, task, invalid)
    known, notes = _with_target(whole, target, goal, invalid)
    others: dict[str, Table | None] = {"val": None, "test": None}
    for option, place in (("val", val), ("test", test)):
        if place is not None:
            other, more = _with_target(_need_target(read(Path(place)), target), target, goal, invalid)
            other, dotted = _without_dots(other, known, target) if goal != "regression" else (other, ())
            notes += (*more, *dotted)
            others[option] = other
    left_out = dict.fromkeys(drop, "data.drop names it")
    left_out |= {split_column or "": "it says the split", split_group or "": "it says the group"}
    found = {
        name: Found("target") if name == target
        else Found("left out", left_out[name]) if name in left_out
        else find_out(known, name, numbers=numbers, categories=categories, dates=dates)
        for name in known.columns
    }  # fmt: skip
    parts = parts_of(known, split_column) if split_column else None
    for option, place, part in (("val", val, VAL), ("test", test, TEST)):
        if parts is not None and place is not None and bool((parts == part).any()):
            raise ConfigError(
                f"data.{option} = {place} does not go with {option} rows in data.split_column = {split_column}"
            )
    if parts is not None:
        files = (("val", VAL, val), ("test", TEST, test))
        lacking = [word for word, part, file in files if file is None and not bool((parts == part).any())]
        if lacking:
            notes += (f"no row says {' or '.join(lacking)} in {split_column}: these are drawn from the others",)
    return Opened(
        known,
        **others,
        target=target,
        task=goal,
        found=found,
        header=header == "first",
        min_count=min_count,
        invalid=invalid,
        scale=scale,
        storage=storage,
        parts=parts,
        order=order_of(known, split_time) if split_time else None,
        groups=groups_of(known, split_group) if split_group else None,
        notes=notes + _told(found),
    )


def _read(path: Path, *, how: Format, texts: Collection[str], storage: Storage) -> Table:
    large = storage == "cache" or (storage == "auto" and path.is_file() and 4 * cells_in(path) > MOST_IN_MEMORY)
    return stored_table(path, how, texts=texts) if large else read_table(path, how, texts=texts)


def _copies(
    own: tuple[Tensor, Tensor], train: np.ndarray[Any, Any], *held_out: tuple[Tensor | None, Tensor | None]
) -> tuple[str, ...]:
    """A sentence about held-out rows that are also training rows. own: of the table itself. train: its training rows.
    held_out: of other files."""
    known = marks(own[0], own[1])
    others = np.delete(known, train)
    more = [marks(x, y) for x, y in held_out if x is not None and y is not None]
    copies = copied(known[train], np.concatenate((others, *more)))
    return (f"{copies:,} validation and test rows are copies of training rows",) if copies else ()


def _need_one_kind(**options: Collection[str]) -> None:
    """ConfigError for a column that two options name."""
    seen: dict[str, str] = {}
    for option, names in options.items():
        for name in dict.fromkeys(names):
            if name in seen:
                raise ConfigError(f"data.{seen[name]} and data.{option} both name {name}: keep one of them")
            seen[name] = option


def _told(found: dict[str, Found]) -> tuple[str, ...]:
    gone = [f"{name} ({about.reason})" for name, about in found.items() if about.kind == "left out"]
    return (f"left out: {', '.join(gone[:10])}{' and more' * (len(gone) > 10)}",) if gone else ()


def _need_columns(table: Table, header: str, **options: Collection[str]) -> None:
    """ConfigError for a column that an option names and the table does not have."""
    for option, names in options.items():
        for name in names:
            if name not in table.columns:
                told = did_you_mean(name, table.columns)
                told = told if told.startswith("did") or len(table.columns) <= 30 else _shown(table.columns)
                bare = header == "first" and any(number(column) is not None for column in table.columns)
                hint = "; a file without a header is read with data.header=none" if bare else ""
                raise ConfigError(f"data.{option} = {name} is no column of {table.path}: {told}{hint}")


def _shown(columns: Collection[str]) -> str:
    return ", ".join(list(columns)[:20]) + (f" and {len(columns) - 20} more" if len(columns) > 20 else "")


def _task(table: Table, target: str, task: Task, invalid: Invalid) -> TaskName:
    cells = table.columns[target]
    if isinstance(cells, Numbers):
        return "regression" if task == "auto" else task
    distinct = cells.distinct
    if not distinct:
        raise DataError(f"{table.path} has no value in its column {target}, the target: name another in data.target")
    if task != "auto":
        return task
    if distinct == 1:
        raise DataError(f"{table.path}: {target} is {cells.values[0][:40]!r} in every row: there is nothing to predict")
    if distinct == 2:
        return "binary"
    all_numbers = None not in [number(text, comma=table.decimal_comma) for text in cells.values]
    if all_numbers or find_out(table, target, numbers=(), categories=(), dates=()).kind == "number":
        values = numbers_of(table, target, invalid=invalid)
        whole = bool((np.isnan(values) | (values == np.round(values))).all())
        if whole and distinct <= _MAY_BE_CLASSES:
            raise ConfigError(
                f"data.target = {target} has {distinct} different whole numbers, which may be classes or amounts: give "
                "data.task=multiclass or data.task=regression"
            )
        return "regression"
    if distinct > _MOST_CLASSES or 2 * distinct > len(table):
        raise ConfigError(
            f"data.target = {target} is text with {distinct:,} different values in {len(table):,} rows, too many for "
            "classes: name another column"
        )
    return "multiclass"


def _with_target(table: Table, target: str, task: TaskName, invalid: Invalid) -> tuple[Table, tuple[str, ...]]:
    """The rows that have a target, and what to say of the others."""
    there = ~table.columns[target].missing
    if task == "regression":
        there = ~np.isnan(numbers_of(table, target, invalid=invalid)[:, 0])
    gone = int((~there).sum())
    if gone == len(table):
        raise DataError(f"{table.path} has no value in its column {target}, the target: name another in data.target")
    if not gone:
        return table, table.notes
    told = f"{gone:,} of {len(table):,} rows of {table.path.name} are left out: they have no {target}"
    return table.rows(np.flatnonzero(there)), (*table.notes, told)


def _need_target(test: Table, target: str) -> Table:
    if target not in test.columns:
        raise DataError(f"{test.path} has no column {target!r}, the target: {did_you_mean(target, test.columns)}")
    return test


def _without_dots(test: Table, table: Table, target: str) -> tuple[Table, tuple[str, ...]]:
    """The test table with classes as in the training table, if all that differs is a dot at their end."""
    cells = test.columns[target]
    known = set(table.columns[target].values)
    bare = tuple(text.removesuffix(".") for text in cells.values)
    if known.issuperset(cells.values) or not known.issuperset(bare) or len(set(bare)) < len(bare):
        return test, ()
    changed = {**test.columns, target: Cells(bare, cells.codes)}
    note = f"the values of {target} in {test.path.name} end in a dot, which is left out"
    return dataclasses.replace(test, columns=changed), (note,)


def _stored(about: Preprocessing, table: Table) -> Encoding:
    if about.encoding is None:
        raise DataError(f"{table.path} is a table, but the model was trained on other data: {about.spec}")
    return about.encoding
