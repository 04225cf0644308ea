"""Maps over images: which places speak for a class, in orange, and which against it, in blue."""

from typing import TYPE_CHECKING, Any

from dlcli.plots.picture import Sheet, Tile
from dlcli.plots.pixels import png, to_pixels

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from dlcli.data.preprocessing import Preprocessing

    Array = np.ndarray[Any, Any]

_FOR, _AGAINST = (213, 94, 0), (0, 114, 178)  # of Okabe and Ito (2008)
_STRONGEST = 0.9
_TILE = 160  # units of the picture
_SHADES_WIDE = 38  # places, of two characters
_BRIGHT = 0.99  # quantile: single pixels of a noisy map do not darken the rest


def scaled(values: "Tensor") -> "Array":
    """(H, W) -> float64 from -1 to 1; 0 stays 0. The highest hundredth of the places is cut off."""
    import numpy as np

    found = values.cpu().numpy()
    most = float(np.quantile(np.abs(found), _BRIGHT)) or float(np.abs(found).max())
    return (found / most).clip(-1, 1) if most else np.zeros_like(found)


def overlay(x: "Tensor", values: "Tensor", about: "Preprocessing") -> "Array":
    """uint8 (H, W, 3): the image (1, C, H, W) in grey under the map (H, W)."""
    import numpy as np

    grey = to_pixels(x, about)[0].astype(np.float64).mean(2, keepdims=True)
    strength = scaled(values)[:, :, None]
    colour = np.where(strength >= 0, np.array(_FOR), np.array(_AGAINST))
    share = np.abs(strength) * _STRONGEST
    return ((1 - share) * grey + share * colour).round().astype(np.uint8)  # type: ignore[no-any-return]


def shades(values: "Tensor") -> "list[list[float]]":
    """A map (H, W) in so few places that a terminal can show it: the share of the strongest, 0 to 1."""
    import torch.nn.functional as F

    height, width = values.shape
    wide = min(width, _SHADES_WIDE)
    size = max(1, round(height * wide / width)), wide
    small = F.adaptive_avg_pool2d(values.abs()[None, None].cpu(), size)[0, 0]
    most = float(small.max())
    rows: list[list[float]] = (small / most if most else small).tolist()
    return rows


def attribution_sheet(title: str, samples: "list[tuple[list[str], Tensor, Tensor]]", about: "Preprocessing") -> Sheet:
    """Each image and beside it its map. samples: caption, image (1, C, H, W), map (H, W)."""
    tiles = []
    for caption, x, values in samples:
        shown = to_pixels(x, about)[0]
        tiles.append(Tile(caption, png(shown)))
        tiles.append(Tile([], png(overlay(x, values, about)), shades(values)))
    return Sheet(title, tiles, size=_TILE)
