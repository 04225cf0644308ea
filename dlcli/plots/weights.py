"""The filters of the first layer of a model of images."""

from dlcli.core.errors import ConfigError
from dlcli.plots.curves import run_name
from dlcli.plots.picture import Sheet, Tile
from dlcli.plots.pixels import check_images, png
from dlcli.runs.run import Run

_MOST = 64


def weights(run: Run, notes: list[str]) -> Sheet:
    """The first 64 filters of the first layer of the best checkpoint: grey is 0, and black and white are the largest
    weight of all of them. ConfigError (exit 2) if that layer has no weights over images of 1 or 3 channels."""
    from dlcli.experiment.filters import are_filters, first_weights, grey
    from dlcli.experiment.restore import restore

    restored = restore(run, device="cpu")
    check_images(run, restored.preprocessing, "weights")
    name, value = first_weights(restored.model, restored.preprocessing.spec)
    if not are_filters(value):
        raise ConfigError(f"--what weights is for filters over images, and {name} of {run} is {tuple(value.shape)}")
    pixels = grey(value)
    if len(pixels) > _MOST:
        notes.append(f"of the {len(pixels)} filters of {name} of {run} the first {_MOST} are drawn")
    tiles = [Tile([str(number)], png(each)) for number, each in enumerate(pixels[:_MOST])]
    return Sheet(f"{name}, largest weight {float(value.abs().max()):.3g}, {run_name(run)}", tiles)
