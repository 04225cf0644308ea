"""Augmentation of whole batches, compared with loops in numpy. Every generator is seeded, so that draws are fixed."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.data import augment, colours
from dlcli.data.augment import Augmentation
from dlcli.data.draws import Draws

IMAGE = DataSpec("multiclass", "image", (1, 8, 8), 10)
FEATURES = DataSpec("multiclass", "features", (4,), 3)
TOKENS = DataSpec("multiclass", "tokens", (9,), 8, vocabulary=48)
BLANK = torch.tensor([-0.5, -0.25]).view(2, 1, 1)  # normalised black, one value per channel


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeded(seed: int = 0) -> Draws:
    draws = Draws(torch.Generator())
    draws.begin(seed)
    return draws


def images(count: int = 40, height: int = 5, width: int = 7) -> Tensor:
    return torch.rand(count, 2, height, width, generator=generator(9)) + 1  # nothing is blank


@pytest.mark.parametrize("pixels", [1, 2, 9])
def test_shift_is_one_of_the_shifts_of_a_numpy_loop(pixels: int) -> None:
    x = images(250)
    moved = augment.shift(x, pixels, BLANK, seeded()).numpy()
    seen = set()
    for before, after in zip(x.numpy(), moved, strict=True):
        canvas = np.broadcast_to(BLANK.numpy(), (2, 5 + 2 * pixels, 7 + 2 * pixels)).copy()
        canvas[:, pixels : pixels + 5, pixels : pixels + 7] = before
        places = [
            (down, across)
            for down in range(2 * pixels + 1)
            for across in range(2 * pixels + 1)
            if np.array_equal(after, canvas[:, down : down + 5, across : across + 7])
        ]
        assert places  # an image that is shifted out completely matches several places
        seen.update(places)
    if pixels < 3:
        assert seen == {(i, j) for i in range(2 * pixels + 1) for j in range(2 * pixels + 1)}


@pytest.mark.parametrize("large", [False, True])  # large images are mirrored one by one
def test_flip_mirrors_about_half_of_the_images(large: bool) -> None:
    x = images(1000)
    if large:
        x = x.repeat(1, 1, 1, augment._LARGE // x[0].numel() + 1)
    flipped = augment.flip(x, seeded()).numpy()
    count = 0
    for before, after in zip(x.numpy(), flipped, strict=True):
        mirrored = np.array_equal(after, before[:, :, ::-1])
        assert mirrored or np.array_equal(after, before)
        count += mirrored
    assert count == pytest.approx(500, abs=60)


def test_rotation_by_0_is_identity() -> None:
    x = images()
    torch.testing.assert_close(augment.rotate(x, 0, BLANK, seeded()), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("turns", [1, 2, -1])
def test_rotation_by_quarter_turns_is_rot90(seed: int, turns: int) -> None:
    share = 2 * torch.rand(1, generator=generator(seed)).item() - 1  # fraction of the strength that the generator draws
    x = images(1, 6, 6)
    turned = augment.rotate(x, 90 * turns / share, BLANK, seeded(seed))[0].numpy()
    ways = [np.rot90(x[0].numpy(), k * turns, axes=(1, 2)) for k in (1, -1)]
    assert any(np.allclose(turned, way, atol=1e-4) for way in ways)


def test_rotation_stays_within_its_degrees_either_way_and_brings_in_black() -> None:
    # A bright pixel far from the centre: the angle follows from its new place.
    x = BLANK.expand(200, 2, 41, 41).clone()
    x[:, :, 19:22, 38:41] = 5.0
    turned = augment.rotate(x, 20, BLANK, seeded())
    weight = (turned[:, 0] - BLANK[0]).numpy()
    rows, columns = np.mgrid[0:41, 0:41] - 20
    total = weight.sum((1, 2))
    angles = np.degrees(np.arctan2((weight * rows).sum((1, 2)) / total, (weight * columns).sum((1, 2)) / total))
    assert np.abs(angles).max() <= 21
    assert angles.min() < -15 and angles.max() > 15
    assert angles.mean() == pytest.approx(0, abs=3)
    torch.testing.assert_close(turned[:, :, 20, 5], BLANK[:, :, 0].T.expand(200, 2))


def test_rotation_keeps_the_shape_of_things_on_an_oblong_image() -> None:
    share = 2 * torch.rand(1, generator=generator(1)).item() - 1
    x = torch.zeros(1, 1, 21, 41)
    x[0, 0, 9:12, 28:31] = 1  # 9 pixels to the right of the centre
    turned = augment.rotate(x, 90 / share, torch.zeros(()), seeded(1))[0, 0]
    rows, columns = turned.nonzero(as_tuple=True)
    distance = math.hypot(rows.double().mean() - 10, columns.double().mean() - 20)
    assert distance == pytest.approx(9, abs=0.1)
    assert turned.sum().item() == pytest.approx(9, abs=0.1)


def test_erasing_blanks_one_rectangle_of_2_to_33_percent() -> None:
    x = images(400, 64, 64)
    erased = augment.erase(x, 1.0, BLANK, seeded()).numpy()
    blank = BLANK.numpy()
    areas, taller = [], 0
    for before, after in zip(x.numpy(), erased, strict=True):
        hole = (after != before).all(0)
        assert np.array_equal(after, np.where(hole, blank, before))
        rows, columns = hole.any(1).nonzero()[0], hole.any(0).nonzero()[0]
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert hole.sum() == len(rows) * len(columns)
        areas.append(hole.mean())
        taller += len(rows) > len(columns)
    assert 0.015 < min(areas) < 0.05 and 0.28 < max(areas) < 0.345  # the edges are rounded to whole pixels
    assert taller == pytest.approx(200, abs=50)


def test_erasing_happens_with_its_probability() -> None:
    x = images(1000, 16, 16)
    changed = (augment.erase(x, 0.25, BLANK, seeded()) != x).flatten(1).any(1)
    assert changed.sum().item() == pytest.approx(250, abs=50)
    assert torch.equal(augment.erase(x, 0.0, BLANK, seeded()), x)


def test_noise_has_its_deviation_and_no_mean() -> None:
    x = images(1000)
    added = augment.noise(x, 0.3, seeded()) - x
    assert added.mean().item() == pytest.approx(0, abs=0.005)
    assert added.std().item() == pytest.approx(0.3, rel=0.01)
    assert torch.equal(augment.noise(x, 0.0, seeded()), x)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_weighs_a_batch_with_its_reverse(alpha: float) -> None:
    x, y = images(6), torch.arange(6)
    weights = []
    for seed in range(300):
        mixed, other, weight = augment.mixed(x, y, [Augmentation("mixup", alpha)], seed)
        weights.append(weight)
    torch.testing.assert_close(mixed, torch.stack([weight * x[i] + (1 - weight) * x[5 - i] for i in range(6)]))
    assert other.tolist() == [5, 4, 3, 2, 1, 0]
    assert 0 <= min(weights) and max(weights) <= 1
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
    assert np.mean(weights) == pytest.approx(0.5, abs=0.06)
    assert np.var(weights) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)


def test_mixup_of_alpha_0_mixes_nothing() -> None:
    x = images(6)
    mixed, _, weight = augment.mixed(x, torch.arange(6), [Augmentation("mixup", 0.0)], 1)
    assert weight == 1.0 and torch.equal(mixed, x)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_cutmix_puts_a_rectangle_of_the_reverse_into_a_batch(alpha: float) -> None:
    x, y = images(6, 20, 30), torch.arange(6)
    areas, places = [], set()
    for seed in range(300):
        mixed, other, weight = augment.mixed(x, y, [Augmentation("cutmix", alpha)], seed)
        hole = (mixed != x).all(1).any(0).numpy()
        rows, columns = hole.any(1).nonzero()[0], hole.any(0).nonzero()[0]
        assert hole.sum() == len(rows) * len(columns) and weight == pytest.approx(1 - hole.mean())
        assert torch.equal(mixed, torch.where(torch.tensor(hole), x.flip(0), x))
        areas.append(hole.mean())
        places.update(rows)
    assert other.tolist() == [5, 4, 3, 2, 1, 0]
    assert min(areas) < 0.05 and max(areas) > 0.5 and places == set(range(20))
    assert torch.equal(augment.cutmix(x, x.flip(0), 0.0, 1)[0], x)


def test_a_crop_is_torchvisions_resized_crop_of_a_box_of_the_right_area_and_shape() -> None:
    from torchvision.transforms.v2 import functional

    x = torch.randint(256, (200, 3, 64, 48), generator=generator(1)).to(torch.uint8)
    x = x.contiguous(memory_format=torch.channels_last)
    found = augment.crop(x, 0.25, 20, 16, seeded())
    assert found.shape == (200, 3, 20, 16) and found.is_contiguous(memory_format=torch.channels_last)
    u = torch.rand(4, 200, generator=generator(), dtype=torch.float64).numpy()
    area, aspect = (0.25 + 0.75 * u[0]) * 64 * 48, 0.75 * (16 / 9) ** u[1]
    assert 0.25 <= area.min() / 3072 < 0.3 and 0.75 <= aspect.min() < 0.8 and 1.25 < aspect.max() <= 4 / 3
    for k in range(200):
        height = min(64, max(1, round(math.sqrt(area[k] / aspect[k]))))
        width = min(48, max(1, round(math.sqrt(area[k] * aspect[k]))))
        top, left = int(u[2, k] * (64 - height + 1)), int(u[3, k] * (48 - width + 1))
        expected = functional.resized_crop(x[k], top, left, height, width, [20, 16], antialias=True)
        assert torch.equal(found[k], expected)


def test_color_is_torchvisions_brightness_contrast_and_saturation() -> None:
    from torchvision.transforms.v2 import functional

    x = torch.rand(30, 3, 8, 9, generator=generator(1))
    black, white = torch.tensor([-1.0, -2.0, -3.0]).view(3, 1, 1), torch.tensor([1.0, 3.0, 2.0]).view(3, 1, 1)
    normalised = x * (white - black) + black
    found = colours.jitter(normalised, 0.4, black, white, seeded())
    factors = 1 + 0.4 * (2 * torch.rand(3, 30, 1, 1, 1, generator=generator()) - 1)
    for k in range(30):
        b, c, s = factors[:, k].flatten().tolist()
        expected = functional.adjust_brightness(x[k], b)
        expected = functional.adjust_saturation(functional.adjust_contrast(expected, c), s)
        torch.testing.assert_close(found[k], expected * (white - black) + black, atol=1e-3, rtol=1e-3)
    assert 0.6 < factors.min() < 0.7 and 1.3 < factors.max() < 1.4
    grey = torch.rand(4, 1, 8, 9, generator=generator(1))
    assert colours.jitter(grey, 0.4, torch.zeros(()), torch.ones(()), seeded()).shape == grey.shape


@pytest.mark.parametrize("magnitude", [3, 9, 30])
@pytest.mark.parametrize("number", range(1, 14))
def test_the_operations_of_randaugment_are_torchvisions(number: int, magnitude: int) -> None:
    """Colours within two levels of 256, since torchvision cuts off, also grey in between, where we round."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    coarse = torch.rand(4, 3, 6, 7, generator=generator(number)) * 255
    image = torch.nn.functional.interpolate(coarse, size=(30, 34), mode="bilinear").round()
    part, sign = magnitude / 30, torch.tensor([1.0, -1.0, 1.0, -1.0]).view(4, 1, 1, 1)
    found = colours._operation(number, image, part, sign).round()
    for k in range(4):
        s, raw = sign[k].item(), image[k].to(torch.uint8)
        turn: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
        moves: dict[int, Any] = {
            1: {"shear": [math.degrees(math.atan(0.3 * part * s)), 0.0]},
            2: {"shear": [0.0, math.degrees(math.atan(0.3 * part * s))]},
            3: {"translate": [int(150 / 331 * 34 * part * s), 0]},
            4: {"translate": [0, int(150 / 331 * 30 * part * s)]},
        }
        factor = 1 + 0.9 * part * s
        nearest = {"interpolation": InterpolationMode.NEAREST}
        calls: dict[int, tuple[Any, Any]] = {
            5: (functional.rotate, (30 * part * s,)),
            6: (functional.adjust_brightness, (factor,)),
            7: (functional.adjust_saturation, (factor,)),
            8: (functional.adjust_contrast, (factor,)),
            9: (functional.adjust_sharpness, (factor,)),
            10: (functional.posterize, (8 - round(4 * part),)),
            11: (functional.solarize, (255 * (1 - part),)),
            12: (functional.autocontrast, ()),
            13: (functional.equalize, ()),
        }
        if number in moves:
            expected = functional.affine(raw, **(turn | moves[number]), **nearest)
        else:
            call, arguments = calls[number]
            expected = call(raw, *arguments, **(nearest if number == 5 else {}))
        difference = (found[k] - expected.float()).abs()
        assert difference.max() <= (0 if number <= 5 else 2)


def test_randaugment_changes_most_images_and_stays_between_black_and_white() -> None:
    x = torch.rand(300, 3, 16, 16, generator=generator(1)).contiguous(memory_format=torch.channels_last)
    found = colours.rand_augment(x, 9, torch.zeros(()), torch.ones(()), seeded())
    assert 0 <= found.min() and found.max() <= 1 and found.is_contiguous(memory_format=torch.channels_last)
    assert ((found - x).abs().amax((1, 2, 3)) > 0.01).float().mean() > 0.9
    assert torch.equal(found, colours.rand_augment(x, 9, torch.zeros(()), torch.ones(()), seeded()))


def test_nothing_is_changed_in_place() -> None:
    x = images()
    before = x.clone()
    augment.shift(x, 2, BLANK, seeded())
    augment.flip(x, seeded())
    augment.rotate(x, 10, BLANK, seeded())
    augment.erase(x, 1.0, BLANK, seeded())
    augment.noise(x, 1.0, seeded())
    augment.mixup(x, x.flip(0), 1.0, 0)
    augment.cutmix(x, x.flip(0), 1.0, 0)
    augment.crop(x, 0.1, 5, 7, seeded())
    colours.jitter(x, 0.4, BLANK, BLANK + 3, seeded())
    colours.rand_augment(x, 9, BLANK, BLANK + 3, seeded())
    assert torch.equal(x, before)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_in_channels_last_memory_stay_so(channels: int) -> None:
    """Otherwise convolutions would convert every batch to that order."""
    x = torch.rand(4, channels, 5, 7).contiguous(memory_format=torch.channels_last)
    for after in (
        augment.shift(x, 2, torch.zeros(()), seeded()),
        augment.flip(x, seeded()),
        augment.rotate(x, 10, torch.zeros(()), seeded()),
        augment.erase(x, 1.0, torch.zeros(()), seeded()),
        augment.noise(x, 1.0, seeded()),
        augment.mixup(x, x.flip(0), 0.2, 0)[0],
    ):
        assert after.is_contiguous(memory_format=torch.channels_last)


# What is written on the command line


def test_parse_knows_names_strengths_and_defaults_and_puts_mixup_last() -> None:
    assert [a.name for a in augment.parse(("mixup", "flip", "crop"), IMAGE)] == ["crop", "flip", "mixup"]
    found = augment.parse(("mixup", "shift", "flip", "rotate=15.5", "erase=1", "noise=0.3"), IMAGE)
    assert found == (
        Augmentation("shift", 2),
        Augmentation("flip", 0),
        Augmentation("rotate", 15.5),
        Augmentation("erase", 1),
        Augmentation("noise", 0.3),
        Augmentation("mixup", 0.2),
    )
    assert augment.parse((), TOKENS) == ()
    assert augment.parse(("noise", "mixup=0"), FEATURES) == (Augmentation("noise", 0.1), Augmentation("mixup", 0))


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        ("shft", IMAGE, "unknown augment 'shft': did you mean shift?"),
        (
            "zoom",
            IMAGE,
            "unknown augment 'zoom': known are shift, flip, rotate, erase, noise, crop, color, randaugment, mixup, "
            "cutmix",
        ),
        ("crop=0", IMAGE, "augment = crop=0 is out of range: crop goes from 0.01 to 1"),
        ("cutmix", FEATURES, "augment = cutmix is for image, but the data is features of 4"),
        ("flip=1", IMAGE, "augment = flip=1: flip takes no value"),
        ("shift=two", IMAGE, "augment = shift=two: 'two' is not a number"),
        ("shift=", IMAGE, "augment = shift=: '' is not a number"),
        ("shift=0", IMAGE, "augment = shift=0 is out of range: shift goes from 1 to 1024"),
        ("rotate=181", IMAGE, "augment = rotate=181 is out of range: rotate goes from 0 to 180"),
        ("erase=nan", IMAGE, "augment = erase=nan is out of range: erase goes from 0 to 1"),
        ("noise=-1", IMAGE, "augment = noise=-1 is out of range: noise goes from 0 to 1000"),
        ("shift", FEATURES, "augment = shift is for image, but the data is features of 4"),
        ("noise", TOKENS, "augment = noise is for image and features, but the data is tokens of 9"),
    ],
)
def test_parse_refuses(text: str, spec: DataSpec, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        augment.parse((text,), spec)
    assert str(caught.value) == message


def test_a_shift_by_part_of_a_pixel_is_refused_as_such() -> None:
    with pytest.raises(ConfigError) as caught:
        augment.parse(("shift=1.5",), IMAGE)
    assert str(caught.value) == "augment = shift=1.5: shift takes whole pixels"
