"""arrays:FILE -> x and y as they are in a file of arrays: .npz, .safetensors, or a folder of .npy files.

The file is untrusted: nothing in it is unpickled, and no array is made larger than the file says.
"""

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlcli.core.errors import DataError
from dlcli.core.spec import DataSpec
from dlcli.data.source import Source

_NAMES = ("x", "y", "x_train", "y_train", "x_test", "y_test")
_MOST_BYTES = 64_000_000_000  # of all arrays together, unpacked
_MOST_CLASSES = 100_000


def arrays(data_dir: Path, *, path: str) -> Source:
    """Images, uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, or features, (N, F) or (N,) numbers,
    as `x` or `x_train`, and perhaps `x_test`; `y`, (N,), beside each: whole numbers from 0 are classes, others a
    regression. DataError for anything else."""
    found = _read(Path(path))
    train = "x_train" if "x_train" in found else "x"
    for name in (train, train.replace("x", "y")):
        if name not in found:
            known = ", ".join(found) or "none of these"
            raise DataError(f"{path} has no array {name}: x and y, or x_train and y_train, are needed; it has {known}")
    if ("x_test" in found) != ("y_test" in found):
        raise DataError(f"{path} has only one of x_test and y_test: both are needed, or none")
    x, last = _inputs(found[train], f"{path}: {train}", None)
    y = _targets(found[train.replace("x", "y")], f"{path}: {train.replace('x', 'y')}")
    test_x, test_y = None, None
    if "x_test" in found:
        test_x, _ = _inputs(found["x_test"], f"{path}: x_test", last)
        test_y = _targets(found["y_test"], f"{path}: y_test")
    return Source(_spec(x, y, test_y, path), x, y, test_x, test_y, class_names=_class_names(y, test_y))


def _inputs(array: np.ndarray[Any, Any], where: str, last: bool | None) -> tuple[Tensor, bool]:
    """uint8 (N, C, H, W) or float32 (N, F), and whether the channels were last. last: of the training images."""
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        if array.ndim == 3:
            return torch.from_numpy(array[:, None]), False
        last = (array.shape[1] not in (1, 3) and array.shape[3] in (1, 3)) if last is None else last
        return torch.from_numpy(np.moveaxis(array, 3, 1).copy() if last else array), last
    if array.ndim in (1, 2) and (array.dtype.kind in "iuf"):
        with np.errstate(over="ignore"):
            return torch.from_numpy(array.astype(np.float32).reshape(len(array), -1)), False
    raise DataError(
        f"{where} is {array.dtype} {array.shape}: images are uint8 of (N, H, W), (N, H, W, C) or (N, C, H, W), "
        "features numbers of (N, F)"
    )


def _targets(array: np.ndarray[Any, Any], where: str) -> Tensor:
    """int64 (N,) classes or float32 (N,) values."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise DataError(f"{where} is {array.dtype} {array.shape}: classes are whole numbers of (N,), values floats")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return torch.from_numpy(array.astype(np.float32))
    values = array.astype(np.int64)
    if len(values) and not 0 <= values.min() <= values.max() < _MOST_CLASSES:
        raise DataError(
            f"{where} has values from {array.min()} to {array.max()}: classes are numbered from 0 on; save the values "
            "of a regression as floats"
        )
    return torch.from_numpy(values)


def _spec(x: Tensor, y: Tensor, test_y: Tensor | None, path: str) -> DataSpec:
    kind: Any = "image" if x.dim() == 4 else "features"
    shape = tuple(x.shape[1:])
    if 0 in shape:
        raise DataError(f"{path} has samples of the shape {shape}, without values")
    if y.is_floating_point():
        return DataSpec("regression", kind, shape, 1)
    count = len(_class_names(y, test_y))
    return DataSpec("binary", kind, shape, 1) if count == 2 else DataSpec("multiclass", kind, shape, count)


def _class_names(y: Tensor, test_y: Tensor | None) -> tuple[str, ...]:
    """ "0" to "K - 1", at least two; empty for a regression."""
    if y.is_floating_point() or not len(y):
        return ()
    highest = max(int(y.max()), 1)
    if test_y is not None and len(test_y) and not test_y.is_floating_point():
        highest = max(highest, int(test_y.max()))
    return tuple(str(number) for number in range(highest + 1))


def _read(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of these names in a file or folder."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.is_dir():
        there = {name: path / f"{name}.npy" for name in _NAMES}
        readers: Mapping[str, Callable[[], Any]] = {
            name: (lambda file=file: np.load(file, allow_pickle=False))  # type: ignore[misc]
            for name, file in there.items()
            if file.is_file()
        }
        return {name: _array(read, f"{path}/{name}.npy") for name, read in readers.items()}
    if not path.is_file():
        raise DataError(f"{path} is no regular file")
    if path.suffix.lower() == ".npz":
        return _from_npz(path)
    if path.suffix.lower() == ".safetensors":
        return _from_safetensors(path)
    raise DataError(f"{path} is not read: save arrays as .npz, .safetensors, or a folder of .npy files")


def _from_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
        if sum(size for name, size in sizes.items() if name in _NAMES) > _MOST_BYTES:
            raise DataError(f"{path} unpacks to more than {_MOST_BYTES:,} bytes")
        with np.load(path, allow_pickle=False) as file:
            return {n: _array(lambda n=n: file[n], f"{path}: {n}") for n in _NAMES if n in sizes}  # type: ignore[misc]
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"{path} is no .npz file, or damaged: {error}") from None


def _array(read: Callable[[], Any], where: str) -> np.ndarray[Any, Any]:
    try:
        found = read()
    except MemoryError:
        raise
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise DataError(
                f"{where} holds Python objects, which are never read: save numbers, as array.astype('float32')"
            ) from None
        raise DataError(f"{where} is no array, or damaged: {error}") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, SyntaxError, RuntimeError) as error:
        raise DataError(f"{where} is no array, or damaged: {error}") from None
    if not isinstance(found, np.ndarray):
        raise DataError(f"{where} is no array, or damaged")
    return np.ascontiguousarray(found)


def _from_safetensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys() if name in _NAMES}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is no .safetensors file, or damaged: {error}") from None
