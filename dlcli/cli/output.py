"""The only place that knows rich: tables, JSON, CSV, Markdown, progress. Data goes to stdout, all else to stderr."""

import csv
import dataclasses
import io
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

# Control characters, those that turn the direction of a text or end a line, and bytes of a path that are not UTF-8.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_JSON_CONTROL = re.compile(_CONTROL.pattern.replace(r"\x00-\x1f", ""))  # those below 0x20 are escaped already
# Characters that a person is shown of one text.
_LONGEST = 1000


class Format(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"
    md = "md"


@dataclass(frozen=True)
class Column:
    """key: of the row's value. show: how a person reads it; machines get the value itself."""

    key: str
    heading: str
    show: Callable[[Any], str] = lambda value: text(value)
    right: bool = False
    fixed: bool = False  # never folded or cut: ids


def choose_format(*, json: bool = False, csv: bool = False, md: bool = False) -> Format:
    """The one that was asked for; a table when none was."""
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
        write(_markdown([c.heading for c in columns], [[c.show(row.get(c.key)) for c in columns] for row in rows]))
    else:
        _print_table(rows, columns, title)


def print_json(document: Any) -> None:
    for piece in _json_pieces(document, sys.stdout, indent=2):
        write(piece)
    write("\n")


def _json_pieces(document: Any, stream: Any, *, indent: int | None = None) -> Iterator[str]:
    """Piece by piece: the text of a long history is far larger than the history. What the stream cannot show, or a
    terminal would act on, is escaped, so that nothing of it is lost."""
    pieces = json.JSONEncoder(indent=indent, ensure_ascii=not _is_utf(stream), allow_nan=False).iterencode(document)
    while batch := "".join(itertools.islice(pieces, 10_000)):
        yield _JSON_CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", batch)


def _is_utf(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().startswith("utf")


def write(content: str) -> None:
    """To stdout, whole. When its reader has gone away, as `head` does, the command ends there without an error."""
    try:
        sys.stdout.write(content)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter would try to flush once more
        sys.exit(0)


def say(line: str) -> None:
    """A line for the person, on stderr."""
    _write_to_stderr(plain(cut(line)))


def say_json(document: Any) -> None:
    """A document of one line, whole, on stderr."""
    _write_to_stderr("".join(_json_pieces(document, sys.stderr)))


def _write_to_stderr(line: str) -> None:
    """A closed or full stderr never stops the work, nor does one in which a signal has just interrupted a write."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, RuntimeError):
        pass


def tell_damage(damage: Iterable[str]) -> None:
    """Checkpoints that could not be used, so that an older one was."""
    for sentence in damage:
        say(f"{sentence}: an older checkpoint is used")


def plain(value: str) -> str:
    """Text from data and files without control characters, so that it cannot move a terminal's cursor."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", value)


def text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return number(value)
    return plain(cut(str(value)))


def cut(value: str) -> str:
    """What a person is shown of a text that may be very long."""
    return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}..."


def number(value: float | None) -> str:
    """Four decimals, or four significant digits where these would say nothing."""
    if value is None:
        return "-"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.4g}"
    return f"{value:.4f}"


def power(value: float | None) -> str:
    """`1.2e-05`, for values of which the order of magnitude counts."""
    return "-" if value is None else "0" if value == 0 else f"{value:.1e}"


def duration(seconds: float | None) -> str:
    """`7.1s`, `2m05s`, `3h20m`."""
    if seconds is None:
        return "-"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def byte_size(count: int) -> str:
    """`512 B`, `3.4 kB`, `1.2 MB`, `5.0 GB`."""
    if count < 1000:
        return f"{count} B"
    value, units = count / 1000, ["kB", "MB", "GB", "TB"]
    while value >= 999.95 and len(units) > 1:
        value /= 1000
        del units[0]
    return f"{value:,.1f} {units[0]}"


def age(started: str | None) -> str:
    """Time since an ISO date in its largest unit: `3d`, `7s`."""
    if started is None:
        return "-"
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


def to_csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Cells of text that a spreadsheet would take for a formula get an apostrophe before them."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_cell(name) for name in header])
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return buffer.getvalue()


_FORMULA = tuple(
    "=+-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"
)

_NUMBER = re.compile(r"[-+]([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")  # which a spreadsheet only reads


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        value = plain(value)
        return f"'{value}" if value.startswith(_FORMULA) and not _NUMBER.fullmatch(value) else value
    return "" if value is None else value


_MARKDOWN = str.maketrans({"\\": "\\\\", "|": "\\|", "<": "&lt;"})


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.translate(_MARKDOWN) for cell in line) + " |\n" for line in lines)


def _print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str) -> None:
    if not sys.stdout.isatty():
        write(_aligned(rows, columns, title))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(markup=False, highlight=False)
    table = Table(box=box.SIMPLE_HEAD if _is_utf(sys.stdout) else box.ASCII2, pad_edge=False)
    for c in columns:
        width = max([len(c.show(row.get(c.key))) for row in rows], default=0) if c.fixed else None
        justify: Any = "right" if c.right else "left"
        table.add_column(Text(c.heading), justify=justify, no_wrap=c.fixed, overflow="fold", min_width=width)
    for row in rows:
        table.add_row(*[Text(c.show(row.get(c.key))) for c in columns])
    if title:
        console.print(Text(plain(title)))
    console.print(table)


def _aligned(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str) -> str:
    """What a pipe gets: columns of plain text, never folded, two spaces between them."""
    lines = [[c.heading for c in columns], *([c.show(row.get(c.key)) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    padded = (
        "  ".join(
            cell.rjust(width) if c.right else cell.ljust(width)
            for cell, width, c in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    )
    return "".join(f"{line}\n" for line in ([plain(title)] if title else []) + list(padded)) + "\n" * bool(title)


class Reporter:
    """Shows a training on stderr: a live bar on a terminal; elsewhere one line per epoch, at most one in 10 s.

    A context manager. `quiet` shows nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self._live: Any = None
        self._bar: Any = None
        self._last_line = float("-inf")
        self._held_back: str | None = None

    def __enter__(self) -> "Reporter":
        if not self.quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            # Drawn only when a record arrives: a drawing thread would take its turns from the training.
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True, markup=False, highlight=False),
                auto_refresh=False,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._held_back is not None and not self.quiet:
            say(self._held_back)  # the last epoch is always told
            self._held_back = None

    def line(self, content: str) -> None:
        """A line that is always shown, unless quiet."""
        if self.quiet:
            return
        if self._live is not None:
            self._live.console.print(plain(content), markup=False, highlight=False, soft_wrap=True)
        else:
            say(content)

    def epoch(self, content: str) -> None:
        """One line per epoch."""
        if self._live is not None:
            self.line(content)
        elif time.monotonic() - self._last_line >= 10:
            self._last_line, self._held_back = time.monotonic(), None
            self.line(content)
        else:
            self._held_back = content

    def progress(self, *, done: int, total: int, note: str, what: str) -> None:
        """Move the bar."""
        if self._live is None:
            return
        if self._bar is None:
            self._bar = self._live.add_task(what, total=total, note="")
        self._live.update(self._bar, completed=done, description=what, note=note)
        self._live.refresh()
