"""dlcli runs verify, dlcli runs archive, dlcli runs import"""

from pathlib import Path
from typing import Annotated

import typer

from dlcli.cli.arguments import RunNames, RunsDir, with_format
from dlcli.cli.output import Column, Format, emit, say
from dlcli.core.errors import ConfigError, RunError
from dlcli.runs.names import find
from dlcli.runs.run import Run


@with_format
def verify(names: RunNames = None, runs_dir: RunsDir = "runs", *, format: Format) -> None:
    """Compare every checkpoint, record and exported file of runs with its
    checksum.

    Exits with code 4 and says what is damaged, if anything is.
    """
    from dlcli.runs.verify import verify as verified

    rows, damage, unproven = [], [], 0
    for run in named(names, runs_dir, "verify"):
        found = verified(run)
        damage += found.damage
        unproven += len(found.unproven)
        told = found._asdict() | {"run": run.number, "sound": not found.damage}
        rows.append(told | {"result": "damaged" if found.damage else "sound"})
    columns = [Column("run", "run", right=True), Column("checked", "parts", right=True), Column("result", "result")]
    if format is Format.csv:
        rows = [{**row, "damage": "; ".join(row["damage"]), "unproven": " ".join(row["unproven"])} for row in rows]
        columns += [Column("damage", "damage"), Column("unproven", "unproven")]
    emit(rows, columns, format=format, document=[{k: v for k, v in row.items() if k != "result"} for row in rows])
    if unproven and format is Format.table:
        say(f"{unproven:,} documents have no checksum, as an older dlcli wrote them: they could be read")
    if damage:
        for sentence in damage[:-1]:
            say(sentence)
        raise RunError(damage[-1])


def archive(
    names: RunNames = None,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="The file to write, a .tar.gz.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    runs_dir: RunsDir = "runs",
) -> None:
    """Write runs into one .tar.gz, for `dlcli runs import` on another machine."""
    if not output:
        raise ConfigError("name the file to write: dlcli runs archive 4:9 --output runs.tar.gz")
    from dlcli.runs.archive import write_archive

    found = named(names, runs_dir, "archive")
    size = write_archive(found, Path(output), force=force)
    say(f"{output}: {len(found)} run{'s' if len(found) != 1 else ''}, {size / 1e6:,.1f} MB")


@with_format
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="An archive of `dlcli runs archive`.")],
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Add the runs of an archive to the folder of runs, each with a new number.

    An untrusted archive is as safe to import as an untrusted run is to read.
    """
    from dlcli.runs.archive import read_archive

    found = read_archive(Path(file), Path(runs_dir))
    rows = [{"run": one.run.number, "was": one.number, "path": str(one.run)} for one in found]
    columns = [Column("was", "in the archive", right=True), Column("run", "run", right=True), Column("path", "path")]
    emit(rows, columns, format=format)
    for one in found:
        if one.name:
            say(f"{one.run} has no name any more: another run is named {one.name}")


def named(names: list[str] | None, runs_dir: str, command: str) -> list[Run]:
    """The runs that a command was given, each once. ConfigError if it was given none."""
    if not names:
        raise ConfigError(f"name the runs: dlcli runs {command} 4:9")
    return list(dict.fromkeys(run for name in names for run in find(name, runs_dir)))
