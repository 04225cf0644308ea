"""Data that a process keeps while it trains one run after the other."""

import os
from typing import Any, Protocol

import torch

from dlcli.config.settings import TrainConfig
from dlcli.data.dataset import Dataset
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.source import Source, Unfitted
from dlcli.experiment.load import load_data, read


class Load(Protocol):
    """As `load_data`."""

    def __call__(
        self,
        config: TrainConfig,
        *,
        device: torch.device | str,
        fingerprint: str | None,
        preprocessing: Preprocessing | None = None,
    ) -> Dataset: ...


class Kept:
    """The last data set that was read, and as it was last split: the next run mostly needs the same."""

    def __init__(self) -> None:
        self._of: tuple[Any, ...] = ()
        self._split_of: tuple[Any, ...] = ()
        self._source: Source | Unfitted | None = None
        self._dataset: Dataset | None = None

    def load_before_fork(self, config: TrainConfig) -> None:
        """Read the data of the config, all of whose options are resolved, so that the processes that are forked from
        this one have it in common. Not if it is for a GPU: CUDA cannot be used in a fork of a process that used it."""
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asks for GPUs without CUDA
        if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
            torch.set_num_threads(1)  # the threads of OpenMP do not survive a fork
            self.load(config, device=torch.device("cpu"), fingerprint=None)

    def load(
        self,
        config: TrainConfig,
        *,
        device: torch.device | str,
        fingerprint: str | None,
        preprocessing: Preprocessing | None = None,
    ) -> Dataset:
        """As `load_data`, which it calls for what it does not have."""
        read_by = (config.data, repr(config.data_options), config.data_dir)
        split_by = (
            config.val_fraction, config.test_fraction, config.normalize, config.mean, config.std, config.seed,
            "val_fraction" in config.given, str(device), preprocessing,
        )  # fmt: skip
        if read_by != self._of or self._source is None:
            self._source = self._dataset = None  # before the next one takes memory
            self._source, self._of = read(config), read_by
        if split_by != self._split_of or self._dataset is None or fingerprint not in (None, self._dataset.fingerprint):
            self._dataset = None
            self._dataset = load_data(
                config, device=device, fingerprint=fingerprint, preprocessing=preprocessing, source=self._source
            )
            self._split_of = split_by
        return self._dataset
