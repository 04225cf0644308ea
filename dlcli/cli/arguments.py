"""Options that several commands share."""

from typing import Annotated

import typer

RunsDir = Annotated[str, typer.Option("--runs-dir", envvar="DLCLI_RUNS_DIR", help="Folder of all runs.")]
JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
CSV = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
MD = Annotated[bool, typer.Option("--md", help="Print a Markdown table.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="42, runs/42, latest or best:METRIC.")]
RunNames = Annotated[
    list[str], typer.Argument(metavar="RUN", help="42, runs/42, latest, best:METRIC or 40:45. May be repeated.")
]
Device = Annotated[str, typer.Option("--device", help="auto (the one it was trained on), cpu, cuda, cuda:N or mps.")]
CheckpointRole = Annotated[str, typer.Option("--checkpoint", metavar="best|last", help="Which checkpoint.")]
