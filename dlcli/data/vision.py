"""MNIST and its kin, and CIFAR-10, from the data folder in torchvision's layout; else downloaded by torchvision.

torchvision is imported for a download only: the files are read here, which saves a second and a copy.
"""

import contextlib
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dlcli.data.dataset import Source
from dlcli.errors import DataError
from dlcli.spec import DataSpec

_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")

# CIFAR-10 in its binary form: no pickle to open. The checksum is the one its authors publish.
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"


def mnist(data_dir: Path) -> Source:
    """60,000 + 10,000 digits of 28x28 pixels."""
    return _idx(data_dir, "MNIST", tuple("0123456789"))


def fashion_mnist(data_dir: Path) -> Source:
    """60,000 + 10,000 articles of clothing of 28x28 pixels."""
    return _idx(data_dir, "FashionMNIST", _CLOTHES)


def kmnist(data_dir: Path) -> Source:
    """60,000 + 10,000 Japanese characters of 28x28 pixels."""
    return _idx(data_dir, "KMNIST", _KANA)


def cifar10(data_dir: Path) -> Source:
    """50,000 + 10,000 colour images of 32x32 pixels, from the binary form (data_batch_1.bin and so on)."""
    folder = data_dir / "cifar-10-batches-bin"
    files = [folder / f"data_batch_{i}.bin" for i in range(1, 6)] + [folder / "test_batch.bin"]
    if not all(file.is_file() for file in files):
        _download("CIFAR10", data_dir, files)
    batches = [_cifar_batch(file) for file in files]
    return Source(
        DataSpec("multiclass", "image", (3, 32, 32), 10),
        torch.cat([x for x, _ in batches[:-1]]),
        torch.cat([y for _, y in batches[:-1]]),
        *batches[-1],
        class_names=_THINGS,
    )


def _cifar_batch(file: Path) -> tuple[Tensor, Tensor]:
    """Records of one label byte and 3072 pixel bytes."""
    content = np.fromfile(file, dtype=np.uint8)
    if len(content) == 0 or len(content) % 3073:
        raise DataError(f"{file} is damaged: {len(content)} bytes are no whole number of records of 3073 bytes")
    records = torch.from_numpy(content).view(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), _labels(records[:, 0].long(), file)


def _idx(data_dir: Path, name: str, class_names: tuple[str, ...]) -> Source:
    folder = data_dir / name / "raw"
    kinds = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    files = [folder / f"{kind}-ubyte" for kind in kinds]
    if not all(file.is_file() for file in files):
        _download(name, data_dir, files)
    train_x, train_y = _images(files[0]), _labels(_read_idx(files[1]).long(), files[1])
    test_x, test_y = _images(files[2]), _labels(_read_idx(files[3]).long(), files[3])
    for x, y, file in ((train_x, train_y, files[1]), (test_x, test_y, files[3])):
        if len(x) != len(y):
            raise DataError(f"{file} has {len(y)} labels for {len(x)} images: delete {folder} to download it again")
    height, width = train_x.shape[2:]
    if test_x.shape[2:] != (height, width):
        raise DataError(
            f"{files[2]} has images of {test_x.shape[2]}x{test_x.shape[3]} pixels, but the training images have "
            f"{height}x{width}: delete {folder} to download it again"
        )
    return Source(
        DataSpec("multiclass", "image", (1, height, width), len(class_names)),
        train_x, train_y, test_x, test_y, class_names=class_names,
    )  # fmt: skip


def _images(file: Path) -> Tensor:
    images = _read_idx(file)
    if images.dim() != 3:
        raise DataError(f"{file} is damaged: it holds no images")
    return images[:, None]  # (N, 1, H, W)


def _labels(labels: Tensor, file: Path) -> Tensor:
    if labels.dim() != 1 or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{file} is damaged: labels must be 0 to 9")
    return labels


def _read_idx(file: Path) -> Tensor:
    """An IDX file of unsigned bytes: two zero bytes, type 8, number of axes, sizes as big-endian int32, data."""
    content = np.fromfile(file, dtype=np.uint8)
    header = content[:4].tolist()
    axes = header[3] if header[:3] == [0, 0, 8] and len(header) == 4 else 0
    start = 4 + 4 * axes
    shape = content[4:start].view(">i4").tolist() if len(content) >= start else []
    if not 1 <= axes <= 3 or not shape or min(shape) < 0:
        raise DataError(f"{file} is damaged: it is no IDX file of bytes")
    if len(content) - start != math.prod(shape):
        raise DataError(f"{file} is damaged: {len(content) - start} of {math.prod(shape)} bytes")
    if len(content) == start:
        raise DataError(f"{file} is damaged: it holds nothing")
    return torch.from_numpy(content[start:]).view(shape)


def _download(name: str, data_dir: Path, files: list[Path]) -> None:
    """Let torchvision download and unpack; DataError says where to put the files by hand."""
    import torchvision

    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        # torchvision reports to stdout, which belongs to the data that a command prints.
        with contextlib.redirect_stdout(sys.stderr):
            if name == "CIFAR10":
                torchvision.datasets.utils.download_and_extract_archive(_CIFAR_URL, str(data_dir), md5=_CIFAR_MD5)
            else:
                getattr(torchvision.datasets, name)(str(data_dir), download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".:")
        raise DataError(
            f"{name} is not in the data folder and cannot be downloaded ({reason}): put {files[0].name} and "
            f"{len(files) - 1} more files into {files[0].parent}, or choose --data-dir"
        ) from None
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{name} was downloaded without {missing[0]}: delete {files[0].parent} and try again")
