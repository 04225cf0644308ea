"""Image files in torchvision's layout: read back value by value, damage told, a failed download explained."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from dlcli.data import vision
from dlcli.errors import DataError
from dlcli.spec import DataSpec
from tests.conftest import DATA_DIR, needs_data

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
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
    monkeypatch.setattr(torchvision.datasets, "MNIST", None)  # a download would fail at it
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
        assert after(images, junk) == f"{images} is damaged: it is no IDX file of bytes"
    assert after(images, good_images[:-1]) == f"{images} is damaged: 9407 of 9408 bytes"
    assert after(images, good_images + b"x") == f"{images} is damaged: 9409 of 9408 bytes"
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
    assert said(vision.mnist, tmp_path) == f"{images} is damaged: it is no IDX file of bytes"


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
    file.write_bytes(good[:-5])
    size = len(good) - 5
    assert said(vision.cifar10, tmp_path) == (
        f"{file} is damaged: {size} bytes are no whole number of records of 3073 bytes"
    )
    file.write_bytes(b"")
    assert said(vision.cifar10, tmp_path) == f"{file} is damaged: 0 bytes are no whole number of records of 3073 bytes"
    file.write_bytes(b"\x0a" + good[1:])
    assert said(vision.cifar10, tmp_path) == f"{file} is damaged: labels must be 0 to 9"


# Downloads


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_download_says_where_to_put_the_files(name: str, tmp_path: Path, monkeypatch) -> None:
    def fails(root: str, *, download: bool) -> None:
        raise RuntimeError("Error downloading train-images:\n  no route to host.")

    monkeypatch.setattr(torchvision.datasets, name, fails)
    assert said(NAMES[name], tmp_path) == (
        f"{name} is not in the data folder and cannot be downloaded (Error downloading train-images: no route to "
        f"host): put train-images-idx3-ubyte and 3 more files into {tmp_path / name / 'raw'}, or choose --data-dir"
    )


def test_a_failed_download_of_cifar_says_where_to_put_the_files(tmp_path: Path, monkeypatch) -> None:
    def fails(*arguments: Any, **settings: Any) -> None:
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", fails)
    assert said(vision.cifar10, tmp_path) == (
        "CIFAR10 is not in the data folder and cannot be downloaded (<urlopen error [Errno -2] Name or service not "
        f"known>): put data_batch_1.bin and 5 more files into {tmp_path / 'cifar-10-batches-bin'}, or choose --data-dir"
    )


def test_a_download_lands_in_the_data_folder_and_prints_nothing_to_stdout(tmp_path: Path, monkeypatch, capsys) -> None:
    def downloads(root: str, *, download: bool) -> None:
        assert download
        print("100%")
        folder = Path(root) / "MNIST" / "raw"
        folder.mkdir(parents=True)
        contents = (some_images(12, 28, 28), some_labels(12), some_images(5, 28, 28), some_labels(5))
        for name, content in zip(IDX, contents, strict=True):
            (folder / name).write_bytes(idx(content))

    monkeypatch.setattr(torchvision.datasets, "MNIST", downloads)
    assert len(vision.mnist(tmp_path / "new" / "folder").x) == 12
    printed = capsys.readouterr()
    assert printed.out == "" and "100%" in printed.err


def test_a_download_that_leaves_a_file_out_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "MNIST", lambda root, *, download: None)
    assert said(vision.mnist, tmp_path) == (
        f"MNIST was downloaded without train-images-idx3-ubyte: delete {tmp_path / 'MNIST' / 'raw'} and try again"
    )


def test_a_data_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert said(vision.mnist, tmp_path / "file") == (
        "MNIST is not in the data folder and cannot be downloaded ([Errno 17] File exists: "
        f"'{tmp_path / 'file'}'): put train-images-idx3-ubyte and 3 more files into {tmp_path / 'file' / 'MNIST/raw'}, "
        "or choose --data-dir"
    )


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
