"""Weights in the files of other programs: .safetensors, and what torch.save wrote, which is read with `weights_only`.

Such a file is untrusted: nothing in it is executed, and it may not take more memory than its size tells.
"""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlcli.checkpoints import tensors
from dlcli.core.errors import RunError
from dlcli.core.reading import open_regular

# Where programs keep the weights of a model beside other things, the most wanted first.
_NESTED = (
    "model_ema", "state_dict_ema", "state_dict", "model_state_dict", "model_state", "model", "weights", "net", "params",
)  # fmt: skip
_MOST_PICKLED = 64_000_000  # bytes; it names the tensors, which are stored beside it


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, in the order of the file, on the CPU.

    RunError (exit 4) if the file is damaged, holds no tensors by name, or would execute something.
    """
    if path.suffix.lower() == ".safetensors":
        tensors.outline(path.resolve())
        return tensors.read(path)
    found = _tables_of_tensors(_loaded(path))
    if not found:
        raise RunError(f"{path} holds no tensors by name: save the model's state_dict() in it")
    return found


def _loaded(path: Path) -> Any:
    _check_size(path)
    try:
        with open(open_regular(path, follow=True), "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except RunError:
        raise
    except Exception as error:  # of damaged files torch raises what it comes upon
        told = " ".join(str(error).split())
        if "weights_only" in told.lower() or "Unsupported" in told:
            raise RunError(
                f"{path} is refused: it holds more than tensors, which would have to be executed: save the model's "
                "state_dict() alone, best as .safetensors"
            ) from None
        raise RunError(f"{path} cannot be read as weights: {told[:200] or type(error).__name__}") from None


def _check_size(path: Path) -> None:
    """RunError for an archive that would take more memory than it has bytes."""
    try:
        with open(open_regular(path, follow=True), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(2)
            if start[:1] == b"\x80":  # of an older version of torch
                return
            if start != b"PK":
                raise RunError(
                    f"{path} is no file that torch.save wrote: save the model's state_dict(), best as .safetensors"
                )
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
    except zipfile.BadZipFile:
        raise RunError(f"{path} is damaged: it is cut off, or no archive of torch.save") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    too_large = sum(member.file_size for member in members) > size
    if too_large or any(m.filename.endswith(".pkl") and m.file_size > _MOST_PICKLED for m in members):
        raise RunError(f"{path} is refused: its content is larger than the file")


def _tables_of_tensors(found: Any) -> dict[str, Tensor]:
    """The tensors of a table, or of the table in it that holds the weights."""
    if not isinstance(found, Mapping):
        return {}
    here = {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if here:
        return {name: value.detach() for name, value in here.items() if value.layout == torch.strided}
    for name in _NESTED:
        if inner := _tables_of_tensors(found.get(name)):
            return inner
    return {}
