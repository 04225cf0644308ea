"""Generated data: the documented distribution, the same for the same seed, and errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
import torch

from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.data import synthetic
from dlcli.data.source import Source

NOWHERE = Path("/nowhere")
ALL = (synthetic.line, synthetic.make_regression, synthetic.random, synthetic.recall)


def equal(a: Source, b: Source) -> bool:
    return torch.equal(a.x, b.x) and torch.equal(a.y, b.y)


@pytest.mark.parametrize("make", ALL)
def test_the_seed_decides(make: Any) -> None:
    torch.manual_seed(1)
    first = make(NOWHERE, samples=50, seed=3)
    torch.manual_seed(2)  # torch's global generator is not used
    assert equal(make(NOWHERE, samples=50, seed=3), first)
    assert not equal(make(NOWHERE, samples=50, seed=4), first)
    assert len(first.x) == len(first.y) == 50


@pytest.mark.parametrize("make", ALL)
def test_making_data_leaves_the_global_generator_alone(make: Any) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    make(NOWHERE, samples=50)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "data.samples = 0 must be at least 1"),
        ({"seed": -1}, "data.seed = -1 is out of range: it must be in [0, 4294967296)"),
        ({"seed": 2**32}, "data.seed = 4294967296 is out of range: it must be in [0, 4294967296)"),
    ],
)
def test_samples_and_seed_are_checked(make: Any, options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(NOWHERE, **options)
    assert str(caught.value) == message


def test_line_is_x_plus_3_noise() -> None:
    data = synthetic.line(NOWHERE, samples=20_000)
    x, y = data.x[:, 0].double().numpy(), data.y.double().numpy()
    assert data.spec == DataSpec("regression", "features", (1,), 1)
    assert x.mean() == pytest.approx(0, abs=0.15) and x.std() == pytest.approx(5, rel=0.03)
    slope, intercept = np.polyfit(x, y, 1)
    assert slope == pytest.approx(1, abs=0.02) and intercept == pytest.approx(0, abs=0.1)
    assert (y - slope * x - intercept).std() == pytest.approx(3, rel=0.03)


@pytest.mark.parametrize(
    "options", [{}, {"samples": 30, "features": 4, "noise": 0.0, "seed": 7}, {"noise": 5.5, "seed": 0}]
)
def test_make_regression_is_scikit_learns(options: dict[str, Any]) -> None:
    ours = synthetic.make_regression(NOWHERE, **options)
    values = {"samples": 100, "features": 1, "noise": 20.0, "seed": 42} | options
    x, y = sklearn.datasets.make_regression(
        n_samples=values["samples"],
        n_features=values["features"],
        noise=values["noise"],
        random_state=values["seed"],
    )
    np.testing.assert_array_equal(ours.x.numpy(), x.astype(np.float32))
    np.testing.assert_array_equal(ours.y.numpy(), y.astype(np.float32))
    assert ours.spec == DataSpec("regression", "features", (values["features"],), 1)
    assert ours.feature_names == tuple(f"x{i}" for i in range(values["features"]))


def test_make_regressions_least_squares_are_the_articles() -> None:
    data = synthetic.make_regression(NOWHERE)
    design = np.column_stack([data.x.double().numpy(), np.ones(100)])
    (w, b), residual, *_ = np.linalg.lstsq(design, data.y.double().numpy(), rcond=None)
    assert (w, b, residual[0] / 100) == pytest.approx((47.13324, 2.33023, 312.2170), rel=1e-5)


def test_random_has_labels_that_say_nothing() -> None:
    data = synthetic.random(NOWHERE, samples=5000, classes=4)
    assert data.spec == DataSpec("multiclass", "features", (3,), 4)
    assert data.x.mean().item() == pytest.approx(0, abs=0.05) and data.x.std().item() == pytest.approx(1, abs=0.05)
    assert (data.y.bincount() / 5000).tolist() == pytest.approx([0.25] * 4, abs=0.03)
    for k in range(4):  # the inputs of every class look the same
        assert data.x[data.y == k].mean(0).tolist() == pytest.approx([0] * 3, abs=0.12)
    assert data.class_names == ("0", "1", "2", "3")


def test_random_of_three_numbers_is_an_image() -> None:
    data = synthetic.random(NOWHERE, samples=5, shape=(3, 4, 6))
    assert data.x.shape == (5, 3, 4, 6)
    assert data.spec == DataSpec("multiclass", "image", (3, 4, 6), 10)
    assert data.pixel_max == 1.0


def test_recall_asks_for_the_value_of_one_of_its_keys() -> None:
    pairs, keys, values = 5, 12, 4
    data = synthetic.recall(NOWHERE, samples=400, pairs=pairs, keys=keys, values=values)
    assert data.spec == DataSpec("multiclass", "tokens", (6,), 4, vocabulary=12 * 4 + 12)
    assert 0 <= data.x.min() and data.x.max() < data.spec.vocabulary
    asked_positions = set()
    for row, answer in zip(data.x.tolist(), data.y.tolist(), strict=True):
        key = [token // values for token in row[:-1]]
        value = [token % values for token in row[:-1]]
        assert len(set(key)) == pairs and max(key) < keys
        query = row[-1] - keys * values
        assert 0 <= query < keys
        assert answer == value[key.index(query)]
        asked_positions.add(key.index(query))
    assert asked_positions == set(range(pairs))
    assert data.y.bincount().tolist() == pytest.approx([100] * 4, abs=40)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (synthetic.make_regression, {"features": 0}, "data.features = 0 must be at least 1"),
        (synthetic.make_regression, {"noise": -1.0}, "data.noise = -1.0 must be a finite number of at least 0"),
        (
            synthetic.make_regression,
            {"noise": float("nan")},
            "data.noise = nan must be a finite number of at least 0",
        ),
        (
            synthetic.make_regression,
            {"noise": float("inf")},
            "data.noise = inf must be a finite number of at least 0",
        ),
        (synthetic.random, {"classes": 1}, "data.classes = 1 must be at least 2"),
        (synthetic.random, {"shape": (3, 0, 4)}, "data.shape = 0 must be at least 1"),
        (
            synthetic.random,
            {"shape": (3, 4)},
            "data.shape = (3, 4) must be one number (features) or three (channels,height,width)",
        ),
        (
            synthetic.random,
            {"shape": ()},
            "data.shape = () must be one number (features) or three (channels,height,width)",
        ),
        (synthetic.recall, {"pairs": 0}, "data.pairs = 0 must be at least 1"),
        (synthetic.recall, {"keys": 0}, "data.keys = 0 must be at least 1"),
        (synthetic.recall, {"values": 1}, "data.values = 1 must be at least 2"),
        (
            synthetic.recall,
            {"pairs": 9, "keys": 8},
            "data.pairs = 9 must be at most data.keys = 8: each key occurs once",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(NOWHERE, **options)
    assert str(caught.value) == message
