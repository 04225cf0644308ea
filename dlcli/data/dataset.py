"""Dataset: the train, val and test splits of a data set."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dlcli.core.errors import ConfigError, did_you_mean
from dlcli.core.spec import DataSpec
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.rows import Rows, Tensors, are_decoded


@dataclass(frozen=True)
class Split:
    """A subset of `rows`, without a copy. index: int64 row numbers on the device of the rows; None means all rows."""

    rows: Rows
    index: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows) if self.index is None else len(self.index)

    @property
    def is_decoded(self) -> bool:
        """Whether the samples are images that other processes decode, batch by batch."""
        return are_decoded(self.rows)

    @classmethod
    def of(cls, x: Tensor, y: Tensor | None) -> "Split":
        """Samples that are model input already, (N, ...), and their targets."""
        return cls(Tensors(x, y))

    def part(self, positions: Tensor) -> "Split":
        """The samples at these positions in the split, counted from 0."""
        positions = positions.to(self.rows.device)
        return Split(self.rows, positions if self.index is None else self.index[positions])


@dataclass(frozen=True)
class Dataset:
    """The splits of one data set. `val` and `test` are None if nothing is held out for them.

    fingerprint: sha256 of the data as read.
    typical: of the targets of the training split, how often each class or token occurs (K,), or their mean as the loss
        takes it (1,).
    resolved, unknown, notes: see Source.
    """

    preprocessing: Preprocessing
    train: Split
    val: Split | None
    test: Split | None
    fingerprint: str
    typical: Tensor
    resolved: Mapping[str, Any] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def spec(self) -> DataSpec:
        return self.preprocessing.spec

    @property
    def bytes(self) -> int:
        """Memory that the data needs; rows that several splits share are counted once."""
        stored = {id(s.rows): s.rows.bytes for s in (self.train, self.val, self.test) if s is not None}
        return sum(stored.values())

    def blank(self) -> Tensor | None:
        """The normalised value of a black pixel, shaped to broadcast over a batch; None if the data is not images."""
        return self.preprocessing.blank(self.train.rows.device) if self.spec.kind == "image" else None

    def white(self) -> Tensor | None:
        """As `blank`, of a white pixel."""
        return self.preprocessing.white(self.train.rows.device) if self.spec.kind == "image" else None

    def split(self, name: str) -> Split:
        """The split of this name; ConfigError if there is none."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        if name not in splits:
            raise ConfigError(f"unknown split {name!r}: {did_you_mean(name, splits)}")
        found = splits[name]
        if found is None:
            raise ConfigError(f"there is no {name} split: {name}_fraction is 0 in this run")
        return found
