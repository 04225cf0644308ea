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
    import torch

    from dlcli.experiment.restore import restore

    restored = restore(run, device="cpu")
    check_images(run, restored.preprocessing, "weights")
    shape = restored.preprocessing.spec.input_shape
    name, value = next((n, p.detach().float()) for n, p in restored.model.named_parameters() if p.dim() > 1)
    if value.dim() == 2 and value[0].numel() == torch.Size(shape).numel():
        value = value.view(-1, *shape)
    if value.dim() != 4 or value.shape[1] not in (1, 3):
        raise ConfigError(f"--what weights is for filters over images, and {name} of {run} is {tuple(value.shape)}")
    largest = value.abs().max().clamp(min=1e-30)
    pixels = ((value / largest + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    if len(pixels) > _MOST:
        notes.append(f"of the {len(pixels)} filters of {name} of {run} the first {_MOST} are drawn")
    tiles = [Tile([str(number)], png(each.numpy())) for number, each in enumerate(pixels[:_MOST])]
    return Sheet(f"{name}, largest weight {float(largest):.3g}, {run_name(run)}", tiles)
