"""The data of a run, and its images as PNG."""

import io
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


def data_of(run: Run, data_dir: str | None) -> "Dataset":
    """The data that a run was trained on, on the CPU. data_dir: the folder of data sets, if it is not the one of the
    training. DataError (exit 3) if the data has changed."""
    from dlcli.experiment.load import import_own, load_data
    from dlcli.experiment.restore import preprocessing_of

    config = run.config() if data_dir is None else run.config().with_values(data_dir=data_dir)
    import_own(config, runs_dir=run.root)
    fingerprint = run.data().get("fingerprint")
    return load_data(config, device="cpu", preprocessing=preprocessing_of(run), fingerprint=fingerprint)


def check_images(run: Run, about: "Preprocessing", what: str) -> None:
    """ConfigError (exit 2) unless the run expects images of one or three channels."""
    if about.spec.kind != "image" or about.spec.input_shape[0] not in (1, 3):
        raise ConfigError(f"--what {what} is for images of 1 or 3 channels, and {run} expects {about.spec}")


def to_pngs(x: "Tensor", about: "Preprocessing") -> list[bytes]:
    """Model input (N, C, H, W) as images: the normalisation is undone, and what is darker than black or lighter than
    white is shown as these."""
    import torch

    black, white = about.blank(torch.device("cpu")), about.white(torch.device("cpu"))
    pixels = ((x.float() - black) / (white - black)).clamp(0, 1).mul(255).round().to(torch.uint8)
    return [png(image) for image in pixels.permute(0, 2, 3, 1).numpy()]


def png(pixels: "Array") -> bytes:
    """uint8 (H, W, 1 or 3). The pixels of a small image become squares, as viewers would smooth it."""
    from PIL import Image

    size = -(-_LEAST // max(pixels.shape[:2]))
    pixels = pixels.repeat(size, 0).repeat(size, 1)
    content = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(content, "PNG")
    return content.getvalue()
