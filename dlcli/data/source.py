"""Source: what a loader read, before it is split and normalised."""

from dataclasses import dataclass

from torch import Tensor

from dlcli.core.spec import DataSpec


@dataclass(frozen=True)
class Source:
    """Data as read, before splitting and normalising.

    x: uint8 (N, C, H, W) images, float32 (N, F) features, or integer (N, T) tokens. For next-token data
        each row has T + 1 tokens and there is no y.
    y: int64 (N,) classes, or float32 (N,) targets.
    test_x, test_y: the official test set, if the data has one.
    pixel_max: the value of a white pixel.
    ordered: rows follow each other (a text), so parts are cut off in order rather than drawn at random.
    """

    spec: DataSpec
    x: Tensor
    y: Tensor | None
    test_x: Tensor | None = None
    test_y: Tensor | None = None
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    alphabet: str = ""
    pixel_max: float = 255.0
    ordered: bool = False
