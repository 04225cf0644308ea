"""dlcli report"""

from pathlib import Path
from typing import Annotated

import typer

from dlcli.cli.arguments import DataDir, RunNames, RunsDir
from dlcli.cli.output import say, write
from dlcli.core.errors import ConfigError
from dlcli.runs.names import find
from dlcli.runs.run import Run
from dlcli.runs.sweeps import find_sweep

_KINDS = (".html", ".md")


def report(
    names: RunNames = None,
    sweep: Annotated[str | None, typer.Option("--sweep", metavar="SWEEP", help="Report a sweep and its runs.")] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="The file to write: .html, or .md for a model card."),
    ] = None,
    md: Annotated[bool, typer.Option("--md", help="Print a model card in Markdown.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    data_dir: DataDir = None,
    runs_dir: RunsDir = "runs",
) -> None:
    """Write all about runs into one HTML page, which loads nothing, or print a
    model card.

    The page shows what was trained, on what and how, curves, what dlcli eval
    measured, the worst mistakes, how to reproduce it and which checks passed.
    Several runs are compared; more than 20 are not described one by one.
    """
    if names and sweep is not None:
        raise ConfigError(f"--sweep {sweep} reports its runs: leave out {names[0]}")
    if not names and sweep is None:
        raise ConfigError("name the runs to report: dlcli report latest -o report.html")
    if md == (output is not None):
        raise ConfigError(
            "--md prints the model card, and -o FILE.md writes it: leave out one of them"
            if md
            else "name the file with -o report.html, or print a model card with --md"
        )
    if force and output is None:
        raise ConfigError("--force is for --output FILE: add it, or leave out --force")
    from dlcli.plots.file import check_file
    from dlcli.plots.file import write as write_file

    if output is not None:
        check_file(Path(output), force=force, kinds=_KINDS)
    of_sweep = None if sweep is None else find_sweep(sweep, runs_dir)
    if of_sweep is None:
        runs = list(dict.fromkeys(run for name in names or [] for run in find(name, runs_dir)))
    else:
        numbers = {one.run for one in of_sweep.trials() if one.run is not None}
        runs = [Run(of_sweep.root, number) for number in sorted(numbers)]
    from dlcli.report.contents import report as contents

    found = contents(runs, sweep=of_sweep, data_dir=data_dir)
    if output is None or Path(output).suffix == ".md":
        from dlcli.report.card import to_markdown

        content = to_markdown(found)
    else:
        from dlcli.report.page import to_html

        content = to_html(found)
    if output is None:
        write(content)
        return
    write_file(content, Path(output), force=force, kinds=_KINDS)
    say(f"written: {output}")
