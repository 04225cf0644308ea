"""Finds the files with samples and reads them with the reader for the kind of data."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from dlcli.core.errors import ConfigError, DataError, did_you_mean
from dlcli.core.reading import files_below
from dlcli.core.spec import DataSpec
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.readers.cells import Table
from dlcli.data.readers.csv import Samples, read_rows
from dlcli.data.readers.pieces import read_pieces
from dlcli.data.readers.separated import Format
from dlcli.data.readers.text import STDIN, is_stream
from dlcli.data.tables.encoding import Encoding

_MOST_FILES = 1_000_000


def sample_files(inputs: Sequence[str], spec: DataSpec, *, tell: Callable[[str], None]) -> Iterator[Path]:
    """The files of `inputs` in order; a folder stands for the images in it, `-` for standard input.

    tell: called with a sentence about the files of a folder that are skipped. DataError for a missing file, one that is
    not regular, or a folder without images.
    """
    for text in inputs:
        path = STDIN if text == "-" else Path(text)
        if path.is_dir():
            yield from _images_in(path, spec, tell=tell)
        elif path.is_file() or is_stream(path):
            yield path
        else:
            raise DataError(f"{path} {'is no regular file' if path.exists() else 'does not exist'}")


def read_samples(path: Path, about: Preprocessing, *, keep: Sequence[str] = ()) -> Iterator[Samples]:
    """The sample of an image file, or the rows of a .csv file or of a stream; those of a table in pieces, of which the
    last has no rows but a note.

    keep: columns of a .csv file whose text is returned with each row; ConfigError if the file is an image.
    """
    if about.encoding is not None:
        yield from _encoded(path, about.encoding, keep=keep)
    elif about.spec.kind != "image" or path.suffix.lower() == ".csv" or is_stream(path):
        yield from read_rows(path, about.spec, about.feature_names, keep=keep)
    elif keep:
        raise ConfigError(f"--keep {keep[0]} is for columns of .csv files, and {path} is none")
    else:
        from dlcli.data.readers.images import read_image

        pixels = read_image(
            path,
            about.spec.input_shape,
            white=about.pixel_max,
            crop=about.crop,
            stored_size=about.stored_size,
            interpolation=about.interpolation,
        )
        yield Samples([str(path)], pixels[None], [{}])


def _encoded(path: Path, encoding: Encoding, *, keep: Sequence[str]) -> Iterator[Samples]:
    """The rows of a table. Its columns may be in any order; the target and other columns may be there or not."""
    unseen: Counter[str] = Counter()
    for table in read_pieces(path, Format("first" if encoding.header else "none"), texts=keep):
        table = table if encoding.header else _named(table, encoding)
        for name in keep:
            if name not in table.columns:
                raise DataError(f"{path} has no column {name!r} for --keep: {did_you_mean(name, table.columns)}")
        values, new = encoding.encode(table)
        unseen.update(new)
        yield Samples(
            names=[table.where(row) for row in range(len(table))],
            raw=torch.from_numpy(values),
            kept=[{name: table.columns[name].text(row) for name in keep} for row in range(len(table))],
        )
    if unseen:
        told = ", ".join(f"{name} ({count:,})" for name, count in unseen.items())
        note = f"{path} has categories that the training rows had rarely or not at all: {told}"
        yield Samples([], torch.empty(0, len(encoding.feature_names)), [], note)


def _named(table: Table, encoding: Encoding) -> Table:
    """The table of a file without a header, in the order of the training file, with the target or without."""
    names = [column.name for column in encoding.columns]
    others = [name for name in names if name != encoding.target]
    for found in (names, others):
        if len(found) == len(table.columns):
            columns = dict(zip(found, table.columns.values(), strict=True))
            return dataclasses.replace(table, columns=columns)
    raise DataError(
        f"{table.path} has {len(table.columns)} columns, but the training file, which has no header either, has "
        f"{len(names)}"
    )


def _images_in(folder: Path, spec: DataSpec, *, tell: Callable[[str], None]) -> list[Path]:
    if spec.kind != "image":
        raise DataError(f"{folder} is a folder: name the files")
    from dlcli.data.readers.pictures import SUFFIXES

    files = files_below(folder, most=_MOST_FILES)
    shown = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    found = [path for path in shown if path.suffix.lower() in SUFFIXES]
    counts = ((len(files) - len(shown), "hidden"), (len(shown) - len(found), "not images"))
    skipped = " and ".join(f"{count} {what}" for count, what in counts if count)
    if not found:
        raise DataError(f"{folder} holds no images ({', '.join(SUFFIXES)})" + (f": {skipped}" if skipped else ""))
    if skipped:
        tell(f"files skipped in {folder}: {skipped}")
    return found
