"""dlcli runs tag, dlcli runs note"""

from typing import Annotated

import typer

from dlcli.cli.arguments import RunName, RunsDir, with_format
from dlcli.cli.output import Column, Format, emit, say
from dlcli.core.errors import ConfigError, RunError
from dlcli.runs.names import find, find_one
from dlcli.runs.tags import change_tags, note_of, write_note

# So that -old is an argument. -h would be found in -hot: only --help is left.
DASHES = {"ignore_unknown_options": True, "help_option_names": ["--help"]}


@with_format
def tag(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN... +TAG -TAG", help="Runs, and tags to add or to remove: 40:45 +good -old."),
    ] = None,
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Add tags to runs, or remove them, and show those that they have.

    `dlcli runs --tag good` lists the runs that have one.
    """
    words = words or []
    changes = [word for word in words if word[:1] in ("+", "-")]
    names = [word for word in words if word[:1] not in ("+", "-")]
    if not names:
        raise ConfigError("name the runs to tag: dlcli runs tag 7 +good")
    try:
        found = list(dict.fromkeys(run for name in names for run in find(name, runs_dir)))
    except RunError as error:
        mend = "" if changes else f"; to add a tag, write +{names[-1]}"
        raise RunError(f"{error}{mend}") from None
    add, remove = ([word[1:] for word in changes if word[0] == sign] for sign in "+-")
    if both := sorted({*add} & {*remove}):
        raise ConfigError(f"+{both[0]} and -{both[0]} contradict each other: leave one out")
    rows = [{"run": run.number, "tags": change_tags(run, add=add, remove=remove)} for run in found]
    emit(
        rows,
        [Column("run", "run", right=True), Column("tags", "tags", lambda tags: " ".join(tags) or "-")],
        format=format,
    )


def note(
    run: RunName,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The note; an empty one removes it.")] = None,
    runs_dir: RunsDir = "runs",
) -> None:
    """Write a note about a run, or print the one that it has."""
    found = find_one(run, runs_dir)
    if text is not None:
        write_note(found, text)
        say(f"{found}: {'noted' if text.strip() else 'the note was removed'}")
        return
    written = note_of(found)
    if written is None:
        say(f"{found} has no note: write one with dlcli runs note {run} TEXT")
    else:
        print(written)
