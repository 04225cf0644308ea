"""Runs on an MLflow server or in its database, by the client of mlflow-skinny: settings, metrics by step, tags, files.

A run is known there by a tag that is set last. So one whose upload was interrupted does not count as published.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from dlcli.core.errors import ConfigError, ResourceError
from dlcli.core.reading import files_below, told_as_damage
from dlcli.runs import metrics
from dlcli.runs.clock import Clock
from dlcli.runs.entries import measured
from dlcli.runs.given_names import name_of
from dlcli.runs.run import Run
from dlcli.runs.tags import note_of, tags_of
from dlcli.runs.tensorboard import NOT_SETTINGS

EXPERIMENT = "dlcli"

_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
_KNOWN_BY = "dlcli.id"
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "dead": "KILLED", "running": "RUNNING"}

# The most that a server takes at once, and in one value (mlflow/utils/validation.py).
_METRICS, _PARAMS, _VALUE, _NOTE = 1000, 100, 6000, 5000

# What is not in a name of a metric or a setting there.
_ODD = re.compile(r"[^\w\-. /]", re.ASCII)

# Not the locks and what only a resume needs.
_NOT_FILES = re.compile(r"lock|checkpoints/last-.*|tensorboard/.*")
_MOST_FILES = 10_000

# One retry instead of four minutes of them, unless the user says otherwise; no reports to the makers of mlflow; and
# nothing on stdout, which is for data.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}  # fmt: skip


def publish(
    runs: Iterable[Run], uri: str, *, experiment: str = EXPERIMENT, files: bool = False, force: bool = False
) -> list[str]:
    """Make a run of each in an experiment of the tracking server or database `uri`; their ids there.

    files: also upload the files of each run, without what only a resume needs.
    force: replace what an earlier call made of these runs; ConfigError (exit 2), before anything is written, if it made
        something. Runs are the same if their number, their start and their folder are.
    Raises ConfigError if mlflow is not installed or `uri` is none, RunError (exit 4) for a damaged run, before anything
    is written, and ResourceError (exit 6) if the server cannot be reached or refuses. A run that was not uploaded
    whole is removed there.
    """
    _check_uri(uri)
    runs = list(runs)
    for run in runs:  # a damaged run is told before anything is written
        _settings(run), measured(run)
        for _ in _points(run):
            pass
    with _environment():
        client, exceptions = _client(uri)
        with _as_one_sentence(uri, exceptions):
            place = _experiment(client, experiment)
            earlier = {run: _earlier(client, place, run) for run in runs}
            for run in runs:
                if earlier[run] and not force:
                    raise ConfigError(f"{run} is in experiment {experiment} already: replace it with --force")
            made = []
            for run in runs:
                made.append(_upload(client, place, run, files=files))
                for old in earlier[run]:
                    client.delete_run(old)
            return made


def _check_uri(uri: str) -> None:
    scheme, _, place = uri.partition("://")
    if not place or scheme.partition("+")[0] not in _SCHEMES:
        raise ConfigError(
            f"--to mlflow:{uri} is no address of an MLflow server or database: write mlflow:http://HOST:5000 or "
            "mlflow:sqlite:///FILE"
        )


def _client(uri: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """The client, and what it raises if the server cannot be reached or refuses."""
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        return MlflowClient(tracking_uri=uri), (MlflowException, OSError)  # requests' errors are OSErrors
    except ImportError as error:
        if not (error.name or "").startswith("mlflow"):  # such as sqlalchemy, which is not part of mlflow-skinny
            raise ConfigError(f"--to mlflow:{_shown(uri)} needs all of mlflow: pip install mlflow") from None
        raise ConfigError(f"--to mlflow:{_shown(uri)} needs mlflow: pip install 'dlcli[mlflow]'") from None


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """With _ENVIRONMENT, where the user has not set it."""
    ours = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _as_one_sentence(uri: str, exceptions: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except exceptions as error:
        told = re.sub(r"://[^/@\s]*@", "://", str(error).strip().partition("\n")[0])[:300]
        raise ResourceError(f"cannot publish to {_shown(uri)}, is it running and allowed? {told}") from None


def _shown(uri: str) -> str:
    """Without a name and a password."""
    return re.sub(r"://[^/@]*@", "://", uri)


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name))
    if found.lifecycle_stage != "active":
        raise ConfigError(f"--experiment {name} was deleted there: restore it, or name another")
    return str(found.experiment_id)


def _earlier(client: Any, experiment: str, run: Run) -> list[str]:
    found = client.search_runs([experiment], filter_string=f"tags.`{_KNOWN_BY}` = '{_id(run)}'")
    return [each.info.run_id for each in found]


def _id(run: Run) -> str:
    told = f"{run.number} {run.info()['started']} {os.path.realpath(run.root)}"
    return hashlib.sha256(os.fsencode(told)).hexdigest()


def _upload(client: Any, experiment: str, run: Run, *, files: bool) -> str:
    info = run.info()
    note = note_of(run)
    tags = {"dlcli.status": info["status"], "dlcli.run": str(run)} | ({"dlcli.tags": " ".join(tags_of(run))})
    tags |= {"mlflow.note.content": note[:_NOTE]} if note else {}
    commit = info.get("git_commit")
    tags |= {"mlflow.source.git.commit": commit} if isinstance(commit, str) else {}
    one = client.create_run(
        experiment, start_time=_milliseconds(info["started"]), tags=tags, run_name=name_of(run) or f"run {run.number}"
    ).info.run_id
    try:
        _upload_values(client, one, run)
        if files:
            for path in files_below(run.path, most=_MOST_FILES):
                inside = path.relative_to(run.path)
                if not _NOT_FILES.fullmatch(inside.as_posix()):
                    folder = inside.parent.as_posix()
                    client.log_artifact(one, str(path), None if folder == "." else folder)
        client.set_tag(one, _KNOWN_BY, _id(run))
        status = _STATUS.get(info["status"], "FAILED")
        if status != "RUNNING":
            ended = info.get("ended")
            client.set_terminated(one, status, end_time=_milliseconds(ended) if ended else None)
    except BaseException:
        with contextlib.suppress(Exception):
            client.delete_run(one)
        raise
    return str(one)


def _upload_values(client: Any, one: str, run: Run) -> None:
    from mlflow.entities import Metric, Param

    params = iter(_settings(run).items())
    while some := [Param(name, value) for name, value in islice(params, _PARAMS)]:
        client.log_batch(one, params=some)
    points = (Metric(name, value, time, step) for name, value, time, step in _points(run))
    while more := list(islice(points, _METRICS)):
        client.log_batch(one, metrics=more)


def _settings(run: Run) -> dict[str, str]:
    stored = {name: value for name, value in run.settings().items() if name not in NOT_SETTINGS and value is not None}
    return {
        _plain(name): (",".join(map(str, value)) if isinstance(value, list) else str(value))[:_VALUE]
        for name, value in stored.items()
    }


def _points(run: Run) -> Iterator[tuple[str, float, int, int]]:
    """Name, value, milliseconds since 1970 and step of each metric: of metrics.csv, and of `dlcli eval`."""
    clock = Clock(run.info()["started"], log_every=run.settings().get("log_every"))
    with told_as_damage(run.metrics_file):
        for stretch in metrics.thinned(run.metrics_file):
            times = clock.times(stretch.columns)
            for place, row in zip(stretch.shown, stretch.rows(), strict=True):
                yield from _of_row(row, time=round(1000 * times[place]))
    results, step = measured(run)
    for name, value in results.items():
        yield _plain(f"test/{name}"), value, round(1000 * clock.time), step


def _of_row(row: Mapping[str, float | None], *, time: int) -> Iterator[tuple[str, float, int, int]]:
    step = int(row["step"] or 0)
    for name, value in row.items():
        if name not in ("step", "seconds") and value is not None:
            yield _plain(name), value, time, step


def _plain(name: str) -> str:
    return _ODD.sub("_", name)[:250].strip() or "_"


def _milliseconds(time: str) -> int:
    return round(1000 * datetime.fromisoformat(time).timestamp())
