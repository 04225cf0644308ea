"""What a data set of images is read from, whatever it is: the stamps of its files, and the content of each image."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dlcli.data.images.decoding import Item, Stamp, stamp_of
from dlcli.data.images.spans import Span

Items = Callable[[Sequence[str]], Iterable[Item]]


class Contents(Protocol):
    @property
    def in_turn(self) -> bool:
        """Whether images can only be read in the order of the file."""

    def stamps(self, names: Sequence[str]) -> Iterator[Stamp | None]:
        """Of the file that each image is in. OSError if there is none."""

    def opened(self) -> AbstractContextManager[Items]:
        """Names -> their content, in the same order, inside the block."""


@dataclass(frozen=True)
class Folder:
    """Image files, named relative to the root."""

    root: Path
    in_turn = False

    def stamps(self, names: Sequence[str]) -> Iterator[Stamp | None]:
        return (stamp_of(os.lstat(os.path.join(self.root, name))) for name in names)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Items]:
        yield lambda names: [Span(os.path.join(self.root, name)) for name in names]


@dataclass(frozen=True)
class Spans:
    """The members of an archive. spans: name -> where it is in the file."""

    path: Path
    spans: Mapping[str, Span]
    in_turn = False

    def stamps(self, names: Sequence[str]) -> Iterator[Stamp | None]:
        stamp = stamp_of(os.stat(self.path))
        return (stamp for _ in names)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Items]:
        yield lambda names: [self.spans[name] for name in names]
