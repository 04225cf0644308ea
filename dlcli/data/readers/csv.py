"""A CSV file -> rows of numbers. Every error names its line."""

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import torch
from torch import Tensor

from dlcli.core.errors import DataError, did_you_mean
from dlcli.core.spec import DataSpec
from dlcli.data.readers.text import text_pieces

# Python's float() also accepts 1_000, nan, and digits of other scripts.
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_LONGEST_CELL = 131_072  # characters
_CELLS = 500_000  # that are read at a time


@dataclass(frozen=True)
class Samples:
    """names: `file` or `file:line` of each sample. raw: (N, ...) values. kept: per sample, kept column -> text.
    note: a sentence for the user about the samples."""

    names: list[str]
    raw: Tensor
    kept: list[dict[str, str]]
    note: str = ""


def read_rows(
    path: Path, spec: DataSpec, feature_names: Sequence[str] = (), *, keep: Sequence[str] = ()
) -> Iterator[Samples]:
    """The rows as raw (N, ...) values of `spec`, with their line numbers and the text in the columns `keep`; those of a
    large file, or stream, in several pieces.

    Values are separated by commas; a cell may be in double quotes. A header names the columns by feature (x0, x1 and so
    on if the features have no names), or numbers them from 0; other columns are ignored. Any other first line with
    numbers in it is a row. Empty lines are skipped. DataError (exit 3) for anything else.
    """
    lines = _lines(path)
    number, first = next(lines, (0, []))
    if not number:
        raise DataError(f"{path} is empty")
    expected = list(feature_names) or [f"x{i}" for i in range(math.prod(spec.input_shape))]
    order, width, needed = list(range(len(expected))), len(expected), "are needed"
    kept: list[int] = []
    if not set(first) & set(expected):
        _refuse_other_separators(path, number, first)
    named = _names_in(first, expected)
    if named and len(named) == len(first) and named != expected and (len(named) < 3 or spec.kind == "tokens"):
        raise DataError(
            f"{path}:{number} numbers the columns, or is a sample: write a header of names in its place or above it, "
            f"{_listed(expected)}"
        )
    if named:
        order, width, needed = _columns(path, number, first, named), len(first), "stand in the header"
        kept = _kept(path, number, first, keep)
    elif keep:
        raise DataError(f"{path} has no header in which --keep {keep[0]} could be found")
    else:
        lines = chain([(number, first)], lines)
    some = list(islice(lines, size := max(1, _CELLS // width)))
    if not some:
        raise DataError(f"{path} has a header but no rows")
    while some:
        values = _values(path, some, spec, dict(zip(expected, order, strict=True)), width, needed)
        yield Samples(
            names=[f"{path}:{number}" for number, _ in some],
            raw=values.view(len(some), *spec.input_shape),
            kept=[{name: cells[place] for name, place in zip(keep, kept, strict=True)} for _, cells in some],
        )
        some = list(islice(lines, size))


def _values(
    path: Path,
    lines: Sequence[tuple[int, list[str]]],
    spec: DataSpec,
    places: Mapping[str, int],
    width: int,
    needed: str,
) -> Tensor:
    """(rows, features). places: of the features in a row. needed: what `width` values do, for an error."""
    rows = []
    for number, cells in lines:
        if len(cells) != width:
            raise DataError(f"{path}:{number} has {len(cells)} values, but {width} {needed}")
        row = [_value(cells[place], f"{path}:{number}: {name}") for name, place in places.items()]
        if spec.kind == "tokens" and not all(v.is_integer() and 0 <= v < spec.vocabulary for v in row):
            raise DataError(f"{path}:{number}: tokens must be whole numbers from 0 to {spec.vocabulary - 1}")
        rows.append(row)
    return torch.tensor(rows, dtype=torch.int64 if spec.kind == "tokens" else torch.float32)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line in which each row begins, since a quoted cell may span several, and its cells without outer blanks."""
    csv.field_size_limit(_LONGEST_CELL)
    text = (line for piece in text_pieces(path) for line in io.StringIO(piece, newline="\n"))
    reader, number = csv.reader(text, strict=True, skipinitialspace=True), 1
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if cells and cells != [""]:
                yield number, cells
            number = reader.line_num + 1
    except csv.Error as error:
        reason = "a quote that begins there does not end" if "end of data" in str(error) else str(error)
        raise DataError(f"{path}:{number} is no CSV: {reason}") from None


def _refuse_other_separators(path: Path, number: int, cells: Sequence[str]) -> None:
    for mark, word in ((";", "semicolons"), ("\t", "tabs")):
        if any(mark in cell for cell in cells):
            raise DataError(
                f"{path}:{number} has {word} between its values: save it with commas there, and points in numbers"
            )


def _names_in(first: Sequence[str], expected: list[str]) -> list[str]:
    """The names of the wanted columns in the header `first`; empty if the first line is a row of values.

    Feature names may themselves be numbers. pandas numbers unnamed columns from 0.
    """
    numbers = [cell for cell in first if _NUMBER.fullmatch(cell)]
    if not numbers or set(expected) <= set(first) or (set(first) - set(numbers)) & set(expected):
        return expected
    places = [str(place) for place in range(len(expected))]
    beside = len(first) > len(numbers) and set(places) <= set(first)  # an index, or labels
    return places if beside or list(first) == places else []


def _columns(path: Path, number: int, header: Sequence[str], expected: Sequence[str]) -> list[int]:
    """The position of each expected column."""
    for name in expected:
        if name not in header:
            near = did_you_mean(name, [column for column in header if column not in expected])
            hint = f"; {near}" if near.startswith("did") else ""
            raise DataError(f"{path}:{number} has no column {name!r}: it needs {_listed(expected)}{hint}")
        if header.count(name) > 1:
            raise DataError(f"{path}:{number} has {header.count(name)} columns {name!r}: one is needed")
    return [header.index(name) for name in expected]


def _kept(path: Path, number: int, header: Sequence[str], keep: Sequence[str]) -> list[int]:
    """The position of each column to keep."""
    for name in keep:
        if name not in header:
            raise DataError(f"{path}:{number} has no column {name!r} for --keep: {did_you_mean(name, header)}")
        if header.count(name) > 1:
            raise DataError(f"{path}:{number} has {header.count(name)} columns {name!r}: one is needed for --keep")
    return [header.index(name) for name in keep]


def _value(cell: str, where: str) -> float:
    if not _NUMBER.fullmatch(cell):
        shown = repr(cell if len(cell) <= 40 else cell[:37] + "...")
        raise DataError(f"{where} is {'empty' if not cell else f'{shown}, which is no number'}")
    value = float(cell)
    if abs(value) > torch.finfo(torch.float32).max:
        raise DataError(f"{where} is {cell[:40]}, which is too large")
    return value


def _listed(columns: Sequence[str]) -> str:
    """The column names, or only the first three if there are more than 12."""
    return ", ".join(columns) if len(columns) <= 12 else f"{len(columns)} columns, {', '.join(columns[:3])} and so on"
