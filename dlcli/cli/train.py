"""dlcli train"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.cli.arguments import Assignments, Configs, Model, RunsDir, one_of, with_format
from dlcli.cli.evaluate import Require
from dlcli.cli.find_lr import check_find_lr, find
from dlcli.cli.flags import check_options, layer, resolve, with_settings
from dlcli.cli.output import Column, Format, emit, print_json, say, write
from dlcli.cli.processes import Devices, Restarts, in_processes
from dlcli.cli.sweep import train_seeds
from dlcli.cli.training import Measuring, Print, command_line, continuing, preparation, show
from dlcli.config.derived import fine_tunes_all
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError
from dlcli.runs.given_names import check_free, name_of

if TYPE_CHECKING:
    from dlcli.experiment.kept import Load
    from dlcli.runs.run import Run


@with_settings
@with_format
def train(
    *,
    settings: dict[str, Any],
    model: Model = None,
    config: Configs = None,
    set_: Assignments = None,
    runs_dir: RunsDir = "runs",
    name: Annotated[str | None, typer.Option("--name", help="A name for the run, for use in other commands.")] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the resolved settings as TOML and stop.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the size, work and memory of the training, and stop without making a run."
        ),
    ] = False,
    eval_: Annotated[
        str | None,
        typer.Option(
            "--eval",
            metavar="train|val|test",
            help="Measure the best checkpoint on this split at the end, as `dlcli eval` does.",
            callback=one_of("--eval", "train", "val", "test"),
        ),
    ] = None,
    require: Require = None,
    plots: Annotated[
        bool, typer.Option("--plots", help="Write pictures of the finished run into its folder plots/, as dlcli plot.")
    ] = False,
    print_: Print = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", min=1, metavar="N", help="Train N runs with different seeds, and print their mean."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, metavar="N", help="With --seeds: runs at the same time.")
    ] = None,
    find_lr: Annotated[
        bool,
        typer.Option(
            "--find-lr",
            help="Raise the learning rate from step to step, draw the loss, suggest a rate, and stop without making a "
            "run.",
        ),
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="With --find-lr: the file of the curve: .svg, .html, .png or .csv."
        ),
    ] = None,
    devices: Devices = None,
    max_restarts: Restarts = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    format: Format,
) -> None:
    """Train a model in a new run, and print its best result.

    With --eval or --require, the best checkpoint is then measured as by
    `dlcli eval`; --require uses the test split unless --eval names another.
    """
    if seeds is not None:
        others = {"--name": name, "--dry-run": dry_run, "--eval": eval_, "--require": require, "--plots": plots}
        others |= {"--print": print_, "--print-config": print_config, "--find-lr": find_lr, "--output": output}
        _refuse_with_seeds(others)
        base = layer(model=model, files=config or [], assignments=set_ or [], settings=settings)
        check_options(TrainConfig.from_flat(base), settings)
        train_seeds(base, seeds, runs_dir, jobs=jobs or 1, quiet=quiet, format=format)
        return
    if output is not None and not find_lr:
        raise ConfigError(f"--output {output} is for --find-lr: add it, or draw a run with dlcli plot")
    if find_lr:
        others = {"--name": name, "--dry-run": dry_run, "--eval": eval_, "--require": require, "--plots": plots}
        check_find_lr(others | {"--print": print_, "--print-config": print_config, "--jobs": jobs}, output)
    if jobs is not None:
        raise ConfigError(f"--jobs {jobs} is for several runs: give --seeds, or take dlcli sweep")
    chosen = resolve(model=model, files=config or [], assignments=set_ or [], settings=settings)
    if name is not None:
        check_free(name, runs_dir)
    from dlcli.experiment.build import build, resolve_options
    from dlcli.experiment.load import import_own

    import_own(chosen, runs_dir=runs_dir)

    if print_config:
        from dlcli.config.toml import to_toml

        chosen = resolve_options(chosen)
        if format is Format.json:
            print_json(chosen.as_dict())
        else:
            write(to_toml(chosen))
        return

    from dlcli.evaluation.rules import parse_rules
    from dlcli.experiment.teacher import with_teacher_found
    from dlcli.training.joining import join_ranks, of_this_launch
    from dlcli.training.session import begun, resumed

    rules = parse_rules(require or [])
    measuring = Measuring(eval_ or "test", rules) if eval_ or rules else None
    taken: list[str] = []
    if chosen.batch_size == "auto":
        if not quiet and chosen.processes == 1:
            say("batch_size = auto: measuring")
        from dlcli.training.batch_size import find_batch_size

        found = find_batch_size(with_teacher_found(chosen, runs_dir), runs_dir=runs_dir)
        chosen, taken = found.config, [found.line]
        if dry_run or find_lr:
            say(found.line)
    if find_lr:
        find(build(with_teacher_found(chosen, runs_dir), runs_dir=runs_dir), output=output, format=format)
        return
    if dry_run:
        from dlcli.experiment.estimate import check_memory, estimate

        built = build(with_teacher_found(chosen, runs_dir), runs_dir=runs_dir)
        if measuring is not None:
            measuring.check(built)
        rows = [{"what": name, "value": value} for name, value in estimate(built).items()]
        columns = [Column("what", "what"), Column("value", "value", _counted, right=True)]
        emit(rows, columns, format=format, document={r["what"]: r["value"] for r in rows})
        check_memory(built)
        return

    def work(load: "Load", again: "Run | None") -> None:
        config = join_ranks(with_teacher_found(chosen, runs_dir), asked="processes" in chosen.given)
        again = again or of_this_launch(runs_dir)
        if again is not None and again.info()["status"] == "finished":
            say(f"{again} has finished before the restart: nothing is left to do")
            return
        if again is None:
            built = build(config, runs_dir=runs_dir, load=load)
            if measuring is not None:
                measuring.check(built)

        def opened() -> Any:
            if again is not None:
                return resumed(again, command=command_line(), load=load)
            return begun(built, runs_dir=runs_dir, name=name, command=command_line())

        def lines(session: Any) -> list[str]:
            return [*_opening(session), *taken] if again is None else continuing(session)

        show(opened, lines=lines, format=format, quiet=quiet, print_=print_, measuring=measuring, plots=plots)

    in_processes(chosen, work, devices=devices, max_restarts=max_restarts)


# Samples below which the mean and the variance of a batch are too uncertain.
_FEW_TO_NORMALISE = 16


def _refuse_with_seeds(options: Mapping[str, Any]) -> None:
    """ConfigError for an option that is for one run."""
    given = [option for option, value in options.items() if value]
    if given:
        raise ConfigError(
            f"{given[0]} is for one run, and --seeds makes several: leave it out; what they reached on a split, "
            "together, is measured by dlcli eval 1:5 --require 'mean(accuracy) >= 0.9'"
        )


def _opening(session: Any) -> list[str]:
    run, built = session.run, session.built
    data, config = built.dataset, built.config
    parts = [f"{len(data.train):,} train", f"{len(data.val or ()):,} val", f"{len(data.test or ()):,} test samples"]
    threads = f", {built.threads} thread{'s' * (built.threads > 1)}" if built.device.type == "cpu" else ""
    lines = [
        f"run {run.number} in {run.path}" + (f", named {name}" if (name := name_of(run)) else ""),
        f"{config.model} ({_parameters(built)}) on {config.data} ({', '.join(parts)}); {built.device}{threads}",
    ]
    if built.teacher is not None:
        about = built.teacher.identity
        lines.append(f"taught by {about['run']} ({about['checkpoint']}), weight {config.distill_weight:g}")
    lines += _together(built)
    lines += data.notes
    lines += preparation(built)
    lines += built.start.lines if built.start is not None else []
    if fine_tunes_all(config) and not {"lr", "warmup_epochs"} & config.given:
        lines.append(
            f"all layers start from weights: learning rate {config.lr:g}, warm-up of {config.warmup_epochs:g} epochs"
        )
    if data.val is None:
        lines.append("nothing is held out for validation (val_fraction = 0): best is the last checkpoint")
    return lines


def _together(built: Any) -> list[str]:
    """How the processes of a training share a batch, and what that changes."""
    from dlcli.compute.synced_norm import normalises_batches

    size, whole = built.ranks.size, built.batch_size
    if size == 1:
        return []
    each = f"{whole} = {size} x {whole // size}" if whole % size == 0 else f"{whole} in {size} parts"
    lines = [f"{size} processes on {', '.join(dict.fromkeys(built.ranks.hosts))}; samples of a step: {each}"]
    if built.device.type == "cpu" and len(set(built.ranks.hosts)) == 1:
        lines.append(f"on one processor, one process with {size} threads may be as fast")
    if normalises_batches(built.model) and not built.config.sync_batch_norm and whole // size < _FEW_TO_NORMALISE:
        lines.append(
            f"batches are normalised over the {whole // size} samples of a process: --sync-batch-norm takes all {whole}"
        )
    return lines


def _parameters(built: Any) -> str:
    """How many there are, and how many of them are trained."""
    total = sum(p.numel() for p in built.model.parameters())
    if not built.frozen:
        return f"{total:,} parameters"
    frozen, until = set(built.frozen), built.config.unfreeze_at
    still = sum(p.numel() for name, p in built.model.named_parameters() if name in frozen)
    when = f" until epoch {until}" if until else ""
    return f"{total:,} parameters: {total - still:,} trained, {still:,} frozen{when}"


def _counted(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
