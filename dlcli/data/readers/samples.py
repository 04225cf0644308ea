"""Files of samples, and the reader that suits the kind of data."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from dlcli.core.errors import DataError
from dlcli.core.reading import files_below
from dlcli.core.spec import DataSpec
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.readers.csv import read_rows

_MOST_FILES = 1_000_000


def sample_files(inputs: Sequence[str], spec: DataSpec) -> Iterator[Path]:
    """The files of `inputs` in order; a folder stands for the images in it. DataError for what is neither."""
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            yield from _images_in(path, spec)
        elif path.is_file():
            yield path
        else:
            raise DataError(f"{path} {'is no regular file' if path.exists() else 'does not exist'}")


def read_samples(path: Path, about: Preprocessing) -> tuple[list[str], Tensor]:
    """A name per sample, and the samples as raw (N, ...) values: of an image file, or of a .csv file of rows."""
    if about.spec.kind == "image" and path.suffix.lower() != ".csv":
        from dlcli.data.readers.images import read_image

        return [str(path)], read_image(path, about.spec.input_shape, white=about.pixel_max)[None]
    return read_rows(path, about.spec, about.feature_names)


def _images_in(folder: Path, spec: DataSpec) -> list[Path]:
    if spec.kind != "image":
        raise DataError(f"{folder} is a folder: name the files")
    from dlcli.data.readers.images import SUFFIXES

    found = [path for path in files_below(folder, most=_MOST_FILES) if path.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
    return found
