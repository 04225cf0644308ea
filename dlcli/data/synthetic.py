"""Synthetic data. It is made from `data.seed`, not from the run's seed: the same options always give the same data."""

import math
from pathlib import Path
from typing import Literal

import torch

from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.data.source import Source


def line(data_dir: Path, *, samples: int = 1000, seed: int = 0) -> Source:
    """y = x + 3 noise, x ~ 5 N(0, 1), noise ~ N(0, 1)."""
    generator = _generator(seed, samples)
    x = 5 * torch.randn(samples, 1, generator=generator)
    y = x[:, 0] + 3 * torch.randn(samples, generator=generator)
    return Source(DataSpec("regression", "features", (1,), 1), x, y, feature_names=("x",))


def make_regression(
    data_dir: Path, *, samples: int = 100, features: int = 1, noise: float = 20.0, seed: int = 42
) -> Source:
    """scikit-learn's `make_regression(n_samples, n_features, noise, random_state)`."""
    _at_least_one("features", features)
    _generator(seed, samples)
    if not 0 <= noise < math.inf:
        raise ConfigError(f"data.noise = {noise} must be a finite number of at least 0")
    from sklearn.datasets import make_regression

    x, y = make_regression(n_samples=samples, n_features=features, noise=noise, random_state=seed)
    return Source(
        DataSpec("regression", "features", (features,), 1),
        torch.from_numpy(x).float(),
        torch.from_numpy(y).float(),
        feature_names=tuple(f"x{i}" for i in range(features)),
    )


def random(
    data_dir: Path, *, samples: int = 1000, shape: tuple[int, ...] = (3,), classes: int = 10, seed: int = 0
) -> Source:
    """Normal noise with independent random labels: the expected accuracy on held-out data is 1 / classes.

    shape: of one sample: (features,), or (channels, height, width) for images.
    """
    generator = _generator(seed, samples)
    for size in shape:
        _at_least_one("shape", size)
    if len(shape) not in (1, 3):
        raise ConfigError(f"data.shape = {shape} must be one number (features) or three (channels,height,width)")
    if classes < 2:
        raise ConfigError(f"data.classes = {classes} must be at least 2")
    x = torch.randn(samples, *shape, generator=generator)
    y = torch.randint(classes, (samples,), generator=generator)
    kind: Literal["image", "features"] = "image" if len(shape) == 3 else "features"
    names = tuple(str(c) for c in range(classes))
    return Source(DataSpec("multiclass", kind, tuple(shape), classes), x, y, class_names=names, pixel_max=1.0)


def recall(
    data_dir: Path, *, samples: int = 20_000, pairs: int = 8, keys: int = 16, values: int = 8, seed: int = 0
) -> Source:
    """Associative recall: `pairs` (key, value) pairs with different keys, then one of these keys as a query.

    The class is the value paired with the queried key, so it can only be found by comparing the query with every pair.
    A pair is the token key * values + value, a query the token keys * values + key; a row has pairs + 1 tokens.
    After the associative recall task of Graves, Wayne and Danihelka 2014 (Neural Turing Machines, arXiv:1410.5401).
    """
    generator = _generator(seed, samples)
    for name, size in (("pairs", pairs), ("keys", keys)):
        _at_least_one(name, size)
    if values < 2:
        raise ConfigError(f"data.values = {values} must be at least 2")
    if pairs > keys:
        raise ConfigError(f"data.pairs = {pairs} must be at most data.keys = {keys}: each key occurs once")
    key = torch.rand(samples, keys, generator=generator).argsort(1)[:, :pairs]  # (N, pairs), all different
    value = torch.randint(values, (samples, pairs), generator=generator)
    asked = torch.randint(pairs, (samples, 1), generator=generator)
    query = keys * values + key.gather(1, asked)  # (N, 1)
    x = torch.cat([key * values + value, query], 1)
    spec = DataSpec("multiclass", "tokens", (pairs + 1,), values, vocabulary=keys * values + keys)
    return Source(spec, x, value.gather(1, asked)[:, 0], class_names=tuple(str(v) for v in range(values)))


def _generator(seed: int, samples: int) -> torch.Generator:
    _at_least_one("samples", samples)
    if not 0 <= seed < 2**32:
        raise ConfigError(f"data.seed = {seed} is out of range: it must be in [0, 4294967296)")
    return torch.Generator().manual_seed(seed)


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"data.{name} = {value} must be at least 1")
