"""Checkpoints: weights as safetensors under the model's own parameter names, everything else as JSON.

    checkpoints/best-540/     model.safetensors  state.json  MANIFEST.json
    checkpoints/last-600/     the same, and training.safetensors, from which a training goes on

A name says what it is and at which step (`last-600-2` is the second one at that step). A folder appears
whole or not at all (see files.py) and older ones of the same role go only after that, so there is always one
to read: the newest whose manifest verifies.
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
from dlcli.files import read_json, to_json, verify_folder, write_folder

_NAME = re.compile(r"(best|last)-(0|[1-9][0-9]{0,17})(?:-([1-9][0-9]{0,8}))?")


@dataclass(frozen=True)
class Checkpoint:
    """role: best or last. weights: name -> tensor, on the CPU. state: epoch, step, metrics.

    training: what only a resume needs, as tensors; a last one has it, a best one has not.
    """

    role: str
    path: Path
    weights: dict[str, Tensor]
    state: dict[str, Any]
    training: dict[str, Tensor] | None = None


def save(
    folder: Path,
    role: str,
    *,
    weights: Mapping[str, Tensor] | Path,
    state: Mapping[str, Any],
    training: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the checkpoint `role`-STEP into `folder` and remove older ones of that role.

    weights: may be another checkpoint, whose weights are these: their bytes are not written again.
    """

    contents: dict[str, bytes | Path] = {
        "model.safetensors": weights / "model.safetensors" if isinstance(weights, Path) else _serialised(weights)
    }
    if training is not None:
        contents["training.safetensors"] = _serialised(training)
    contents["state.json"] = to_json(dict(state)).encode()
    return _commit(folder, role, state["step"], contents)


def load(folder: Path, role: str, *, with_training: bool = False) -> Checkpoint:
    """The newest intact checkpoint of that role; `training` is read only if asked for.

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
            file = path / "training.safetensors"
            training = load_file(file) if with_training and file.exists() else None
        except (RunError, SafetensorError) as error:
            damage.append(str(error))
            continue
        return Checkpoint(role, path, weights, state, training)
    if damage:
        raise RunError(f"no intact {role} checkpoint in {folder}: {'; '.join(damage)}")
    raise RunError(f"there is no {role} checkpoint in {folder}: the run stopped before one was saved")


def _serialised(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def _commit(folder: Path, role: str, step: int, contents: Mapping[str, bytes | Path]) -> Path:
    path, again = folder / f"{role}-{step}", 1
    while path.exists():  # the same step saved again: the older one stays until the newer is there
        again += 1
        path = folder / f"{role}-{step}-{again}"
    write_folder(path, contents)
    for older in _existing(folder, role):
        if older != path:
            _remove(older)
    return path


def _existing(folder: Path, role: str) -> list[Path]:
    """Newest first."""
    found = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and match[1] == role and path.is_dir() and not path.is_symlink():
                found.append((int(match[2]), int(match[3] or 1), path))
    return [path for *_, path in sorted(found, reverse=True)]


def _remove(path: Path) -> None:
    trash = path.with_name(f".tmp-{path.name}")
    with contextlib.suppress(OSError):
        os.rename(path, trash)
        shutil.rmtree(trash)
