"""CSV files: values of rows, and the error message, with its line, for every fault."""

import os
from pathlib import Path

import pytest
import torch

from dlcli.core.errors import DataError
from dlcli.core.spec import DataSpec
from dlcli.data.readers.csv import read_rows

IRIS = ("sepal length", "sepal width", "petal length", "petal width")
HEADER = ",".join(IRIS)
FOUR = DataSpec("multiclass", "features", (4,), 3)
NEEDS = "it needs sepal length, sepal width, petal length, petal width"


def read(tmp_path: Path, content: str | bytes, spec: DataSpec = FOUR) -> tuple[list[int], list[list[float]]]:
    """The line of each row, and its values."""
    file = tmp_path / "a.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    (found,) = read_rows(file, spec, IRIS if spec is FOUR else ())
    assert all(name.startswith(f"{file}:") for name in found.names) and found.kept == [{} for _ in found.names]
    return [int(name.rpartition(":")[2]) for name in found.names], found.raw.tolist()


ROW = [1.0, 2.5, -3.0, 4e-3]


@pytest.mark.parametrize(
    "content",
    [
        "1,2.5,-3,4e-3\n",
        "1,2.5,-3,4e-3",
        "1,2.5,-3,4e-3\r\n",
        "1,2.5,-3,4e-3\r",
        b"\xef\xbb\xbf1,2.5,-3,4e-3\n",
        '"1", "2.5","-3","4e-3"\n',
        " 1 ,\t2.5, -3.0 ,+.4E-2\n",
        "1.,2.50,-3,0.004\n",
    ],
)
def test_a_row_is_read_value_by_value(content: str | bytes, tmp_path: Path) -> None:
    lines, rows = read(tmp_path, content)
    assert lines == [1] and rows == [torch.tensor(ROW).tolist()]


def test_empty_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    assert read(tmp_path, "\n1,2,3,4\n\r\n  \n5,6,7,8\n")[0] == [2, 5]


def test_a_header_orders_the_columns_and_others_are_left_out(tmp_path: Path) -> None:
    header = '"petal length", a "remark" ,sepal length, petal width ,sepal width'
    lines, rows = read(tmp_path, f"{header}\n3,red,1,4,2\n30,,10,40,20\n")
    assert lines == [2, 3] and rows == [[1, 2, 3, 4], [10, 20, 30, 40]]


def test_a_header_may_hold_numbers_beside_the_names(tmp_path: Path) -> None:
    assert read(tmp_path, f"2024,{HEADER}\n9,1,2,3,4\n") == ([2], [[1, 2, 3, 4]])


@pytest.mark.parametrize(
    ("header", "row"),
    [("0,1,2,3", "5,6,7,8"), (",0,1,2,3", "0,5,6,7,8"), ("label,3,2,1,0", "a,8,7,6,5"), ("0,1,2,3,NA", "5,6,7,8,9")],
)
def test_a_header_may_number_the_columns_as_pandas_does(header: str, row: str, tmp_path: Path) -> None:
    assert read(tmp_path, f"{header}\n{row}\n{row}\n") == ([2, 3], [[5, 6, 7, 8]] * 2)


@pytest.mark.parametrize("first", ["1,2,3,4", "0,1,3,2", "0,1,2,3.0", "0,1,2,2", "3,2,1,0", "00,1,2,3"])
def test_all_other_numbers_are_a_row(first: str, tmp_path: Path) -> None:
    assert read(tmp_path, f"{first}\n5,6,7,8\n")[0] == [1, 2]


@pytest.mark.parametrize(
    ("spec", "first", "names"),
    [
        (DataSpec("regression", "features", (1,), 1), "0", "x0"),
        (DataSpec("binary", "features", (2,), 1), "0,1", "x0, x1"),
        (DataSpec("multiclass", "tokens", (4,), 2, vocabulary=10), "0,1,2,3", "x0, x1, x2, x3"),
    ],
)
def test_numbers_that_may_be_a_row_as_well_are_refused(spec: DataSpec, first: str, names: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    with pytest.raises(DataError) as caught:
        read(tmp_path, f"{first}\n{first}\n", spec)
    assert str(caught.value) == (
        f"{file}:1 numbers the columns, or is a sample: write a header of names in its place or above it, {names}"
    )
    assert read(tmp_path, f"{names}\n{first}\n", spec)[1] == [[int(cell) for cell in first.split(",")]]


@pytest.mark.parametrize(
    ("first", "rows"),
    [
        ("2019,2020,2021,2022", [[5, 6, 7, 8]]),
        ("2022,2021,2020,2019", [[8, 7, 6, 5]]),
        ("2019,2020,2021,3", [[2019, 2020, 2021, 3], [5, 6, 7, 8]]),
    ],
)
def test_features_may_have_numbers_for_names(first: str, rows: list[list[float]], tmp_path: Path) -> None:
    """A row that contains some of these names is still a row of values."""
    (tmp_path / "a.csv").write_text(f"{first}\n5,6,7,8\n")
    (found,) = read_rows(tmp_path / "a.csv", FOUR, ("2019", "2020", "2021", "2022"))
    assert found.raw.tolist() == rows


def test_text_in_quotes_may_span_lines_and_the_line_is_where_a_row_begins(tmp_path: Path) -> None:
    content = f'remark,{HEADER}\n"one\ntwo, ""three"";\n",1,2,3,4\nnone,5,6,7,8\n'
    assert read(tmp_path, content) == ([2, 5], [[1, 2, 3, 4], [5, 6, 7, 8]])
    with pytest.raises(DataError) as caught:
        read(tmp_path, content + '"a\nb",1,2,wide,4\n')
    assert str(caught.value) == f"{tmp_path / 'a.csv'}:6: petal length is 'wide', which is no number"


def test_only_line_ends_end_a_line(tmp_path: Path) -> None:
    content = f"{HEADER},remark\n1,2,3,4,a\x0bb\x0cc\x1cd\x85e\u2028f\n5,6,7,8,g\n"
    assert read(tmp_path, content) == ([2, 3], [[1, 2, 3, 4], [5, 6, 7, 8]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # rows that are too short or too long
        ("5.1,3.5,1.4\n", ":1 has 3 values, but 4 are needed"),
        ("1,2,3,4\n1,2,3,4,5\n", ":2 has 5 values, but 4 are needed"),
        ("1,2,3,4\n1,2,3,4,\n", ":2 has 5 values, but 4 are needed"),
        ('1,2,3,4\n"1,000",2,3,4,5\n', ":2 has 5 values, but 4 are needed"),
        (f"{HEADER}\n1,2,3\n", ":2 has 3 values, but 4 stand in the header"),
        (f"{HEADER}\n1,2,3,4,5\n6,7,8,9,10\n", ":2 has 5 values, but 4 stand in the header"),
        # values that are not numbers
        (f"{HEADER}\n1,2,3,wide\n", ":2: petal width is 'wide', which is no number"),
        ("1,2,3,4\n1,2,,4\n", ":2: petal length is empty"),
        ("1,2,,4\n1,2,3,4\n", ":1: petal length is empty"),
        ("1,2,3,4\n,,,\n", ":2: sepal length is empty"),
        ("1,2,3,4\n1,2,nan,4\n", ":2: petal length is 'nan', which is no number"),
        ("1,2,3,4\n1,2,-inf,4\n", ":2: petal length is '-inf', which is no number"),
        ("1,2,3,4\n1,NA,3,4\n", ":2: sepal width is 'NA', which is no number"),
        ('1,2,3,4\n1,2,3,"1,000"\n', ":2: petal width is '1,000', which is no number"),
        ("1,2,3,4\n1_000,2,3,4\n", ":2: sepal length is '1_000', which is no number"),
        ("1,2,3,4\n0x10,2,3,4\n", ":2: sepal length is '0x10', which is no number"),
        ("1,2,3,4\n\u0663,2,3,4\n", ":2: sepal length is '\u0663', which is no number"),
        ("1,2,3,4\n1 2,2,3,4\n", ":2: sepal length is '1 2', which is no number"),
        ("1,2,3,4\n\x1b[31m,2,3,4\n", ":2: sepal length is '\\x1b[31m', which is no number"),
        (f"1,2,3,4\n{'x' * 50},2,3,4\n", f":2: sepal length is '{'x' * 37}...', which is no number"),
        ("1,2,3,4\n1,2,1e400,4\n", ":2: petal length is 1e400, which is too large"),
        ("1,2,3,4\n1,2,-4e38,4\n", ":2: petal length is -4e38, which is too large"),
        # other separators
        ("5.1;3.5;1.4;0.2\n", ":1 has semicolons between its values: save it with commas there, and points in numbers"),
        ("5,1;3,5;1,4;0,2\n", ":1 has semicolons between its values: save it with commas there, and points in numbers"),
        (
            f"{HEADER.replace(',', ';')}\n1;2;3;4\n",
            ":1 has semicolons between its values: save it with commas there, and points in numbers",
        ),
        ("5.1\t3.5\t1.4\t0.2\n", ":1 has tabs between its values: save it with commas there, and points in numbers"),
        # the header
        (
            "sepal length,sepal width,petal length,colour\n1,2,3,4\n",
            f":1 has no column 'petal width': {NEEDS}",
        ),
        (
            "sepal length,sepal width,petal length,petal widht\n1,2,3,4\n",
            f":1 has no column 'petal width': {NEEDS}; did you mean petal widht?",
        ),
        ("a,b,c,d\n1,2,3,4\n", f":1 has no column 'sepal length': {NEEDS}"),
        (f"{HEADER},petal width\n1,2,3,4,5\n", ":1 has 2 columns 'petal width': one is needed"),
        # the file
        ("", " is empty"),
        ("\n \n\r\n", " is empty"),
        (b"\xef\xbb\xbf", " is empty"),
        (f"{HEADER}\n", " has a header but no rows"),
        ('1,2,3,4\n1,"2,3,4\n5,6,7,8\n', ":2 is no CSV: a quote that begins there does not end"),
        ('1,2,3,4\n1,"2"3,3,4\n', ":2 is no CSV: ',' expected after '\"'"),
        (f"1,2,3,4\n{'1' * 200_000},2,3,4\n", ":2 is no CSV: field larger than field limit (131072)"),
        (b"1,2,3,4\n1,2,3,\xe9\n", ":2 is not UTF-8 text: byte 14 is 0xe9; save the file as UTF-8"),
        ("1,2,3,4\n".encode("utf-16"), " is not UTF-8 text but UTF-16: save it as UTF-8"),
        (b"1,2,3,4\n1,2,3,4\0\n", ":2 is not text: it holds a NUL character"),
    ],
)
def test_a_fault_is_told_with_its_line(content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, content)
    assert str(caught.value) == f"{tmp_path / 'a.csv'}{message}"


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in ((tmp_path, "is a folder: name a file in it"), (tmp_path / "pipe", "is no regular file")):
        with pytest.raises(DataError) as caught:
            list(read_rows(path, FOUR))
        assert str(caught.value) == f"{path} {reason}"


def test_columns_without_names_are_numbered(tmp_path: Path) -> None:
    images = DataSpec("multiclass", "image", (1, 4, 5), 2)
    values = ",".join(map(str, range(5, 25)))
    assert torch.tensor(read(tmp_path, f"{values}\n", images)[1]).shape == (1, 1, 4, 5)
    names = [f"x{i}" for i in range(20)]
    assert read(tmp_path, f"{','.join(names)}\n{values}\n", images)[1] == read(tmp_path, f"{values}\n", images)[1]
    with pytest.raises(DataError) as caught:
        read(tmp_path, "label,pixel\n1,2\n", images)
    assert str(caught.value) == (
        f"{tmp_path / 'a.csv'}:1 has no column 'x0': it needs 20 columns, x0, x1, x2 and so on"
    )  # fmt: skip


def test_tokens_are_whole_numbers_of_the_vocabulary(tmp_path: Path) -> None:
    tokens = DataSpec("multiclass", "tokens", (3,), 2, vocabulary=10)
    assert read(tmp_path, "0,9,5\n1,2.0,3\n", tokens)[1] == [[0, 9, 5], [1, 2, 3]]
    for wrong in ("10", "-1", "0.5", "1e30"):
        with pytest.raises(DataError) as caught:
            read(tmp_path, f"1,2,3\n1,2,{wrong}\n", tokens)
        assert str(caught.value) == f"{tmp_path / 'a.csv'}:2: tokens must be whole numbers from 0 to 9"
