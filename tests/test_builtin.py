"""The bundled data sets, compared value by value with scikit-learn's own loaders."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.datasets
import torch

from dlcli.core.errors import DataError
from dlcli.core.spec import DataSpec
from dlcli.data import builtin
from dlcli.data.source import Source

NOWHERE = Path("/nowhere")  # none of these data sets reads the data folder


def test_digits() -> None:
    ours, theirs = builtin.digits(NOWHERE), sklearn.datasets.load_digits()
    assert ours.x.dtype == torch.uint8 and ours.y.dtype == torch.int64
    np.testing.assert_array_equal(ours.x[:, 0].numpy(), theirs.images)
    np.testing.assert_array_equal(ours.y.numpy(), theirs.target)
    assert ours.class_names == tuple(str(name) for name in theirs.target_names)
    assert ours.spec == DataSpec("multiclass", "image", (1, 8, 8), 10)
    assert ours.pixel_max == theirs.images.max() == 16


def features(ours: Source, theirs: SimpleNamespace, spec: DataSpec) -> None:
    assert ours.spec == spec
    assert ours.x.dtype == torch.float32 and ours.y.dtype == torch.int64
    np.testing.assert_array_equal(ours.x.numpy(), theirs.data.astype(np.float32))
    np.testing.assert_array_equal(ours.y.numpy(), theirs.target)
    assert ours.class_names == tuple(theirs.target_names)


def test_breast_cancer() -> None:
    ours, theirs = builtin.breast_cancer(NOWHERE), sklearn.datasets.load_breast_cancer()
    features(ours, theirs, DataSpec("binary", "features", (30,), 1))
    assert ours.feature_names == tuple(theirs.feature_names)


def test_iris() -> None:
    ours, theirs = builtin.iris(NOWHERE), sklearn.datasets.load_iris()
    features(ours, theirs, DataSpec("multiclass", "features", (4,), 3))
    assert ours.feature_names == tuple(name.removesuffix(" (cm)") for name in theirs.feature_names)


def test_wine() -> None:
    ours, theirs = builtin.wine(NOWHERE), sklearn.datasets.load_wine()
    features(ours, theirs, DataSpec("multiclass", "features", (13,), 3))
    theirs.feature_names[11] = "od280/od315"  # scikit-learn has od280/od315_of_diluted_wines
    assert ours.feature_names == tuple(name.replace("_", " ") for name in theirs.feature_names)


def test_diabetes() -> None:
    ours, theirs = builtin.diabetes(NOWHERE), sklearn.datasets.load_diabetes(scaled=False)
    assert ours.spec == DataSpec("regression", "features", (10,), 1)
    np.testing.assert_array_equal(ours.x.numpy(), theirs.data.astype(np.float32))
    np.testing.assert_array_equal(ours.y.numpy(), theirs.target.astype(np.float32))
    assert ours.x.dtype == ours.y.dtype == torch.float32
    assert (ours.y.min(), ours.y.max()) == (25, 346)
    assert ours.feature_names == tuple(theirs.feature_names)


def test_without_scikit_learn_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError) as caught:
        builtin.iris(NOWHERE)
    assert str(caught.value) == (
        "this data set comes with scikit-learn, which is not installed: pip install scikit-learn"
    )


def test_a_damaged_or_missing_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    file = tmp_path / "datasets" / "data" / "iris.csv"
    with pytest.raises(DataError) as caught:
        builtin.iris(NOWHERE)
    assert str(caught.value) == (
        f"{file} cannot be read ([Errno 2] No such file or directory: '{file}'): install scikit-learn again"
    )
    file.parent.mkdir(parents=True)
    file.write_text("head\n1,2,three\n")
    with pytest.raises(DataError, match=r"iris\.csv cannot be read \(could not convert string"):
        builtin.iris(NOWHERE)
    (file.parent / "digits.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"digits\.csv\.gz cannot be read \(Not a gzipped file"):
        builtin.digits(NOWHERE)
