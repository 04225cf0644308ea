"""Batches: every sample once per epoch; order and augmentation depend only on the seed."""

import itertools

import pytest
import torch
from torch import Tensor

from dlcli.core.spec import DataSpec
from dlcli.data import augment, batches
from dlcli.data.dataset import Split
from dlcli.data.rows import Tensors

IMAGE = DataSpec("multiclass", "image", (2, 4, 4), 10)

# The first 20 of 100 ids in epoch 1 of seed 0. They must never change, or runs of old versions could not be repeated.
GOLDEN = [16, 59, 36, 38, 98, 96, 68, 57, 0, 5, 33, 19, 12, 17, 87, 80, 89, 1, 37, 34]


def numbered(count: int = 100, index: Tensor | None = None) -> Split:
    """Samples that contain their own number: in x and, negative, in y."""
    return Split(Tensors(torch.arange(count)[:, None].float(), -torch.arange(count)), index)


def pictures(count: int = 10, index: Tensor | None = None) -> Split:
    x = torch.rand(count, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    return Split(Tensors(x.contiguous(memory_format=torch.channels_last), torch.arange(count)), index)


def ids(found: list[batches.Batch]) -> list[int]:
    assert all(torch.equal(b.x[:, 0], -b.y.float()) for b in found)
    return [int(i) for b in found for i in b.x[:, 0]]


SOME = torch.tensor([3, 5, 7, 11, 13, 17, 19])


@pytest.mark.parametrize("batch_size", [1, 7, 30, 100, 500])
@pytest.mark.parametrize("index", [None, SOME])
def test_every_sample_comes_once_and_the_last_batch_may_be_smaller(batch_size: int, index: Tensor | None) -> None:
    expected = list(range(100)) if index is None else SOME.tolist()
    in_order = list(batches.in_order(numbered(index=index), batch_size))
    shuffled = list(batches.shuffled(numbered(index=index), batch_size, seed=0, epoch=1))
    assert ids(in_order) == expected
    assert sorted(ids(shuffled)) == expected
    full, rest = divmod(len(expected), batch_size)
    assert [len(b) for b in in_order] == [len(b) for b in shuffled] == [batch_size] * full + [rest] * (rest > 0)


def test_the_golden_order() -> None:
    assert ids(list(batches.shuffled(numbered(), 20, seed=0, epoch=1)))[:20] == GOLDEN


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int, batch_size: int = 10) -> list[int]:
        return ids(list(batches.shuffled(numbered(), batch_size, seed=seed, epoch=epoch)))

    torch.manual_seed(5)
    assert order(0, 1) == order(0, 1, batch_size=33) == batches.epoch_order(numbered(), seed=0, epoch=1).tolist()
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (1, 2, 3)}) == 6


def test_shuffling_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    list(batches.shuffled(pictures(), 4, seed=0, epoch=1, augmentations=augment.parse(("flip", "mixup"), IMAGE)))
    assert torch.equal(torch.rand(3), expected)


def test_endless_is_one_epoch_after_the_other() -> None:
    split = numbered()
    several = [b for epoch in (2, 3, 4) for b in batches.shuffled(split, 30, seed=5, epoch=epoch)]
    stream = batches.endless(split, 30, seed=5, epoch=2, first=1)
    assert ids(list(itertools.islice(stream, 11))) == ids(several[1:])


def test_endless_gives_a_whole_split_in_order() -> None:
    for split, rows in ((numbered(), list(range(100))), (numbered(index=SOME), SOME.tolist())):
        for batch in itertools.islice(batches.endless(split, 100, seed=0, epoch=1), 3):
            assert ids([batch]) == rows


@pytest.mark.parametrize("index", [None, torch.tensor([1, 4, 8])])
def test_images_are_gathered_whole_and_stay_channels_last(index: Tensor | None) -> None:
    split = pictures(index=index)
    for make in (batches.in_order(split, 2), batches.shuffled(split, 2, seed=0, epoch=1)):
        for batch in make:
            assert torch.equal(batch.x, split.rows.take(slice(None))[0][batch.y])
            assert batch.x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
@pytest.mark.parametrize("index", [None, torch.tensor([2, 0])])
def test_next_token_targets_are_the_row_shifted_by_one(dtype: torch.dtype, index: Tensor | None) -> None:
    rows = torch.tensor([[1, 2, 3, 4], [4, 5, 6, 7], [7, 8, 9, 0]], dtype=dtype)
    (batch,) = batches.in_order(Split(Tensors(rows, None), index), 10)
    chosen = rows if index is None else rows[index]
    assert batch.x.tolist() == chosen[:, :-1].tolist()
    assert batch.y.tolist() == chosen[:, 1:].tolist()
    assert batch.x.dtype == batch.y.dtype == torch.int64
    for shuffled in batches.shuffled(Split(Tensors(rows, None), index), 1, seed=0, epoch=1):
        assert torch.equal(shuffled.x[:, 1:], shuffled.y[:, :-1])


# Augmentation

ALL = ("shift=1", "flip", "rotate=30", "erase=0.5", "noise=0.1", "mixup=0.4")


def augmented(texts: tuple[str, ...] = ALL, *, seed: int = 0, epoch: int = 1) -> list[batches.Batch]:
    chosen = augment.parse(texts, IMAGE)
    blank = torch.full((2, 1, 1), -1.0)
    return list(batches.shuffled(pictures(), 4, seed=seed, epoch=epoch, augmentations=chosen, blank=blank))


def test_augmentation_is_a_function_of_seed_epoch_and_batch() -> None:
    for a, b in zip(augmented(), augmented(), strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y)
        assert a.seed == b.seed
    seeds = [b.seed for s in (0, 1) for e in (1, 2) for b in augmented(seed=s, epoch=e)]
    assert len(set(seeds)) == len(seeds) == 12


def test_a_batch_is_augmented_alike_whichever_batches_were_taken_before() -> None:
    picture, _ = pictures(1).rows.take(slice(None))
    same = [Split(Tensors(picture.expand(8, 2, 4, 4), torch.zeros(8, dtype=torch.long))) for _ in range(2)]
    chosen = augment.parse(("noise=0.1",), IMAGE)
    first, second = batches.shuffled(same[0], 4, seed=0, epoch=1, augmentations=chosen)
    again = next(batches.shuffled(same[1], 4, seed=0, epoch=1, augmentations=chosen))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, second.x)  # two batches of equal samples get different noise


def test_augmentation_leaves_labels_and_the_split_alone() -> None:
    split = pictures()
    before = split.rows.take(slice(None))[0].clone()
    plain = list(batches.shuffled(split, 4, seed=0, epoch=1))
    for a, b in zip(augmented(), plain, strict=True):
        assert torch.equal(a.y, b.y)
        assert a.x.shape == b.x.shape and not torch.equal(a.x, b.x)
    assert torch.equal(split.rows.take(slice(None))[0], before)


def test_what_is_shifted_in_is_the_blank() -> None:
    for batch in augmented(("shift=3",)):
        assert (batch.x == -1).any()
    no_blank = batches.shuffled(pictures(), 10, seed=0, epoch=1, augmentations=augment.parse(("shift=3",), IMAGE))
    assert (next(no_blank).x == 0).any()
