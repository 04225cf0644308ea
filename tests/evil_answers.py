"""Malicious answers: each kind replaces eval/test-DIGEST.npz of a run, or what its record says of it.

A valid sha256 does not make a file trustworthy, so every kind that changes the file writes a record that fits.
"""

import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests import evil

Damage = Callable[[Path], None]

# Name -> what does it to the folder of a run, and whether the file is still a sound one, so that it is read.
KINDS: dict[str, tuple[Damage, bool]] = {}

RECORD = Path("eval/test.json")


def kind(*, read: bool = False) -> Callable[[Damage], Damage]:
    def enter(damage: Damage) -> Damage:
        KINDS[damage.__name__.replace("_", " ")] = damage, read
        return damage

    return enter


def record(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / RECORD).read_text()))


def file_of(run: Path) -> Path:
    return run / "eval" / record(run)["file"]


def arrays(run: Path) -> dict[str, np.ndarray]:
    with np.load(file_of(run)) as found:
        return dict(found)


def put(run: Path, content: bytes) -> None:
    """As the file of the record, with its sha256."""
    digest = hashlib.sha256(content).hexdigest()
    name = f"test-{digest[:12]}.npz"
    (run / "eval" / name).write_bytes(content)
    evil.set_in(run / RECORD, "file", to=name)
    evil.set_in(run / RECORD, "sha256", to=digest)


def zipped(members: dict[str, bytes], *, how: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", how) as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return content.getvalue()


def npy(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def members(run: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file_of(run)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _values(name: str, what: str, change: Callable[[np.ndarray], np.ndarray], *, read: bool = False) -> None:
    """One of the arrays has other values, as NumPy itself writes them."""

    def damage(run: Path) -> None:
        found = arrays(run)
        found[name] = change(found[name])
        content = io.BytesIO()
        np.savez_compressed(content, **found)
        put(run, content.getvalue())

    damage.__name__ = f"{name} {what}"
    kind(read=read)(damage)


_values("target", "as it is", lambda a: a, read=True)
_values("target", "of a class that there is not", lambda a: np.full_like(a, 200))
_values("target", "below 0", lambda a: a.astype(np.int8) - 5)
_values("target", "beyond 64 bits", lambda a: np.full(len(a), 2**64 - 1, np.uint64))
_values("target", "as numbers", lambda a: a.astype(np.float32))
_values("target", "as objects", lambda a: a.astype(object))
_values("target", "as text", lambda a: a.astype("U10"))
_values("target", "as pairs", lambda a: np.stack([a, a], 1))
_values("target", "as times", lambda a: a.astype("datetime64[s]"))
_values("target", "as complex numbers", lambda a: a.astype(complex))
_values("target", "as records", lambda a: np.array([(v, v) for v in a], dtype=[("a", "i4"), ("b", "i4")]))
_values("target", "with one less", lambda a: a[:-1])
_values("target", "of none", lambda a: a[:0])
_values("target", "without dimensions", lambda a: np.array(1))
_values("target", "in the other order of bytes", lambda a: a.astype(">i4"), read=True)
_values("predicted", "of a class that there is not", lambda a: np.full_like(a, 255))
_values("probability", "of NaN", lambda a: np.full_like(a, np.nan))
_values("probability", "of infinity", lambda a: np.full_like(a, np.inf))
_values("probability", "above 1", lambda a: a + 1)
_values("probability", "below 0", lambda a: -a)
_values("probability", "as classes", lambda a: a.astype(np.uint8))
_values("index", "as numbers", lambda a: a.astype(np.float64))


def _member(header: bytes, what: str, data: bytes = b"") -> None:
    """The header of an array is this text."""

    def damage(run: Path) -> None:
        found = members(run)
        text = header.replace(b"MARKER", os.fsencode(evil.marker(run))).replace(
            b"COUNT", b"%d" % record(run)["samples"]
        )
        found["target.npy"] = npy(text, data)
        put(run, zipped(found))

    damage.__name__ = f"array header {what}"
    kind()(damage)


_member(b"{'descr': '|O', 'fortran_order': False, 'shape': (COUNT,)}\n", "of objects", pickle.dumps([1]))
_member(b"{'descr': '<u8', 'fortran_order': False, 'shape': (1000000000000,)}\n", "of a terabyte")
_member(b"{'descr': '<u8', 'fortran_order': False, 'shape': (-1,)}\n", "of a negative shape")
_member(b"{'descr': '<u8', 'fortran_order': False, 'shape': (0, 1000000000000)}\n", "of nothing times much")
_member(b"{'descr': '|V0', 'fortran_order': False, 'shape': (COUNT,)}\n", "of no bytes")
_member(b"__import__('os').system('touch MARKER')\n", "of code")
_member(b"(" * 9000 + b"\n", "of open brackets")
_member(b"-" * 9000 + b"1\n", "of minus signs")
_member(b"[" * 4000 + b"]" * 4000 + b"\n", "of nested lists")
_member(b"\xff" * 60 + b"\n", "of no text")
_member(b"", "of nothing")
_member(b"{'descr': '<u8'}\n", "without a shape")
_member(b" " * 60_000 + b"\n", "of 60 KB")


@kind()
def a_member_that_unpacks_to_a_gigabyte(run: Path) -> None:
    """Of a file of 2 KB, which bzip2 makes possible."""
    found = members(run)
    found["target.npy"] = bytes(700_000_000)
    put(run, zipped(found, how=zipfile.ZIP_BZIP2))


@kind()
def a_member_that_says_it_is_small(run: Path) -> None:
    """It unpacks to 200 MB; both sizes in the archive say 100 bytes."""
    found = members(run)
    found["target.npy"] = bytes(200_000_000)
    content = bytearray(zipped(found))
    true, false = struct.pack("<L", 200_000_000), struct.pack("<L", 100)
    while (place := content.find(true)) >= 0:
        content[place : place + 4] = false
    put(run, bytes(content))


@kind(read=True)
def thousands_of_members(run: Path) -> None:
    put(run, zipped(members(run) | {f"{k}.npy": b"" for k in range(50)}))


@kind()
def so_many_members_that_the_file_is_too_large(run: Path) -> None:
    put(run, zipped(members(run) | {f"{k}.npy": b"" for k in range(20_000)}))


@kind()
def members_elsewhere(run: Path) -> None:
    put(run, zipped({f"../{name}": value for name, value in members(run).items()}))


@kind()
def a_member_that_is_encrypted(run: Path) -> None:
    content = bytearray(file_of(run).read_bytes())
    for sign, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(sign)
        while place >= 0:
            content[place + offset] |= 1
            place = content.find(sign, place + 4)
    put(run, bytes(content))


@kind()
def a_compression_that_there_is_not(run: Path) -> None:
    content = bytearray(file_of(run).read_bytes())
    for sign, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = content.find(sign)
        while place >= 0:
            content[place + offset : place + offset + 2] = b"\x63\x00"
            place = content.find(sign, place + 4)
    put(run, bytes(content))


@kind(read=True)
def members_packed_otherwise(run: Path) -> None:
    put(run, zipped(members(run), how=zipfile.ZIP_BZIP2))


@kind()
def a_member_that_is_missing(run: Path) -> None:
    put(run, zipped({name: value for name, value in members(run).items() if name != "index.npy"}))


@kind()
def half_a_file(run: Path) -> None:
    content = file_of(run).read_bytes()
    put(run, content[: len(content) // 2])


@kind()
def a_file_of_nothing(run: Path) -> None:
    put(run, b"")


@kind()
def pickled_arrays(run: Path) -> None:
    put(run, pickle.dumps(evil.Payload(evil.marker(run))))


@kind()
def another_sha256(run: Path) -> None:
    """Sound arrays with another answer, which the record does not know."""
    file, before = file_of(run), (run / RECORD).read_bytes()
    found = arrays(run)
    content = io.BytesIO()
    np.savez_compressed(content, **found | {"predicted": 2 - found["predicted"]})
    file.write_bytes(content.getvalue())
    assert (run / RECORD).read_bytes() == before


@kind()
def a_file_that_is_gone(run: Path) -> None:
    file_of(run).unlink()


@kind()
def a_file_that_is_a_link(run: Path) -> None:
    file = file_of(run)
    file.rename(run / "elsewhere")
    file.symlink_to(run / "elsewhere")


@kind()
def a_file_that_is_a_FIFO(run: Path) -> None:
    file = file_of(run)
    file.unlink()
    os.mkfifo(file)


@kind()
def a_file_that_is_endless(run: Path) -> None:
    file = file_of(run)
    file.unlink()
    file.symlink_to("/dev/zero")


@kind()
def a_file_of_gigabytes(run: Path) -> None:
    os.truncate(file_of(run), 4 * 10**9)


def _recorded(key: str, value: Any, what: str, *, read: bool = False) -> None:
    def damage(run: Path) -> None:
        outside = run.parent / "outside.npz"
        outside.write_bytes(file_of(run).read_bytes())
        told = str(outside) if value == "OUTSIDE" else value
        evil.set_in(run / RECORD, key, to=told)

    damage.__name__ = f"record {what}"
    kind(read=read)(damage)


_recorded("file", "../../outside.npz", "of a file above it")
_recorded("file", "OUTSIDE", "of an absolute path")
_recorded("file", "", "of no name")
_recorded("file", "..", "of the folder above")
_recorded("file", "a\0b", "of a name with NUL")
_recorded("file", 7, "of a number as name")
_recorded("file", "x" * 5000, "of a name that is too long")
_recorded("samples", 10**9, "of a billion samples")
_recorded("samples", -1, "of less than no sample")
_recorded("samples", 1e3, "of samples that are no whole number")
_recorded("samples", 29, "of one sample less")
_recorded("samples", 0, "of no sample")
_recorded("sha256", None, "without a sha256")
_recorded("fingerprint", [], "of a fingerprint that is a list")
