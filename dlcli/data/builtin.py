"""scikit-learn's bundled data sets, read from its files, since importing scikit-learn takes a second.

A test compares every value with scikit-learn's own loaders.
"""

import gzip
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dlcli.core.errors import DataError
from dlcli.core.spec import DataSpec
from dlcli.data.source import Source


def digits(data_dir: Path) -> Source:
    """1797 handwritten digits: uint8 (1797, 1, 8, 8) with values 0 to 16."""
    table = _table("digits.csv.gz")
    return Source(
        DataSpec("multiclass", "image", (1, 8, 8), 10),
        torch.from_numpy(table[:, :-1].astype(np.uint8)).view(-1, 1, 8, 8),
        torch.from_numpy(table[:, -1].astype(np.int64)),
        class_names=tuple("0123456789"),
        pixel_max=16.0,
    )


def breast_cancer(data_dir: Path) -> Source:
    """569 tumours, 30 measurements; class 1 is benign."""
    table = _table("breast_cancer.csv", header=True)
    parts = "radius texture perimeter area smoothness compactness concavity".split()
    parts += ["concave points", "symmetry", "fractal dimension"]
    names = [f"mean {p}" for p in parts] + [f"{p} error" for p in parts] + [f"worst {p}" for p in parts]
    return _classes(table, task="binary", class_names=("malignant", "benign"), feature_names=tuple(names))


def iris(data_dir: Path) -> Source:
    """150 flowers, 4 lengths in cm, 3 species."""
    return _classes(
        _table("iris.csv", header=True),
        task="multiclass",
        class_names=("setosa", "versicolor", "virginica"),
        feature_names=("sepal length", "sepal width", "petal length", "petal width"),
    )


def wine(data_dir: Path) -> Source:
    """178 wines, 13 measurements, 3 growers."""
    names: tuple[str, ...] = (
        "alcohol",
        "malic acid",
        "ash",
        "alcalinity of ash",
        "magnesium",
        "total phenols",
        "flavanoids",
    )
    names += ("nonflavanoid phenols", "proanthocyanins", "color intensity", "hue", "od280/od315", "proline")
    return _classes(
        _table("wine_data.csv", header=True),
        task="multiclass",
        class_names=("class_0", "class_1", "class_2"),
        feature_names=names,
    )


def diabetes(data_dir: Path) -> Source:
    """442 patients, 10 measurements in their own units; target: progression after a year (25 to 346)."""
    x = _table("diabetes_data_raw.csv.gz", delimiter=None)
    y = _table("diabetes_target.csv.gz", delimiter=None)
    return Source(
        DataSpec("regression", "features", (10,), 1),
        torch.from_numpy(x.astype(np.float32)),
        torch.from_numpy(y.astype(np.float32).reshape(-1)),
        feature_names=("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"),
    )


def _classes(
    table: np.ndarray[Any, Any], *, task: str, class_names: tuple[str, ...], feature_names: tuple[str, ...]
) -> Source:
    features = table.shape[1] - 1
    binary = task == "binary"
    return Source(
        DataSpec("binary" if binary else "multiclass", "features", (features,), 1 if binary else len(class_names)),
        torch.from_numpy(table[:, :-1].astype(np.float32)),
        torch.from_numpy(table[:, -1].astype(np.int64)),
        class_names=class_names,
        feature_names=feature_names,
    )


def _table(name: str, *, header: bool = False, delimiter: str | None = ",") -> np.ndarray[Any, Any]:
    """A numeric table that is installed with scikit-learn, as float64 (rows, columns)."""
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataError("this data set comes with scikit-learn, which is not installed: pip install scikit-learn")
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / name
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
            return np.loadtxt(file, delimiter=delimiter, skiprows=1 if header else 0, ndmin=2)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): install scikit-learn again") from None
