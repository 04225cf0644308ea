"""Splits and normalisation, and every data set that needs no download."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dlcli.config.own_code import load
from dlcli.config.registry import DATASETS
from dlcli.core.errors import ConfigError, DataError
from dlcli.core.spec import DataSpec
from dlcli.data.dataset import Dataset, Split
from dlcli.data.prepare import prepare
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.source import Source, sound
from dlcli.data.texts.corpus import from_text

FEATURES = DataSpec("multiclass", "features", (3,), 4)
IMAGE = DataSpec("multiclass", "image", (2, 4, 4), 4)
REGRESSION = DataSpec("regression", "features", (3,), 1)


def features(count: int = 100, **more: Any) -> Source:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, generator=generator) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([5.0, -3.0, 0.0])
    return Source(FEATURES, x, torch.randint(4, (count,), generator=generator), **more)


def images(count: int = 60, **more: Any) -> Source:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count, 2, 4, 4), generator=generator).to(torch.uint8)
    return Source(IMAGE, x, torch.arange(count) % 4, **more)


def regression(count: int = 50) -> Source:
    source = features(count)
    return Source(REGRESSION, source.x, 100 + 40 * source.x[:, 1] + source.x[:, 0])


def prepared(source: Source, **changes: Any) -> Dataset:
    settings: dict[str, Any] = {"val_fraction": 0.1, "test_fraction": None, "normalize": True, "seed": 0}
    return prepare(source, **(settings | changes))


def rows(split: Split | None, count: int) -> list[int]:
    if split is None:
        return []
    return list(range(count)) if split.index is None else split.index.tolist()


def everything(data: Split | Dataset) -> tuple[Tensor, Tensor]:
    """x and y of all rows from which a split, or the training split, is drawn."""
    return (data if isinstance(data, Split) else data.train).rows.take(slice(None))


# Splits


@pytest.mark.parametrize(
    ("val_fraction", "test_fraction", "sizes"),
    [
        (0.1, None, (72, 8, 20)),
        (0.25, 0.2, (60, 20, 20)),
        (0.0, None, (80, 0, 20)),
        (0.1, 0.0, (90, 10, 0)),
        (0.0, 0.0, (100, 0, 0)),
        (0.001, 0.0, (99, 1, 0)),  # a requested validation split has at least one sample
    ],
)
def test_parts_are_disjoint_and_cover_everything(val_fraction: float, test_fraction: float, sizes: Any) -> None:
    data = prepared(features(), val_fraction=val_fraction, test_fraction=test_fraction)
    parts = [rows(split, 100) for split in (data.train, data.val, data.test)]
    assert tuple(map(len, parts)) == sizes
    assert sorted(sum(parts, [])) == list(range(100))
    assert (data.val is None, data.test is None) == (sizes[1] == 0, sizes[2] == 0)


def test_the_seed_draws_the_validation_part_and_never_the_test_part() -> None:
    first, same, other = (prepared(features(), seed=seed) for seed in (0, 0, 1))
    for name in ("train", "val", "test"):
        assert torch.equal(first.split(name).index, same.split(name).index)
    assert not torch.equal(first.val.index, other.val.index)
    assert torch.equal(first.test.index, other.test.index)


def test_the_parts_are_drawn_at_random_and_not_cut() -> None:
    data = prepared(features(1000), val_fraction=0.5)
    for split in (data.train, data.val, data.test):
        assert split.index.double().mean().item() == pytest.approx(500, abs=60)


def test_the_golden_split() -> None:
    """It must never change, or runs of old versions would be measured on their own training samples."""
    data = prepared(features(20))
    assert data.test.index.tolist() == [0, 4, 7, 16]
    assert data.val.index.tolist() == [13, 15]


def test_rows_keep_their_labels() -> None:
    source = features()
    data = prepared(source, normalize=False)
    for name in ("train", "val", "test"):
        split = data.split(name)
        x, y = split.rows.take(split.index)
        assert torch.equal(x, source.x[split.index])
        assert torch.equal(y, source.y[split.index])


def test_an_official_test_set_stays_the_test_set() -> None:
    test = images(7)
    source = images(60, test_x=test.x.flip(0), test_y=test.y.flip(0))
    data = prepared(source)
    assert len(data.train) == 54 and len(data.val) == 6
    assert sorted(rows(data.train, 60) + rows(data.val, 60)) == list(range(60))
    assert data.test.index is None
    x, y = everything(data.test)
    assert torch.equal(y, test.y.flip(0))
    torch.testing.assert_close(x, data.preprocessing.apply(test.x.flip(0)))


def test_a_test_fraction_of_an_official_test_set_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        prepared(images(60, test_x=images(7).x, test_y=images(7).y), test_fraction=0.1)
    assert str(caught.value) == "test_fraction = 0.1 cannot be used with data that has a test set of its own"


def test_too_few_samples_are_told() -> None:
    with pytest.raises(DataError) as caught:
        prepared(features(2), val_fraction=0.9, test_fraction=0.5)
    assert str(caught.value) == "2 samples are too few for a training, a validation and a test split"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("val", "there is no val split: val_fraction is 0 in this run"),
        ("test", "there is no test split: test_fraction is 0 in this run"),
        ("tset", "unknown split 'tset': did you mean test?"),
        ("x", "unknown split 'x': known are train, val, test"),
    ],
)
def test_a_split_that_is_not_there_is_told(name: str, message: str) -> None:
    data = prepared(features(), val_fraction=0.0, test_fraction=0.0)
    assert len(data.split("train")) == 100
    with pytest.raises(ConfigError) as caught:
        data.split(name)
    assert str(caught.value) == message


def test_a_text_is_cut_in_order_and_no_character_is_predicted_in_two_parts() -> None:
    letters = "".join(chr(ord("a") + i % 26) + chr(0x4E00 + i) for i in range(500))  # every second character is unique
    source = from_text(letters, length=9)
    data = prepared(source, val_fraction=0.2)
    n = len(source.x)
    test, val = round(0.1 * n), round(0.2 * (n - round(0.1 * n)))
    assert rows(data.train, n) == list(range(n - test - val))
    assert rows(data.val, n) == list(range(n - test - val, n - test))
    assert rows(data.test, n) == list(range(n - test, n))
    seen: set[int] = set()
    for split in (data.train, data.val, data.test):
        tokens, _ = split.rows.take(split.index)
        targets = {t for t in tokens[:, 1:].flatten().tolist() if ord(source.alphabet[t]) > 127}
        assert targets and not targets & seen
        seen |= targets


# Normalisation


def test_statistics_are_the_training_parts_against_numpy() -> None:
    for source, axes in ((features(), 0), (images(), (0, 2, 3))):
        raw = source.x.double().numpy().copy()
        data = prepared(source)
        train = raw[data.train.index.numpy()]
        np.testing.assert_allclose(data.preprocessing.mean, train.mean(axes), rtol=1e-6)
        np.testing.assert_allclose(data.preprocessing.std, train.std(axes), rtol=1e-6)
        ours = everything(data)[0].double().numpy()
        shape = (1, -1, 1, 1) if raw.ndim == 4 else (1, -1)
        expected = (raw - train.mean(axes).reshape(shape)) / train.std(axes).reshape(shape)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [features, images, regression])
@pytest.mark.parametrize("part", ["val", "test"])
def test_a_held_out_row_has_no_influence_on_the_statistics(make: Any, part: str) -> None:
    before = prepared(make())
    source = make()
    row = before.split(part).index[0]
    source.x[row] += 77
    if source.y.is_floating_point():
        source.y[row] += 1e6
    assert prepared(source).preprocessing == before.preprocessing
    train_row = before.train.index[0]
    source.x[train_row] += 77
    assert prepared(source).preprocessing != before.preprocessing


def test_an_official_test_set_has_no_influence_on_the_statistics() -> None:
    bright = torch.full((5, 2, 4, 4), 255, dtype=torch.uint8)
    with_test = prepared(images(test_x=bright, test_y=torch.zeros(5, dtype=torch.long)), val_fraction=0.0)
    alone = prepared(images(), val_fraction=0.0, test_fraction=0.0)
    assert with_test.preprocessing == alone.preprocessing


def test_without_normalisation_values_stay_as_they_are() -> None:
    source = images()
    data = prepared(source, normalize=False)
    assert data.preprocessing.mean == data.preprocessing.std == ()
    x, _ = everything(data)
    assert x.dtype == torch.float32
    assert torch.equal(x, source.x.float())
    assert (data.preprocessing.target_mean, data.preprocessing.target_std) == (0.0, 1.0)


def test_a_regressions_target_is_normalised_by_the_training_part() -> None:
    source = regression()
    data = prepared(source)
    train = source.y.double().numpy()[data.train.index.numpy()]
    assert data.preprocessing.target_mean == pytest.approx(train.mean(), rel=1e-12)
    assert data.preprocessing.target_std == pytest.approx(train.std(), rel=1e-12)
    torch.testing.assert_close(
        everything(data)[1].double() * data.preprocessing.target_std + data.preprocessing.target_mean,
        source.y.double(),
        rtol=1e-5,
        atol=1e-4,
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.1, -12345.678])
def test_a_constant_column_or_target_becomes_zero(value: float) -> None:
    source = regression()
    source.x[:, 1] = value
    source.y[:] = value
    data = prepared(source)
    assert data.preprocessing.std[1] == 1.0 and data.preprocessing.target_std == 1.0
    x, y = everything(data)
    assert x[:, 1].abs().max() == 0
    assert y.abs().max() <= abs(value) * 1e-7


@pytest.mark.parametrize("scale", [1e-30, 1e-13, 1e13, 1e30])
def test_the_unit_of_a_feature_does_not_matter(scale: float) -> None:
    """Its deviation is numpy's, and what the model gets is the same."""
    plain, scaled = features(), features()
    scaled = dataclasses.replace(scaled, x=scaled.x.double().mul(scale).float())
    data, small = prepared(plain), prepared(scaled)
    expected = scaled.x.double().numpy()[small.train.index.numpy()].std(0)  # type: ignore[union-attr]
    assert small.preprocessing.std == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(everything(small)[0], everything(data)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("value", "constant"), [(1.0, 0.0), (1e6, 0.0625), (1.0, 1e-7)])
def test_values_that_differ_by_the_rounding_of_their_mean_are_constant(value: float, constant: float) -> None:
    source = features()
    source.x[:, 0] = value
    source.x[::2, 0] += constant
    assert prepared(source).preprocessing.std[0] == 1.0
    source.x[::2, 0] += 3e-7 * value
    assert prepared(source).preprocessing.std[0] < 1.0


def test_a_feature_without_a_reciprocal_in_float32_is_named() -> None:
    source = features(feature_names=("a", "b", "c"))
    source.x[:, 1] *= 1e-39
    with pytest.raises(
        DataError, match=r"feature 1 \(b\) varies by only 9\.\d+e-39, too little for float32: multiply it"
    ):
        prepared(source)


def test_channels_last_memory_for_images() -> None:
    data = prepared(images())
    assert everything(data)[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("make", [features, images, regression])
def test_preparing_leaves_the_source_alone(make: Any, normalize: bool) -> None:
    source, untouched = make(), make()
    prepared(source, normalize=normalize)
    assert torch.equal(source.x, untouched.x) and torch.equal(source.y, untouched.y)


def test_blank_is_what_a_black_pixel_becomes() -> None:
    about = prepared(images()).preprocessing
    black = torch.zeros(3, 2, 4, 4, dtype=torch.uint8)
    torch.testing.assert_close(about.blank(black.device).expand(3, 2, 4, 4), about.apply(black))
    assert Preprocessing(IMAGE).blank(black.device).item() == 0


def test_other_data_can_be_prepared_as_the_first_was() -> None:
    first = prepared(features())
    other = features(40)
    again = prepared(Source(FEATURES, other.x * 3, other.y), preprocessing=first.preprocessing)
    assert again.preprocessing is first.preprocessing
    torch.testing.assert_close(everything(again)[0], first.preprocessing.apply(other.x * 3))


@pytest.mark.parametrize("make", [features, images, regression])
def test_preprocessing_survives_json(make: Any) -> None:
    import json

    about = prepared(make()).preprocessing
    assert Preprocessing.from_dict(json.loads(json.dumps(about.as_dict()))) == about


# The fingerprint


def test_the_fingerprint_changes_with_every_value() -> None:
    def official() -> Source:
        test = features(5)
        return features(test_x=test.x, test_y=test.y)

    def with_one_more(name: str) -> Source:
        source = official()
        tensor: Tensor = getattr(source, name)
        tensor.view(-1)[-1] += 1
        return source

    names = ("x", "y", "test_x", "test_y")
    prints = [prepared(source).fingerprint for source in (official(), *map(with_one_more, names))]
    assert len(set(prints)) == 5
    assert prepared(official(), seed=9, val_fraction=0.3, normalize=False).fingerprint == prints[0]
    flat = Source(IMAGE, images().x.view(60, 2, 16), images().y)
    assert flat.fingerprint != images().fingerprint


def test_a_validation_set_of_its_own_is_the_val_split_and_counts_in_the_fingerprint() -> None:
    val = {"val_x": images().x[:7], "val_y": torch.arange(7) % 2}
    data = prepared(images(**val), val_fraction=None)
    assert [len(data.split(part)) for part in ("train", "val", "test")] == [48, 7, 12]
    assert everything(data.split("val"))[1].tolist() == [0, 1, 0, 1, 0, 1, 0]
    other = images(**val | {"val_y": torch.zeros(7, dtype=torch.long)})
    prints = {prepared(source, val_fraction=None).fingerprint for source in (images(), images(**val), other)}
    assert len(prints) == 3
    with pytest.raises(ConfigError) as caught:
        prepared(images(**val), val_fraction=0.2)
    assert str(caught.value) == "val_fraction = 0.2 cannot be used with data that has a validation set of its own"
    with pytest.raises(ValueError) as wrong:
        sound(images(**val | {"val_y": torch.full((7,), 9)}))
    assert str(wrong.value).startswith("val_y[0] is 9, but classes are whole numbers from 0 to ")
    with pytest.raises(ValueError) as wrong:
        sound(images(val_x=val["val_x"]))
    assert str(wrong.value) == "val_y is None, but (7,) is expected, one target per row of val_x"


# Every data set that needs no download and no files of one's own but a text (tables, images: tests of their own)

LOCAL = [
    name
    for name, entry in DATASETS.items()
    if "download" not in entry.origin and entry.file != "FOLDER" and name not in ("table", "texts")
]


def loaded(name: str, folder: Path, **options: Any) -> Source:
    found = load(DATASETS[name].target)(folder, **options)
    return found if isinstance(found, Source) else found.fit(torch.arange(found.rows), None)


def source_of(name: str, folder: Path) -> Source:
    options: dict[str, Any] = {"samples": 200} if name == "recall" else {}
    if name == "text":
        (folder / "a.txt").write_text("Some text, which is repeated over and over.\n" * 60)
        options = {"path": str(folder / "a.txt"), "length": 32}
    if name == "arrays":
        x, y = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 3
        np.savez(folder / "a.npz", x=x, y=y)
        options = {"path": str(folder / "a.npz")}
    return loaded(name, folder, **options)


def test_there_are_twelve_of_them() -> None:
    """A table and labelled texts are no Source before they are split: see test_tables.py and test_texts.py."""
    assert len(LOCAL) == 12


@pytest.mark.parametrize("name", LOCAL)
def test_shapes_and_types_agree_with_the_spec(name: str, tmp_path: Path) -> None:
    source = source_of(name, tmp_path)
    spec, data = source.spec, prepared(source)
    row = (spec.input_shape[0] + 1,) if spec.task == "next-token" else spec.input_shape
    assert source.x.shape[1:] == row
    for split in (data.train, data.val, data.test):
        assert len(split) >= 1
        x, y = everything(split)
        if spec.kind == "tokens":
            assert not x.is_floating_point()
            assert 0 <= x.min() and x.max() < spec.vocabulary
        else:
            assert x.dtype == torch.float32 and x.isfinite().all()
        if spec.task == "regression":
            assert y.dtype == torch.float32 and spec.outputs == 1
        elif spec.task != "next-token":
            assert y.dtype == torch.int64
    if spec.task == "next-token":
        assert source.y is None and len(source.alphabet) == spec.outputs == spec.vocabulary
    else:
        assert source.y.shape == (len(source.x),)
    if spec.task in ("binary", "multiclass"):
        classes = 2 if spec.task == "binary" else spec.outputs
        assert source.y.unique().tolist() == list(range(classes))
        assert len(source.class_names) == classes
    if spec.kind == "features" and source.feature_names:
        assert len(source.feature_names) == spec.input_shape[0]
    assert spec == DataSpec.from_dict(spec.as_dict())


@pytest.mark.parametrize("name", LOCAL)
def test_the_same_settings_give_the_same_parts_which_are_disjoint(name: str, tmp_path: Path) -> None:
    source = source_of(name, tmp_path)
    n = len(source.x)
    first, same, other = (prepared(source_of(name, tmp_path), seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == same.fingerprint == other.fingerprint
    parts = [rows(first.split(part), n) for part in ("train", "val", "test")]
    assert sorted(sum(parts, [])) == list(range(n))
    assert parts == [rows(same.split(part), n) for part in ("train", "val", "test")]
    assert (rows(other.val, n) == parts[1]) is source.ordered
    assert torch.equal(everything(first)[0], everything(same)[0])


@pytest.mark.parametrize("name", LOCAL)
def test_the_registry_tells_the_truth(name: str, tmp_path: Path) -> None:
    entry, spec = DATASETS[name], source_of(name, tmp_path).spec
    kinds = {"regression": "regression", "binary": "binary", "next-token": "next token"}
    if name == "arrays":
        assert entry.task == "that of y" and entry.shape == "that of x"
        return
    assert entry.task == kinds.get(spec.task, f"classes ({spec.outputs})")
    source = loaded(name, tmp_path) if name != "text" else None
    if source is not None:
        shape = "x".join(map(str, source.spec.input_shape))
        assert entry.shape.removesuffix(" tokens") == shape
        if entry.size.isdigit():
            assert int(entry.size) == len(source.x)
