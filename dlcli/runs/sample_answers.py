"""The answer to each sample of a split, stored beside the record of an evaluation: eval/SPLIT-DIGEST.npz.

The file is named by its content, so that a record never describes another one, and named in the record with its sha256.
It is untrusted: nothing in it is unpickled, and no array is made larger than the file says.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlcli.core.documents import TEXT, WHOLE, check
from dlcli.core.errors import RunError
from dlcli.core.reading import read_bytes, read_json, told_as_damage
from dlcli.runs.run import Run

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

# Of more samples nothing is stored: they would take more than 100 MB.
MOST_SAMPLES = 10_000_000

# The first bytes of every array, and most bytes of an array beside its numbers.
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = 10_000

# The header of an array (N,) as NumPy writes it. Its own reader parses any Python literal.
_NUMBERS = re.compile(
    rb"\{'descr': '([<>|](?:[iu][1248]|f[248]))', 'fortran_order': False, 'shape': \((\d{1,12}),\), \}\s*"
)

_NAMES = ("index", "target", "predicted", "probability")
_OF_CLASSES, _OF_NUMBERS = "iu", "f"


@dataclass(frozen=True)
class SampleAnswers:
    """All arrays have one entry per sample, (N,), in the order of the split.

    fingerprint: of the data. index: the row of the sample. target, predicted: classes as whole numbers, or values as
    float32, in the units of the target. probability: of the predicted class, float32; None for a regression.
    """

    fingerprint: str
    index: "Array"
    target: "Array"
    predicted: "Array"
    probability: "Array | None"

    @property
    def of_classes(self) -> bool:
        return self.probability is not None


def packed(arrays: Mapping[str, "Array"]) -> bytes:
    """Arrays (N,) of these names as a .npz: the same arrays are the same bytes. Whole numbers are stored in as few
    bytes as they need, others as float32."""
    import numpy as np

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # without the time of day
            member.compress_type = zipfile.ZIP_DEFLATED
            stored = io.BytesIO()
            np.lib.format.write_array(stored, _small(array), version=(1, 0), allow_pickle=False)
            archive.writestr(member, stored.getvalue(), compresslevel=6)
    return content.getvalue()


def _small(array: "Array") -> "Array":
    import numpy as np

    if array.dtype.kind not in _OF_CLASSES:
        return array.astype("<f4")
    highest = int(array.max(initial=0))
    return array.astype(next(kind for kind in ("<u1", "<u2", "<u4", "<u8") if highest <= np.iinfo(kind).max))


def read_answers(run: Run, split: str) -> SampleAnswers:
    """What `dlcli eval --split SPLIT` stored. RunError (exit 4) if there is nothing, or it is damaged."""
    file = run.path / "eval" / f"{split}.json"
    if not file.exists():
        raise RunError(f"{run} was not measured on its {split} split: dlcli eval {run} --split {split}")
    record = read_json(file)
    with told_as_damage(file):
        check(record, {"samples": WHOLE, "fingerprint": TEXT}, needed=True)
        if record.get("file") is None:
            if record["samples"] > MOST_SAMPLES:
                raise RunError(f"{file} has no answers: of more than {MOST_SAMPLES:,} samples none are stored")
            raise RunError(f"{file} has no answers to the samples: dlcli eval {run} --split {split} stores them")
        check(record, {"file": TEXT, "sha256": TEXT}, needed=True)
        if record["samples"] > MOST_SAMPLES:
            raise ValueError(f"samples = {record['samples']} is more than {MOST_SAMPLES:,}")
    artifact = file.parent / record["file"]
    if artifact.parent != file.parent or artifact.parent.is_symlink():
        raise RunError(f"{file} is damaged: {record['file']!r} is not a file in its folder")
    with told_as_damage(artifact):
        return _unpacked(read_bytes(artifact, most=len(_NAMES) * (8 * record["samples"] + _HEADER)), record)


def _unpacked(content: bytes, record: Mapping[str, Any]) -> SampleAnswers:
    """ValueError for anything but the arrays that the record describes."""
    import hashlib

    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise ValueError("its sha256 is not the recorded one")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            there = {info.filename: info for info in archive.infolist()}
            found = {
                name: _array(archive, there[f"{name}.npy"], count=record["samples"])
                for name in _NAMES
                if f"{name}.npy" in there
            }
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"it is no .npz file: {error}") from None
    if missing := [name for name in _NAMES[:3] if name not in found]:
        raise ValueError(f"it has no {missing[0]}")
    of_classes = "probability" in found
    kinds = {"index": _OF_CLASSES, "probability": _OF_NUMBERS}
    for name, array in found.items():
        if array.dtype.kind not in kinds.get(name, _OF_CLASSES if of_classes else _OF_NUMBERS):
            raise ValueError(f"{name} is {array.dtype}")
    return SampleAnswers(
        record["fingerprint"], found["index"], found["target"], found["predicted"], found.get("probability")
    )


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, *, count: int) -> "Array":
    """Without an array that is larger than the file says."""
    import numpy as np

    if info.file_size > 8 * count + _HEADER:
        raise ValueError(f"{info.filename} is larger than {count:,} numbers")
    stored = io.BytesIO(archive.read(info))
    if stored.read(len(_MAGIC)) != _MAGIC:
        raise ValueError(f"{info.filename} is no array")
    header = _NUMBERS.fullmatch(stored.read(int.from_bytes(stored.read(2), "little")))
    if header is None:
        raise ValueError(f"{info.filename} is no array of numbers")
    rest, kind = stored.read(), np.dtype(header[1].decode())
    if int(header[2]) != count or len(rest) != count * kind.itemsize:
        raise ValueError(f"{info.filename} does not hold {count:,} numbers")
    return np.frombuffer(rest, dtype=kind)
