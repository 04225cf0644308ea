"""images:FILE.parquet, or a folder of train-*.parquet and test-*.parquet: images with their labels, as hubs ship them.

A column holds the encoded images, as {bytes, path} or as bytes, and another the labels, as text or as numbers.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli.core.errors import DataError, ResourceError
from dlcli.data.images.contents import Items
from dlcli.data.images.decoding import Stamp, stamp_of
from dlcli.data.images.layout import MOST_ENTRIES, SPLITS, Layout, arranged, order

SUFFIX = ".parquet"

_AT_ONCE = 64  # rows; of them the images are in memory


def parquet_files(folder: Path) -> dict[str, list[Path]]:
    """Split -> its files, in order; empty unless the folder, or data/ in it, has files that are named by split."""
    found: dict[str, list[Path]] = {}
    for place in (folder, folder / "data"):
        for path in sorted(place.glob(f"*{SUFFIX}")) if not found else ():
            split = SPLITS.get(path.name.split("-")[0].split(".")[0].casefold())
            if split is not None:
                found.setdefault(split, []).append(path)
    return {split: found[split] for split in ("train", "val", "test") if split in found} if "train" in found else {}


def parquet_layout(root: Path, files: dict[str, list[Path]]) -> Layout:
    """The rows of Parquet files. DataError (exit 3) for a file that is none, or a row without an image or a label."""
    rows: dict[str, list[tuple[str, str]]] = {}
    opened = _Rows(tuple(path for paths in files.values() for path in paths))
    for split, paths in files.items():
        rows[split] = [(f"{path.name}:{k}", label) for path in paths for k, label in enumerate(_labels(path))]
        if sum(map(len, rows.values())) > MOST_ENTRIES:
            raise DataError(f"{root} holds more than {MOST_ENTRIES:,} images: name fewer files")
    classes = {label for _, label in rows["train"]}
    if len(classes) < 2:
        raise DataError(f"{root} has images of {len(classes)} classes in train: two are needed")
    places = {split: f"{root} (split {split})" for split in files}
    numbered, notes = arranged(rows, places, mend="add rows of the same class there, or leave them out")
    names = tuple(sorted(classes, key=order(classes)))
    labels = hashlib.sha256(repr((names, numbered)).encode()).hexdigest()
    return Layout(root, names, numbered, tuple(notes), opened, labels)


@dataclass(frozen=True)
class _Rows:
    """The images of Parquet files, in their order. An image is named FILE:ROW."""

    paths: tuple[Path, ...]
    in_turn = True

    def stamps(self, names: Sequence[str]) -> Iterator[Stamp | None]:
        known = {path.name: stamp_of(os.stat(path)) for path in self.paths}
        return (known[name.rpartition(":")[0]] for name in names)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Items]:
        yield self._items

    def _items(self, names: Sequence[str]) -> Iterator[bytes]:
        wanted = iter(names)
        name = next(wanted, None)
        for path in self.paths:
            if name is None:
                return
            for row, content in enumerate(_images(path)):
                if name == f"{path.name}:{row}":
                    yield content
                    name = next(wanted, None)


def _images(path: Path) -> Iterator[bytes]:
    with _opened(path) as file:
        column, _ = _columns(path, file)
        field = file.schema_arrow.field(column)
        inner = field.type.num_fields > 0
        for batch in file.iter_batches(_AT_ONCE, columns=[f"{column}.bytes" if inner else column]):
            values = batch.column(0).field("bytes") if inner else batch.column(0)
            for value in values:
                yield value.as_py() or b""


def _labels(path: Path) -> list[str]:
    with _opened(path) as file:
        _, column = _columns(path, file)
        values = file.read(columns=[column]).column(0).to_pylist()
        names = _class_names(file, column)
    found = []
    for row, value in enumerate(values):
        if value is None or (names and not (isinstance(value, int) and 0 <= value < len(names))):
            what = "there is no label" if value is None else f"label {value} is none of its {len(names)} classes"
            raise DataError(f"{path}:{row}: {what}")
        found.append(names[value] if names else str(value))
    return found


def _class_names(file: Any, column: str) -> list[str]:
    """As datasets on a hub store them beside the columns; empty if there are none."""
    try:
        text = (file.schema_arrow.metadata or {})[b"huggingface"]
        names = json.loads(text)["info"]["features"][column]["names"]
        return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []
    except (KeyError, ValueError, TypeError, RecursionError):
        return []


def _columns(path: Path, file: Any) -> tuple[str, str]:
    """Those of the images and of the labels."""
    import pyarrow.types as types

    schema = file.schema_arrow
    images, labels = [], []
    for field in schema:
        kind = field.type
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if types.is_binary(kind) or types.is_large_binary(kind):
            images.append(field.name)
        elif types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind):
            labels.append(field.name)
    chosen = [name for name in labels if name in ("label", "labels")] or labels
    if len(images) != 1 or len(chosen) != 1:
        raise DataError(
            f"{path} has the columns {', '.join(schema.names)}: it must have one with encoded images and one that is "
            "called label"
        )
    return images[0], chosen[0]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ResourceError(f"{path} is read by pyarrow: install it with pip install 'dlcli[tables]'") from None
    try:
        with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
            yield file
    except (pyarrow.lib.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as Parquet: {reason}") from None
