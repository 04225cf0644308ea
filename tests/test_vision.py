"""Image files in torchvision's layout: values, damaged files, missing files."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from dlcli.core.errors import DataError
from dlcli.core.spec import DataSpec
from dlcli.data import download, published, vision
from tests.conftest import DATA_DIR, needs_data

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
AGAIN = "delete it to download it again"
NAMES = {"MNIST": vision.mnist, "FashionMNIST": vision.fashion_mnist, "KMNIST": vision.kmnist}


def idx(values: np.ndarray[Any, Any]) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape) + values.tobytes()


def some_images(count: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def some_labels(count: int) -> np.ndarray[Any, Any]:
    return np.arange(count, dtype=np.uint8) % 10


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """MNIST/raw with 12 + 5 images of 28x28."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    contents = (some_images(12, 28, 28), some_labels(12), some_images(5, 28, 28), some_labels(5))
    for name, content in zip(IDX, contents, strict=True):
        (folder / name).write_bytes(idx(content))
    return folder


def said(load: Any, folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_idx_files_are_read_value_by_value(name: str, mnist: Path, tmp_path: Path) -> None:
    if name != "MNIST":
        mnist.parent.rename(tmp_path / name)
    source = NAMES[name](tmp_path)
    assert source.spec == DataSpec("multiclass", "image", (1, 28, 28), 10)
    np.testing.assert_array_equal(source.x[:, 0].numpy(), some_images(12, 28, 28))
    np.testing.assert_array_equal(source.test_x[:, 0].numpy(), some_images(5, 28, 28))
    assert source.y.tolist() == some_labels(12).tolist() and source.test_y.tolist() == some_labels(5).tolist()
    assert source.x.dtype == torch.uint8 and source.y.dtype == torch.int64
    assert len(source.class_names) == 10 and source.pixel_max == 255


def test_reading_files_that_are_there_asks_no_network(mnist: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(download, "_get", None)  # so that a download would fail
    assert len(vision.mnist(tmp_path).x) == 12


def test_damaged_files_are_told(mnist: Path, tmp_path: Path) -> None:
    images, labels = mnist / IDX[0], mnist / IDX[1]
    good_images, good_labels = images.read_bytes(), labels.read_bytes()

    def after(file: Path, content: bytes) -> str:
        file.write_bytes(content)
        try:
            return said(vision.mnist, tmp_path)
        finally:
            images.write_bytes(good_images)
            labels.write_bytes(good_labels)

    for junk in (b"", b"\0\0", b"\x1f\x8b\x08\x03" + bytes(100), b"\0\0\x0d\x01" + bytes(100), good_images[:10]):
        assert after(images, junk) == f"{images} is damaged: it is no IDX file of bytes; {AGAIN}"
    assert after(images, good_images[:-1]) == f"{images} is damaged: 9407 of 9408 bytes; {AGAIN}"
    assert after(images, good_images + b"x") == f"{images} is damaged: 9409 of 9408 bytes; {AGAIN}"
    assert after(images, good_labels) == f"{images} is damaged: it holds no images"
    assert after(labels, good_images) == f"{labels} is damaged: labels must be 0 to 9"
    wrong = some_labels(12)
    wrong[3] = 10
    assert after(labels, idx(wrong)) == f"{labels} is damaged: labels must be 0 to 9"
    assert after(labels, idx(some_labels(11))) == (
        f"{labels} has 11 labels for 12 images: delete {mnist} to download it again"
    )
    assert after(labels, idx(some_labels(0))) == f"{labels} is damaged: it holds nothing"
    assert after(images, idx(np.zeros((0, 28, 28), dtype=np.uint8))) == f"{images} is damaged: it holds nothing"
    assert len(vision.mnist(tmp_path).x) == 12


def test_a_header_that_promises_more_than_any_memory_is_told(mnist: Path, tmp_path: Path) -> None:
    images = mnist / IDX[0]
    images.write_bytes(b"\0\0\x08\x03" + struct.pack(">3i", -1, 28, 28) + bytes(10))
    assert said(vision.mnist, tmp_path) == f"{images} is damaged: it is no IDX file of bytes; {AGAIN}"


def test_test_images_of_another_size_are_told(mnist: Path, tmp_path: Path) -> None:
    (mnist / IDX[2]).write_bytes(idx(some_images(5, 27, 28)))
    assert said(vision.mnist, tmp_path) == (
        f"{mnist / IDX[2]} has images of 27x28 pixels, but the training images have 28x28: "
        f"delete {mnist} to download it again"
    )


# CIFAR-10

BATCHES = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for i, name in enumerate(BATCHES):
        records = np.concatenate([some_labels(4 + i)[:, None], some_images(4 + i, 3072)], 1)
        (folder / name).write_bytes(records.tobytes())
    return folder


def test_cifar_is_read_value_by_value(cifar: Path, tmp_path: Path) -> None:
    source = vision.cifar10(tmp_path)
    assert source.spec == DataSpec("multiclass", "image", (3, 32, 32), 10)
    train = np.concatenate([some_images(4 + i, 3072) for i in range(5)]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(source.x.numpy(), train)
    np.testing.assert_array_equal(source.test_x.numpy(), some_images(9, 3072).reshape(-1, 3, 32, 32))
    assert source.y.tolist() == [label for i in range(5) for label in range(4 + i)]
    assert source.test_y.tolist() == list(range(9))
    assert source.class_names[:2] == ("airplane", "automobile") and source.y.dtype == torch.int64


def test_damaged_cifar_files_are_told(cifar: Path, tmp_path: Path) -> None:
    file = cifar / BATCHES[2]
    good = file.read_bytes()
    for content, size in ((good[:-5], len(good) - 5), (b"", 0)):
        file.write_bytes(content)
        assert said(vision.cifar10, tmp_path) == (
            f"{file} is damaged: {size} bytes are no whole number of records of 3073 bytes; {AGAIN}"
        )
    file.write_bytes(b"\x0a" + good[1:])
    assert said(vision.cifar10, tmp_path) == f"{file} is damaged: labels must be 0 to 9"


# Missing files, and files that change


@pytest.mark.parametrize("name", [*NAMES, "CIFAR-10"])
def test_what_is_missing_is_asked_for_from_its_mirrors(name: str, tmp_path: Path, monkeypatch) -> None:
    asked = []

    def refuses(url: str, *rest: object) -> bytes:
        asked.append(url)
        raise download._Refused("no route to host")

    monkeypatch.setattr(download, "_get", refuses)
    load, archives, folder = {
        "MNIST": (vision.mnist, published.MNIST, tmp_path / "MNIST" / "raw"),
        "FashionMNIST": (vision.fashion_mnist, published.FASHION_MNIST, tmp_path / "FashionMNIST" / "raw"),
        "KMNIST": (vision.kmnist, published.KMNIST, tmp_path / "KMNIST" / "raw"),
        "CIFAR-10": (vision.cifar10, published.CIFAR10, tmp_path / "cifar-10-batches-bin"),
    }[name]
    reasons = "; ".join(f"{url}: no route to host" for url in archives[0].urls)
    wanted = ", ".join(f"{a.name} (sha256 {a.sha256})" for a in archives)
    assert said(load, tmp_path) == (
        f"{name} is not in the data folder and cannot be downloaded ({reasons}): put {wanted} into {folder}, "
        "or choose --data-dir"
    )
    assert asked == list(archives[0].urls)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", range(4))
def test_a_file_of_the_published_size_with_a_flipped_bit_is_told(name: str, which: int, tmp_path: Path) -> None:
    """Images and labels of zeros, with the size of the real files."""
    archives = {"MNIST": published.MNIST, "FashionMNIST": published.FASHION_MNIST, "KMNIST": published.KMNIST}[name]
    folder = tmp_path / name / "raw"
    folder.mkdir(parents=True)
    contents = (some_images(12, 28, 28), some_labels(12), some_images(5, 28, 28), some_labels(5))
    for archive, content in zip(archives, contents, strict=True):
        (folder / archive.files[0].name).write_bytes(idx(content))
    shapes = ((60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,))
    file = archives[which].files[0]
    (folder / file.name).write_bytes(idx(np.zeros(shapes[which], dtype=np.uint8)))
    assert (folder / file.name).stat().st_size == file.size
    if name == "KMNIST":  # no sha256 is published, so a download writes them into SHA256SUMS
        (folder / "SHA256SUMS").write_text(f"{'0' * 64}  {file.name}\n")
        assert said(NAMES[name], tmp_path) == (
            f"{folder / file.name} is damaged: its sha256 is not the one in SHA256SUMS beside it; {AGAIN}, "
            "or correct that line"
        )
    else:
        assert said(NAMES[name], tmp_path) == (
            f"{folder / file.name} is damaged: its sha256 is not that of {name}; {AGAIN}, or, if it is data of your "
            "own, name it in a file SHA256SUMS beside it, as sha256sum writes it"
        )


def test_a_cifar_batch_of_the_published_size_is_verified(cifar: Path, tmp_path: Path) -> None:
    (cifar / BATCHES[5]).write_bytes(bytes(30_730_000))
    assert said(vision.cifar10, tmp_path) == (
        f"{cifar / BATCHES[5]} is damaged: its sha256 is not that of CIFAR-10; {AGAIN}, or, if it is data of your own, "
        "name it in a file SHA256SUMS beside it, as sha256sum writes it"
    )


def test_a_file_that_cannot_be_read_is_told(mnist: Path, tmp_path: Path, monkeypatch) -> None:
    def refuses(path: Path, **settings: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(np, "fromfile", refuses)
    assert said(vision.mnist, tmp_path) == f"{mnist / IDX[0]} cannot be read: Permission denied"


# The real files


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("MNIST", marks=needs_data("MNIST", "raw")),
        pytest.param("FashionMNIST", marks=needs_data("FashionMNIST", "raw")),
    ],
)
def test_the_real_files_are_torchvisions_value_by_value(name: str) -> None:
    source = NAMES[name](Path(DATA_DIR))
    train = getattr(torchvision.datasets, name)(DATA_DIR, train=True)
    test = getattr(torchvision.datasets, name)(DATA_DIR, train=False)
    assert torch.equal(source.x[:, 0], train.data) and torch.equal(source.y, train.targets)
    assert torch.equal(source.test_x[:, 0], test.data) and torch.equal(source.test_y, test.targets)
    assert [c.lower() for c in source.class_names] == [c.split(" - ")[0].lower() for c in train.classes]
