"""dlcli resume"""

from functools import partial
from typing import Annotated, Any

import typer

from dlcli.cli.arguments import RunName, RunsDir, with_format
from dlcli.cli.flags import typed_layer, with_settings
from dlcli.cli.output import Format
from dlcli.cli.training import Print, command_line, show
from dlcli.config.environment import read_environment


@partial(with_settings, defaults=False)
@with_format
def resume(
    *,
    settings: dict[str, Any],
    run: RunName,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting to change. May be repeated."),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Exit with code 4 unless the result will be bit for bit that of a run that never stopped."
        ),
    ] = False,
    runs_dir: RunsDir = "runs",
    print_: Print = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    format: Format,
) -> None:
    """Continue a stopped run, or extend a finished one, in the same folder.

    Settings given here replace those of the run: `--epochs 200` extends it.
    The output says whether the result will be bit for bit that of a run that
    never stopped, and if not, why.
    """
    from dlcli.runs.names import find_one

    found = find_one(run, runs_dir)
    moved = read_environment().get("data_dir")
    changes = ({"data_dir": moved} if moved else {}) | typed_layer(set_ or [], settings)
    from dlcli.training.session import resumed

    def opened() -> Any:
        return resumed(found, changes, exact=exact, command=command_line())

    show(opened, lines=_opening, format=format, quiet=quiet, print_=print_)


def _opening(session: Any) -> list[str]:
    run, state = session.run, session.state
    epoch = state.epoch + state.at_epoch_end
    lines = [f"run {run.number} in {run.path}, from epoch {epoch}, step {state.step}; {session.verdict}"]
    return lines + [f"{name}: {old} -> {new}" for name, (old, new) in session.changes.items()]
