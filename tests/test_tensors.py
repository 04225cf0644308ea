"""A safetensors file is checked before it is read; the check accepts every type that the library itself writes."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dlcli.checkpoints import tensors
from dlcli.core.errors import RunError

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
B = {"dtype": "U8", "shape": [2, 2], "data_offsets": [8, 12]}


def write(path: Path, header: Any, data: bytes = bytes(12), *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_every_type_that_the_library_writes(tmp_path: Path) -> None:
    kinds = (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.float8_e4m3fn,
        torch.float8_e5m2,
    )  # fmt: skip
    given = {str(kind): torch.zeros(3, 0 if kind is torch.int8 else 2, dtype=kind) for kind in kinds}
    given["scalar"] = torch.tensor(7.0)
    save_file(given, tmp_path / "a", metadata={"format": "pt"})
    found = tensors.outline(tmp_path / "a")
    assert {n: (t.dtype, t.shape) for n, t in found.items()} == {n: (t.dtype, t.shape) for n, t in given.items()}
    assert all(t.is_meta for t in found.values())
    assert all(torch.equal(tensors.read(tmp_path / "a")[name], given[name]) for name in given)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"a": A, "b": A}, "its tensors overlap, or leave a gap"),
        ({"a": A}, "it has 12 bytes of tensors, but its header describes 8"),
        ({"b": B}, "its tensors overlap, or leave a gap"),
        ({}, "it has 12 bytes of tensors, but its header describes 0"),
        ({"a": A | {"shape": [3]}}, "'a' does not have the bytes that its shape [3] needs"),
        ({"a": A, "c": {"dtype": "F32", "shape": [2**62, 2**62, 0], "data_offsets": [8, 8]}, "b": B},
         "its header does not describe 'c'"),
        ({"a": A | {"shape": [-2]}}, "shape = [-2] is not a list, each of it a whole number of at least 0"),
        ({"a": A | {"dtype": "Q4"}}, "its header does not describe 'a'"),
        ({"a": A | {"data_offsets": [8]}}, "its header does not describe 'a'"),
        ({"a": A | {"data_offsets": [8, 0]}}, "'a' does not have the bytes that its shape [2] needs"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "it has no data_offsets"),
        ({"a": []}, "it is not a table"),
        ([], "its header is not a table"),
        (b'{"a": 1, "a": 2}', "'a' appears twice"),
        (b"not JSON", "Expecting value: line 1 column 1 (char 0)"),
    ],
)  # fmt: skip
def test_a_header_that_is_not_sound(tmp_path: Path, header: Any, reason: str) -> None:
    path = write(tmp_path / "a", header)
    with pytest.raises(RunError) as caught:
        tensors.outline(path)
    assert str(caught.value) == f"{path} is damaged: {reason}"


@pytest.mark.parametrize(("header", "length"), [(b"{}", 2**64 - 1), (b"{}", 15), (b" " * 4_000_001, None)])
def test_a_header_that_is_too_long(tmp_path: Path, header: bytes, length: int | None) -> None:
    path = write(tmp_path / "a", header, length=length)
    with pytest.raises(RunError) as caught:
        tensors.outline(path)
    assert str(caught.value) == f"{path} is damaged: it is not a safetensors file, or its header is too long"


@pytest.mark.parametrize("content", [b"", b"1234567", b"12345678"])
def test_a_file_that_is_too_short(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(RunError, match="is damaged: it is not a safetensors file, or its header is too long$"):
        tensors.outline(tmp_path / "a")


def test_what_the_library_alone_would_refuse_is_an_error_of_the_run(tmp_path: Path) -> None:
    path = write(tmp_path / "a", {"a": A}, bytes(3))
    with pytest.raises(RunError, match=f"^{path} is damaged: "):
        tensors.read(path)
