"""arrays:FILE: shapes and types of what people save, and one sentence for every file that cannot be used."""

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from dlcli.config.settings import TrainConfig
from dlcli.core.errors import DataError
from dlcli.data.source import Source
from dlcli.experiment.load import read
from tests.conftest import Dlcli

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 5, 4), dtype=np.uint8)
LAST = RNG.integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)
FEATURES = RNG.normal(size=(12, 3))
CLASSES = np.arange(12) % 3
VALUES = RNG.normal(size=12)


def saved(folder: Path, how: str = "npz", **arrays: Any) -> Path:
    if how == "npz":
        np.savez_compressed(folder / "a.npz", **arrays)
        return folder / "a.npz"
    if how == "safetensors":
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "a.safetensors")
        return folder / "a.safetensors"
    (folder / "arrays").mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / "arrays" / f"{name}.npy", array)
    return folder / "arrays"


def source(path: Path) -> Source:
    found = read(TrainConfig("mlp", data=f"arrays:{path}"))
    assert isinstance(found, Source)
    return found


def said(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        source(path)
    return str(caught.value).replace(str(path), path.name)


@pytest.mark.parametrize("how", ["npz", "safetensors", "folder"])
@pytest.mark.parametrize(
    ("x", "shape", "expected"),
    [
        (GREY, (1, 5, 4), GREY[:, None]),
        (LAST, (3, 5, 4), LAST.transpose(0, 3, 1, 2)),
        (LAST.transpose(0, 3, 1, 2), (3, 5, 4), LAST.transpose(0, 3, 1, 2)),
        (LAST[..., :1], (1, 5, 4), LAST[..., :1].transpose(0, 3, 1, 2)),
        (FEATURES, (3,), FEATURES.astype(np.float32)),
        (FEATURES[:, 0], (1,), FEATURES[:, :1].astype(np.float32)),
        (np.asfortranarray(FEATURES), (3,), FEATURES.astype(np.float32)),
        (CLASSES.reshape(12, 1), (1,), CLASSES.reshape(12, 1).astype(np.float32)),
    ],
)
def test_images_and_features(how: str, x: Any, shape: tuple[int, ...], expected: Any, tmp_path: Path) -> None:
    found = source(saved(tmp_path, how, x=x, y=CLASSES))
    assert found.spec.input_shape == shape and found.spec.kind == ("image" if x.dtype == np.uint8 else "features")
    np.testing.assert_array_equal(found.x.numpy(), expected)
    assert found.y is not None and found.y.tolist() == CLASSES.tolist() and found.test_x is None


@pytest.mark.parametrize(
    ("y", "task", "names"),
    [
        (CLASSES, "multiclass", ("0", "1", "2")),
        (CLASSES.astype(np.uint8), "multiclass", ("0", "1", "2")),
        (CLASSES == 1, "binary", ("0", "1")),
        (VALUES, "regression", ()),
        (VALUES[:, None].astype(np.float32), "regression", ()),
    ],
)
def test_the_task_follows_from_y(y: Any, task: str, names: tuple[str, ...], tmp_path: Path) -> None:
    found = source(saved(tmp_path, x=FEATURES, y=y))
    assert (found.spec.task, found.class_names) == (task, names)
    assert found.y is not None
    np.testing.assert_allclose(found.y.numpy(), y.reshape(-1).astype(np.float32), rtol=1e-6)


def test_a_test_set_of_its_own(tmp_path: Path) -> None:
    path = saved(tmp_path, x_train=LAST, y_train=CLASSES, x_test=LAST[:5], y_test=CLASSES[:5] + 2, other=VALUES)
    found = source(path)
    assert found.class_names == ("0", "1", "2", "3", "4") and found.test_x is not None
    np.testing.assert_array_equal(found.test_x.numpy(), LAST[:5].transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": FEATURES}, "a.npz has no array y: x and y, or x_train and y_train, are needed; it has x"),
        ({"z": FEATURES}, "a.npz has no array x: x and y, or x_train and y_train, are needed; it has none of these"),
        (
            {"x": FEATURES, "y": CLASSES, "x_test": FEATURES},
            "a.npz has only one of x_test and y_test: both are needed, or none",
        ),
        (
            {"x": LAST.astype(np.float32), "y": CLASSES},
            "a.npz: x is float32 (12, 5, 4, 3): images are uint8 of (N, H, W), (N, H, W, C) or (N, C, H, W), features "
            "numbers of (N, F)",
        ),
        (
            {"x": FEATURES, "y": np.array(["a"] * 12)},
            "a.npz: y is <U1 (12,): classes are whole numbers of (N,), values floats",
        ),
        (
            {"x": FEATURES, "y": CLASSES - 1},
            "a.npz: y has values from -1 to 1: classes are numbered from 0 on; save the values of a regression as "
            "floats",
        ),
        (
            {"x": FEATURES, "y": CLASSES + 10**9},
            "a.npz: y has values from 1000000000 to 1000000002: classes are numbered from 0 on; save the values of a "
            "regression as floats",
        ),
        (
            {"x": FEATURES, "y": np.array([{}] * 12)},
            "a.npz: y holds Python objects, which are never read: save numbers, as array.astype('float32')",
        ),
        ({"x": np.zeros((12, 0)), "y": CLASSES}, "a.npz has samples of the shape (0,), without values"),
    ],
)
def test_arrays_that_do_not_fit(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert said(saved(tmp_path, **arrays)) == message


def test_what_does_not_fit_together_is_told_by_the_check_of_every_source(tmp_path: Path) -> None:
    path = saved(tmp_path, x=FEATURES, y=CLASSES[:5])
    assert said(path) == ("data arrays:a.npz is not sound: y is (5,), but (12,) is expected, one target per row of x")
    broken = FEATURES.copy()
    broken[2, 1] = np.nan
    assert said(saved(tmp_path, x=broken, y=CLASSES)) == (
        "data arrays:a.npz is not sound: x[2, 1] is nan, but values must be finite as float32: replace it, or leave "
        "the row out"
    )
    assert said(saved(tmp_path, x=FEATURES * 1e39, y=CLASSES)).startswith(
        "data arrays:a.npz is not sound: x[0, 0] is inf, but values must be finite as float32"
    ) or "-inf" in said(path)
    assert said(saved(tmp_path, x_train=GREY, y_train=CLASSES, x_test=GREY[:, 1:], y_test=CLASSES)) == (
        "data arrays:a.npz is not sound: test_x is (12, 1, 4, 4), but (N, 1, 5, 4) is expected of image of 1x5x4"
    )


def test_pickled_objects_are_never_read(tmp_path: Path) -> None:
    """The object would make a file when it is unpickled."""

    class Bomb:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/bang",)

    told = "holds Python objects, which are never read: save numbers, as array.astype('float32')"
    objects = np.array([Bomb()] * 12, dtype=object)
    assert said(saved(tmp_path, x=FEATURES, y=objects)) == f"a.npz: y {told}"
    folder = saved(tmp_path, "folder", x=objects, y=CLASSES)
    assert said(folder) == f"arrays/x.npy {told}"
    assert not (tmp_path / "bang").exists()


def test_files_that_are_no_arrays(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"nonsense")
    assert said(tmp_path / "a.npz") == "a.npz is no .npz file, or damaged: File is not a zip file"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"nonsense")
    assert said(tmp_path / "a.npz").startswith("a.npz: x ")
    whole = saved(tmp_path, x=FEATURES, y=CLASSES).read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    assert said(tmp_path / "a.npz") == "a.npz is no .npz file, or damaged: File is not a zip file"
    encrypted = bytearray(whole)
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the header of each member, and its entry in the index
        for place in re.finditer(re.escape(mark), whole):
            encrypted[place.start() + flags] |= 1
    (tmp_path / "a.npz").write_bytes(encrypted)
    assert said(tmp_path / "a.npz") == (
        "a.npz: x is no array, or damaged: File 'x.npy' is encrypted, password required for extraction"
    )
    np.savez_compressed(tmp_path / "a.npz", x=FEATURES, y=CLASSES)
    broken = bytearray((tmp_path / "a.npz").read_bytes())
    broken[120:160] = b"\xff" * 40
    (tmp_path / "a.npz").write_bytes(broken)
    assert said(tmp_path / "a.npz").startswith("a.npz: x is no array, or damaged: Error -3 while decompressing data")
    (tmp_path / "a.safetensors").write_bytes(b"nonsense")
    assert said(tmp_path / "a.safetensors").startswith("a.safetensors is no .safetensors file, or damaged: ")
    (tmp_path / "a.h5").write_bytes(b"")
    assert said(tmp_path / "a.h5") == ("a.h5 is not read: save arrays as .npz, .safetensors, or a folder of .npy files")
    assert said(tmp_path / "b.npz") == "b.npz does not exist"
    (tmp_path / "empty").mkdir()
    assert said(tmp_path / "empty") == (
        "empty has no array x: x and y, or x_train and y_train, are needed; it has none of these"
    )
    cut = saved(tmp_path, "folder", x=FEATURES, y=CLASSES) / "x.npy"
    cut.write_bytes(cut.read_bytes()[:-8])
    assert said(tmp_path / "arrays").startswith("arrays/x.npy is no array, or damaged: ")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlcli.data import arrays

    path = saved(tmp_path, x=np.zeros((12, 100)), y=CLASSES)
    monkeypatch.setattr(arrays, "_MOST_BYTES", 5000)
    assert said(path) == "a.npz unpacks to more than 5,000 bytes"


def test_train_eval_and_inspect(dlcli: Dlcli, tmp_path: Path) -> None:
    x = RNG.normal(size=(300, 2))
    saved(tmp_path, x=x, y=(x.sum(1) > 0).astype(int))
    done = dlcli("train", "logistic", "--data", "arrays:a.npz", "--epochs", "20", "--lr", "0.5", "--device", "cpu")
    assert f"on arrays:{tmp_path}/a.npz (216 train, 24 val, 60 test samples)" in done.stderr
    assert json.loads(dlcli("eval", "1", "--json").stdout)["metrics"]["accuracy"] > 0.95
    found = json.loads(dlcli("datasets", "inspect", "arrays:a.npz", "--json").stdout)
    assert (found["task"], found["sample"]) == ("binary", "features of 2")
    assert found["splits"] == {"train": 216, "val": 24, "test": 60}
    saved(tmp_path, x=x, y=x.sum(1))
    done = dlcli("datasets", "inspect", "arrays:a.npz")
    assert done.stderr == (
        f"arrays:{tmp_path}/a.npz: regression on features of 2; 216 train, 24 val, 60 test samples\n"
    )
