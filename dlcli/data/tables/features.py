"""The features of a large table: made once, kept in the user's cache, and memory-mapped."""

import hashlib
import json
import logging
from collections import Counter

import torch
from torch import Tensor

from dlcli.core.cache import told
from dlcli.data.mapped import mapped
from dlcli.data.readers.cells import Table
from dlcli.data.tables.cache import Place
from dlcli.data.tables.encoding import Encoding

# Of the code that encodes: other features of the same table need another number.
_VERSION = 1

_log = logging.getLogger(__name__)


def features(table: Table, encoding: Encoding) -> Tensor:
    """float32 (rows, features), memory-mapped, with the same bits as `encoding.encode`. ResourceError (exit 6) if the
    cache cannot be written; errors of the table as in `encode`."""
    shape = (len(table), len(encoding.feature_names))
    made_of = [_VERSION, table.sha256, list(table.columns), table.decimal_comma, shape, encoding.as_dict()]
    digest = hashlib.sha256(json.dumps(made_of).encode("utf-8", "surrogatepass"))
    digest.update(table.lines.data)  # which rows of the file
    name, place = f"{digest.hexdigest()}.rows", Place(table.path)
    if place.found(name) is None:
        with place.alone():
            if place.found(name) is None:  # by the process that was waited for
                _write(place, name, table, encoding, shape)
    with told(place.folder):
        return mapped(place.folder / name, torch.float32, shape)


def _write(place: Place, name: str, table: Table, encoding: Encoding, shape: tuple[int, int]) -> None:
    size = 4 * shape[0] * shape[1]
    place.need_space(size)
    _log.warning("making the features of %s, once; they are kept in %s", table.path, place.folder)
    with place.unfinished() as file:
        for _, some in encoding.pieces(table, Counter()):
            with told(place.folder, needed=size):
                file.write(some.data)
        place.commit(file, name, {"shape": list(shape)})
