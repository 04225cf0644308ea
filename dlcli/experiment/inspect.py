"""What would be made of a data set, before anything is trained: for `dlcli datasets inspect`."""

from typing import Any

import numpy as np
from torch import Tensor

from dlcli.config.settings import TrainConfig
from dlcli.data.batches import in_order
from dlcli.data.dataset import Dataset, Split
from dlcli.data.source import Source
from dlcli.data.tables.table import Opened
from dlcli.experiment.load import prepared, read

_AT_ONCE = 256  # samples: all of them may be more than the memory holds


def inspect(config: TrainConfig) -> dict[str, Any]:
    """data, task, splits (name -> samples), classes (name -> name of split -> samples; empty for other tasks), notes,
    and, of a table, its target, columns and warnings as in inspection.py; of other data these are None and empty.

    Raises what a training on the data raises.
    """
    source = read(config)
    data = prepared(source, config)
    splits = {name: getattr(data, name) for name in ("train", "val", "test")}
    found: dict[str, Any] = {
        "data": config.data,
        "task": data.spec.task,
        "sample": str(data.spec),
        "splits": {name: len(split) for name, split in splits.items() if split is not None},
        "classes": _classes(data, splits),
        "notes": list(data.notes),
        "target": None,
        "columns": [],
        "warnings": [],
    }
    encoding = data.preprocessing.encoding
    if isinstance(source, Source) or encoding is None:
        return found
    from dlcli.data.tables.inspection import described, warnings

    assert isinstance(source, Opened)
    held_out = np.ones(source.rows, dtype=bool)
    held_out[slice(None) if data.train.index is None else data.train.index.numpy()] = False
    columns = described(source, encoding)
    return found | {
        "target": source.target,
        "columns": columns,
        "warnings": warnings(source, encoding, held_out),
    }


def _classes(data: Dataset, splits: dict[str, Split | None]) -> dict[str, dict[str, int]]:
    if data.spec.task not in ("binary", "multiclass"):
        return {}
    count = 2 if data.spec.task == "binary" else data.spec.outputs
    names = data.preprocessing.class_names or tuple(map(str, range(count)))
    found: dict[str, dict[str, int]] = {name: {} for name in names}
    for name, split in splits.items():
        if split is not None:
            counts = sum(batch.y.long().bincount(minlength=count) for batch in in_order(split, _AT_ONCE))
            assert isinstance(counts, Tensor)
            for each, samples in zip(names, counts.tolist(), strict=True):
                found[each][name] = samples
    return found
