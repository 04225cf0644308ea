"""All that a run holds against its checksums: `dlcli runs verify`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dlcli.core.errors import DlcliError, RunError
from dlcli.core.files import sha256_of, verify_folder
from dlcli.core.reading import open_regular, read_json, told_as_damage
from dlcli.runs.run import Run

_RECORDS = ("eval", "export")  # folders with the records of later commands


class Verified(NamedTuple):
    """checked: parts that were compared: documents, records, artifacts and checkpoints. unproven: those of them
    that have no checksum, because dlcli 0.1.0 wrote them. damage: a sentence each."""

    checked: int
    unproven: list[str]
    damage: list[str]


def verify(run: Run) -> Verified:
    """Read everything. Partial files of a killed process do not count, nor does what a person added to the folder."""
    unproven: list[str] = []
    parts: dict[str, Callable[[], object]] = {
        "config.json": run.settings, "data.json": run.data, "run.json": run.info, "metrics.csv": run.metrics,
    }  # fmt: skip
    for folder in _RECORDS:
        for path in _entries(run.path / folder, ".json"):
            parts[f"{folder}/{path.name}"] = lambda path=path: _record(path)  # type: ignore[misc]
    for path in _entries(run.checkpoints):
        parts[f"checkpoints/{path.name}"] = lambda path=path: verify_folder(path)  # type: ignore[misc]
    damage = []
    for name, check in parts.items():
        try:
            check()
        except DlcliError as error:
            if (run.path / name).exists() or not name.startswith("checkpoints/"):  # else a training has just removed it
                damage.append(str(error))
            continue
        if name.endswith(".json") and not _has_checksum(run.path / name):
            unproven.append(name)
    if not _entries(run.checkpoints) and not damage and run.info()["status"] == "finished":
        damage.append(f"{run.checkpoints} holds no checkpoint")
    return Verified(len(parts), unproven, damage)


def _record(path: Path) -> None:
    """A record, and the artifact that it describes, if it does."""
    record = read_json(path)
    if not isinstance(record, dict) or record.get("file") is None:
        return
    artifact = path.parent / str(record["file"])
    if artifact.parent != path.parent:
        raise RunError(f"{path} is damaged: {record['file']!r} is not a file in its folder")
    with told_as_damage(artifact):
        os.close(open_regular(artifact))
        if sha256_of(artifact) != record.get("sha256"):
            raise ValueError("its sha256 is not the recorded one")


def _has_checksum(path: Path) -> bool:
    with open(path, "rb") as file:
        return b'"checksum"' in file.read(32)


def _entries(folder: Path, suffix: str = "") -> list[Path]:
    """Sorted, without hidden and partial ones. None in a folder that is a link, or that there is not."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.endswith(suffix) and not path.name.startswith("."))
