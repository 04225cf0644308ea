"""The worst mistakes: wrong classes that the model is most sure of, or the largest residuals."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from dlcli.core.errors import RunError
from dlcli.plots.answers import Answers
from dlcli.plots.curves import run_name
from dlcli.plots.picture import Sheet, Tile
from dlcli.plots.pixels import Place, data_of, to_pngs
from dlcli.runs.run import Run

if TYPE_CHECKING:
    from dlcli.data.dataset import Dataset

_MOST = 40


def errors(one: Answers, notes: list[str], *, place: Place) -> Sheet:
    """The 40 worst, the worst first, as images where the data is images, and else by their rows in the data, counted
    from 0. RunError (exit 4) if there is none."""
    places = worst(one)
    if not places:
        raise RunError(f"{one.run} makes no mistake on its {one.split} split")
    if len(places) > _MOST:
        notes.append(f"of {len(places):,} mistakes of {one.run} the worst {_MOST} are drawn")
    places = places[:_MOST]
    images: Sequence[bytes | None] = [None] * len(places)
    if holds_images(one.run):
        images = images_of(data_of(one.run, place), one.split, places)
    return Sheet(f"worst mistakes on {one.split}, {run_name(one.run)}", tiles(one, places, images))


def worst(one: Answers) -> list[int]:
    """The places in the split of all mistakes, the worst first."""
    import numpy as np

    if one.confidence is None:
        left = one.target.astype(np.float64) - one.predicted.astype(np.float64)
        found = np.argsort(-np.abs(left), kind="stable")
        found = found[left[found] != 0]
    else:
        found = np.flatnonzero(one.target != one.predicted)
        found = found[np.argsort(-one.confidence[found], kind="stable")]
    return [int(place) for place in found]


def tiles(one: Answers, places: Sequence[int], images: Sequence[bytes | None]) -> list[Tile]:
    """The samples at these places of the split: row in the data, target, answer, and the image if there is one."""
    return [
        Tile([f"row {one.index[k]}", f"is {target}", f"not {answer}"], image)
        for k, (target, answer), image in zip(places, map(partial(_told, one), places), images, strict=True)
    ]


def _told(one: Answers, k: int) -> tuple[str, str]:
    if one.confidence is None:
        return f"{one.target[k]:.4g}", f"{one.predicted[k]:.4g}"
    return one.names[int(one.target[k])], f"{one.names[int(one.predicted[k])]} {one.confidence[k]:.1%}"


def holds_images(run: Run) -> bool:
    """Whether the samples of a run can be shown as images: of one or three channels."""
    spec = run.data().get("spec") or {}
    return spec.get("kind") == "image" and spec.get("input_shape", [0])[0] in (1, 3)


def images_of(data: "Dataset", split: str, places: Sequence[int]) -> list[bytes | None]:
    """The samples at these places of a split, as PNG. data: with images of one or three channels. RunError (exit 4) if
    the split does not have so many."""
    import torch

    from dlcli.data.batches import in_order

    whole = data.split(split)
    if max(places) >= len(whole):
        raise RunError(f"the answers are to more samples than the {len(whole):,} of the {split} split")
    part = whole.part(torch.tensor(places))
    return [*to_pngs(next(in_order(part, len(part))).x, data.preprocessing)]
