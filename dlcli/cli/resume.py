"""dlcli resume"""

from typing import Annotated, Any

import typer

from dlcli.cli.arguments import CSV, JSON, MD, RunName, RunsDir
from dlcli.cli.flags import typed_layer, with_settings
from dlcli.cli.output import Reporter, choose_format, tell_damage
from dlcli.cli.train import command_line, finish, show, stop_signals
from dlcli.config.layers import flatten
from dlcli.core.errors import ConfigError, RunError


@with_settings
def resume(
    *,
    settings: dict[str, Any],
    run: RunName,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting to change. May be repeated."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Exit 4 unless the result is bit for bit that of a run never stopped.")
    ] = False,
    runs_dir: RunsDir = "runs",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    json: JSON = False,
    csv: CSV = False,
    md: MD = False,
) -> None:
    """Go on with a stopped run, or extend a finished one, in the same folder.

    Settings that are typed win over the run's own: `--epochs 200` extends it. It says whether the result will
    be bit for bit that of a run that never stopped, or why not.
    """
    format = choose_format(json=json, csv=csv, md=md)
    from dlcli.runs.names import find_one

    found = find_one(run, runs_dir)
    before = found.config()
    stored = flatten(before.as_dict())
    info = found.info()
    if info["status"] == "running":
        from dlcli.core.errors import BusyError

        raise BusyError(f"{found} is being trained by process {info.get('pid')} on {info.get('host')}")
    changes = typed_layer(set_ or [], settings)
    config = before.under(changes)
    from dlcli.experiment.build import build
    from dlcli.experiment.load import import_own

    import_own(config, runs_dir=found.root)
    from dlcli.training.loop import standing
    from dlcli.training.provenance import describe, differences

    saved = standing(found)
    tell_damage(saved.damage if saved else ())
    other_data = any(name.split(".")[0] == "data" for name in changes)
    built = build(
        config,
        weights=saved.weights if saved else None,
        fingerprint=None if other_data else info.get("fingerprint"),
    )
    step = saved.state["step"] if saved else 0
    done = (saved.state.get("training") or {}).get("epoch", 1) if saved else 1
    if done > config.epochs and info["status"] == "finished":
        raise ConfigError(f"{found} has done its {stored['epochs']} epochs: extend it with --epochs above {done - 1}")
    now = describe(built, command_line()) | {"config": flatten(built.config.as_dict())}
    reasons = differences(info | {"config": stored}, now)
    verdict = f"exact: no ({', '.join(reasons)})" if reasons else "exact: yes"
    if reasons and exact:
        raise RunError(f"{verdict}; without --exact it goes on all the same")
    with Reporter(quiet=quiet) as reporter, stop_signals() as stop:
        lines = [f"run {found.number} in {found.path}, from epoch {done}, step {step}; {verdict}"]
        new = {k: v for k, v in flatten(built.config.as_dict()).items() if stored.get(k) != v}
        lines += [f"{name}: {stored.get(name)} -> {value}" for name, value in new.items()]
        show(found, built, reporter, stop, lines=lines, saved=saved)
    finish(found, built, stop, format=format, quiet=quiet, print_=None)
