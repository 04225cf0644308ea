"""Source: what a loader read. Dataset: its train, val and test splits as tensors on a device, normalised.

Shape letters: N samples, C channels, H height, W width, F features, T steps.
"""

from dataclasses import dataclass

from torch import Tensor

from dlcli.core.errors import ConfigError, did_you_mean
from dlcli.core.spec import DataSpec
from dlcli.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class Split:
    """Some of the rows of `x` and `y`; `index` is None when it is all of them. Nothing is copied.

    x: float32 (N, C, H, W) in channels-last memory, float32 (N, F), or tokens (N, T) or (N, T + 1).
    """

    x: Tensor
    y: Tensor | None
    index: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x) if self.index is None else len(self.index)


@dataclass(frozen=True)
class Dataset:
    """The splits of one data set. `val` and `test` are None when nothing is held out for them."""

    preprocessing: Preprocessing
    train: Split
    val: Split | None
    test: Split | None
    fingerprint: str

    @property
    def spec(self) -> DataSpec:
        return self.preprocessing.spec

    def split(self, name: str) -> Split:
        """The split of that name; ConfigError when there is none."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        if name not in splits:
            raise ConfigError(f"unknown split {name!r}: {did_you_mean(name, splits)}")
        found = splits[name]
        if found is None:
            raise ConfigError(f"there is no {name} split: {name}_fraction is 0 in this run")
        return found
