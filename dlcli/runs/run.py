"""Run: the folder runs/N, its number, paths, lock, status and metrics.

    runs/42/
      config.json     the resolved TrainConfig, and which of its settings were given
      data.json       what the model needs to know about its data: task, shapes, normalisation, names
      run.json        status, times, best metric, command line, versions
      name.txt        the name that it was given, if any (see given_names.py); tags.txt, note.txt (see tags.py)
      metrics.csv     one row per evaluation or log interval
      log.txt         the console output
      lock            marks the folder as a run of dlcli; locked by the process that trains
      checkpoints/    best-STEP/ and last-STEP/
      tensorboard/    event files, if log asks for them (see tensorboard.py)
      eval/           what `dlcli eval` measured, and the answer to each sample (see sample_answers.py)
    runs/.trash/      runs that were removed (see trash.py)

The files are the database. The status of a run is derived: "running" in run.json counts only while the lock is held,
and the operating system releases the lock however the process ends.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dlcli.config.layers import flatten
from dlcli.config.settings import FORMAT, MOST_THREADS, TrainConfig
from dlcli.core.documents import BEST, COUNT, NUMBER, TABLE, TEXT, TIME, WHOLE, Kind, check, list_of, optional
from dlcli.core.errors import ConfigError, ResourceError, RunError
from dlcli.core.files import (
    append_line,
    flush_folder,
    flushed_size,
    held,
    make_folder,
    sweep,
    truncate,
    with_checksum,
    write_bytes,
    write_json,
)
from dlcli.core.reading import read_json, told_as_damage
from dlcli.runs import lock, metrics
from dlcli.runs.html import as_html
from dlcli.runs.numbers import numbers, take_number, told_as_resource_error

# Digits of the sha256 in the name of a file that belongs to a record.
_DIGITS = 12

_PLAIN = (bool, int, float, str, type(None))

_SETTING = Kind(
    "a number, a text, true, false, null, or a list of these",
    lambda v: isinstance(v, _PLAIN) or (isinstance(v, list) and all(isinstance(item, _PLAIN) for item in v)),
)

_THREADS = Kind("a number of threads", lambda v: type(v) is int and 1 <= v <= MOST_THREADS)

# The fields of run.json that are read.
_INFO: dict[str, Kind] = {
    "status": TEXT, "stop": optional(TEXT), "reason": optional(TEXT), "stopped_early": optional(WHOLE),
    "model": TEXT, "data": TEXT, "epochs": COUNT, "epochs_done": WHOLE, "step": WHOLE, "steps": WHOLE,
    "metrics": TABLE, "best": optional(TABLE), "baseline": TABLE, "warning": optional(TEXT), "resumes": list_of(TABLE),
    "teacher": optional(TABLE), "parents": list_of(TABLE), "pruning": optional(TABLE),
    "started": TIME, "ended": optional(TIME), "seconds": optional(NUMBER),
    "device": TEXT, "threads": _THREADS, "eval_threads": _THREADS,
}  # fmt: skip

# Bytes; data.json has a mean, a standard deviation and a name per feature.
_MOST_DATA = 16_000_000


@dataclass(frozen=True)
class Run:
    """A run. root: the folder of all runs. number: the number of this run, which is also the name of its folder."""

    root: Path
    number: int

    @property
    def path(self) -> Path:
        return self.root / str(self.number)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def log_file(self) -> Path:
        return self.path / "log.txt"

    def __str__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        """What Jupyter shows: how it ended, the settings that were given, the last metrics; of a damaged run why."""
        try:
            info, (document, given) = self.info(), self._read_config()
        except RunError as error:
            return as_html(str(self), {"run": {"damaged": str(error)}})
        settings, best = flatten(document), info.get("best") or {}
        told = {name: info.get(name) for name in ("status", "reason", "stop", "model", "data", "device", "started")}
        epochs = f"{info.get('epochs_done', 0)}/{info.get('epochs', '?')}"
        record = {name: value for name, value in told.items() if value is not None} | {"epochs": epochs}
        if best.get("metric") is not None:
            record[f"best {best['metric']}"] = best["value"]
        chosen = settings if given is None else {name: settings[name] for name in given if name in settings}
        return as_html(str(self), {"run": record, "settings": chosen, "metrics": info.get("metrics") or {}})

    @classmethod
    def create(cls, root: str | Path) -> "Run":
        """A run in a new folder, with a number that no run has had. ResourceError if the folder cannot be made."""
        run = cls.numbered(root)
        with told_as_resource_error(run.root):
            try:
                (run.path / "lock").write_bytes(lock.MARK)
                run.checkpoints.mkdir()
                flush_folder(run.root)
            except OSError:
                shutil.rmtree(run.path, ignore_errors=True)
                raise
        return run

    @classmethod
    def numbered(cls, root: str | Path) -> "Run":
        """An empty folder with a number that no run has had: not a run yet. ResourceError if it cannot be made."""
        return cls(Path(root), take_number(Path(root)))

    # config.json, data.json, run.json

    def write_config(self, config: TrainConfig) -> None:
        """Write config.json: all settings and, as `given`, the names of those that the user gave. A resume may resolve
        the others again."""
        write_json(self.path / "config.json", {"format": FORMAT, **config.as_dict(), "given": sorted(config.given)})

    def config(self) -> TrainConfig:
        """The checked settings of this run, from which its model and data can be built.

        RunError if they are damaged, or if this version of dlcli has no such model, data set, setting or value.
        """
        document, given = self._read_config()
        file = self.path / "config.json"
        try:
            made = TrainConfig.from_dict(document, given=given)
            if made.batch_size == "auto":
                raise ConfigError("batch_size = auto, where the size that was taken should be")
            return made
        except ConfigError as error:
            mend = "edit it, or use the version that wrote it"
            raise RunError(f"{file} does not fit this version of dlcli ({mend}): {error}") from None

    def settings(self) -> dict[str, Any]:
        """The settings of this run as stored, flat (`model.hidden`) and unchecked, to be shown or compared.

        Works for a model, a data set or a value that this version does not have. RunError if they are damaged.
        """
        return flatten(self._read_config()[0])

    def given(self) -> list[str] | None:
        """The names of the settings that the user gave; None in runs of dlcli 0.1.0. RunError as for `settings`."""
        return self._read_config()[1]

    def _read_config(self) -> tuple[dict[str, Any], list[str] | None]:
        """config.json and its `given`, None in runs of dlcli 0.1.0; RunError if it holds no settings."""
        file = self.path / "config.json"
        document = read_json(file)
        if not isinstance(document, dict):
            raise RunError(f"{file} is damaged: it holds no settings")
        version, given = document.pop("format", None), document.pop("given", None)
        if version != FORMAT:
            raise RunError(f"{self} has format {version}, but this dlcli reads format {FORMAT}: update dlcli")
        layer = flatten(document)
        with told_as_damage(file):
            check(layer, {"model": TEXT}, needed=True)
            check(layer, dict.fromkeys(layer, _SETTING) | {"data": TEXT})
            check({"given": given}, {"given": optional(list_of(TEXT))})
        return document, given

    def write_data(self, preprocessing: Mapping[str, Any], fingerprint: str) -> None:
        write_json(self.path / "data.json", {**preprocessing, "fingerprint": fingerprint})

    def data(self) -> dict[str, Any]:
        values = read_json(self.path / "data.json", most=_MOST_DATA)
        if not isinstance(values, dict):
            raise RunError(f"{self.path / 'data.json'} is damaged: it holds no description")
        return values

    def write_info(self, info: Mapping[str, Any]) -> None:
        write_json(self.path / "run.json", {"format": FORMAT, **info})

    def info(self) -> dict[str, Any]:
        """run.json; a `status` of "running" becomes "dead" if no process holds the lock."""
        info = self._read_info()
        if info["status"] == "running" and not self.is_locked():
            info = self._read_info()  # it may just have ended: the final status is written before the lock is released
            if info["status"] == "running":
                info["status"] = "dead"
        return info

    def _read_info(self) -> dict[str, Any]:
        file = os.path.join(self.root, str(self.number), "run.json")  # faster than a Path if there are many runs
        info = read_json(file)
        if not isinstance(info, dict) or "status" not in info:
            raise RunError(f"{file} is damaged: it has no status")
        with told_as_damage(file):
            check(info, _INFO)
            check(info.get("best") or {}, BEST)
        return info

    def folder(self, name: str) -> Path:
        """A folder in the run, made if it does not exist. ResourceError if it is a link, which could lead elsewhere."""
        path = self.path / name
        try:
            make_folder(path)
            if path.is_symlink():
                raise OSError(errno.EINVAL, "it is a symbolic link")
        except OSError as error:
            raise ResourceError(f"cannot write into {path}: {error.strerror}") from None
        return path

    def write_record(self, folder: str, name: str, record: Mapping[str, Any], *, npz: bytes | None = None) -> Path:
        """Write the result of a later command to FOLDER/NAME.json.

        npz: a file that belongs to it. It is written first, as NAME-DIGEST.npz, and the record says its name and
        sha256; those of earlier records of that name are removed last. So every record has its file at any moment.
        """
        if npz is None:
            return self.write_file(folder, f"{name}.json", with_checksum(record))
        digest = hashlib.sha256(npz).hexdigest()
        file = f"{name}-{digest[:_DIGITS]}.npz"
        with self._alone_in(folder) as path:
            write_bytes(path / file, npz)
            write_bytes(path / f"{name}.json", with_checksum({**record, "file": file, "sha256": digest}))
            older = re.compile(rf"{re.escape(name)}-[0-9a-f]{{{_DIGITS}}}\.npz")
            with contextlib.suppress(OSError):
                for entry in os.listdir(path):
                    if older.fullmatch(entry) and entry != file:
                        (path / entry).unlink()
        return path / f"{name}.json"

    def write_file(self, folder: str, name: str, content: bytes) -> Path:
        """Write a file of a later command to a folder of the run, under a lock. Partial files that a killed process
        has left there are removed."""
        with self._alone_in(folder) as path:
            write_bytes(path / name, content)
        return path / name

    @contextlib.contextmanager
    def _alone_in(self, folder: str) -> Iterator[Path]:
        """A folder of the run, under its lock, without partial files."""
        path = self.folder(folder)
        with held(os.open(path, os.O_RDONLY | os.O_DIRECTORY)) as alone:
            if alone:
                sweep(path)
            yield path

    # metrics.csv, log.txt

    def append_metrics(self, row: Mapping[str, Any], columns: Sequence[str]) -> None:
        metrics.append(self.metrics_file, row, columns)

    def metrics(self) -> list[dict[str, float | None]]:
        """All rows of metrics.csv. RunError if it is damaged."""
        return metrics.read(self.metrics_file)

    def sizes(self) -> dict[str, int]:
        """Sizes in bytes of the files that grow, for `cut_back`. Flushes them, since a checkpoint records the sizes."""
        return {"metrics_bytes": flushed_size(self.metrics_file), "log_bytes": flushed_size(self.log_file)}

    def cut_back(self, sizes: Mapping[str, Any]) -> None:
        """Truncate the files to the `sizes` of a checkpoint: what was written after it will be written again."""
        for name, file in (("metrics_bytes", self.metrics_file), ("log_bytes", self.log_file)):
            size = sizes.get(name)
            if isinstance(size, int) and size >= 0:
                truncate(file, size)

    def log(self, line: str) -> None:
        append_line(self.log_file, line)

    # the lock

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the run. BusyError (exit 9) if another process holds it, RunError if the run has gone.

        Partial files that an earlier, killed process has left are removed.
        """
        with lock.hold(self.path):
            sweep(self.path)
            sweep(self.checkpoints)
            yield

    def is_locked(self) -> bool:
        return lock.is_held(self.path)


def all_runs(root: str | Path) -> list[Run]:
    """Every numbered folder, newest first. Anything else in the folder is not a run."""
    root = Path(root)
    return [Run(root, number) for number in sorted(numbers(root), reverse=True)]


def now() -> str:
    """UTC as ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
