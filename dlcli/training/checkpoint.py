"""Checkpoints: weights as safetensors under the model's own parameter names, everything else as JSON.

    checkpoints/best-540/     model.safetensors  state.json  MANIFEST.json
    checkpoints/last-600/     the same, and training.safetensors, from which a training goes on

A name says what it is and at which step (`last-600-2` is the second one at that step). A folder appears
whole or not at all (see files.py) and older ones go only after that (`retain`), so there is always one to
read: the newest whose manifest verifies.
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
    damage: of newer ones that had to be passed over, a sentence each.
    """

    role: str
    path: Path
    weights: dict[str, Tensor]
    state: dict[str, Any]
    training: dict[str, Tensor] | None = None
    damage: tuple[str, ...] = ()


def save(
    folder: Path,
    role: str,
    *,
    weights: Mapping[str, Tensor] | Path,
    state: Mapping[str, Any],
    training: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the checkpoint `role`-STEP into `folder`.

    weights: may be another checkpoint, whose weights are these: their bytes are not written again.
    """
    contents: dict[str, bytes | Path] = {
        "model.safetensors": weights / "model.safetensors" if isinstance(weights, Path) else _serialised(weights)
    }
    if training is not None:
        contents["training.safetensors"] = _serialised(training)
    contents["state.json"] = to_json(dict(state)).encode()
    path, again = folder / f"{role}-{state['step']}", 1
    while path.exists():  # the same step saved again: the older one stays until the newer is there
        again += 1
        path = folder / f"{role}-{state['step']}-{again}"
    write_folder(path, contents)
    return path


def retain(folder: Path, newest: Path, *, keep_last: int) -> None:
    """Remove the checkpoints that `newest`, a last one that has just been written, makes superfluous.

    Kept are the `keep_last` newest last ones, the newest best one, and those that were the best for a last
    one that is kept: who has to fall back on that finds its best as well. Those of later steps are of a
    course that was left (or they are damaged, or the training would have gone on from there): they go.
    """
    step = _step(newest)
    # Of several at one step the newest counts: in a dict it comes last.
    lasts, bests = (
        {_step(path): path for path in reversed(_existing(folder, role)) if _step(path) <= step}
        for role in ("last", "best")
    )
    kept = {lasts[s] for s in sorted(lasts)[-keep_last:]}
    wanted = {_best_step(path) for path in kept} | {max(bests, default=None)}
    kept |= {path for s, path in bests.items() if s in wanted}
    for role in ("last", "best"):
        for path in _existing(folder, role):
            if path not in kept:
                _remove(path)


def exists(folder: Path, role: str) -> bool:
    """Whether there is one of that role, intact or not."""
    return bool(_existing(folder, role))


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
        return Checkpoint(role, path, weights, state, training, tuple(damage))
    if damage:
        raise RunError(f"no intact {role} checkpoint in {folder}: {'; '.join(damage)}")
    raise RunError(f"there is no {role} checkpoint in {folder}: the run stopped before one was saved")


def _serialised(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def _existing(folder: Path, role: str) -> list[Path]:
    """Newest first."""
    found = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and match[1] == role and path.is_dir() and not path.is_symlink():
                found.append((int(match[2]), int(match[3] or 1), path))
    return [path for *_, path in sorted(found, reverse=True)]


def _step(path: Path) -> int:
    return int(path.name.split("-")[1])


def _best_step(path: Path) -> int | None:
    """The step of what was the best when the last checkpoint `path` was written."""
    try:
        return int(read_json(path / "state.json")["training"]["best"]["step"])
    except (RunError, KeyError, TypeError, ValueError):
        return None


def _remove(path: Path) -> None:
    trash = path.with_name(f".tmp-{path.name}")
    with contextlib.suppress(OSError):
        os.rename(path, trash)
        shutil.rmtree(trash)
