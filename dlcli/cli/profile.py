"""dlcli profile"""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.cli.arguments import Assignments, Configs, RunsDir, one_of, with_format
from dlcli.cli.flags import check_options, resolve, typed_layer, with_settings
from dlcli.cli.output import Column, Format, byte_size, emit, say, write
from dlcli.config.environment import read_environment
from dlcli.core.errors import ConfigError

if TYPE_CHECKING:
    from dlcli.analysis.profile.profile import Profile
    from dlcli.config.settings import TrainConfig
    from dlcli.runs.run import Run

_MOST_OPERATORS = 20  # in a table; JSON and CSV have all
_SHARE = Column("share", "share", lambda share: f"{share:.1%}", right=True)


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


_TRIED = [
    Column("setting", "setting", fixed=True),
    Column("samples_per_second", "samples/s", lambda rate: "-" if rate is None else f"{rate:,.0f}", right=True),
    Column("ratio", "ratio", _ratio, right=True),
    Column("low", "from", _ratio, right=True, drop=1),
    Column("high", "to", _ratio, right=True, drop=2),
    Column("verdict", "verdict"),
    Column("reason", "why it was not tried"),
]


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:,.3f}"


def _counted(count: float | None) -> str:
    return "-" if count is None else f"{count:,.4g}"


def _operations(count: float) -> str:
    """`1.2 GFLOP`"""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f}"


def _bytes(count: float | None) -> str:
    if count is None:
        return "-"
    return f"-{byte_size(round(-count))}" if count < 0 else byte_size(round(count))


_WORK = [
    Column("flops", "FLOPs", _operations, right=True, drop=2),
    Column("bytes", "bytes", _bytes, right=True, drop=3),
    Column("operators", "operators", right=True, drop=4),
]
_MEMORY = [
    Column("allocated", "allocated", _bytes, right=True),
    Column("peak", "peak", _bytes, right=True),
]
_COLUMNS = {
    "phase": [
        Column("phase", "phase", fixed=True),
        Column("seconds", "ms per step", _milliseconds, right=True),
        _SHARE,
        *_WORK,
    ],
    "module": [
        Column("module", "module", fixed=True),
        Column("kind", "kind", drop=1),
        Column("forward", "forward ms", _milliseconds, right=True, drop=5),
        Column("backward", "backward ms", _milliseconds, right=True, drop=6),
        Column("seconds", "ms per step", _milliseconds, right=True),
        _SHARE,
        *_WORK,
    ],
    "operator": [
        Column("operator", "operator", fixed=True),
        Column("calls", "calls per step", _counted, right=True),
        Column("seconds", "ms per step", _milliseconds, right=True),
        _SHARE,
    ],
}


@partial(with_settings, without=("steps",))
@with_format
def profile(
    *,
    settings: dict[str, Any],
    name: Annotated[
        str, typer.Argument(metavar="MODEL|RUN", help="A model, or a run: then the settings are those of the run.")
    ],
    config: Configs = None,
    set_: Assignments = None,
    steps: Annotated[
        int, typer.Option("--steps", min=1, max=100_000, metavar="N", help="Steps that are watched.")
    ] = 20,
    warmup: Annotated[
        int, typer.Option("--warmup", min=1, max=100_000, metavar="N", help="Steps before them that do not count.")
    ] = 5,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="phase|module|operator",
            help="What the rows of the table are.",
            callback=one_of("--by", "phase", "module", "operator"),
        ),
    ] = "phase",
    memory: Annotated[
        bool, typer.Option("--memory", help="Show also the memory that each row allocates, and its peak.")
    ] = False,
    trace: Annotated[
        str | None,
        typer.Option(
            "--trace", metavar="FILE.json", help="Record more steps as a Chrome trace, which ui.perfetto.dev opens."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --trace if it exists.")] = False,
    try_: Annotated[
        bool,
        typer.Option(
            "--try",
            help="Measure also, in turns, what other settings would change: threads, batch size, workers, "
            "precision, compilation. --csv and --md then have these rows.",
        ),
    ] = False,
    runs_dir: RunsDir = "runs",
    format: Format,
) -> None:
    """Show where the time and the memory of a training go.

    Takes real steps of the training that `dlcli train MODEL` would begin, with
    the same options, and makes no run. Says how many samples per second it
    trains, how far that is from what this machine can do (a matrix product
    and copies in memory are measured), what bounds it, and what to try.

    The table has a row for each phase of a step, each module of the model,
    or each operator; times are of one step. FLOPs are those of matrix products,
    bytes those that operators read and write. Evaluations and checkpoints are
    not part of a step. --json has all that was measured.
    """
    if force and trace is None:
        raise ConfigError("--force is for --trace FILE.json: add it, or leave out --force")
    _quieten()
    chosen, run = _chosen(name, config or [], set_ or [], settings, runs_dir)
    from dlcli.analysis.profile import profile as profiling
    from dlcli.analysis.profile.operators import check_trace

    if trace is not None:
        check_trace(Path(trace), force=force)
    built = profiling.build_to_profile(chosen, run=run, runs_dir=runs_dir)
    found = profiling.profile(
        built, steps=steps, warmup=warmup, by=by, memory=memory, trace=Path(trace) if trace else None, force=force
    )
    if trace is not None:
        say(f"written: {trace}")
    tried = None
    if try_:
        from dlcli.analysis.profile.trying import try_settings

        tried = try_settings(built, steps=steps, tell=say)
    _show(found, tried, memory=memory, format=format)


def _quieten() -> None:
    """Let the profiler of torch write no log on stderr. Must run before torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _chosen(
    name: str, files: list[str], assignments: list[str], settings: Mapping[str, Any], runs_dir: str
) -> "tuple[TrainConfig, Run | None]":
    """The settings to profile, and the run that they are of, if `name` names one."""
    run = _run_of(name, runs_dir)
    if run is None:
        return resolve(model=name, files=files, assignments=assignments, settings=settings), None
    if files:
        raise ConfigError(f"--config {files[0]} is for a model: {name} is a run, which has settings")
    moved = read_environment().get("data_dir")
    changes = ({"data_dir": moved} if moved else {}) | typed_layer(assignments, settings)
    config = run.config().under(changes)
    check_options(config, settings)
    return config, run


def _run_of(name: str, runs_dir: str) -> "Run | None":
    """The run of this name; None for that of a model, which wins over a name that a run was given."""
    from dlcli.config.schemes import model_entry
    from dlcli.runs.given_names import is_name, name_of
    from dlcli.runs.names import find_one
    from dlcli.runs.run import all_runs

    try:
        model_entry(name)
    except ConfigError:
        if not is_name(name) or any(name_of(run) == name for run in all_runs(Path(runs_dir))):
            if name == "latest" or "/" in name or name.isdigit() or name.startswith("best:") or is_name(name):
                return find_one(name, runs_dir)
    return None


def _show(found: "Profile", tried: "list[dict[str, Any]] | None", *, memory: bool, format: Format) -> None:
    columns = [*_COLUMNS[found.by], *(_MEMORY[: 1 if found.by == "operator" else 2] if memory else [])]
    if tried is not None and format in (Format.csv, Format.md):
        emit(tried, _TRIED, format=format)
        return
    if format is not Format.table:
        document = found.as_dict() | ({} if tried is None else {"tried": tried})
        emit(found.rows, columns, format=format, document=document)
        return
    about = [{"what": what, "value": value} for what, value in _facts(found).items()]
    emit(about, [Column("what", "what", fixed=True), Column("value", "value")], format=format, title=_title(found))
    rows = found.rows
    if found.by == "operator" and len(rows) > _MOST_OPERATORS + 2:
        rest, last = rows[_MOST_OPERATORS:-1], rows[-1]
        name = f"{len(rest)} other operators"
        sums = {key: sum(row[key] for row in rest) for key in rest[0] if key != "operator"}
        rows = [*rows[:_MOST_OPERATORS], {"operator": name, **sums}, last]
    emit(rows, columns, format=format)
    if tried is not None:
        write("\n")
        emit(tried, _TRIED, format=format, title="other settings, in turns: samples per second, and their ratio")
        helped = [row["setting"] for row in tried if row.get("verdict") == "helps"]
        say(f"what helped: {', '.join(helped)}" if helped else "none of these settings helped")


def _title(found: "Profile") -> str:
    built = found.built
    threads = f", {built.threads} thread{'s' * (built.threads > 1)}" if built.device.type == "cpu" else ""
    return (
        f"{built.config.model} on {built.config.data}: batch size {built.batch_size:,}, {built.config.precision}; "
        f"{built.device}{threads}"
    )


def _facts(found: "Profile") -> dict[str, str]:
    limit, bound, work = found.limit, found.bound, found.work
    document = found.as_dict()
    low, high = document["quartiles"]
    what = "processor" if found.built.device.type == "cpu" else "device"
    parts = {"data": bound.data, "dispatch": bound.dispatch, "memory": bound.memory, "arithmetic": bound.arithmetic}
    told = ", ".join(f"{name} {_milliseconds(seconds)}" for name, seconds in parts.items())
    busy = "" if limit.steady else "; not steady: the machine was busy, and may be faster"
    cores = f" on {limit.threads} core{'s' * (limit.threads > 1)}" if what == "processor" else ""
    seen = ", ".join(f"{name} {part:+.1%}" for name, part in found.overhead.items())
    facts = {
        "speed": f"{found.samples_per_second:,.0f} samples per second; a step takes {_milliseconds(found.step)} ms "
        f"(quartiles {_milliseconds(low)} to {_milliseconds(high)} of {document['steps']})",
        "limit": f"{_operations(limit.flops)}FLOP/s in a matrix product ({limit.precision}), "
        f"{byte_size(round(limit.bandwidth))}/s in a copy{cores}{busy}",
        "of the limit": f"{found.built.config.model}: {bound.share:.0%} of what this {what} can do "
        f"({_operations(work.flops / found.step)}FLOP/s)",
        "bound by": f"{bound.by} (at least, in ms: {told}; what is left is time of operators below the limit)",
        "to try": "; ".join(found.advice),
        "memory": f"{byte_size(document['state_bytes'])} for weights, gradients and optimizer, at most "
        f"{byte_size(work.peak)} more in a step, {byte_size(document['data_bytes'])} for the data",
        "overhead": f"{seen}, which is in the times below",
    }
    if document["seconds_of_checks"] > 0.02 * found.step:
        facts["left out"] = (
            f"{_milliseconds(document['seconds_of_checks'])} ms that each of the first 50 steps looks for values that "
            "are not finite"
        )
    return facts
