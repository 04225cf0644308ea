"""MNIST, Fashion-MNIST, KMNIST and CIFAR-10, from the data folder in torchvision's layout; downloads what is missing.

The files are read without torchvision: importing it takes a second, and its reader makes a copy. The sha256 of each
file is checked every time it is read.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dlcli.core.errors import DataError
from dlcli.core.spec import DataSpec
from dlcli.data import published
from dlcli.data.archives import Archive, File
from dlcli.data.download import fetch, verify
from dlcli.data.source import Source


class _Raw(NamedTuple):
    """The path of a raw file and its bytes."""

    path: Path
    content: np.ndarray[Any, np.dtype[np.uint8]]


_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


def mnist(data_dir: Path) -> Source:
    """60,000 + 10,000 digits of 28x28 pixels."""
    return _idx(data_dir, "MNIST", published.MNIST, tuple("0123456789"))


def fashion_mnist(data_dir: Path) -> Source:
    """60,000 + 10,000 articles of clothing of 28x28 pixels."""
    return _idx(data_dir, "FashionMNIST", published.FASHION_MNIST, _CLOTHES)


def kmnist(data_dir: Path) -> Source:
    """60,000 + 10,000 Japanese characters of 28x28 pixels."""
    return _idx(data_dir, "KMNIST", published.KMNIST, _KANA)


def cifar10(data_dir: Path) -> Source:
    """50,000 + 10,000 colour images of 32x32 pixels, from the binary version (data_batch_1.bin and so on)."""
    batches = [_cifar_batch(raw) for raw in _read(data_dir / "cifar-10-batches-bin", "CIFAR-10", published.CIFAR10)]
    return Source(
        DataSpec("multiclass", "image", (3, 32, 32), 10),
        torch.cat([x for x, _ in batches[:-1]]),
        torch.cat([y for _, y in batches[:-1]]),
        *batches[-1],
        class_names=_THINGS,
    )


def _cifar_batch(raw: _Raw) -> tuple[Tensor, Tensor]:
    """Records of one label byte and 3072 pixel bytes."""
    if len(raw.content) == 0 or len(raw.content) % 3073:
        raise DataError(
            f"{raw.path} is damaged: {len(raw.content)} bytes are no whole number of records of 3073 bytes; "
            "delete it to download it again"
        )
    records = torch.from_numpy(raw.content).view(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), _labels(records[:, 0].long(), raw.path)


def _idx(data_dir: Path, name: str, archives: tuple[Archive, ...], class_names: tuple[str, ...]) -> Source:
    folder = data_dir / name / "raw"
    raws = _read(folder, name, archives)
    (train_x, train_y), (test_x, test_y) = _images_and_labels(*raws[:2]), _images_and_labels(*raws[2:])
    height, width = train_x.shape[2:]
    if test_x.shape[2:] != (height, width):
        raise DataError(
            f"{raws[2].path} has images of {test_x.shape[2]}x{test_x.shape[3]} pixels, but the training images have "
            f"{height}x{width}: delete {folder} to download it again"
        )
    return Source(
        DataSpec("multiclass", "image", (1, height, width), len(class_names)),
        train_x, train_y, test_x, test_y, class_names=class_names,
    )  # fmt: skip


def _images_and_labels(image_file: _Raw, label_file: _Raw) -> tuple[Tensor, Tensor]:
    x = _parsed(image_file)
    if x.dim() != 3:
        raise DataError(f"{image_file.path} is damaged: it holds no images")
    y = _labels(_parsed(label_file).long(), label_file.path)
    if len(x) != len(y):
        raise DataError(
            f"{label_file.path} has {len(y)} labels for {len(x)} images: delete {label_file.path.parent} to download "
            "it again"
        )
    return x[:, None], y  # (N, 1, H, W)


def _labels(labels: Tensor, file: Path) -> Tensor:
    if labels.dim() != 1 or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{file} is damaged: labels must be 0 to 9")
    return labels


def _parsed(raw: _Raw) -> Tensor:
    """An IDX file of unsigned bytes: two zero bytes, type 8, number of axes, sizes as big-endian int32, data."""
    file, content = raw
    header = content[:4].tolist()
    axes = header[3] if header[:3] == [0, 0, 8] and len(header) == 4 else 0
    start = 4 + 4 * axes
    shape = content[4:start].view(">i4").tolist() if len(content) >= start else []
    if not 1 <= axes <= 3 or not shape or min(shape) < 0:
        raise DataError(f"{file} is damaged: it is no IDX file of bytes; delete it to download it again")
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{file} is damaged: {len(content) - start} of {math.prod(shape)} bytes; delete it to download it again"
        )
    if len(content) == start:
        raise DataError(f"{file} is damaged: it holds nothing")
    return torch.from_numpy(content[start:]).view(shape)


def _read(folder: Path, name: str, archives: tuple[Archive, ...]) -> list[_Raw]:
    """The raw files in the order of `archives`, downloaded if missing; DataError if one is damaged."""
    fetch(name, archives, folder)

    def read(file: File) -> _Raw:
        path = folder / file.name
        try:
            content = np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        verify(path, content.data, file, name)
        return _Raw(path, content)

    with ThreadPoolExecutor() as pool:  # reading and hashing release the GIL
        return list(pool.map(read, [file for archive in archives for file in archive.files]))
