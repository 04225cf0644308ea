"""A Parquet file -> columns, by pyarrow, a batch of rows at a time. Only values are read: no code and no metadata."""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dlcli.core.errors import DataError, ResourceError
from dlcli.core.files import sha256_of
from dlcli.core.reading import open_regular
from dlcli.data.readers import arrow
from dlcli.data.readers.cells import Table, few_as_text
from dlcli.data.readers.separated import MOST_COLUMNS
from dlcli.data.readers.text import no_file

_ROWS = 65_536  # that are read at a time


def read_parquet(path: Path, *, texts: Collection[str] = ()) -> Table:
    """The table in `path`; its rows are numbered from 1. DataError (exit 3) for a file that is none, or has nested
    columns.

    texts: columns whose texts are needed.
    """
    gathered = arrow.Gathered()
    names, _, read = read_parquet_into(path, gathered, texts=texts)
    columns = dict(zip(names, map(few_as_text, gathered.columns()), strict=True))
    return Table(path, columns, read.lines, False, read.sha256)


def read_parquet_into(
    path: Path, into: arrow.Sink, *, texts: Collection[str] = ()
) -> tuple[list[str], list[str], arrow.Read]:
    """As `read_parquet`, into a Sink; the names of the columns, and of those of numbers, with those of `texts`. Columns
    of few different numbers are numbers."""
    with _opened(path, texts) as (file, numbers):
        names = file.schema_arrow.names
        _collect(lambda: file.iter_batches(_ROWS), numbers, names, into)
        numeric = [field.name for field in file.schema_arrow if _holds_numbers(field.type)]
        return names, numeric, arrow.Read(np.arange(1, file.metadata.num_rows + 1), sha256_of(path))


def parquet_cells(path: Path) -> int:
    """How many cells the table has."""
    with _opened(path, ()) as (file, _):
        return int(file.metadata.num_rows) * len(file.schema_arrow)


def parquet_pieces(path: Path, *, texts: Collection[str] = ()) -> Iterator[Table]:
    """As `read_parquet`, a piece of the rows at a time. The sha256 is empty."""
    with _opened(path, texts) as (file, numbers):
        names, first = file.schema_arrow.names, 1
        for batch in file.iter_batches(_ROWS):
            gathered = arrow.Gathered()
            _collect(partial(iter, [batch]), numbers, names, gathered)
            yield Table(
                path, dict(zip(names, gathered.columns(), strict=True)), np.arange(first, first + len(batch)), False, ""
            )
            first += len(batch)


@contextlib.contextmanager
def _opened(path: Path, texts: Collection[str]) -> Iterator[tuple[Any, set[int]]]:
    """The file, and the places of its columns of numbers."""
    if not arrow.is_there():
        raise ResourceError(f"{path} is a Parquet file, which needs pyarrow: pip install 'dlcli[tables]'")
    if not path.is_file():
        raise DataError(f"{path} {no_file(path)}")
    import pyarrow
    from pyarrow import parquet

    try:
        with open(open_regular(path, follow=True), "rb") as raw:
            file = parquet.ParquetFile(raw, pre_buffer=False)  # it would hold all that was read
            numbers = {place for place, field in enumerate(_checked(path, file)) if _holds_numbers(field.type)}
            numbers -= {place for place, name in enumerate(file.schema_arrow.names) if name in texts}
            if not file.metadata.num_rows:
                raise DataError(f"{path} has columns but no rows")
            yield file, numbers
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is no Parquet file, or a damaged one: {str(error).splitlines()[0][:100]}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or str(error)[:100]}") from None


def _checked(path: Path, file: Any) -> Any:
    """The columns. DataError if they cannot be those of a table."""
    schema = file.schema_arrow
    if len(schema) > MOST_COLUMNS:
        raise DataError(f"{path} has {len(schema):,} columns, more than {MOST_COLUMNS:,}")
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise DataError(f"{path} names two columns {twice[0]!r}: rename one of them")
    for field in schema:
        if not _is_plain(field.type):
            raise DataError(
                f"{path}: {field.name} is a column of the type {str(field.type)[:40]}, but numbers, texts and dates "
                "are expected: leave it out of the file"
            )
    return schema


def _holds_numbers(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _is_plain(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    plain = (
        _holds_numbers, types.is_boolean, types.is_string, types.is_large_string,
        types.is_string_view, types.is_date, types.is_timestamp, types.is_time, types.is_null,
    )  # fmt: skip
    return any(check(kind) for check in plain)


def _collect(batches: Callable[[], Iterator[Any]], numbers: set[int], names: Sequence[str], into: arrow.Sink) -> None:
    """numbers: places of the columns of numbers; those with values that float64 or float32 cannot hold become text."""
    while True:
        into.begin(names, numbers)
        try:
            for batch in batches():
                converted = [_converted(column, place, numbers) for place, column in enumerate(batch.columns)]
                arrow.collect(converted, numbers, into)
        except arrow.NoNumbers as found:
            numbers = numbers - {found.place}
        else:
            return


def _converted(column: Any, place: int, numbers: set[int]) -> Any:
    """float64, or a dictionary of texts; a missing text is empty."""
    import pyarrow

    if place not in numbers:
        if pyarrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        return column.cast(pyarrow.string()).fill_null("").dictionary_encode()
    try:
        return column.cast(pyarrow.float64())
    except pyarrow.ArrowInvalid:
        raise arrow.NoNumbers(place) from None
