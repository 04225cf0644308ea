"""A run as a TensorBoard event file: while it trains, and afterwards.

The file is made from config.json, metrics.csv and the start in run.json. A resumed run writes it anew from what
metrics.csv still has, and goes on: no step is in it twice, wherever the run was killed.
"""

import contextlib
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from dlcli.core.errors import ConfigError, ResourceError, RunError
from dlcli.core.files import append, make_folder, write_bytes
from dlcli.runs import events
from dlcli.runs.differences import measured
from dlcli.runs.given_names import name_of
from dlcli.runs.run import Run

FOLDER = "tensorboard"

# Columns of metrics.csv that place a row and are no result.
_PLACE = ("step", "seconds")

_OURS = re.compile(r"events\.out\.tfevents\.[0-9]{10}\.[0-9]{4}")

# Not hyperparameters: where and how often files are written.
_NOT_SETTINGS = {"format", "given", "data_dir", "log", "log_every", "checkpoint_every", "keep_last"}


class Live:
    """The event file of a run in training, runs/N/tensorboard/events.out.tfevents.*: the caller holds its lock."""

    def __init__(self, run: Run, info: Mapping[str, Any]) -> None:
        """Write what the run has done so far. info: run.json of this training. ResourceError if it cannot be written.

        The name of the file ends with the number of earlier sessions: TensorBoard moves on to the last name.
        """
        folder = run.folder(FOLDER)
        content, self._clock = _begun(run, info["started"])
        self._file = _write(folder, info["started"], content, session=len(info.get("resumes") or []))

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row of metrics.csv."""
        append(self._file, _scalars(row, time=self._clock.after(row)))

    def end(self, status: str) -> None:
        """Append how the training ended."""
        append(self._file, events.end(succeeded=status == "finished", time=self._clock.time))


class _Clock:
    """The time of each row, in seconds since 1970: the start of the run and the seconds of training since then."""

    def __init__(self, started: str) -> None:
        self.time, self._before = datetime.fromisoformat(started).timestamp(), 0.0

    def after(self, row: Mapping[str, Any]) -> float:
        """The time of the next row. Its `seconds` count from the last evaluation, and start anew after it."""
        seconds = row.get("seconds") or 0.0
        self.time += seconds - self._before if seconds >= self._before else seconds
        self._before = seconds
        return self.time


def publish(runs: Iterable[Run], folder: Path, *, force: bool = False) -> list[Path]:
    """Write the event file of each run, also of one that is in training, into FOLDER/N; the paths of the files.

    force: replace the files of an earlier call; ConfigError (exit 2), before anything is written, if there are some.
    Raises RunError (exit 4) for a damaged run, and ResourceError (exit 6) if the folder cannot be written.
    """
    events.check_installed(asked=f"--to tensorboard:{folder}")
    runs = list(runs)
    infos = [run.info() for run in runs]
    if not force:
        for run in runs:
            if _files(folder / str(run.number)):
                raise ConfigError(f"{folder / str(run.number)} holds event files already: replace them with --force")
    written = []
    for run, info in zip(runs, infos, strict=True):
        content, clock = _begun(run, info["started"])
        time = clock.time
        results, step = measured(run)
        content += events.scalars({f"test/{name}": value for name, value in results.items()}, step=step, time=time)
        if info["status"] not in ("running", "dead"):
            content += events.end(succeeded=info["status"] == "finished", time=time)
        target = folder / str(run.number)
        try:
            make_folder(target)
        except OSError as error:
            raise ResourceError(f"cannot write into {target}: {error.strerror}; choose another folder") from None
        written.append(_write(target, info["started"], content, session=0))
    return written


def _begun(run: Run, started: str) -> tuple[bytes, _Clock]:
    """The settings and all rows of metrics.csv, and the clock after them."""
    clock = _Clock(started)
    time = clock.time
    settings = {name: value for name, value in run.settings().items() if name not in _NOT_SETTINGS}
    content = [events.head(time=time), events.settings(settings, name=name_of(run) or str(run.number), time=time)]
    content += [_scalars(row, time=clock.after(row)) for row in run.metrics()]
    return b"".join(content), clock


def _scalars(row: Mapping[str, Any], *, time: float) -> bytes:
    step = row.get("step")
    if step is None or not 0 <= step < 2**63:
        raise RunError(f"metrics.csv is damaged: step {step} in a row")
    values = {name: float(value) for name, value in row.items() if name not in _PLACE and value is not None}
    return events.scalars(values, step=int(step), time=time)


def _write(folder: Path, started: str, content: bytes, *, session: int) -> Path:
    """Write the file, and then remove the earlier ones of the run."""
    seconds = int(datetime.fromisoformat(started).timestamp())
    file = folder / f"events.out.tfevents.{seconds:010d}.{session:04d}"
    write_bytes(file, content)
    for other in _files(folder):
        if other != file:
            with contextlib.suppress(FileNotFoundError):
                other.unlink()
    return file


def _files(folder: Path) -> list[Path]:
    """The event files that dlcli has written into a folder."""
    try:
        return [path for path in folder.iterdir() if _OURS.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ResourceError(f"cannot list {folder}: {error.strerror}") from None
