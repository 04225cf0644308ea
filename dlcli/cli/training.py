"""What train and resume share: shows a training while it runs, and then its result."""

import contextlib
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.cli import evaluate
from dlcli.cli.arguments import one_of
from dlcli.cli.columns import outcome
from dlcli.cli.output import Column, Format, duration, emit, number, say, tell_damage, write
from dlcli.cli.progress import Reporter
from dlcli.core.errors import CheckError, DlcliError

if TYPE_CHECKING:
    from dlcli.evaluation.rules import Rule
    from dlcli.experiment.build import Experiment
    from dlcli.runs.run import Run
    from dlcli.training.session import Session

Print = Annotated[
    str | None,
    typer.Option(
        "--print",
        metavar="run|path",
        help="Print only the run's number, or its path, as soon as it exists.",
        callback=one_of("--print", "run", "path"),
    ),
]


@dataclass(frozen=True)
class Measuring:
    """What to measure after a run has finished. rules: the conditions of --require."""

    split: str
    rules: Sequence["Rule"]

    def check(self, built: "Experiment") -> None:
        """ConfigError (exit 2) if there is no such split, or no metric that a rule names."""
        from dlcli.evaluation.rules import check_names
        from dlcli.experiment.tasks import make_task

        built.dataset.split(self.split)
        task = make_task(built.config, built.dataset.preprocessing)
        check_names(self.rules, (*task.names, *task.table_names))


def command_line() -> str:
    return shlex.join(["dlcli", *sys.argv[1:]])


def show(
    opened: Callable[[], AbstractContextManager["Session"]],
    *,
    lines: Callable[["Session"], Sequence[str]],
    format: Format,
    quiet: bool,
    print_: str | None,
    measuring: Measuring | None = None,
    plots: bool = False,
    closing: Callable[["Session"], None] | None = None,
) -> None:
    """Open a session, train, and show opening lines, one line per evaluation, a progress bar, the result, and what is
    measured. plots: also write the pictures of the run. closing: called if the training has finished, with what it
    shows in the place of the table of the result.

    Exits with the code of the signal that stopped the training, if one did. CheckError (exit 7) if a rule does not
    hold.
    """
    from dlcli.compute.ranks import here
    from dlcli.training.launch import tell_launcher
    from dlcli.training.signals import Stop

    stop = Stop(tell=say)
    first = here().first
    with Reporter(quiet=quiet or not first) as reporter, stop.receiving(), opened() as session:
        tell_launcher(session.run)
        with _named_in_errors(session.run):
            if print_:
                with contextlib.suppress(SystemExit):  # a closed pipe must not stop a training
                    write(f"{session.run.number if print_ == 'run' else session.run.path}\n")
            tell_damage(session.damage)
            for line in lines(session):
                session.run.log(line)
                reporter.line(line)
            follow(session, reporter, stop.reason)
    if first:
        with _named_in_errors(session.run):
            closed = closing is not None and session.info["status"] == "finished"
            printed = closed or print_ is not None
            _tell_result(session, measuring, format=format, quiet=quiet, printed=printed, plots=plots)
            if closing is not None and closed:
                closing(session)
    number = stop.signal or _signal(session.info["stop"])  # another process of the training may have received it
    if number is not None:
        raise typer.Exit(128 + number)


def _signal(reason: str | None) -> int | None:
    """The number of the signal for which a training has stopped."""
    return next((s.value for s in signal.Signals if s.name == reason), None)


def continuing(session: "Session") -> list[str]:
    """The opening lines of a run that goes on."""
    run, state = session.run, session.state
    epoch = state.epoch + state.at_epoch_end
    lines = [f"run {run.number} in {run.path}, from epoch {epoch}, step {state.step}; {session.verdict}"]
    return lines + [f"{name}: {old} -> {new}" for name, (old, new) in session.changes.items()]


def preparation(built: "Experiment") -> list[str]:
    """Lines about images that are prepared as a model of the zoo, or its published weights, need them."""
    from dlcli.config.schemes import listed_model, split_file
    from dlcli.config.zoo_settings import published

    config, about = built.config, built.dataset.preprocessing
    known, entry = listed_model(config.model), published(config.model, config.pretrained)
    if known is None or about.spec.kind != "image":
        return []
    files, size = (split_file(config.data) or ("", ""))[0] == "images", about.spec.input_shape[1]
    chosen = files and "data.size" not in config.given and size == (known.size if entry is None else entry.crop)
    if entry is None:
        return [f"image size {size} is the one that {known.name} was designed for"] if chosen else []
    differs = [] if size == entry.crop else [f"image size {size} instead of {entry.crop}"]
    if files and about.interpolation != entry.interpolation:
        differs.append(f"{about.interpolation} instead of {entry.interpolation}")
    stored, wanted = about.stored_size or size, entry.resize / entry.crop
    if files and abs(stored / size - wanted) > 1 / size:
        differs.append(f"{size / stored:.0%} of the centre instead of {1 / wanted:.0%}")
    if not config.normalize or (config.mean, config.std) != (entry.mean, entry.std):
        differs.append("another normalisation" if about.mean else "no normalisation")
    if differs:
        return [f"images differ from those that the weights were trained with: {', '.join(differs)}"]
    mean, std = (",".join(f"{value / about.pixel_max:.4g}" for value in values) for values in (about.mean, about.std))
    cut = f", cut out of {stored}" if stored > size else ""
    return [f"images as the weights need them: {size} pixels{cut}, {entry.interpolation}; mean {mean}, std {std}"]


@contextlib.contextmanager
def _named_in_errors(run: "Run") -> Iterator[None]:
    """Adds the run to errors inside the block, for the error message."""
    try:
        yield
    except Exception as error:
        error.run = run  # type: ignore[attr-defined]
        raise


def follow(session: "Session", reporter: Reporter, stop: Callable[[], str | None]) -> None:
    """Train an opened session and show each record."""
    from dlcli.training.records import Row
    from dlcli.training.train import fit

    built = session.built
    watched: list[str] = []
    for record in fit(session, stop=stop):
        if isinstance(record, Row):
            reporter.epoch(str(record))
            for warning in record.warnings:
                reporter.warn(warning)
            value = record.metrics.get(f"val/{built.monitor}")
            watched = [] if value is None else [f"val/{built.monitor} {number(value)}"]
        reporter.progress(
            done=record.step,
            total=record.steps,
            what=f"epoch {record.epoch}/{session.info['epochs']}",
            notes=[f"loss {number(record.loss)}", *watched, f"{record.samples_per_second:,.0f}/s"],
        )


def _tell_result(
    session: "Session", measuring: Measuring | None, *, format: Format, quiet: bool, printed: bool, plots: bool
) -> None:
    from dlcli.runs.table import row

    run, warning = session.run, session.info.get("warning")
    if warning:
        run.log(warning)
        say(warning)
    result = row(run)
    lines = [_closing(session, result, measured=measuring is not None), *_compilation(run.info().get("compile"))]
    if measuring is not None and result["status"] != "finished":
        lines.append(f"not measured on {measuring.split}, since the training has not finished")
    if plots and result["status"] != "finished":
        lines.append(f"no pictures, since the training has not finished; draw what there is: dlcli plot {run.path}")
    for line in lines:
        run.log(line)
        if not quiet:
            say(line)
    document = {**result, "path": str(run.path), "warning": warning}
    if session.built.start is not None:
        document["weights"] = session.built.start.as_dict()
    failed = []
    if measuring is not None and result["status"] == "finished":
        failed = _measure(session, measuring, result, document, format=format, printed=printed)
    elif not printed:
        emit([result], _columns(result), format=format, document=document | ({"evaluation": None} if measuring else {}))
    if plots and result["status"] == "finished":
        _draw(session, measuring, quiet=quiet)
    if failed:
        raise CheckError("; ".join(failed))


def _draw(session: "Session", measuring: Measuring | None, *, quiet: bool) -> None:
    """Write the pictures of the run. That they cannot be written does not make the training fail."""
    from dlcli.plots.of_training import write_pictures

    built = session.built
    split = measuring.split if measuring else "val" if built.dataset.val is not None else None
    try:
        files = write_pictures(session.run, split=split, loaded=built.dataset)
    except DlcliError as error:
        say(f"warning: {error}: there are no pictures of this run")
        return
    if not quiet:
        say(f"pictures: {', '.join(map(str, files))}")


def _measure(
    session: "Session",
    measuring: Measuring,
    result: dict[str, Any],
    document: dict[str, Any],
    *,
    format: Format,
    printed: bool,
) -> list[str]:
    """As `dlcli eval`, but with the data in memory. Prints the training's result and the evaluation as two tables, one
    JSON document, or one row of CSV or Markdown. Returns a sentence for each rule that does not hold."""
    from dlcli.evaluation import measure
    from dlcli.evaluation.rules import check_rules

    built = session.built
    report = measure.evaluate(session.run, split=measuring.split, device=built.config.device, loaded=built.dataset)
    evaluate.tell_undefined(report)
    verdicts = check_rules(report.metrics, measuring.rules)
    if not printed:
        metrics = {f"{report.split}/{name}": value for name, value in report.metrics.items()}
        in_one = format in (Format.csv, Format.md)
        emit(
            [result | metrics],
            [*_columns(result), *(Column(name, name, right=True) for name in metrics if in_one)],
            format=format,
            document=document | {"evaluation": evaluate.document(report, verdicts)},
        )
        if format is Format.table:
            evaluate.show(report, format=format, document=None)
    return evaluate.tell(verdicts, format=format)


def _columns(result: dict[str, Any]) -> list[Column]:
    return [*outcome([result]), Column("best_epoch", "at epoch", right=True)]


def _closing(session: "Session", result: dict[str, Any], *, measured: bool) -> str:
    run, built = session.run, session.built
    if result["status"] == "interrupted":
        return f"interrupted after epoch {result['epochs']}; continue with: dlcli resume {run.path}"
    early = f" early, without a better one for {built.config.patience} evaluations" if result["reason"] else ""
    hint = "" if measured else f"; measure it: dlcli eval {run.path}"
    best = f": best {result['metric']} {number(result['best'])} in epoch {result['best_epoch']}"
    chosen = (session.state.best or {}).get("threshold")
    best += f", threshold {number(chosen)}" if chosen is not None else ""
    return f"{result['status']}{early}{best if result['metric'] else ''}{hint}"


def _compilation(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    verdict = "paid for itself" if found["paid"] else "did not pay for itself"
    return [
        f"compile {verdict}: {duration(found['seconds'])} of training, about {duration(found['eager_seconds'])} without"
    ]
