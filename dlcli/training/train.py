"""`train`, `resume` and `fit`: open a session and run the training loop."""

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import torch

from dlcli.compute.threads import bound, places
from dlcli.config.layers import ungroup
from dlcli.config.settings import TrainConfig
from dlcli.experiment.build import build
from dlcli.experiment.load import import_own
from dlcli.experiment.teacher import with_teacher_found
from dlcli.runs.names import as_run
from dlcli.runs.run import Run
from dlcli.training import compiling
from dlcli.training.joining import join_ranks
from dlcli.training.loop import steps
from dlcli.training.records import Progress, Row
from dlcli.training.session import Session, begun, resumed
from dlcli.training.signals import Stop

AskedToStop = Callable[[], str | None]


def train(
    config: TrainConfig, *, runs_dir: str | Path = "runs", name: str | None = None, stop: AskedToStop | None = None
) -> Iterator[Row]:
    """Train `config` in a new run in the folder `runs_dir` and yield one Row per evaluation.

    name: of the run; functions that accept a run accept this name.
    stop: called after every step; if it returns a reason, the run is saved and ends with status `interrupted`.
        SIGINT (Ctrl-C), SIGTERM and SIGHUP do the same, and then have their usual effect. If the caller closes the
        iterator, the run ends as `interrupted` too.
    Raises ConfigError, DataError or ResourceError before a run exists, and DivergedError (exit 5) if the loss or a
    gradient is no longer finite; the last checkpoint then has finite weights.
    """
    config = join_ranks(with_teacher_found(config, runs_dir), asked="processes" in config.given)
    import_own(config, runs_dir=runs_dir)
    if config.batch_size == "auto":
        from dlcli.training.batch_size import find_batch_size

        config = find_batch_size(config, runs_dir=runs_dir).config
    asked = Stop()
    with begun(build(config, runs_dir=runs_dir), runs_dir=runs_dir, name=name) as session:
        yield from _rows(session, asked, stop)
    asked.pass_on()


def resume(
    run: Run | str | Path, *, exact: bool = False, stop: AskedToStop | None = None, **changes: Any
) -> Iterator[Row]:
    """Continue a run from its last checkpoint, and yield one Row per evaluation; see `train`.

    run: a Run, a path (`runs/3`), or a name as on the command line (`3`, `latest`).
    changes: settings to change, such as epochs=200 or model_options={"dropout": 0.1}. Data that has changed is a
        DataError (exit 3), unless `data` or `data_options` is among the changes.
    exact: RunError (exit 4) unless the result will be bit for bit that of a run that never stopped.
    Raises BusyError (exit 9) if another process trains the run, ConfigError (exit 2) if it has nothing left to do.
    """
    asked = Stop()
    with resumed(as_run(run), ungroup(changes), exact=exact) as session:
        yield from _rows(session, asked, stop)
    asked.pass_on()


def fit(session: Session, *, stop: AskedToStop | None = None) -> Generator[Progress | Row, None, None]:
    """Train an opened session to its end and yield records. stop: see `train`.

    Each thread that computes is bound to a core, but only while it computes, not while the caller has control.
    """
    built, info = session.built, session.info
    torch.set_num_threads(built.threads)
    eager_step = compiling.seconds_of_an_eager_step(built) if built.config.compile else None
    compiled_seconds, first = 0.0, session.state.step
    with contextlib.closing(steps(session, stop)) as records:
        kept = places(built.threads)
        while True:
            with bound(kept):
                record = next(records, None)
            if record is None:
                return
            if eager_step is not None and isinstance(record, Row):
                compiled_seconds += record.seconds
                done = record.step - first
                info["compile"] = compiling.verdict(seconds=compiled_seconds, steps=done, eager_step=eager_step)
            yield record


def _rows(session: Session, asked: Stop, stop: AskedToStop | None) -> Iterator[Row]:
    """The rows of a training. Signals are received while it computes, not while the caller has control."""

    def reason() -> str | None:
        return asked.reason() or (stop() if stop is not None else None)

    with contextlib.closing(fit(session, stop=reason)) as records:
        while True:
            with asked.receiving():
                record = next(records, None)
            if record is None:
                return
            if isinstance(record, Row):
                yield record
