"""The samples themselves, to show the worst mistakes: images, texts, rows of tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlcli.core.errors import DataError, RunError
from dlcli.plots.answers import Answers
from dlcli.plots.errors import holds_images, images_of
from dlcli.plots.pixels import Place, data_of
from dlcli.report.facts import Facts

if TYPE_CHECKING:
    from dlcli.data.dataset import Dataset

# Larger data is not read for a report: samples in all.
_MOST = 1_000_000
_MOST_COLUMNS = 20

# Settings beside those of the data that decide what its test split holds.
_OF_SPLIT = ("data", "data_dir", "val_fraction", "test_fraction", "normalize", "mean", "std")


class Samples:
    """data_dir: the folder of data sets, if it is not that of the trainings."""

    def __init__(self, data_dir: str | None = None) -> None:
        self._place = Place(folder=data_dir)
        self._datasets: dict[str, Dataset] = {}
        self._tables: dict[str, Any] = {}

    def images(self, one: Facts, answers: Answers, places: Sequence[int]) -> list[bytes | None] | None:
        """The samples at these places of the split, as PNG; None if they are no images. DataError if the data is not
        there, or not what the run was trained on."""
        if one.spec is None or not holds_images(one.run):
            return None
        self._check_size(one)
        key = _key(one)
        if key not in self._datasets:
            self._datasets[key] = data_of(one.run, self._place)
        data = self._datasets[key]
        index = data.split(answers.split).index
        rows = range(len(answers.index)) if index is None else index.tolist()
        if len(rows) != len(answers.index) or any(rows[k] != answers.index[k] for k in places):
            data = data_of(one.run, self._place)  # split in another way
        return images_of(data, answers.split, places)

    def cells(self, one: Facts, split: str, rows: Sequence[int]) -> dict[str, list[str]]:
        """Column -> its cells in these rows of the file; the texts of texts; empty for other data. DataError as for
        `images`."""
        kind = str(one.settings.get("data")).partition(":")[0]
        if kind not in ("table", "texts"):
            return {}
        self._check_size(one)
        key = _key(one)
        if key not in self._tables:
            self._tables[key] = _read(one)
        opened = self._tables[key]
        if kind == "texts":
            _check_rows(rows, len(opened.labelled.texts))
            return {"text": [opened.labelled.texts[row] for row in rows]}
        import numpy as np

        whole = opened.part(split, None)
        _check_rows(rows, len(whole))
        table = whole.rows(np.array(rows))
        return {
            name: [table.columns[name].text(k) for k in range(len(rows))] for name in [*table.columns][:_MOST_COLUMNS]
        }

    def _check_size(self, one: Facts) -> None:
        counts = [one.info.get(f"{split}_samples") or 0 for split in ("train", "val", "test")]
        if (count := sum(n for n in counts if isinstance(n, int))) > _MOST:
            raise DataError(f"the data has {count:,} samples, and at most {_MOST:,} are read for a report")


def _read(one: Facts) -> Any:
    """The table or the texts as they were read, which are not encoded yet."""
    from dlcli.experiment.load import check_there, read

    config = one.run.config()
    check_there(config)
    opened: Any = read(config)
    if opened.fingerprint != one.data.get("fingerprint"):
        raise DataError(f"data {config.data} has changed since the run was trained on it")
    return opened


def _check_rows(rows: Sequence[int], count: int) -> None:
    """RunError (exit 4) unless the data has these rows: the answers that name them are untrusted."""
    if max(rows) >= count:
        raise RunError(f"the answers name row {max(rows):,}, and the data has {count:,}")


def _key(one: Facts) -> str:
    """Of the data, not of how a seed divides it for training."""
    names = [name for name in one.settings if name.startswith("data.") or name in _OF_SPLIT]
    return repr((one.data.get("fingerprint"), [(name, one.settings[name]) for name in sorted(names)]))
