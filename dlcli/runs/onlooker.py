"""The run of a process that takes part in its training, but is not the one that writes it."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlcli.config.settings import TrainConfig
from dlcli.runs.run import Run


@dataclass(frozen=True)
class Onlooker(Run):
    """Reads as any run; nothing is written, and the lock is that of the process that writes."""

    def write_config(self, config: TrainConfig) -> None:
        pass

    def write_data(self, preprocessing: Mapping[str, Any], fingerprint: str) -> None:
        pass

    def write_info(self, info: Mapping[str, Any]) -> None:
        pass

    def append_metrics(self, row: Mapping[str, Any], columns: Sequence[str]) -> None:
        pass

    def cut_back(self, sizes: Mapping[str, Any]) -> None:
        pass

    def log(self, line: str) -> None:
        pass

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        yield
