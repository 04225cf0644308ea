"""Checkpoints: weights as safetensors under the model's own parameter names, everything else as JSON.

    checkpoints/best-540/     model.safetensors  state.json  MANIFEST.json
    checkpoints/last-600/     the same, and training.safetensors, from which a training continues

A name gives the role and the step (`last-600-2` is the second one of that step). A folder is created atomically (see
files.py) and older ones are removed only afterwards (`retain`), so there is always one to read: the newest whose
manifest verifies.
"""

import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlcli.checkpoints import tensors
from dlcli.compute import devices
from dlcli.core.documents import BEST, COUNT, FLAG, NUMBER, NUMBERS, TABLE, TEXT, WHOLE, check, list_of, optional
from dlcli.core.errors import RunError
from dlcli.core.files import read_manifest, to_json, verify_digests, write_folder
from dlcli.core.reading import read_json, told_as_damage

# Most damaged checkpoints that are tried, and most entries of a folder that are read.
_MOST_DAMAGED, _MOST_ENTRIES = 10, 10_000

_FILES = ("model.safetensors", "training.safetensors", "state.json")
_STATE = {"epoch": WHOLE, "step": WHOLE, "metrics": TABLE}
# The required values of a training in state.json (see state.py).
_TRAINING = {
    "epoch": COUNT, "batch": WHOLE, "step": WHOLE, "lr": NUMBER, "samples": WHOLE,
    "waited": WHOLE, "best": optional(TABLE), "best_loss": optional(NUMBER), "optimizer_steps": WHOLE,
    "average_steps": optional(WHOLE), "scaler": optional(NUMBERS),
}  # fmt: skip
# Values that earlier versions did not write.
_ADDED = {
    "told_samples": WHOLE, "told_loss": NUMBER, "evaluated_at": WHOLE, "evaluations": WHOLE, "warned": FLAG,
    "optimizer_names": list_of(TEXT), "optimizer_since": list_of(WHOLE),
}  # fmt: skip
# Largest training.safetensors, as a multiple of the size of the weights.
_MOST_TRAINING = 20

_NAME = re.compile(r"(best|last)-(0|[1-9][0-9]{0,17})(?:-([1-9][0-9]{0,8}))?")


@dataclass(frozen=True)
class Checkpoint:
    """role: best or last. weights: name -> tensor, on the CPU. state: epoch, step, metrics.

    training: the tensors that only a resume needs; a last checkpoint has them, a best one does not.
    damage: one sentence per newer checkpoint that was damaged and skipped.
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

    weights: tensors, or a checkpoint that has the same weights: then its file is linked, not written again.
    """
    contents: dict[str, bytes | Path] = {
        "model.safetensors": weights / "model.safetensors" if isinstance(weights, Path) else _serialised(weights)
    }
    if training is not None:
        contents["training.safetensors"] = _serialised(training)
    contents["state.json"] = to_json(dict(state)).encode()
    path, again = folder / f"{role}-{state['step']}", 1
    while path.exists():  # the same step is saved again: the older one stays until the newer one is complete
        again += 1
        path = folder / f"{role}-{state['step']}-{again}"
    write_folder(path, contents)
    return path


def retain(folder: Path, newest: Path, *, keep_last: int) -> None:
    """Remove the checkpoints that are no longer needed after `newest`, a last one, has been written.

    Kept are the `keep_last` newest last ones, the newest best one, and each one that was the best when one of the kept
    last ones was written: a resume that falls back to that one needs it. Checkpoints of later steps are removed: they
    are damaged, or belong to a training that was resumed from an earlier step.
    """
    step = _step(newest)
    # Of several checkpoints of one step the newest counts: it is the last one put into the dict.
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
    """Whether there is a checkpoint of that role, intact or not."""
    return bool(_existing(folder, role))


def steps(folder: Path, role: str) -> list[int]:
    """The steps of the checkpoints of that role, intact or not, the newest first."""
    return list(dict.fromkeys(map(_step, _existing(folder, role))))


def load(
    folder: Path,
    role: str,
    *,
    step: int | None = None,
    with_training: bool = False,
    fits: Callable[[Path, Mapping[str, Tensor]], None] | None = None,
) -> Checkpoint:
    """The newest intact checkpoint of that role; `training` is read on request only.

    step: only of this step.
    fits: called with the path and the outline of the weights before they are read; may raise to refuse them.
    Raises RunError (exit 4), naming the damage, if there is none.
    """
    damage: dict[Path, str] = {}
    found = None
    paths = [path for path in _existing(folder, role) if step in (None, _step(path))]
    for path in paths[:_MOST_DAMAGED]:
        try:
            digests = read_manifest(path)
            _need(path, "model.safetensors", digests)
            outline = tensors.outline(path / "model.safetensors")
            if _bytes(outline) > devices.memory():
                raise RunError(f"{path} holds weights of {_bytes(outline):,} bytes, more than this machine has memory")
        except RunError as error:
            damage[path] = str(error)
            continue
        if fits is not None:
            fits(path, outline)
        try:
            found = _read(role, path, digests, outline, with_training=with_training, damage=tuple(damage.values()))
            break
        except RunError as error:
            damage[path] = str(error)
    if not all(path.is_dir() for path in damage):  # a running training has replaced it in the meantime
        return load(folder, role, step=step, with_training=with_training, fits=fits)
    if found is not None:
        return found
    if damage:
        raise RunError(f"no intact {role} checkpoint in {folder}: {'; '.join(damage.values())}")
    raise RunError(f"there is no {role} checkpoint in {folder}: the run stopped before one was saved")


def _read(
    role: str,
    path: Path,
    digests: Mapping[str, str],
    outline: Mapping[str, Tensor],
    *,
    with_training: bool,
    damage: tuple[str, ...],
) -> Checkpoint:
    """A checkpoint whose manifest and outline of the weights are valid. RunError if the rest is not."""
    _need(path, "state.json", digests)
    verify_digests(path, {name: digest for name, digest in digests.items() if name in _FILES})
    file, training = path / "training.safetensors", None
    if with_training and file.name in digests:
        if _bytes(tensors.outline(file)) > _MOST_TRAINING * _bytes(outline) + 1_000_000:
            raise RunError(f"{file} is damaged: it is too large for these weights")
        training = tensors.read(file)
    state = read_json(path / "state.json")
    with told_as_damage(path / "state.json"):
        check(state, _STATE, needed=True)
        if training is not None:
            check(state.get("training"), _TRAINING, needed=True)
            check(state["training"], _ADDED)
            if state["training"]["best"] is not None:
                check(state["training"]["best"], BEST, needed=True)
    weights = tensors.read(path / "model.safetensors")
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise RunError(f"{path / 'model.safetensors'} is damaged: {name[:80]} is not finite")
    return Checkpoint(role, path, weights, state, training, damage)


def _need(path: Path, name: str, digests: Mapping[str, str]) -> None:
    if name not in digests:
        raise RunError(f"{path / name} is not in the manifest")


def _bytes(outline: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in outline.values())


def _serialised(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def _existing(folder: Path, role: str) -> list[Path]:
    """Newest first."""
    if folder.is_symlink():
        raise RunError(f"{folder} is a symbolic link, not a folder of the run")
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in itertools.islice(entries, _MOST_ENTRIES):
            match = _NAME.fullmatch(entry.name)
            if match and match[1] == role and entry.is_dir(follow_symlinks=False):
                found.append((int(match[2]), int(match[3] or 1), Path(entry.path)))
    return [path for *_, path in sorted(found, reverse=True)]


def _step(path: Path) -> int:
    return int(path.name.split("-")[1])


def _best_step(path: Path) -> int | None:
    """The step of the best evaluation at the time when the last checkpoint `path` was written."""
    try:
        return int(read_json(path / "state.json")["training"]["best"]["step"])
    except (RunError, KeyError, TypeError, ValueError):
        return None


def _remove(path: Path) -> None:
    trash = path.with_name(f".tmp-{path.name}")
    with contextlib.suppress(OSError, RecursionError):
        os.rename(path, trash)
        shutil.rmtree(trash)
