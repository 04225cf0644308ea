"""A check whether the pixels of new images resemble those of the training data."""

import math

from torch import Tensor

from dlcli.data.preprocessing import Preprocessing

# Warn beyond this distance of the means, in standard deviations, or this ratio of the standard deviations.
_SHIFT, _FACTOR = 0.75, 8.0


class Pixels:
    """Sums over the pixels of images. about: holds the statistics of the training data."""

    def __init__(self, about: Preprocessing) -> None:
        self._about = about
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, raw: Tensor) -> None:
        """raw: (N, C, H, W) values from 0 (black) to `pixel_max` (white)."""
        raw = raw.double()
        self._count += raw.numel()
        self._sum += raw.sum().item()
        self._squares += raw.square().sum().item()

    def warning(self, *, inverted: bool) -> str | None:
        """A sentence if the mean or standard deviation of all pixels is far from that of the training data; else None,
        also if the training did not normalise and so kept no statistics. inverted: whether --invert was given."""
        if not self._about.mean or not self._count:
            return None
        mean, std = self._sum / self._count, _deviation(self._sum / self._count, self._squares / self._count)
        channels = len(self._about.mean)
        expected = sum(self._about.mean) / channels
        squares = [m * m + s * s for m, s in zip(self._about.mean, self._about.std, strict=True)]
        expected_std, white = _deviation(expected, sum(squares) / channels), self._about.pixel_max
        if abs(mean - expected) <= _SHIFT * expected_std and expected_std / _FACTOR <= std <= expected_std * _FACTOR:
            return None
        told = (
            f"warning: the pixels of the input have a mean of {mean:.4g} (standard deviation {std:.4g}), those of the "
            f"training data {expected:.4g} ({expected_std:.4g}), where white is {white:g}"
        )
        if abs(white - mean - expected) < abs(mean - expected) / 2:
            return f"{told}: black and white seem swapped; {'leave out' if inverted else 'try'} --invert"
        return f"{told}: prepare the input as the training data was prepared"


def _deviation(mean: float, mean_square: float) -> float:
    return math.sqrt(max(mean_square - mean * mean, 0.0))
