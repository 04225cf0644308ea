"""Checkpoints: weights as safetensors under the model's own parameter names, everything else as JSON.

    checkpoints/best-540/     model.safetensors  state.json  MANIFEST.json
    checkpoints/last-600/

A name says what it is and at which step. A folder appears whole or not at all (see files.py) and older ones
of the same role go only after that, so there is always one to read: the newest whose manifest verifies.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dlcli.errors import RunError
from dlcli.files import read_json, verify_folder, write_folder, write_json

_NAME = re.compile(r"(best|last)-(0|[1-9][0-9]{0,17})")


@dataclass(frozen=True)
class Checkpoint:
    """role: best or last. weights: name -> tensor, on the CPU. state: epoch, step, metrics."""

    role: str
    path: Path
    weights: dict[str, Tensor]
    state: dict[str, Any]


def save(folder: Path, role: str, *, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write the checkpoint `role`-STEP into `folder` and remove older ones of that role."""
    from safetensors.torch import save_file

    def fill(temporary: Path) -> None:
        save_file({name: t.detach().cpu().contiguous() for name, t in weights.items()}, temporary / "model.safetensors")
        write_json(temporary / "state.json", dict(state))

    return _commit(folder, role, state["step"], fill)


def link(source: Path, role: str, *, step: int) -> Path:
    """Give the checkpoint `source` a second role without writing its bytes again."""

    def fill(temporary: Path) -> None:
        for name in ("model.safetensors", "state.json"):
            try:
                os.link(source / name, temporary / name)
            except OSError:  # a file system without hard links
                shutil.copyfile(source / name, temporary / name)

    return _commit(source.parent, role, step, fill)


def load(folder: Path, role: str) -> Checkpoint:
    """The newest intact checkpoint of that role.

    Raises RunError (exit 4), naming the damage, when there is none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    damage = []
    for path in _existing(folder, role):
        try:
            verify_folder(path)
            weights = load_file(path / "model.safetensors")
            state = read_json(path / "state.json")
        except (RunError, SafetensorError) as error:
            damage.append(str(error))
            continue
        return Checkpoint(role, path, weights, state)
    if damage:
        raise RunError(f"no intact {role} checkpoint in {folder}: {'; '.join(damage)}")
    raise RunError(f"there is no {role} checkpoint in {folder}: the run stopped before one was saved")


def _commit(folder: Path, role: str, step: int, fill: Any) -> Path:
    path = folder / f"{role}-{step}"
    older = [p for p in _existing(folder, role) if p != path]
    if not path.exists():
        write_folder(path, fill)
    for p in older:
        _remove(p)
    return path


def _existing(folder: Path, role: str) -> list[Path]:
    """Newest first."""
    found = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and match[1] == role and path.is_dir() and not path.is_symlink():
                found.append((int(match[2]), path))
    return [path for _, path in sorted(found, reverse=True)]


def _remove(path: Path) -> None:
    trash = path.with_name(f".tmp-{path.name}")
    with contextlib.suppress(OSError):
        os.rename(path, trash)
        shutil.rmtree(trash)
