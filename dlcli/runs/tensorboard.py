"""A run as a TensorBoard event file: while it trains, and afterwards.

The file is made from config.json, metrics.csv and the start in run.json. A resumed run begins another one with what
metrics.csv still has, and empties the earlier one: no step is there twice, wherever the run was killed. The earlier
file stays, since a TensorBoard that reads it would not find the way from a file that is gone to the next.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from dlcli.core.errors import ConfigError, ResourceError
from dlcli.core.files import append, make_folder, sweep, truncate, write_bytes
from dlcli.core.reading import read_bytes, told_as_damage
from dlcli.runs import events, metrics
from dlcli.runs.clock import Clock
from dlcli.runs.entries import measured
from dlcli.runs.given_names import name_of
from dlcli.runs.run import Run

FOLDER = "tensorboard"

# Columns of metrics.csv that place a row and are no result.
_PLACE = ("step", "seconds")

# Bytes of files that are made before the first is written; those of further runs are made twice.
_MOST_KEPT = 100_000_000

_MOST_LOGGED = 2_000_000_000  # bytes of an event file that is read again

_OURS = re.compile(r"events\.out\.tfevents\.([0-9]{10})\.([0-9]{6})")

# Not hyperparameters: where and how often files are written.
NOT_SETTINGS = {"format", "given", "data_dir", "log", "log_weights", "log_every", "checkpoint_every", "keep_last"}


class Live:
    """The event file of a run in training, runs/N/tensorboard/events.out.tfevents.*: the caller holds its lock."""

    def __init__(self, run: Run, info: Mapping[str, Any]) -> None:
        """Write what the run has done so far. info: run.json. ResourceError if it cannot be written."""
        folder = run.folder(FOLDER)
        sweep(folder)
        content, self._clock = _begun(run, info["started"])
        self._file = _write(folder, info["started"], content + _logged(folder, until=self._clock.step))

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row of metrics.csv."""
        append(self._file, _scalars(row, time=self._clock.after(row)))

    def add_records(self, made: Callable[[float], bytes]) -> None:
        """Append further records. made: makes them of the time of the last row, in seconds since 1970."""
        append(self._file, made(self._clock.time))

    def end(self, status: str) -> None:
        """Append how the training ended."""
        append(self._file, events.end(succeeded=status == "finished", time=self._clock.time))


def publish(
    runs: Iterable[Run], folder: Path, *, force: bool = False, weights: Callable[..., bytes] | None = None
) -> list[Path]:
    """Write the event file of each run, also of one that is in training, into FOLDER/N; the paths of the files.

    weights: (run, time) -> the records of the weights of a run, if they are to be written and log_weights has not
        written them into the run itself.
    force: replace the files of an earlier call; ConfigError (exit 2), before anything is written, if there are some.
    Raises RunError (exit 4) for a damaged run, and ResourceError (exit 6) if the folder cannot be written.
    """
    events.check_installed(asked=f"--to tensorboard:{folder}")
    runs = list(runs)
    infos = [run.info() for run in runs]
    for run in runs:
        _check_is_free(folder / str(run.number), force=force)
    kept, size = {}, 0
    for run, info in zip(runs, infos, strict=True):  # a damaged run is told before anything is written
        content = _whole(run, info, weights)
        if (size := size + len(content)) <= _MOST_KEPT:
            kept[run] = content
    written = []
    for run, info in zip(runs, infos, strict=True):
        target = folder / str(run.number)
        content = kept.pop(run) if run in kept else _whole(run, info, weights)
        try:
            make_folder(target)
        except OSError as error:
            raise ResourceError(f"cannot write into {target}: {error.strerror}; choose another folder") from None
        written.append(_write(target, info["started"], content))
    return written


def _whole(run: Run, info: Mapping[str, Any], weights: Callable[..., bytes] | None) -> bytes:
    """The file of a run, with what `dlcli eval` measured and how it ended."""
    content, clock = _begun(run, info["started"])
    results, step = measured(run)
    content += events.scalars({f"test/{n}": value for n, value in results.items()}, step=step, time=clock.time)
    if weights is not None:
        logged = _logged(run.path / FOLDER, until=clock.step)
        content += logged or weights(run, time=clock.time)
    if info["status"] not in ("running", "dead"):
        content += events.end(succeeded=info["status"] == "finished", time=clock.time)
    return content


def _logged(folder: Path, *, until: int) -> bytes:
    """What log_weights wrote up to a step."""
    earlier = [name for name in _event_files(folder) if _OURS.fullmatch(name)]
    if not earlier or folder.is_symlink():
        return b""
    with told_as_damage(folder / earlier[-1]):
        return events.pictorial(read_bytes(folder / earlier[-1], most=_MOST_LOGGED), until=until)


def _begun(run: Run, started: str) -> tuple[bytes, Clock]:
    """The settings and the rows of metrics.csv (of more than 500,000 some), and the clock after them."""
    stored = run.settings()
    clock = Clock(started, log_every=stored.get("log_every"))
    time = clock.time
    settings = {name: value for name, value in stored.items() if name not in NOT_SETTINGS}
    content = [events.head(time=time), events.settings(settings, name=name_of(run) or str(run.number), time=time)]
    with told_as_damage(run.metrics_file):
        for stretch in metrics.thinned(run.metrics_file):
            times = clock.times(stretch.columns)
            content += [_scalars(row, time=times[k]) for k, row in zip(stretch.shown, stretch.rows(), strict=True)]
    return b"".join(content), clock


def _scalars(row: Mapping[str, Any], *, time: float) -> bytes:
    step = row["step"]
    values = {name: float(value) for name, value in row.items() if name not in _PLACE and value is not None}
    return events.scalars(values, step=int(step), time=time)


def _check_is_free(folder: Path, *, force: bool) -> None:
    """ConfigError if a run cannot be published there. force: the files of an earlier time may be replaced."""
    for name in _event_files(folder):
        if not _OURS.fullmatch(name):
            raise ConfigError(f"{folder / name} is of another program: choose another folder")
        if not force:
            raise ConfigError(f"{folder} holds event files already: replace them with --force")


def _write(folder: Path, started: str, content: bytes) -> Path:
    """Write a file, and then empty the earlier ones of the run. TensorBoard moves on to the last name."""
    earlier = [match for name in _event_files(folder) if (match := _OURS.fullmatch(name))]
    first, session = f"{int(datetime.fromisoformat(started).timestamp()):010d}", 0
    if earlier:
        first, session = earlier[-1][1], int(earlier[-1][2]) + 1
    file = folder / f"events.out.tfevents.{first}.{session:06d}"
    write_bytes(file, content)
    for match in earlier:
        truncate(folder / match[0], 0)
    return file


def _event_files(folder: Path) -> list[str]:
    """The names of the files in a folder that TensorBoard would read."""
    try:
        return sorted(name for name in os.listdir(folder) if "tfevents" in name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ResourceError(f"cannot list {folder}: {error.strerror}") from None
