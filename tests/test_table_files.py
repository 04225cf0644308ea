"""Large CSV files, which pyarrow reads, and Parquet files: cell by cell as a small CSV file is read, or a message.

What a small file gives is tested in test_tables.py.
"""

import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from dlcli.core.errors import DataError, ResourceError
from dlcli.data.readers import arrow, tables
from dlcli.data.readers.cells import Cells, Numbers, Table
from dlcli.data.readers.separated import Format
from dlcli.data.readers.tables import read_table
from tests.test_tables import kinds, loaded, people, said, written


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as large."""
    monkeypatch.setattr(tables, "_LARGE", 0)


@pytest.fixture
def read_by_arrow(large: None, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each file that was read: whether pyarrow did it."""
    done: list[bool] = []
    plain = tables._large

    def watched(*args: Any) -> Table | None:
        done.append((found := plain(*args)) is not None)
        return found

    monkeypatch.setattr(tables, "_large", watched)
    return done


def small(path: Path, how: Format = Format(), **options: Any) -> Table:  # noqa: B008
    """As a small file is read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_LARGE", 1 << 60)
        return read_table(path, how, **options)


def assert_same(found: Table, expected: Table) -> None:
    assert list(found.columns) == list(expected.columns)
    assert found.lines.tolist() == expected.lines.tolist()
    assert (found.sha256, found.decimal_comma, found.notes) == (
        expected.sha256, expected.decimal_comma, expected.notes,
    )  # fmt: skip
    for name, cells in found.columns.items():
        other = expected.columns[name]
        if isinstance(cells, Cells):
            assert (cells.values, cells.codes.tolist()) == (other.values, other.codes.tolist())
        else:
            assert np.nanmax(np.abs(cells.numbers)) <= np.finfo(np.float32).max
            texts = [other.text(row).replace(",", ".") for row in range(len(other))]
            assert cells.numbers.tolist() == pytest.approx([float(text or "nan") for text in texts], abs=0, nan_ok=True)


def wide(count: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = people(count)
    frame["remark"] = [f'a "{i}", and\nmore' if i % 7 == 0 else f"ü {i}" for i in range(count)]
    frame["tiny"] = rng.normal(size=count) * 1e-30
    return frame


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("how", ["plain", "bom", "gz", "blank lines", "comments", "no header", "no last line end"])
def test_a_large_file_is_read_as_a_small_one(
    mark: str, ending: str, how: str, read_by_arrow: list[bool], tmp_path: Path
) -> None:
    frame = wide()
    text = frame.to_csv(
        index=False, sep=mark, decimal="," if mark == ";" else ".", header=how != "no header", lineterminator="\n"
    )
    if how == "blank lines":
        lines = text.split("\n")
        text = "\n".join([*lines[:1], "", *lines[1:], "", ""])
    if how == "comments":
        text = "# made by hand\n#\n" + text
    text = text.rstrip("\n") if how == "no last line end" else text
    content = text.replace("\n", ending).encode("utf-8-sig" if how == "bom" else "utf-8")
    path = tmp_path / ("a.csv.gz" if how == "gz" else "a.csv")
    path.write_bytes(gzip.compress(content) if how == "gz" else content)
    about = Format("none" if how == "no header" else "first", comment="#" if how == "comments" else "")
    found = read_table(path, about)
    assert read_by_arrow == [True]
    assert_same(found, small(path, about))
    assert sum(isinstance(cells, Numbers) for cells in found.columns.values()) == 4
    assert (
        sum(isinstance(cells, Numbers) for cells in read_table(path, about, texts=("age", "c1")).columns.values()) == 3
    )


@pytest.mark.parametrize("cell", ["NAN", "Nan", "-nan", "+nan", "nan(1)"])
def test_what_pyarrow_takes_as_no_number_is_told_as_in_a_small_file(
    cell: str, read_by_arrow: Any, tmp_path: Path
) -> None:
    rows = range(5_600)  # what is in the first 5,000 decides how the column is read
    frame = pd.DataFrame({"plan": [f"p{row % 2}" for row in rows], "income": [f"{row}.5" for row in rows]})
    frame.loc[5_300, "income"] = cell
    path = written(tmp_path, frame)
    assert said(DataError, path).startswith(f"{path}:5302: income is {cell!r}, which is no number")
    assert read_by_arrow == [True]


def test_pieces_of_every_size_give_the_same(read_by_arrow: list[bool], monkeypatch: Any, tmp_path: Path) -> None:
    path = written(tmp_path, wide(60))
    path.write_text("\n\n\n".join(path.read_text().split("\n")))
    text = path.read_text()
    path.write_text(text[: text.index("\n")] + text[text.index("\n") + 2 :])
    expected = small(path)
    for size in (*range(300, 320), 4096):
        monkeypatch.setattr(arrow, "_BLOCK", size)
        assert_same(read_table(path), expected)
    assert read_by_arrow == [False] + [True] * 21
    assert len(set(expected.lines[1:] - expected.lines[:-1])) > 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("3.5", "about 3"), ("3.5", "1e39"), ("3.5", "inf"), ("3.5", "1_0"), ("3.5", " 3.5 "), ("3.5", "?"),
        ("3.5", '"3.5"'), ("3.5", ' "3.5"'), ("3.5", '"3".5'), ("3.5", '3"5'), ("3.5", '"3.5'), ("3.5", "3.5,1"),
        ("3.5", "\x00"), ("3.5\n", "\n"), ("Köln", "K\xf6ln"), ("3.5\n", "3.5\r"), ("3.5", ""), ("3.5", "+3.5"),
    ],
)  # fmt: skip
def test_what_pyarrow_reads_otherwise_is_not_left_to_it(
    old: str, new: str, read_by_arrow: list[bool], tmp_path: Path
) -> None:
    lines = [f"{i / 3},Köln,x,{i}.25\n" for i in range(200)]
    lines[150] = lines[150].replace("150.25", "3.5").replace(old, new)
    content = "".join(["a,b,c,d\n", *lines]).encode()
    (tmp_path / "a.csv").write_bytes(content.replace("K\xf6ln".encode(), b"K\xf6ln") if "K" in new else content)
    try:
        expected = small(tmp_path / "a.csv")
    except DataError as error:
        with pytest.raises(DataError) as caught:
            read_table(tmp_path / "a.csv")
        assert str(caught.value) == str(error)
    else:
        assert_same(read_table(tmp_path / "a.csv"), expected)
        assert read_by_arrow[-1] == (new not in (' "3.5"', '3"5', "K\xf6ln", "3.5\r"))


@pytest.mark.parametrize("cell", [' "x"', '"x" ', 'y"x"', '"x"y'])
def test_a_quote_inside_a_cell_is_found_below_the_rows_that_are_looked_at_first(
    cell: str, read_by_arrow: list[bool], tmp_path: Path
) -> None:
    """Those are 5,000. pyarrow would read the cell as another text, or as one that the small reader refuses."""
    lines = [f"{i}.25,x\n" for i in range(6000)]
    lines[5500] = f"3.5,{cell}\n"
    (tmp_path / "a.csv").write_text("".join(["a,b\n", *lines]))
    try:
        expected = small(tmp_path / "a.csv")
    except DataError as error:
        with pytest.raises(DataError) as caught:
            read_table(tmp_path / "a.csv")
        assert str(caught.value) == str(error)
    else:
        assert_same(read_table(tmp_path / "a.csv"), expected)
    assert read_by_arrow == [False, False]


def test_a_large_file_becomes_the_same_data(large: None, tmp_path: Path) -> None:
    path = written(tmp_path, people(1000))
    for target in ("plan", "income"):
        found = loaded(path, target)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tables, "_LARGE", 1 << 60)
            expected = loaded(path, target)
        assert found.preprocessing == expected.preprocessing and found.fingerprint == expected.fingerprint
        for split in ("train", "val", "test"):
            for mine, other in zip(
                found.split(split).rows.take(slice(None)), expected.split(split).rows.take(slice(None)), strict=True
            ):
                assert mine is not None and other is not None and mine.equal(other)
    assert kinds(loaded(path))["id"] == ("left out", "it numbers the rows")
    frame = people(1000).astype({"income": object})
    frame.loc[[7, 8], "income"] = ["about 40000", "1_000"]
    assert said(DataError, written(tmp_path, frame)) == (
        f"{path}:9: income is 'about 40000', which is no number, or too large a one (and 1 more): correct it, or take "
        "such cells as missing with data.invalid=missing"
    )


def test_many_rows_are_normalised_in_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dlcli.data import prepare

    path = written(tmp_path, people(400))
    expected = loaded(path).preprocessing
    monkeypatch.setattr(prepare, "_MANY", 50)
    found = loaded(path).preprocessing
    assert found.mean == pytest.approx(expected.mean, rel=1e-12)
    assert found.std == pytest.approx(expected.std, rel=1e-12)


def test_without_pyarrow_small_files_are_read_and_others_say_what_to_install(
    large: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = written(tmp_path, wide())
    expected = small(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert_same(read_table(path), expected)
    with pytest.raises(ResourceError) as caught:
        read_table(tmp_path / "a.parquet")
    assert str(caught.value) == (
        f"{tmp_path}/a.parquet is a Parquet file, which needs pyarrow: pip install 'dlcli[tables]'"
    )
    monkeypatch.setattr(tables, "MOST_BYTES", 1000)
    with pytest.raises(ResourceError) as caught:
        read_table(path)
    assert str(caught.value) == f"{path} is too large to be read without pyarrow: pip install 'dlcli[tables]'"


# Parquet


def as_parquet(path: Path, frame: pd.DataFrame) -> Path:
    frame.to_parquet(path, index=False, row_group_size=64)
    return path


def test_a_parquet_file_becomes_the_same_data_as_a_csv_file(tmp_path: Path) -> None:
    frame = people(400).assign(flag=["true", "false"] * 200, group=[1, 2, 3, 4] * 100)
    other = frame.assign(
        flag=[True, False] * 200, since=pd.to_datetime(frame["since"]).dt.date, city=frame["city"].astype("category")
    )
    csv, path = written(tmp_path, frame), as_parquet(tmp_path / "a.parquet", other)
    found, expected = loaded(path), loaded(csv)
    assert found.preprocessing == expected.preprocessing
    for split in ("train", "val", "test"):
        for mine, theirs in zip(
            found.split(split).rows.take(slice(None)), expected.split(split).rows.take(slice(None)), strict=True
        ):
            assert mine is not None and theirs is not None and mine.equal(theirs)
    mixed = loaded(csv, test=str(as_parquet(tmp_path / "b.parquet", other[list(other.columns[::-1])].iloc[:50])))
    assert mixed.test is not None and len(mixed.test) == 50
    assert read_table(path, texts=("income",)).columns["income"].text(0) == str(frame["income"][0])


def nested(frame: pd.DataFrame) -> pa.Table:
    return pa.table({"a": [1, 2], "b": [[1], [2, 3]]})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"PAR1 nonsense"), "a.parquet is no Parquet file, or a damaged one: "),
        (
            lambda path: parquet.write_table(pa.table({"a": [1], "b": [[1]]}), path),
            "a.parquet: b is a column of the type list<element: int64>, but numbers, texts and dates are expected: "
            "leave it out of the file",
        ),
        (
            lambda path: parquet.write_table(pa.table({"a": pa.array([], pa.int64())}), path),
            "a.parquet has columns but no rows",
        ),
        (lambda path: None, "a.parquet does not exist"),
    ],
)  # fmt: skip
def test_parquet_files_that_cannot_be_used(make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    make(tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / "a.parquet")
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_numbers_of_parquet_that_float32_cannot_hold_are_told(tmp_path: Path) -> None:
    frame = people(100).assign(big=[1e39, *range(99)])
    path = as_parquet(tmp_path / "a.parquet", frame)
    assert said(DataError, path) == (
        f"{path}:1: big is '1e+39', which is no number, or too large a one: correct it, or take such cells as missing "
        "with data.invalid=missing"
    )
