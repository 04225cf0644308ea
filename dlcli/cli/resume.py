"""dlcli resume"""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.cli.arguments import RunName, RunsDir, with_format
from dlcli.cli.flags import typed_layer, with_settings
from dlcli.cli.output import Format
from dlcli.cli.processes import Devices, Restarts, in_processes
from dlcli.cli.training import Print, command_line, continuing, show
from dlcli.config.environment import read_environment

if TYPE_CHECKING:
    from dlcli.experiment.kept import Load
    from dlcli.runs.run import Run


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
    devices: Devices = None,
    max_restarts: Restarts = None,
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

    def work(load: "Load", again: "Run | None") -> None:
        """again: the same run, after a failure; a change is in its settings then."""

        def opened() -> Any:
            return resumed(found, changes if again is None else {}, exact=exact, command=command_line(), load=load)

        show(opened, lines=continuing, format=format, quiet=quiet, print_=print_)

    in_processes(found.config().under(changes), work, devices=devices, max_restarts=max_restarts)
