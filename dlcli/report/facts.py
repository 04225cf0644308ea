"""What the folder of a run says, read once. A part that is damaged is left out, and said."""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dlcli.core.documents import TABLE, TEXT, WHOLE, check, list_of, optional
from dlcli.core.errors import DlcliError, RunError
from dlcli.core.reading import read_json, told_as_damage
from dlcli.core.spec import DataSpec
from dlcli.runs.given_names import name_of
from dlcli.runs.run import Run
from dlcli.runs.tags import note_of, tags_of

T = TypeVar("T")

_MOST_RECORDS = 20  # of a folder

# The fields of the records of later commands that are used.
_EVALUATION = {
    "split": TEXT, "data": TEXT, "samples": WHOLE, "epoch": WHOLE, "step": WHOLE, "metrics": TABLE,
    "class_names": list_of(TEXT), "per_class": optional(list_of(TABLE)), "importance": TABLE, "undefined": TABLE,
}  # fmt: skip
_EXPORT = {"name": TEXT, "format": TEXT, "parity": TABLE, "size": WHOLE}
_RESUME = {"step": WHOLE, "after": TEXT, "not_exact": list_of(TEXT)}


@dataclass(frozen=True)
class Facts:
    """info: run.json. settings, given: of config.json; given is None if it does not say. data: data.json.

    evaluations, exports: the records of `dlcli eval` and `dlcli export`, by the name of their file. damage: sentences.
    """

    run: Run
    info: dict[str, Any]
    settings: dict[str, Any]
    given: list[str] | None
    data: dict[str, Any]
    spec: DataSpec | None
    evaluations: dict[str, dict[str, Any]]
    exports: dict[str, dict[str, Any]]
    name: str | None = None
    tags: list[str] = field(default_factory=list)
    note: str | None = None
    damage: list[str] = field(default_factory=list)

    @property
    def best(self) -> dict[str, Any]:
        """metric, value, epoch and step of the best checkpoint; empty if there is none."""
        best = self.info.get("best")
        return best if best and best.get("metric") is not None else {}


def facts(run: Run) -> Facts:
    damage: list[str] = []

    def read(part: Callable[[], T], otherwise: T) -> T:
        try:
            return part()
        except DlcliError as error:
            if str(error) not in damage:
                damage.append(str(error))
            return otherwise

    nothing: dict[str, Any] = {}
    info = read(lambda: _info(run), nothing)
    data = read(run.data, nothing)
    return Facts(
        run=run,
        info=info,
        settings=read(run.settings, nothing),
        given=read(run.given, None),
        data=data,
        spec=read(lambda: _spec(run, data), None) if data else None,
        evaluations={
            k: record for k, record in _records(run, "eval", _EVALUATION, damage).items() if "split" in record
        },
        exports={k: record for k, record in _records(run, "export", _EXPORT, damage).items() if "parity" in record},
        name=name_of(run),
        tags=tags_of(run),
        note=note_of(run),
        damage=damage,
    )


def _info(run: Run) -> dict[str, Any]:
    info = run.info()
    with told_as_damage(run.path / "run.json"):
        for resume in info.get("resumes") or []:
            check(resume, _RESUME)
    return info


def _spec(run: Run, data: dict[str, Any]) -> DataSpec:
    with told_as_damage(run.path / "data.json"):
        check(data, {"spec": TABLE}, needed=True)
        return DataSpec.from_dict(data["spec"])


def _records(run: Run, folder: str, kinds: dict[str, Any], damage: list[str]) -> dict[str, dict[str, Any]]:
    path, found = run.path / folder, {}
    try:
        if path.is_symlink():
            raise RunError(f"{path} is a symbolic link, which could lead out of the run: it is not read")
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in itertools.islice(entries, 1000) if entry.name.endswith(".json"))
    except FileNotFoundError:
        return {}
    except (OSError, RunError) as error:
        damage.append(str(error) if isinstance(error, RunError) else f"{path} cannot be read: {error.strerror}")
        return {}
    for name in names[:_MOST_RECORDS]:
        try:
            record = read_json(path / name)
            with told_as_damage(path / name):
                check(record, kinds)
            found[name.removesuffix(".json")] = record
        except RunError as error:
            damage.append(str(error))
    return found


def numbers_in(table: Any) -> dict[str, float]:
    """The finite numbers of a table; none of anything else."""
    if not isinstance(table, dict):
        return {}
    there = {name: v for name, v in table.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {name: float(v) for name, v in there.items() if abs(v) < float("inf")}
