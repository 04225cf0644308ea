"""Tables, JSON, CSV and Markdown. Data goes to stdout, everything else to stderr."""

import csv
import dataclasses
import io
import itertools
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from dlcli.cli.layout import compose, fit, fold
from dlcli.core.wording import CONTROL, text
from dlcli.core.wording import byte_size as byte_size
from dlcli.core.wording import cut as cut
from dlcli.core.wording import duration as duration
from dlcli.core.wording import number as number
from dlcli.core.wording import plain as plain
from dlcli.core.wording import setting as setting

_JSON_CONTROL = re.compile(CONTROL.pattern.replace(r"\x00-\x1f", ""))  # json escapes those below 0x20
_AT_ONCE = 1000  # rows


class Format(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"
    md = "md"


@dataclass(frozen=True)
class Column:
    """key: of the value in a row. show: formats the value for a table; JSON and CSV get the value itself.

    The other fields control the layout on a narrow terminal: text is folded between words, numbers never are.
    """

    key: str
    heading: str
    show: Callable[[Any], str] = lambda value: text(value)
    right: bool = False
    fixed: bool = False  # never folded: ids, paths
    cut: int = 0  # if not 0: truncated with an ellipsis, to at least this width, instead of folded
    drop: int = 0  # if not 0: left out if it does not fit beside the columns with a lower value


def choose_format(*, json: bool = False, csv: bool = False, md: bool = False) -> Format:
    """The requested format, by default a table. ConfigError (exit 2) if more than one is requested."""
    from dlcli.core.errors import ConfigError

    if json + csv + md > 1:
        raise ConfigError("--json, --csv and --md exclude each other: choose one")
    return Format.json if json else Format.csv if csv else Format.md if md else Format.table


def emit(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    *,
    format: Format,
    title: str = "",
    document: Any = None,
) -> None:
    """Print rows to stdout. document: what --json prints instead of the rows."""
    columns = [dataclasses.replace(c, heading=text(c.heading)) for c in columns]
    if format is Format.json:
        print_json(list(rows) if document is None else document)
    elif format is Format.csv:
        write(to_csv([c.key for c in columns], [[row.get(c.key) for c in columns] for row in rows]))
    elif format is Format.md:
        write(markdown(rows, columns))
    else:
        _print_table(rows, columns, title)


def emit_as_they_come(rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], *, format: Format) -> None:
    """As `emit`. CSV and JSON are written while the rows come; a table needs all of them for its widths."""
    if format not in (Format.csv, Format.json):
        emit(list(rows), columns, format=format)
        return
    mark, rows = "[", iter(rows)
    keys: list[str] | None = [column.key for column in columns]
    while batch := list(itertools.islice(rows, _AT_ONCE)):
        if format is Format.csv:
            write(to_csv(keys, [[row.get(column.key) for column in columns] for row in batch]))
            keys = None
            continue
        shown = ("".join(_json_pieces(row, sys.stdout, indent=2)).replace("\n", "\n  ") for row in batch)
        write(f"{mark}\n  " + ",\n  ".join(shown))
        mark = ","
    if format is Format.json:
        write("[]\n" if mark == "[" else "\n]\n")
    elif keys is not None:
        write(to_csv(keys, []))


def print_json(document: Any) -> None:
    for piece in _json_pieces(document, sys.stdout, indent=2):
        write(piece)
    write("\n")


def _json_pieces(document: Any, stream: Any, *, indent: int | None = None) -> Iterator[str]:
    """The document in pieces, since the text of a long history is far larger than the history itself. Characters that
    the stream cannot encode, and control characters, are escaped, so that nothing is lost."""
    pieces = json.JSONEncoder(indent=indent, ensure_ascii=not _is_utf(stream), allow_nan=False).iterencode(document)
    while batch := "".join(itertools.islice(pieces, 10_000)):
        yield _JSON_CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", batch)


def _is_utf(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().startswith("utf")


_silent = False


def silence() -> None:
    """From now on print nothing but errors: another process of the same training speaks for all."""
    global _silent
    _silent = True


def write(content: str) -> None:
    """Write to stdout and flush. If the reader has closed the pipe, as `head` does, exit without an error."""
    if _silent:
        return
    try:
        sys.stdout.write(content)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter would try to flush again at exit
        sys.exit(0)


def say(line: str) -> None:
    """Print a line for the user, on stderr."""
    if not _silent:
        complain(line)


def complain(line: str) -> None:
    """As `say`, also in a process that is silent."""
    _write_to_stderr(plain(cut(line)))


def say_json(document: Any) -> None:
    """Print a document in one line, without truncation, on stderr."""
    _write_to_stderr("".join(_json_pieces(document, sys.stderr)))


def _write_to_stderr(line: str) -> None:
    """Errors are ignored: a stderr that is closed, full or interrupted by a signal must not stop the work."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, RuntimeError):
        pass


def tell_damage(damage: Iterable[str]) -> None:
    """Report checkpoints that could not be used, so that an older one is."""
    for sentence in damage:
        say(f"{sentence}: an older checkpoint is used")


def power(value: float | None) -> str:
    """`1.2e-05`, for values whose order of magnitude matters."""
    return "-" if value is None else "0" if value == 0 else f"{value:.1e}"


def age(started: str | None) -> str:
    """Time since an ISO date in its largest unit: `3d`, `7s`."""
    if started is None:
        return "-"
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


def to_csv(header: Sequence[str] | None, rows: Sequence[Sequence[Any]]) -> str:
    """Text cells that a spreadsheet would interpret as a formula are prefixed with an apostrophe. header: None for rows
    below others."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if header is not None:
        writer.writerow([_cell(name) for name in header])
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return buffer.getvalue()


_FORMULA = tuple(
    "=+-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"
)

_NUMBER = re.compile(r"[-+]([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")  # a signed number is not a formula


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        value = plain(value)
        return f"'{value}" if value.startswith(_FORMULA) and not _NUMBER.fullmatch(value) else value
    return "" if value is None else value


_MARKDOWN = str.maketrans({"\\": "\\\\", "|": "\\|", "<": "&lt;"})


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> str:
    """A table in Markdown, in which no text of data or files is markup."""
    cells = [[c.show(row.get(c.key)) for c in columns] for row in rows]
    lines = [[c.heading for c in columns], ["---"] * len(columns), *cells]
    return "".join("| " + " | ".join(cell.translate(_MARKDOWN) for cell in line) + " |\n" for line in lines)


def _print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str) -> None:
    """Print plain columns, fitted to the terminal; a footnote lists the columns that are left out."""
    cells = [[c.heading, *(c.show(row.get(c.key)) for row in rows)] for c in columns]
    terminal = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    widths = fit(columns, cells, width=terminal)
    lines = [plain(title)] if title else []
    lines += compose(columns, cells, widths)
    write("".join(f"{line}\n" for line in lines) + "\n" * bool(title))
    hidden = [c.heading for i, c in enumerate(columns) if i not in widths]
    if hidden:
        for line in fold(f"not shown in {terminal} columns: {', '.join(hidden)}; --json has all", width=terminal):
            say(line)
