"""Batches of a split: an epoch is a permutation drawn from (seed, epoch), and a batch is one `take` of the next rows.

No Python code runs per sample, and nothing waits for the device. B batch, T steps.
"""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from dlcli.core.seeds import derive
from dlcli.data import augment, colours
from dlcli.data.augment import Augmentation
from dlcli.data.dataset import Split
from dlcli.data.rows import Rows, cut_by

# Batches that a slow storage reads before they are wanted.
_AHEAD = 3


@dataclass(frozen=True, slots=True)
class Batch:
    """x: (B, ...) input. y: (B,) or (B, T) target. seed: for random numbers that the objective needs (mixup).

    samples: (B,) where the samples are in the split, counted from 0; None for a batch that is not of `endless`.
    """

    x: Tensor
    y: Tensor
    seed: int = 0
    samples: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)


def in_order(split: Split, batch_size: int) -> Iterator[Batch]:
    """All samples once, in the order of the split."""
    places = (slice(start, start + batch_size) for start in range(0, len(split), batch_size))
    wanted = (place if split.index is None else split.index[place] for place in places)
    for taken in _taken(split.rows, wanted):
        yield _batch(*taken)


def epoch_order(split: Split, *, seed: int, epoch: int) -> Tensor:
    """The row numbers of the split in the order of this epoch, (N,) int64, on the device of the data."""
    order = _permutation(split, seed=seed, epoch=epoch)
    return order if split.index is None else split.index.index_select(0, order)


def _permutation(split: Split, *, seed: int, epoch: int) -> Tensor:
    """The samples of the split, counted from 0, in the order of this epoch."""
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    return torch.randperm(len(split), generator=generator).to(split.rows.device)


def shuffled(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    augmentations: Sequence[Augmentation] = (),
    blank: Tensor | None = None,
    white: Tensor | None = None,
    first: int = 0,
    count: int | None = None,
) -> Iterator[Batch]:
    """All samples once, in the order that (seed, epoch) gives, augmented by (seed, epoch, batch number).

    first: the number of the first batch that is wanted; skipping batches does not change the later ones.
    count: number of batches, see `positions`; None for the number that the batch size gives.
    """
    samples = _permutation(split, seed=seed, epoch=epoch)
    order = samples if split.index is None else split.index.index_select(0, samples)
    generator = torch.Generator(split.rows.device) if augmentations else None
    count = count or -(-len(order) // batch_size)
    rows = split.rows
    if generator is not None and augmentations[0].name == "crop":
        early = list(itertools.takewhile(lambda a: a.name in ("crop", "flip"), augmentations))
        rows = cut_by(rows, partial(_cropped, early=early, generator=generator))
        augmentations = augmentations[len(early) :]
    wanted = (order[positions(number, batch_size, count=count)] for number in range(first, count))
    taken = _taken(rows, wanted)
    for number in range(first, count):
        if generator is not None:
            generator.manual_seed(derive(seed, "augment", epoch, number))
        batch = _batch(*next(taken), samples=samples[positions(number, batch_size, count=count)])
        if generator is not None:
            x = _augmented(batch.x, augmentations, blank, white, generator)
            batch = Batch(x, batch.y, seed=derive(seed, "mixup", epoch, number), samples=batch.samples)
        yield batch


def _taken(rows: Rows, wanted: Iterator[Tensor | slice]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """`rows.take` of each; a storage that is slow reads a few ahead."""
    ahead: deque[Tensor | slice] = deque()
    for indices in wanted:
        rows.prefetch(indices)
        ahead.append(indices)
        if len(ahead) > _AHEAD:
            yield rows.take(ahead.popleft())
    while ahead:
        yield rows.take(ahead.popleft())


def positions(number: int, batch_size: int, *, count: int) -> slice:
    """Where the samples of a batch are in the order of its epoch. The last of `count` batches takes all that remain."""
    start = number * batch_size
    return slice(start, None if number == count - 1 else start + batch_size)


def full(split: Split) -> Batch:
    """The whole split as one batch."""
    return next(in_order(split, len(split)))


def endless(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    first: int = 0,
    count: int | None = None,
    augmentations: Sequence[Augmentation] = (),
    blank: Tensor | None = None,
    white: Tensor | None = None,
) -> Iterator[Batch]:
    """The batches of all epochs without end, starting with batch `first` of `epoch`. count: batches per epoch."""
    if batch_size >= len(split) and not augmentations:
        batch = full(split)
        yield from itertools.repeat(replace(batch, samples=torch.arange(len(split), device=split.rows.device)))
    for number in itertools.count(epoch):
        yield from shuffled(
            split,
            batch_size,
            seed=seed,
            epoch=number,
            augmentations=augmentations,
            blank=blank,
            white=white,
            first=first if number == epoch else 0,
            count=count,
        )


def _batch(x: Tensor, y: Tensor | None, *, samples: Tensor | None = None) -> Batch:
    if y is not None:
        return Batch(x, y, samples=samples)
    rows = x.long()  # (B, T + 1) tokens
    return Batch(rows[:, :-1], rows[:, 1:], samples=samples)


def _cropped(
    x: Tensor, *, height: int, width: int, early: Sequence[Augmentation], generator: torch.Generator
) -> Tensor:
    """What comes first, before the images are normalised: it takes a quarter of the memory."""
    for a in early:
        if a.name == "crop":
            x = augment.crop(x, a.strength, height, width, generator)
        else:
            x = augment.flip(x, generator)
    return x


def _augmented(
    x: Tensor,
    augmentations: Sequence[Augmentation],
    blank: Tensor | None,
    white: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """Applies all augmentations except crop, which is done before, and mixup and cutmix, which also mix the targets:
    see experiment/objective.py."""
    black = torch.zeros((), device=x.device) if blank is None else blank
    bright = black + 1 if white is None else white
    for a in augmentations:
        if a.name == "shift":
            x = augment.shift(x, int(a.strength), black, generator)
        elif a.name == "flip":
            x = augment.flip(x, generator)
        elif a.name == "rotate":
            x = augment.rotate(x, a.strength, black, generator)
        elif a.name == "erase":
            x = augment.erase(x, a.strength, black, generator)
        elif a.name == "noise":
            x = augment.noise(x, a.strength, generator)
        elif a.name == "color":
            x = colours.jitter(x, a.strength, black, bright, generator)
        elif a.name == "randaugment":
            x = colours.rand_augment(x, a.strength, black, bright, generator)
    return x
