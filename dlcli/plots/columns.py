"""What the columns of a table hold: how often each value occurs in the training rows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dlcli.core.errors import ConfigError
from dlcli.plots.curves import run_name
from dlcli.plots.picture import Bars
from dlcli.plots.pixels import Place
from dlcli.runs.run import Run

if TYPE_CHECKING:
    import numpy as np

    from dlcli.config.settings import TrainConfig
    from dlcli.data.dataset import Dataset
    from dlcli.data.preprocessing import Preprocessing
    from dlcli.data.tables.table import Opened

    Array = np.ndarray[Any, Any]

_MOST = 40  # columns
_BARS = 12
_DAYS = 365.2425  # in a year


def columns(run: Run, notes: list[str], *, place: Place) -> list[Bars]:
    """The target and each column that the model gets, or each feature of data without columns, in the training rows.

    Categories and numbers with at most 12 different values: how often each occurs, the most frequent ones first for
    categories. Other numbers, and dates as years: how many are in each of 12 intervals of equal width. Of more than 40
    columns the first are drawn. ConfigError (exit 2) for images and texts.
    """
    from dlcli.experiment.load import import_own
    from dlcli.experiment.restore import preprocessing_of

    about = preprocessing_of(run)
    if about.spec.kind != "features":
        raise ConfigError(f"--what columns is for tables and features, and {run} expects {about.spec}")
    config = run.config() if place.folder is None else run.config().with_values(data_dir=place.folder)
    import_own(config, runs_dir=run.root)
    data, opened = _read(run, config, about, place)
    found = _of_table(opened, data, about) if opened is not None else _of_features(data)
    drawn = [bars for _, bars in zip(range(_MOST), found, strict=False)]
    count = sum(column.is_used for column in about.encoding.columns) if about.encoding else about.spec.input_shape[0]
    if count >= _MOST:
        notes.append(f"of {count:,} columns of {run} the first {_MOST - 1} are drawn")
    name = run_name(run)
    return [Bars(f"{bars.title}, {name}", bars.names, bars.counts) for bars in drawn]


def _read(run: Run, config: "TrainConfig", about: "Preprocessing", place: Place) -> tuple["Dataset", "Opened | None"]:
    """The data, and the table that it was read from, if it was one."""
    from dlcli.data.tables.table import Opened
    from dlcli.experiment.load import check_there, load_data, on_data, read_as_trained

    if place.data is None:
        check_there(config)
    source = read_as_trained(config if place.data is None else on_data(config, place.data), about)
    fingerprint = run.data().get("fingerprint") if place.data is None else None
    data = load_data(config, device="cpu", name=place.data, preprocessing=about, fingerprint=fingerprint, source=source)
    return data, source if isinstance(source, Opened) else None


def _of_table(opened: "Opened", data: "Dataset", about: "Preprocessing") -> Iterator[Bars]:
    """The cells as they were read."""
    import numpy as np

    from dlcli.data.tables.columns import dates_of, numbers_of

    assert about.encoding is not None
    table = opened.table
    rows = np.arange(len(table)) if data.train.index is None else data.train.index.numpy()
    ordered = sorted(about.encoding.columns, key=lambda column: column.kind != "target")
    for column in ordered:
        kind, name = column.kind, column.name
        if kind == "number" or (kind == "target" and about.spec.task == "regression"):
            yield _numbers(name, numbers_of(table, name, invalid="missing")[rows, 0])
        elif kind == "date":
            days = dates_of(table, name, "days", invalid="missing")[rows]
            yield _numbers(f"{name} (year)", 1970 + days / _DAYS, whole=False)
        elif kind != "left out":
            cells = table.columns[name]
            yield _values(name, cells.values, cells.counts(rows), missing=int(cells.missing[rows].sum()))


def _of_features(data: "Dataset") -> Iterator[Bars]:
    """In the units of the data, without those of a table."""
    import numpy as np
    import torch

    from dlcli.data.batches import full

    batch, about = full(data.train), data.preprocessing
    y = batch.y.numpy()
    if about.spec.task == "regression":
        yield _numbers("target", y.astype(np.float64) * about.target_std + about.target_mean)
    else:
        counts = np.bincount(y.astype(np.int64), minlength=len(about.class_names))
        yield _values("target", about.class_names or tuple(map(str, range(len(counts)))), counts, missing=0)
    x = batch.x.flatten(1)
    for place in range(x.shape[1]):
        values = x[:, place].to(torch.float64).numpy()
        if about.mean:
            values = values * about.std[place] + about.mean[place]
        yield _numbers(about.feature_names[place] if about.feature_names else f"feature {place}", _rounded(values))


def _rounded(values: "Array") -> "Array":
    """To the digits of float32, which normalisation and its inverse may have changed in the last."""
    import numpy as np

    return np.array([float(f"{value:.6g}") for value in values])


def _numbers(name: str, values: "Array", *, whole: bool = True) -> Bars:
    """values: float64 (N,), NaN where it is missing. whole: whether few different values have a bar each."""
    import numpy as np

    there = values[~np.isnan(values)]
    missing = len(values) - len(there)
    different, counts = np.unique(there, return_counts=True)
    if len(different) <= _BARS and whole:
        names, bars = [f"{value:.6g}" for value in different], counts.tolist()
    else:
        found, edges = np.histogram(there, bins=_BARS)
        names = [f"{low:.4g} to {high:.4g}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
        bars = found.tolist()
    return Bars(name, [*names, *["missing"] * bool(missing)], [*bars, *[missing] * bool(missing)])


def _values(name: str, texts: tuple[str, ...], counts: "Array", *, missing: int) -> Bars:
    import numpy as np

    order = [int(place) for place in np.argsort(-counts, kind="stable") if counts[place]]
    names, bars = [texts[place] for place in order[:_BARS]], [int(counts[place]) for place in order[:_BARS]]
    if left := order[_BARS:]:
        names.append(f"{len(left):,} others")
        bars.append(int(counts[left].sum()))
    if missing:
        names.append("missing")
        bars.append(missing)
    return Bars(name, names, bars)
