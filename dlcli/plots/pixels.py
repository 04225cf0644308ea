"""The data of a run, and its images as PNG."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlcli.core.errors import ConfigError
from dlcli.runs.run import Run

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from dlcli.data.dataset import Dataset
    from dlcli.data.preprocessing import Preprocessing

    Array = np.ndarray[Any, Any]

_LEAST = 80  # pixels of the longer side


@dataclass(frozen=True)
class Place:
    """Where the data of a run is. data: another name of it, such as table:FILE after the file was moved, or another
    data set of the same shape. folder: of all data sets. None of either: as in the training."""

    data: str | None = None
    folder: str | None = None


AS_TRAINED = Place()


def data_of(run: Run, place: Place) -> "Dataset":
    """The data of a run, on the CPU. DataError (exit 3) if it is not what the run was trained on, and no other data is
    named."""
    from dlcli.experiment.load import import_own, load_data
    from dlcli.experiment.restore import preprocessing_of

    config = run.config() if place.folder is None else run.config().with_values(data_dir=place.folder)
    import_own(config, runs_dir=run.root)
    fingerprint = run.data().get("fingerprint") if place.data is None else None
    return load_data(
        config, device="cpu", name=place.data, preprocessing=preprocessing_of(run), fingerprint=fingerprint
    )


def check_images(run: Run, about: "Preprocessing", what: str) -> None:
    """ConfigError (exit 2) unless the run expects images of one or three channels."""
    if about.spec.kind != "image" or about.spec.input_shape[0] not in (1, 3):
        raise ConfigError(f"--what {what} is for images of 1 or 3 channels, and {run} expects {about.spec}")


def to_pngs(x: "Tensor", about: "Preprocessing") -> list[bytes]:
    """As `to_pixels`, encoded."""
    return [png(image) for image in to_pixels(x, about)]


def to_pixels(x: "Tensor", about: "Preprocessing") -> "Array":
    """Model input (N, C, H, W) as images: uint8 (N, H, W, C), one channel, their mean, where there are not 1 or 3. The
    normalisation is undone, and what is darker than black or lighter than white is shown as these."""
    import torch

    x = x.cpu()
    black, white = about.blank(torch.device("cpu")), about.white(torch.device("cpu"))
    pixels = ((x.float() - black) / (white - black)).clamp(0, 1)
    if x.shape[1] not in (1, 3):
        pixels = pixels.mean(1, keepdim=True)
    return pixels.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def png(pixels: "Array") -> bytes:
    """uint8 (H, W, 1 or 3). The pixels of a small image become squares, as viewers would smooth it."""
    from PIL import Image

    size = -(-_LEAST // max(pixels.shape[:2]))
    pixels = pixels.repeat(size, 0).repeat(size, 1)
    content = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(content, "PNG")
    return content.getvalue()
