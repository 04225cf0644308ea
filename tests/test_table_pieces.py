"""Tables in pieces, as `predict` reads them: the same rows as at once, in bounded memory, as soon as they come."""

import gzip
import json
import os
import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlcli.cli.output import Column, Format, emit, emit_as_they_come
from dlcli.core.errors import DataError
from dlcli.core.spec import DataSpec
from dlcli.data.readers import csv, json_lines, parquet, pieces, separated, text
from dlcli.data.readers.cells import Table
from dlcli.data.readers.csv import read_rows
from dlcli.data.readers.pieces import read_pieces
from dlcli.data.readers.samples import read_samples
from dlcli.data.readers.separated import Format as FileFormat
from dlcli.data.readers.tables import read_table
from tests.test_tables import loaded, people, written


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_LARGE", 0)
    monkeypatch.setattr(pieces, "_START", 1000)
    monkeypatch.setattr(separated, "_CHUNK", 7)
    monkeypatch.setattr(parquet, "_ROWS", 7)


def texts(tables: list[Table]) -> dict[str, list[str]]:
    return {
        name: [table.columns[name].text(row) for table in tables for row in range(len(table))]
        for name in tables[0].columns
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("how", ["plain", "gz", "no header", "comments"])
def test_pieces_hold_the_rows_of_the_table(encoding: str, how: str, small_pieces: None, tmp_path: Path) -> None:
    frame = people(100)
    frame["remark"] = [f'a "{i}",\nb' for i in range(100)]
    text = ("# ü\n#\n" if how == "comments" else "") + frame.to_csv(index=False, header=how != "no header")
    path = tmp_path / ("a.csv.gz" if how == "gz" else "a.csv")
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if how == "gz" else content)
    about = FileFormat("none" if how == "no header" else "first", comment="#" if how == "comments" else "")
    found, expected = list(read_pieces(path, about)), read_table(path, about)
    assert len(found) == 15 and texts(found) == texts([expected])
    assert np.concatenate([table.lines for table in found]).tolist() == expected.lines.tolist()


def test_pieces_of_parquet(small_pieces: None, tmp_path: Path) -> None:
    people(100).to_parquet(path := tmp_path / "a.parquet", index=False)
    found, expected = list(read_pieces(path, FileFormat(), texts=("id",))), read_table(path, texts=("id",))
    assert len(found) == 15 and texts(found) == texts([expected])
    assert found[1].where(0) == f"{path}:8"


def test_rows_of_a_stream_are_used_before_it_ends(small_pieces: None, tmp_path: Path) -> None:
    content = people(200).to_csv(index=False).encode()
    reading, writing = os.pipe()
    seen = threading.Event()
    told: list[bool] = []

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(content[:6000])
            file.flush()
            told.append(seen.wait(30))
            file.write(content[6000:])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found: list[Table] = []
        for table in read_pieces(Path(f"/dev/fd/{reading}"), FileFormat()):
            found.append(table)
            seen.set()
    finally:
        seen.set()
        writer.join()
        os.close(reading)
    assert told == [True]
    assert texts(found) == texts([read_table(written(tmp_path, people(200)))])


def test_samples_of_pieces_are_those_of_the_table(small_pieces: None, tmp_path: Path) -> None:
    about = loaded(written(tmp_path, people(100))).preprocessing
    frame = people(100)
    frame.loc[[3, 50, 99], "city"] = ["Rome", "Oslo", "Rome"]
    path = written(tmp_path, frame[list(frame.columns[::-1])], "b.csv")
    found = list(read_samples(path, about, keep=("id",)))
    assert about.encoding is not None
    expected, _ = about.encoding.encode(read_table(path))
    assert torch.cat([samples.raw for samples in found]).equal(torch.from_numpy(expected))
    assert [kept["id"] for samples in found for kept in samples.kept] == [str(i) for i in range(1, 101)]
    assert list(chain(*(samples.names for samples in found))) == [f"{path}:{row + 2}" for row in range(100)]
    assert [samples.note for samples in found if samples.note] == [
        f"{path} has categories that the training rows had rarely or not at all: city (3)"
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"\n71,", b"\n71,1,", "a.csv:72 has 9 values, but the header has 8"),
        (b"\n71,", b'\n71,"', "a.csv:72 is no CSV: "),
        (b"\n71,", b"\n71\x00,", "a.csv:72 is not text: it holds a NUL character"),
        (b"\n71,", b"\n\xff71,", "a.csv: below line "),
    ],
)
def test_what_is_wrong_further_down_is_told(
    old: bytes, new: bytes, message: str, small_pieces: None, tmp_path: Path
) -> None:
    frame = people(100)
    frame["age"] = 5
    path = tmp_path / "a.csv"
    path.write_bytes(frame.to_csv(index=False).encode().replace(old, new))
    found: list[Table] = []
    with pytest.raises(DataError) as caught:
        found.extend(read_pieces(path, FileFormat()))
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


@pytest.mark.parametrize("format", list(Format))
@pytest.mark.parametrize("count", [0, 1, 2500])
def test_output_that_is_written_as_it_comes_is_the_same(format: Format, count: int, capsys: Any) -> None:
    rows = [{"input": f"a.csv:{i}", "name": 'ü\n"', "value": i / 3} for i in range(count)]
    columns = [Column(name, name) for name in ("input", "name", "value")]
    emit(rows, columns, format=format)
    expected = capsys.readouterr().out

    def watched() -> Iterator[dict[str, Any]]:
        for place, row in enumerate(rows):
            if format in (Format.csv, Format.json) and place == 2000:
                assert "a.csv:999" in capsys.readouterr().out
            yield row

    emit_as_they_come(watched(), columns, format=format)
    assert expected.endswith(capsys.readouterr().out)


def test_json_lines_come_in_pieces(small_pieces: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the columns of the pieces before, even if a piece lacks one."""
    monkeypatch.setattr(json_lines, "_CHUNK", 7)
    monkeypatch.setattr(pieces, "_START", 100)
    rows = [{"a": i, "b": "x"} if i < 5 or i > 30 else {"a": i} for i in range(40)]
    rows[20]["late"] = True
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n" + json.dumps({"a": 40}))
    found, expected = list(read_pieces(path, FileFormat())), read_table(path)
    assert [len(table) for table in found] == [7, 7, 7, 7, 7, 6]
    assert [list(table.columns) for table in found[1:3]] == [["a", "b"], ["a", "b", "late"]]
    assert texts(found)["b"] == [expected.columns["b"].text(row) for row in range(41)]
    assert found[-1].where(5) == f"{path}:42" == expected.where(40)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n[1]\n")
    pieces_of_it = read_pieces(path, FileFormat())
    assert [len(next(pieces_of_it)) for _ in range(5)] == [7] * 5
    with pytest.raises(DataError, match=f"^{path}:41 is no object: "):
        next(pieces_of_it)


@pytest.mark.parametrize("header", [True, False])
def test_rows_of_numbers_come_in_pieces(header: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DataSpec("multiclass", "features", (4,), 3)
    path, lines = tmp_path / "a.csv", [f'{i},"{i + 1}",{i}.5,-{i}' for i in range(1000)]
    path.write_bytes(("\r\n".join(["x3,x1,x0,x2"] * header + lines) + "\r\n\r\n").encode("utf-8-sig"))
    keep = ("x3",) if header else ()
    (whole,) = read_rows(path, spec, keep=keep)
    monkeypatch.setattr(csv, "_CELLS", 28)
    monkeypatch.setattr(text, "_PIECE", 1000)
    some = list(read_rows(path, spec, keep=keep))
    assert len(some) == 143 and {len(each.names) for each in some} == {7, 6}
    assert torch.equal(torch.cat([each.raw for each in some]), whole.raw)
    assert whole.raw[3].tolist() == ([3.5, 4, -3, 3] if header else [3, 4, 3.5, -3])
    assert [name for each in some for name in each.names] == whole.names and whole.names[
        -1
    ] == f"{path}:{1000 + header}"
    assert [kept for each in some for kept in each.kept] == whole.kept
    path.write_bytes(path.read_bytes() + b"1,2,3,\xe4\n")
    pieces_of_it = read_rows(path, spec)
    assert torch.equal(next(pieces_of_it).raw, some[0].raw)
    with pytest.raises(DataError) as caught:
        list(pieces_of_it)
    assert str(caught.value) == (
        f"{path}:{1002 + header} is not UTF-8 text: byte {path.stat().st_size - 2} is 0xe4; save the file as UTF-8"
    )
    path.write_bytes(b"\r".join(line.encode() for line in lines))
    assert torch.equal(torch.cat([each.raw for each in read_rows(path, spec)])[:, 0], torch.arange(1000.0))
    monkeypatch.setattr(text, "_LONGEST_LINE", 3000)
    path.write_text("1,2,3," + "4" * 5000)
    with pytest.raises(DataError, match="has more than 3,000 bytes: it is no table$"):
        list(read_rows(path, spec))
