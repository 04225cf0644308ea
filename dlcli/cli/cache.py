"""dlcli cache, dlcli cache clear: what is kept of decoded images and of tables."""

import time
from typing import Annotated

import typer

from dlcli.cli.arguments import with_format
from dlcli.cli.output import Column, Format, age, byte_size, emit, say
from dlcli.core.cache import user_cache
from dlcli.core.errors import ConfigError
from dlcli.data.images import entries

app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="List the decoded images and the tables that are kept, or remove them.",
)

_COLUMNS = [
    Column("entry", "entry", fixed=True),
    Column("folder", "of", drop=3),
    Column("images", "samples", lambda count: f"{count:,}", right=True, drop=2),
    Column("size", "values", drop=4),
    Column("bytes", "size", byte_size, right=True),
    Column("made", "age", age, right=True, drop=5),
    Column("used", "last use", age, right=True, drop=1),
]


@app.callback()
@with_format
def cache(context: typer.Context, *, format: Format) -> None:
    """List the decoded images and tables that are kept, the ones used last first.

    A training on images:FOLDER decodes its images once and keeps them, so that
    the next one starts at once; one on a table:FILE that is larger than memory
    keeps its columns and its features. All of it may be removed at any time.
    """
    if context.invoked_subcommand is not None:
        return
    rows = [entry.row for entry in entries.entries()]
    if not rows and format is Format.table:
        say(f"{user_cache()} holds no decoded images and no tables")
        return
    emit(rows, _COLUMNS, format=format)
    if format is Format.table:
        total = byte_size(sum(row["bytes"] for row in rows))
        say(f"{total} in {user_cache()}; `dlcli cache clear` frees the space")


@app.command()
@with_format
def clear(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ENTRY", help="An entry of `dlcli cache`, a folder of images, or a table. May be repeated."
        ),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Only what was not used for longer, such as 30d or 12h."),
    ] = None,
    *,
    format: Format,
) -> None:
    """Remove decoded images and tables; without ENTRY, all of them.

    Trainings that run are not disturbed; the next ones decode and read again.
    """
    from dlcli.runs.cleanup import seconds

    oldest = 0.0 if older_than is None else seconds(older_than)
    if any(not name for name in names or []):
        raise ConfigError("ENTRY is empty: `dlcli cache` lists them")
    removed = entries.clear(names or [], older_than=oldest, now=time.time())
    if not removed and format is Format.table:
        say("nothing was removed")
        return
    emit([entry.row for entry in removed], _COLUMNS, format=format)
    if format is Format.table:
        say(f"{byte_size(sum(entry.bytes for entry in removed))} freed")
