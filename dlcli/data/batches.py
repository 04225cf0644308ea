"""Batches of a split: an epoch is a permutation drawn from (seed, epoch), and a batch is one `take` of the next rows.

No Python code runs per sample, and nothing waits for the device. B batch, T steps.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from dlcli.core.seeds import derive
from dlcli.data import augment, colours
from dlcli.data.augment import Augmentation
from dlcli.data.dataset import Split
from dlcli.data.draws import Draws
from dlcli.data.rows import Rows, cut_by

# From the places of a batch, first and end, to those of a part.
Part = Callable[[int, int], tuple[int, int]]

# Batches that a slow storage reads before they are wanted.
_AHEAD = 3


@dataclass(frozen=True, slots=True)
class Batch:
    """x: (B, ...) input. y: (B,) or (B, T) target. seed: for random numbers that the objective needs (mixup).

    samples: (B,) where the samples are in the split, counted from 0; None for a batch that is not of `endless`.
    own: of the part of a batch, how many of the samples count; further ones are there to be mixed with them, or because
    a part without any sample still has to be computed. None: all count.
    """

    x: Tensor
    y: Tensor
    seed: int = 0
    samples: Tensor | None = None
    own: int | None = None

    def __len__(self) -> int:
        return len(self.x) if self.own is None else self.own


def in_order(split: Split, batch_size: int, *, turn: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
    """All samples once, in the order of the split. turn: which batches are wanted, the first and how many further."""
    first, every = turn
    places = (slice(start, start + batch_size) for start in range(first * batch_size, len(split), every * batch_size))
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
    part: Part | None = None,
) -> Iterator[Batch]:
    """All samples once, in the order that (seed, epoch) gives, augmented by (seed, epoch, batch number).

    first: the number of the first batch that is wanted; skipping batches does not change the later ones.
    count: number of batches, see `positions`; None for the number that the batch size gives.
    part: which part of each batch is wanted; None for all of it. What a sample gets does not depend on it.
    """
    samples = _permutation(split, seed=seed, epoch=epoch)
    order = samples if split.index is None else split.index.index_select(0, samples)
    draws = Draws(torch.Generator(split.rows.device)) if augmentations else None
    mixes = any(a.name in ("mixup", "cutmix") for a in augmentations)
    count = count or -(-len(order) // batch_size)
    rows = split.rows
    if draws is not None and augmentations[0].name == "crop":
        early = list(itertools.takewhile(lambda a: a.name in ("crop", "flip"), augmentations))
        rows = cut_by(rows, partial(_cropped, early=early, draws=draws))
        augmentations = augmentations[len(early) :]
    places = [positions(number, batch_size, count=count) for number in range(count)]
    here = [_here(place, len(order), part, mixes=mixes) for place in places]
    taken = _taken(rows, (order[place][where] for place, (where, _) in zip(places[first:], here[first:], strict=True)))
    for number, (place, (where, own)) in enumerate(zip(places[first:], here[first:], strict=True), start=first):
        whole = samples[place]
        if draws is not None:
            draws.begin(
                derive(seed, "augment", epoch, number),
                whole=len(whole),
                where=where if isinstance(where, Tensor) else None,
            )
        batch = _batch(*next(taken), samples=whole[where], own=own)
        if draws is not None:
            x = _augmented(batch.x, augmentations, blank, white, draws)
            batch = replace(batch, x=x, seed=derive(seed, "mixup", epoch, number))
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
    part: Part | None = None,
) -> Iterator[Batch]:
    """The batches of all epochs without end, starting with batch `first` of `epoch`. count: batches per epoch; for the
    other arguments see `shuffled`."""
    if batch_size >= len(split) and not augmentations:
        where, own = _here(slice(0, None), len(split), part, mixes=False)
        places = where if isinstance(where, slice) else where.to(split.rows.device)
        samples = torch.arange(len(split), device=split.rows.device)[places]
        wanted = places if split.index is None else split.index[places]
        yield from itertools.repeat(_batch(*next(_taken(split.rows, iter([wanted]))), samples=samples, own=own))
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
            part=part,
        )


def _here(place: slice, samples: int, part: Part | None, *, mixes: bool) -> tuple[slice | Tensor, int | None]:
    """Which samples of a batch are in this part of it, and how many of them count; see Batch."""
    if part is None:
        return slice(None), None
    first, last, _ = place.indices(samples)
    start, stop = part(0, last - first)
    where = torch.arange(start, stop) if stop > start else torch.zeros(1, dtype=torch.int64)
    if mixes:
        where = torch.cat([where[: stop - start], last - first - 1 - where[: stop - start]])
    return where if len(where) else torch.zeros(1, dtype=torch.int64), stop - start


def _batch(x: Tensor, y: Tensor | None, *, samples: Tensor | None = None, own: int | None = None) -> Batch:
    if y is not None:
        return Batch(x, y, samples=samples, own=own)
    rows = x.long()  # (B, T + 1) tokens
    return Batch(rows[:, :-1], rows[:, 1:], samples=samples, own=own)


def _cropped(x: Tensor, *, height: int, width: int, early: Sequence[Augmentation], draws: Draws) -> Tensor:
    """What comes first, before the images are normalised: it takes a quarter of the memory."""
    for a in early:
        if a.name == "crop":
            x = augment.crop(x, a.strength, height, width, draws)
        else:
            x = augment.flip(x, draws)
    return x


def _augmented(
    x: Tensor,
    augmentations: Sequence[Augmentation],
    blank: Tensor | None,
    white: Tensor | None,
    draws: Draws,
) -> Tensor:
    """Applies all augmentations except crop, which is done before, and mixup and cutmix, which also mix the targets:
    see experiment/objective.py."""
    black = torch.zeros((), device=x.device) if blank is None else blank
    bright = black + 1 if white is None else white
    for a in augmentations:
        if a.name == "shift":
            x = augment.shift(x, int(a.strength), black, draws)
        elif a.name == "flip":
            x = augment.flip(x, draws)
        elif a.name == "rotate":
            x = augment.rotate(x, a.strength, black, draws)
        elif a.name == "erase":
            x = augment.erase(x, a.strength, black, draws)
        elif a.name == "noise":
            x = augment.noise(x, a.strength, draws)
        elif a.name == "color":
            x = colours.jitter(x, a.strength, black, bright, draws)
        elif a.name == "randaugment":
            x = colours.rand_augment(x, a.strength, black, bright, draws)
    return x
