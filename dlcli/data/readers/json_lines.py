"""JSON lines, one object per line -> columns. Every error names its line."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dlcli.core.errors import DataError
from dlcli.core.reading import parse_json
from dlcli.data.readers.cells import Builder, Cells
from dlcli.data.readers.separated import MOST_COLUMNS, Columns

_CHUNK = 20_000  # rows


def is_json_lines(path: Path, text: str) -> bool:
    return ".jsonl" in path.suffixes or ".ndjson" in path.suffixes or text.startswith("{")


def whole_json_lines(path: Path, text: str) -> Columns:
    """The columns of the text; a name that a line lacks is missing there."""
    rows = list(_objects(path, enumerate(text.splitlines(), 1)))
    if not rows:
        raise DataError(f"{path} is empty")
    return _columns(path, rows, {})


def json_pieces(path: Path, lines: Iterator[str]) -> Iterator[Columns]:
    """As `whole_json_lines`, a piece of the rows at a time. A column that a piece lacks is missing there, if a piece
    before it has one of this name."""
    rows, names = _objects(path, enumerate(lines, 1)), dict[str, None]()
    while chunk := list(islice(rows, _CHUNK)):
        yield _columns(path, chunk, names)
    if not names:
        raise DataError(f"{path} is empty")


def _objects(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, dict[str, str]]]:
    """The line and the values of each object."""
    for place, line in lines:
        if not line.strip():
            continue
        try:
            found = parse_json(line.encode())
        except ValueError as error:
            raise DataError(f"{path}:{place} is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise DataError(f"{path}:{place} is no object: each line is one, {{'column': value, ...}}")
        yield place, {name: _plain(value, f"{path}:{place}: {name}") for name, value in found.items()}


def _columns(path: Path, rows: list[tuple[int, dict[str, str]]], names: dict[str, None]) -> Columns:
    """names: of the columns so far, to which those of these rows are added."""
    for _, row in rows:
        names |= dict.fromkeys(row)
    if len(names) > MOST_COLUMNS:
        raise DataError(f"{path} has {len(names):,} columns, more than {MOST_COLUMNS:,}")
    columns: dict[str, Cells] = {}
    for name in names:
        builder = Builder()
        builder.add([row.get(name, "") for _, row in rows])
        columns[name] = builder.cells()
    return columns, np.array([line for line, _ in rows], dtype=np.int64)


def _plain(value: Any, where: str) -> str:
    if isinstance(value, dict | list):
        raise DataError(f"{where} is a {type(value).__name__}: each value is text, a number, true, false or null")
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
