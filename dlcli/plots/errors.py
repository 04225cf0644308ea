"""The worst mistakes: wrong classes that the model is most sure of, or the largest residuals."""

from dlcli.core.errors import RunError
from dlcli.plots.answers import Answers
from dlcli.plots.curves import run_name
from dlcli.plots.picture import Sheet, Tile
from dlcli.plots.pixels import Place, data_of, to_pngs
from dlcli.runs.run import Run

_MOST = 40


def errors(one: Answers, notes: list[str], *, place: Place) -> Sheet:
    """The 40 worst, the worst first, as images where the data is images, and else by their rows in the data, counted
    from 0. RunError (exit 4) if there is none."""
    import numpy as np

    if one.confidence is None:
        left = one.target.astype(np.float64) - one.predicted.astype(np.float64)
        worst = np.argsort(-np.abs(left), kind="stable")
        worst = worst[left[worst] != 0]
        captions = [[f"is {one.target[k]:.4g}", f"not {one.predicted[k]:.4g}"] for k in worst[:_MOST]]
    else:
        worst = np.flatnonzero(one.target != one.predicted)
        worst = worst[np.argsort(-one.confidence[worst], kind="stable")]
        captions = [
            [f"is {one.names[int(one.target[k])]}", f"not {one.names[int(one.predicted[k])]} {one.confidence[k]:.1%}"]
            for k in worst[:_MOST]
        ]
    if not len(worst):
        raise RunError(f"{one.run} makes no mistake on its {one.split} split")
    if len(worst) > _MOST:
        notes.append(f"of {len(worst):,} mistakes of {one.run} the worst {_MOST} are drawn")
    places = worst[:_MOST]
    images = _images(one.run, one.split, places.tolist(), place)
    tiles = [
        Tile([f"row {one.index[k]}", *caption], image)
        for k, caption, image in zip(places, captions, images, strict=True)
    ]
    return Sheet(f"worst mistakes on {one.split}, {run_name(one.run)}", tiles)


def _images(run: Run, split: str, places: list[int], place: Place) -> list[bytes | None]:
    """Of these samples of the split; None for each if they are no images."""
    spec = run.data().get("spec") or {}
    if spec.get("kind") != "image":
        return [None] * len(places)
    import torch

    from dlcli.data.batches import in_order

    data = data_of(run, place)
    if data.spec.input_shape[0] not in (1, 3):
        return [None] * len(places)
    part = data.split(split).part(torch.tensor(places))
    return [*to_pngs(next(in_order(part, len(part))).x, data.preprocessing)]
