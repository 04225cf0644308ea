"""table:FILE: how files are read, what is made of their columns, and that nothing is learned from held-out rows.

Numbers are compared with pandas; messages are whole.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError, DataError, DlcliError
from dlcli.data.dataset import Dataset
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.readers.separated import Format
from dlcli.data.readers.tables import read_table
from dlcli.experiment.load import load_data
from tests.conftest import DATA_DIR, Dlcli, needs_data
from tests.evil import NAMES
from tests.test_evil import COMMANDS_A_TERMINAL
from tests.warm import Warm

CITIES = ("Bern", "Köln", "Paris")


def people(count: int = 200) -> pd.DataFrame:
    """A table with a column of every kind. `plan` depends on age and city."""
    rng = np.random.default_rng(0)
    age = rng.integers(18, 90, count).astype(float)
    city = rng.choice(CITIES, count)
    frame = pd.DataFrame(
        {
            "id": np.arange(count) + 1,
            "age": np.where(rng.random(count) < 0.1, np.nan, age),
            "city": np.where(rng.random(count) < 0.05, None, city),
            "member": rng.choice(["no", "yes"], count),
            "since": [f"{2000 + i % 9}-{i % 12 + 1:02}-{i % 28 + 1:02}" for i in range(count)],
            "remark": [f"text {i % 70} of {i}" for i in range(count)],
            "income": (age * 1000 + rng.normal(0, 1, count)).round(2),
            "plan": np.where((age > 50) == (city == "Bern"), "gold", "basic"),
        }
    )
    return frame


def written(folder: Path, frame: pd.DataFrame, name: str = "a.csv", **how: Any) -> Path:
    frame.to_csv(folder / name, index=False, **how)
    return folder / name


def loaded(path: Path, target: str = "plan", *, model: str = "mlp", settings: Any = None, **options: Any) -> Dataset:
    given = {"target": target, **options}
    return load_data(TrainConfig(model, data=f"table:{path}", data_options=given, **(settings or {})), device="cpu")


def rows_of(data: Dataset, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    split = data.split(name)
    x, y = split.rows.take(slice(None) if split.index is None else split.index)
    assert y is not None
    return x, y


def said(error: type[DlcliError], path: Path, target: str = "plan", **options: Any) -> str:
    with pytest.raises(error) as caught:
        loaded(path, target, **options)
    return str(caught.value)


# Reading


SMALL = [["name", "size"], ["a, b", "1"], ['say "x"', "2.5"], ["ü", ""]]


def as_csv(mark: str) -> str:
    quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row] for row in SMALL]
    return "\n".join(mark.join(row) for row in quoted) + "\n"


@pytest.mark.parametrize("mark", [",", ";", "\t", "|", ", "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("packed", [False, True])
def test_delimiters_encodings_and_line_endings(
    mark: str, encoding: str, ending: str, packed: bool, tmp_path: Path
) -> None:
    content = as_csv(mark).replace("\n", ending).encode(encoding)
    path = tmp_path / ("a.csv.gz" if packed else "a.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    table = read_table(path)
    assert list(table.columns) == ["name", "size"]
    assert [table.columns["name"].text(row) for row in range(3)] == ["a, b", 'say "x"', "ü"]
    assert [table.columns["size"].text(row) for row in range(3)] == ["1", "2.5", ""]
    assert table.lines.tolist() == [2, 3, 4]
    note = (f"{path.name} is read as latin-1, since line 4 is not UTF-8",)
    assert table.notes == (note if encoding == "latin-1" and ending != "\r" else table.notes)
    assert bool(table.notes) == (encoding == "latin-1")


def test_lines_are_those_of_the_file_with_empty_lines_and_quoted_newlines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,b\n\n1,"two\nlines"\n\n2,x\n')
    table = read_table(tmp_path / "a.csv")
    assert table.lines.tolist() == [3, 6]
    assert table.columns["b"].text(0) == "two\nlines"


@pytest.mark.parametrize("text", ["", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "#N/A", " ? "])
def test_what_counts_as_missing(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"a,b\n1,{text}\n2,x\n")
    assert read_table(tmp_path / "a.csv").columns["b"].codes.tolist() == [-1, 0]


def test_json_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1.5, "b": "x"}\n\n{"b": null, "c": true, "a": 2}\n')
    table = read_table(tmp_path / "a.jsonl")
    assert {name: [cells.text(row) for row in range(2)] for name, cells in table.columns.items()} == {
        "a": ["1.5", "2"], "b": ["x", ""], "c": ["", "true"],
    }  # fmt: skip
    assert table.lines.tolist() == [1, 3]


def test_names_of_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("v1,,\n1,2,3\n")
    assert list(read_table(tmp_path / "a.csv").columns) == ["v1", "c1", "c2"]
    assert list(read_table(tmp_path / "a.csv", Format("none")).columns) == ["c0", "c1", "c2"]
    assert list(read_table(tmp_path / "a.csv", Format("none", ("x", "y", "z"))).columns) == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.csv is empty"),
        (b"a,b\n", "a.csv has a header but no rows"),
        (b"a,b\n1,2\n1,2,3\n", "a.csv:3 has 3 values, but the header has 2"),
        (b"a,b\n\n1\n", "a.csv:3 has 1 values, but the header has 2"),
        (b"a,a\n1,2\n", "a.csv:1 names two columns 'a': rename one of them"),
        (b'a,b\n1,"2\n3,4\n', "a.csv:2 is no CSV: a quote that begins there does not end"),
        (b"a,b\n1,\x00\n", "a.csv:2 is not text: it holds a NUL character"),
        (b"\xff\xfea\x00\xd8\xd8", "a.csv is damaged UTF-16 text: save it as UTF-8"),
        (b"\x1f\x8bnonsense", "a.csv is a damaged .gz file: Unknown compression method"),
        (b'{"a": 1}\n{"a": [1]}\n', "a.csv:2: a is a list: each value is text, a number, true, false or null"),
        (b'{"a": 1}\n[1]\n', "a.csv:2 is no object: each line is one, {'column': value, ...}"),
        (b'{"a": 1}\n{"a"\n', "a.csv:2 is no JSON: Expecting ':' delimiter: line 1 column 5 (char 4)"),
    ],
)
def test_files_that_are_no_tables(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / "a.csv")
    assert str(caught.value) == f"{tmp_path}/{message}"


def test_other_formats_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / "a.xlsx")
    assert str(caught.value) == (
        f"{tmp_path}/a.xlsx is not read: save the table as .csv, .tsv, .parquet or .jsonl (one object per line)"
    )
    (tmp_path / "people.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / "poeple.csv")
    assert str(caught.value) == f"{tmp_path}/poeple.csv does not exist: did you mean people.csv?"


def test_a_gz_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlcli.data.readers import tables

    monkeypatch.setattr(tables, "MOST_BYTES", 1000)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 1000))
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / "a.csv.gz")
    assert str(caught.value) == f"{tmp_path}/a.csv.gz unpacks to more than 1,000 bytes"


# What is made of the columns


def kinds(data: Dataset) -> dict[str, tuple[str, str]]:
    assert data.preprocessing.encoding is not None
    return {column.name: (column.kind, column.reason) for column in data.preprocessing.encoding.columns}


def test_the_kind_of_every_column(tmp_path: Path) -> None:
    assert kinds(loaded(written(tmp_path, people()))) == {
        "id": ("left out", "it numbers the rows"),
        "age": ("number", ""),
        "city": ("category", ""),
        "member": ("yes/no", ""),
        "since": ("date", ""),
        "remark": ("left out", "it is an id or free text: different in every row"),
        "income": ("number", ""),
        "plan": ("target", ""),
    }


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        (["x"] * 60, "left out", "it is 'x' in every row"),
        (["x", ""] * 30, "category", ""),
        ([""] * 60, "left out", "it is empty"),
        (["0", "1"] * 30, "yes/no", ""),
        ([f"{i / 3:.3f}" for i in range(60)], "number", ""),
        (["1,5"] * 20 + ["2"] * 20 + ["x"] * 20, "category", ""),
        ([f"{i % 12 + 1}.{i % 3 + 1}.2020 10:{i % 60:02}" for i in range(60)], "date", ""),
        ([f"id-{i % 55}" for i in range(60)], "left out", "it is free text: 55 different values in 60 rows"),
        (["a", "b", "c"] * 20, "category", ""),
        (["1_000", "nan1", "٣"] * 20, "category", ""),
    ],
)
def test_the_kind_of_a_column(values: list[str], kind: str, reason: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": values, "b": np.random.default_rng(0).normal(size=60), "y": ["u", "v"] * 30})
    assert kinds(loaded(written(tmp_path, frame), "y"))["a"] == (kind, reason)


def test_options_override_the_kind(tmp_path: Path) -> None:
    path = written(tmp_path, people())
    found = kinds(loaded(path, numbers=("id",), categories=("remark", "member"), drop=("age",)))
    assert found["id"] == ("number", "") and found["remark"] == found["member"] == ("category", "")
    assert found["age"] == ("left out", "data.drop names it")


def test_features_against_pandas(tmp_path: Path) -> None:
    frame = people()
    data = loaded(written(tmp_path, frame), min_count=1)
    about, train = data.preprocessing, frame.iloc[data.train.index.numpy()]
    encoding = about.encoding
    assert encoding is not None
    levels = train["city"].value_counts()
    order = sorted(levels.index, key=lambda c: (-levels[c], c))
    dates = pd.to_datetime(frame["since"])
    expected = {
        "age": frame["age"].fillna(train["age"].median()),
        "age=missing": frame["age"].isna(),
        **{f"city={level}": frame["city"] == level for level in order},
        "city=missing": frame["city"].isna(),
        "member=yes": frame["member"] == "yes",
        "since.year": dates.dt.year,
        "since.month": dates.dt.month,
        "since.day": dates.dt.day,
        "since.weekday": dates.dt.day_of_week,
        "since.days": (dates - pd.Timestamp("1970-01-01")).dt.days,
        "since.month-sin": np.sin(2 * np.pi * (dates.dt.month - 1) / 12),
        "since.month-cos": np.cos(2 * np.pi * (dates.dt.month - 1) / 12),
        "since.weekday-sin": np.sin(2 * np.pi * dates.dt.day_of_week / 7),
        "since.weekday-cos": np.cos(2 * np.pi * dates.dt.day_of_week / 7),
        "income": frame["income"],
    }
    assert about.feature_names == tuple(expected)
    scaled = [name for name in expected if name in ("age", "income") or name.startswith("since.")]
    for place, (name, values) in enumerate(expected.items()):
        values = values.astype(float)
        if name in scaled:
            part = values.iloc[data.train.index.numpy()]
            assert about.mean[place] == pytest.approx(part.mean(), rel=1e-6)
            assert about.std[place] == pytest.approx(part.std(ddof=0), rel=1e-5)
            values = (values - part.mean()) / part.std(ddof=0)
        else:
            assert (about.mean[place], about.std[place]) == (0.0, 1.0)
        for split in ("train", "val", "test"):
            index = data.split(split).index.numpy()
            np.testing.assert_allclose(rows_of(data, split)[0][:, place], values.iloc[index], rtol=1e-3, atol=1e-3)
    names = np.array(about.class_names)
    assert names.tolist() == ["basic", "gold"]
    for split in ("train", "val", "test"):
        x, y = rows_of(data, split)
        assert names[y.numpy()].tolist() == frame["plan"].iloc[data.split(split).index.numpy()].tolist()


def test_rare_levels_are_one_feature_and_unseen_ones_none(tmp_path: Path) -> None:
    frame = pd.DataFrame({"c": ["a"] * 40 + ["b"] * 40 + list("defghij"), "y": (["u", "v"] * 44)[:87]})
    data = loaded(written(tmp_path, frame), "y", min_count=3)
    assert data.preprocessing.feature_names in (("c=a", "c=b", "c=other"), ("c=b", "c=a", "c=other"))
    x, _ = data.train.rows.take(slice(None))
    assert x.sum(1).tolist() == [1.0] * 87 and x[80:, 2].tolist() == [1.0] * 7


def test_a_decimal_comma_between_semicolons(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.5, 2.25, -3.0] * 20, "y": ["u", "v"] * 30})
    data = loaded(written(tmp_path, frame, sep=";", decimal=","), "y", settings={"normalize": False})
    assert kinds(data)["a"] == ("number", "")
    assert data.train.rows.take(slice(None))[0][:3, 0].tolist() == [1.5, 2.25, -3.0]


# Nothing is learned from held-out rows


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_held_out_row_has_no_influence(part: str, tmp_path: Path) -> None:
    frame = people()
    before = loaded(written(tmp_path, frame))
    row = int(before.split(part).index[0])
    changed = frame.copy()
    changed.loc[row, ["age", "income"]] = [1e6, -1e6]
    changed.loc[row, "city"] = "Utopia"
    changed.loc[row, "since"] = "1950-12-24"
    assert loaded(written(tmp_path, changed)).preprocessing == before.preprocessing
    trained = frame.copy()
    trained.loc[int(before.train.index[0]), "city"] = "Utopia"
    assert loaded(written(tmp_path, trained)).preprocessing != before.preprocessing


def test_a_class_that_no_training_row_has_is_told(tmp_path: Path) -> None:
    frame = people().assign(part=["train", "val", "test", "train"] * 50)
    frame.loc[5, "plan"] = "silver"
    path = written(tmp_path, frame)
    assert said(DataError, path, split_column="part") == (
        f"{path}:7: plan is 'silver', a class that no training row has: known are basic, gold"
    )


# Splits


def test_classes_have_the_same_share_in_every_split(tmp_path: Path) -> None:
    frame = people(1000).assign(y=["rare"] * 20 + ["some"] * 180 + ["most"] * 800)
    data = loaded(written(tmp_path, frame), "y")
    sizes = {}
    for split in ("train", "val", "test"):
        sizes[split] = rows_of(data, split)[1].bincount(minlength=3).tolist()
    assert data.preprocessing.class_names == ("most", "rare", "some")
    assert sizes == {"train": [576, 14, 130], "val": [64, 2, 14], "test": [160, 4, 36]}
    other = loaded(written(tmp_path, frame), "y", settings={"seed": 5})
    assert torch.equal(other.test.index, data.test.index) and not torch.equal(other.val.index, data.val.index)


def test_a_class_of_one_row_is_trained_on(tmp_path: Path) -> None:
    frame = people(100).assign(y=["only"] + ["a", "b", "c"] * 33)
    for seed in range(5):
        settings = {"seed": seed, "val_fraction": 0.8, "test_fraction": 0.6}
        data = loaded(written(tmp_path, frame), "y", settings=settings)
        assert 0 in data.train.index and data.preprocessing.class_names == ("a", "b", "c", "only")


def test_a_column_says_the_split(tmp_path: Path) -> None:
    part = ["train", "Train", "val", "test"] * 50
    path = written(tmp_path, people().assign(part=part))
    data = loaded(path, split_column="part")
    assert data.train.index.tolist() == [i for i in range(200) if i % 4 < 2]
    assert data.val.index.tolist() == list(range(2, 200, 4)) and data.test.index.tolist() == list(range(3, 200, 4))
    assert kinds(data)["part"] == ("left out", "it says the split")
    assert said(ConfigError, path, split_column="part", settings={"test_fraction": 0.3}) == (
        "test_fraction = 0.3 cannot be used with data that has a test set of its own"
    )
    written(tmp_path, people().assign(part=["train", "val"] * 100))
    assert "no row says test in part: these are drawn from the others" in loaded(path, split_column="part").notes
    written(tmp_path, people().assign(part=["train"] * 7 + ["trian"] + ["test"] * 192))
    assert said(DataError, path, split_column="part") == (
        f"{path}:9: part is 'trian', but train, val or test is expected"
    )


def test_a_test_file_is_the_test_split_and_its_dots_are_taken_off(tmp_path: Path) -> None:
    frame, later = people(), people(60).sample(frac=1, random_state=1)
    later["plan"] = later["plan"] + "."
    path, test = written(tmp_path, frame), written(tmp_path, later[list(later.columns[::-1])], "test.csv")
    data = loaded(path, test=str(test))
    assert (len(data.train), len(data.val), len(data.test)) == (180, 20, 60)
    names = np.array(data.preprocessing.class_names)
    assert [f"{name}." for name in names[rows_of(data, "test")[1].numpy()]] == later["plan"].tolist()
    assert data.notes[0] == "the values of plan in test.csv end in a dot, which is left out"
    later["plan"] = "silver"
    written(tmp_path, later, "test.csv")
    assert said(DataError, path, test=str(test)) == (
        f"{test}:2: plan is 'silver', a class that no training row has: known are basic, gold"
    )
    written(tmp_path, later.drop(columns="plan"), "test.csv")
    assert said(DataError, path, test=str(test)) == (
        f"{test} has no column 'plan', the target: known are id, age, city, member, since, remark, income"
    )


def test_the_path_of_a_test_file_does_not_depend_on_the_current_folder(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = TrainConfig("mlp", data="table:a.csv", data_options={"target": "y", "test": "later/b.csv"})
    assert (config.data, config.data_options["test"]) == (f"table:{tmp_path}/a.csv", f"{tmp_path}/later/b.csv")


# The task


@pytest.mark.parametrize(
    ("values", "task", "names"),
    [
        (["b", "a"] * 30, "binary", ("a", "b")),
        (["10", "9"] * 30, "binary", ("9", "10")),
        (["x", "z", "y"] * 20, "multiclass", ("x", "y", "z")),
        ([f"{i}" for i in range(30)] * 2, "regression", ()),
        (["0.5", "1.5", "2"] * 20, "regression", ()),
    ],
)
def test_the_task_follows_from_the_target(values: list[str], task: str, names: Any, tmp_path: Path) -> None:
    about = loaded(written(tmp_path, people(60).assign(y=values)), "y").preprocessing
    assert (about.spec.task, about.class_names) == (task, names)
    assert about.spec.outputs == (len(names) if task == "multiclass" else 1)


def test_few_whole_numbers_ask(tmp_path: Path) -> None:
    path = written(tmp_path, people(60).assign(y=[1, 2, 10] * 20))
    assert said(ConfigError, path, "y") == (
        "data.target = y has 3 different whole numbers, which may be classes or amounts: give data.task=multiclass or "
        "data.task=regression"
    )
    assert loaded(path, "y", task="multiclass").preprocessing.class_names == ("1", "2", "10")
    assert loaded(path, "y", task="regression").spec.task == "regression"


def test_targets_that_cannot_be_used(tmp_path: Path) -> None:
    path = written(tmp_path, people(60).assign(one=["x"] * 60, none=[""] * 60))
    assert said(DataError, path, "one") == f"{path}: one is 'x' in every row: there is nothing to predict"
    assert said(DataError, path, "none") == (
        f"{path} has no value in its column none, the target: name another in data.target"
    )
    assert said(ConfigError, path, "remark") == (
        "data.target = remark is text with 60 different values in 60 rows, too many for classes: name another column"
    )
    assert said(ConfigError, path, "plam") == f"data.target = plam is no column of {path}: did you mean plan?"
    with pytest.raises(ConfigError) as caught:
        load_data(TrainConfig("mlp", data=f"table:{path}"), device="cpu")
    assert str(caught.value) == (
        "data.target must be given, the column to predict: id, age, city, member, since, remark, income, plan, one, "
        f"none in {path}"
    )


def test_a_missing_header_is_suspected(tmp_path: Path) -> None:
    written(tmp_path, people(60)[["age", "city", "plan"]].fillna({"age": 7, "city": "Bern"}), header=False)
    path = tmp_path / "a.csv"
    first = path.read_text().split("\n")[0].split(",")
    assert said(ConfigError, path) == (
        f"data.target = plan is no column of {path}: known are {', '.join(first)}; a file without a header is read "
        "with data.header=none"
    )
    data = loaded(path, header="none", columns=("age", "city", "plan"))
    assert list(kinds(data)) == ["age", "city", "plan"]
    assert list(kinds(loaded(path, "c2", header="none"))) == ["c0", "c1", "c2"]
    assert said(DataError, path, header="none", columns=("age", "plan")) == (
        f"{path}:1 has 3 values, but data.columns names 2 columns"
    )
    assert said(ConfigError, path, columns=("age", "plan")) == (
        "data.columns names the columns of a file without a header: add data.header=none"
    )


def test_rows_without_a_target_are_dropped_and_counted(tmp_path: Path) -> None:
    frame = people(60)
    frame.loc[[3, 5, 8], "plan"] = None
    data = loaded(written(tmp_path, frame))
    assert sum(len(data.split(name)) for name in ("train", "val", "test")) == 57
    assert data.notes[0] == "3 of 60 rows of a.csv are left out: they have no plan"


# Cells that do not suit their column


def test_a_few_texts_in_a_column_of_numbers_are_an_error_or_missing(tmp_path: Path) -> None:
    frame = people(1000).astype({"income": object})
    frame.loc[7, "income"] = "about 40000"
    frame.loc[9, "income"] = "1_000"
    path = written(tmp_path, frame)
    message = (
        f"{path}:9: income is 'about 40000', which is no number, or too large a one (and 1 more): correct it, or take "
        "such cells as missing with data.invalid=missing"
    )
    assert said(DataError, path) == message
    data = loaded(path, invalid="missing")
    names = data.preprocessing.feature_names
    assert kinds(data)["income"] == ("number", "") and "income=missing" in names
    x, _ = data.train.rows.take(slice(None))
    assert x[:, names.index("income=missing")].nonzero().flatten().tolist() == [7, 9]
    frame.loc[:20, "income"] = "x"
    assert kinds(loaded(written(tmp_path, frame)))["income"][0] == "left out"


def test_a_number_that_float32_cannot_hold_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, people(60).assign(big=["1e39", *map(str, range(59))]))
    assert said(DataError, path) == (
        f"{path}:2: big is '1e39', which is no number, or too large a one: correct it, or take such cells as missing "
        "with data.invalid=missing"
    )


def test_a_table_with_nothing_to_learn_from(tmp_path: Path) -> None:
    path = written(tmp_path, people(60)[["id", "plan"]])
    assert said(DataError, path) == (
        f"{path} has no column to learn from (id: it numbers the rows): name columns in data.numbers or data.categories"
    )
    assert said(ConfigError, path, drop=("ID",)) == f"data.drop = ID is no column of {path}: did you mean id?"
    assert said(ConfigError, path, drop=("plan",)) == (
        "data.target = plan is named in another option as well: leave it out there"
    )


# The run


def test_the_encoding_survives_json_and_damage_is_told(tmp_path: Path) -> None:
    about = loaded(written(tmp_path, people())).preprocessing
    document = json.loads(json.dumps(about.as_dict()))
    assert Preprocessing.from_dict(document) == about
    for path, value, message in (
        (("columns",), 3, "columns = 3 is not a list"),
        (("invalid",), "run", "invalid = 'run' is not one of error, missing"),
        (
            ("columns", 1, "kind"),
            "code",
            "kind = 'code' is not one of number, category, yes/no, date, left out, target",
        ),
        (("columns", 1, "fills"), [], "column 'age' is a number with other levels or fills"),
        (("columns", 2, "levels"), ["a", "a"], "column 'city' has a level twice"),
        (("columns", 2, "levels"), ["a"], "encoding makes 15 features, but the data is features of 17"),
        (("columns", 2, "name"), "age", "two of its columns have one name, or two are the target"),
    ):
        damaged = json.loads(json.dumps(document))
        place = damaged["encoding"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(ValueError) as caught:
            Preprocessing.from_dict(damaged)
        assert str(caught.value) == message


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Path:
    """A folder with a.csv and runs/1, a logistic regression on it, trained by the command."""
    folder = tmp_path_factory.mktemp("tables")
    written(folder, people(400))
    words = ["train", "logistic", "--data", "table:a.csv", "--target", "plan", "--epochs", "2", "--device", "cpu"]
    done = warm.run(words, cwd=folder, environment={}, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[1] == (
        f"logistic (18 parameters) on table:{folder}/a.csv (288 train, 32 val, 80 test samples); cpu, 1 thread"
    )
    assert lines[2] == ("left out: id (it numbers the rows), remark (it is an id or free text: different in every row)")
    return folder


def test_predict_takes_columns_in_any_order_and_tells_what_is_new(trained: Path, dlcli: Dlcli, tmp_path: Path) -> None:
    frame = people(400).iloc[:50]
    runs = ("--runs-dir", str(trained / "runs"))
    written(tmp_path, frame, "a.csv")
    plain = json.loads(dlcli("predict", "1", "a.csv", "--probabilities", "--json", *runs).stdout)
    mixed = frame[list(frame.columns[::-1])].drop(columns=["plan", "id"]).assign(extra="1,5")
    written(tmp_path, mixed, "b.csv", sep=";", decimal=",")
    done = dlcli("predict", "1", "b.csv", "--probabilities", "--keep", "city,extra", "--json", *runs)
    other = json.loads(done.stdout)
    assert [row["probability/gold"] for row in other] == [row["probability/gold"] for row in plain]
    assert (other[1]["input"], other[1]["city"], other[1]["extra"]) == ("b.csv:3", frame["city"][1], "1,5")
    assert done.stderr == ""
    data = loaded(trained / "a.csv")
    from dlcli.experiment.restore import restore
    from dlcli.runs.run import Run

    restored = restore(Run(trained / "runs", 1))
    assert restored.preprocessing == data.preprocessing
    x, _ = data.train.rows.take(slice(0, 50))
    expected = torch.sigmoid(restored.model(x)[:, 0]).tolist()
    assert [row["probability/gold"] for row in plain] == pytest.approx(expected, rel=1e-5)
    new = frame.copy()
    new.loc[[1, 2], "city"] = ["Utopia", "Eden"]
    new.loc[3, "age"] = np.nan
    written(tmp_path, new, "c.csv")
    done = dlcli("predict", "1", "c.csv", "--csv", *runs)
    assert len(done.stdout.splitlines()) == 51
    assert done.stderr == "c.csv has categories that the training rows had rarely or not at all: city (2)\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="income"), "a.csv has no column 'income'"),
        (lambda f: f.rename(columns={"income": "incomes"}), "a.csv has no column 'income': did you mean incomes?"),
        (
            lambda f: f.assign(income="much"),
            "a.csv:2: income is 'much', which is no number, or too large a one (and 4 more): correct it, or take such "
            "cells as missing with data.invalid=missing",
        ),
        (
            lambda f: f.assign(since="never"),
            "a.csv:2: since is 'never', which is no date (and 4 more): correct it, or take such cells as missing with "
            "data.invalid=missing",
        ),
    ],
)
def test_predict_tells_what_does_not_fit(
    change: Any, message: str, trained: Path, dlcli: Dlcli, tmp_path: Path
) -> None:
    written(tmp_path, change(people(5)))
    done = dlcli("predict", "1", "a.csv", "--runs-dir", str(trained / "runs"), check=3)
    assert (done.stdout, done.stderr) == ("", f"error: {message}\n")


def test_eval_resume_and_export_use_what_was_learned(trained: Path, dlcli: Dlcli, tmp_path: Path) -> None:
    runs = ("--runs-dir", str(trained / "runs"))
    own = json.loads(dlcli("eval", "1", "--json", *runs).stdout)
    assert own["samples"] == 80
    written(tmp_path, people(400).iloc[::-1].assign(plan="gold"), "other.csv")
    other = json.loads(dlcli("eval", "1", "--data", "table:other.csv", "--split", "train", "--json", *runs).stdout)
    assert other["samples"] == 288 and other["class_names"] == ["basic", "gold"]
    dlcli("export", "1", "--format", "safetensors", *runs)
    record = json.loads((trained / "runs" / "1" / "export" / "safetensors.json").read_text())
    stored = json.loads((trained / "runs" / "1" / "data.json").read_text())
    assert record["preprocessing"]["encoding"] == stored["encoding"]
    assert [column["name"] for column in stored["encoding"]["columns"]] == list(people().columns)


def test_resume_refuses_a_changed_table(dlcli: Dlcli, tmp_path: Path) -> None:
    path = written(tmp_path, people())
    words = ("--data", "table:a.csv", "--target", "income", "--epochs", "1", "--device", "cpu", "--quiet")
    dlcli("train", "mlp", *words)
    done = dlcli("resume", "1", "--epochs", "2", "--quiet")
    assert done.stderr == ""
    written(tmp_path, people().iloc[1:])
    done = dlcli("eval", "1", check=3)
    assert done.stderr == (
        f"error: data table:{path} has changed since the model was trained on it: restore it, or use it as it is now "
        f"with --data table:{path}\n"
    )
    assert json.loads(dlcli("eval", "1", "--data", f"table:{path}", "--json").stdout)["samples"] == 40
    written(tmp_path, people().assign(age="old"))
    assert dlcli("eval", "1", check=3).stderr == done.stderr


def test_cells_that_do_not_suit_are_counted_in_all_rows(tmp_path: Path) -> None:
    frame = people(1000).astype({"income": object})
    frame.loc[[3, 500, 996, 997, 998, 999], "income"] = "much"
    path = written(tmp_path, frame)
    assert said(DataError, path) == (
        f"{path}:5: income is 'much', which is no number, or too large a one (and 5 more): correct it, or take such "
        "cells as missing with data.invalid=missing"
    )


# Inspect


def test_inspect_tells_what_would_be_made_of_a_table(dlcli: Dlcli, tmp_path: Path) -> None:
    frame = people()
    frame["leak"] = np.where(frame["plan"] == "gold", 1.5, 0.5) + np.arange(200) / 1000
    frame.loc[199] = frame.loc[0].drop("id").to_dict() | {"id": 200}
    written(tmp_path, frame)
    done = dlcli("datasets", "inspect", "table:a.csv", "--target", "plan", "--json")
    found = json.loads(done.stdout)
    assert (found["task"], found["target"]) == ("binary", "plan")
    assert found["splits"] == {"train": 144, "val": 16, "test": 40}
    by_name = {row["name"]: row for row in found["columns"]}
    assert list(by_name) == list(frame.columns)
    city = by_name["city"]
    assert city["missing"] == int(frame["city"].isna().sum()) and city["distinct"] == 3
    assert city["examples"] == frame["city"].value_counts().index.tolist()
    assert city["treatment"] == "0 or 1 for each of 3 levels and one for missing"
    assert by_name["member"]["treatment"] == "1 for yes"
    assert by_name["since"]["treatment"] == (
        "year, month, day, weekday, days, month-sin, month-cos, weekday-sin, weekday-cos"
    )
    assert by_name["id"]["treatment"] == "left out: it numbers the rows"
    assert by_name["plan"]["treatment"] == "predicted: binary"
    assert by_name["income"]["treatment"] == "standardised"
    assert found["warnings"][0] == "leak alone predicts plan (accuracy 1.000): is it known before the answer?"
    assert found["warnings"][1].startswith("143 training rows are later than the first held-out row by since: ")
    assert found["warnings"][2].startswith("1 of 200 rows are copies of others")
    assert sum(sum(parts.values()) for parts in found["classes"].values()) == 200
    shown = dlcli("datasets", "inspect", "table:a.csv", "--set", "data.target=plan")
    assert shown.stdout.splitlines()[0].split() == ["column", "type", "missing", "distinct", "examples", "treatment"]
    assert len(shown.stdout.splitlines()) == 10
    assert shown.stderr.splitlines()[0] == (
        f"table:{tmp_path}/a.csv: binary on features of 18; 144 train, 16 val, 40 test samples"
    )
    assert not (tmp_path / "runs").exists()


def test_inspect_warns_of_rare_classes_and_correlated_numbers(dlcli: Dlcli, tmp_path: Path) -> None:
    frame = people()[["age", "city", "income"]].assign(y=["rare"] * 6 + ["often"] * 194)
    frame["twice"] = frame["income"] * 2 + 1
    frame["price"] = frame["city"].map({"Bern": 9.0, "Köln": 5.0, "Paris": -2.0}).fillna(1.0) + frame["income"] / 1e6
    written(tmp_path, frame)
    words = ("table:a.csv", "--target", "price", "--set", "data.drop=age,twice,income", "--json")
    assert json.loads(dlcli("datasets", "inspect", *words).stdout)["warnings"] == [
        "city alone predicts price (correlation ratio 1.000): is it known before the answer?"
    ]
    frame = frame.drop(columns="price")
    written(tmp_path, frame)
    found = json.loads(dlcli("datasets", "inspect", "table:a.csv", "--target", "y", "--json").stdout)
    assert found["warnings"] == ["class rare of y has 3.00% of the rows"]
    found = json.loads(
        dlcli("datasets", "inspect", "table:a.csv", "--target", "income", "--set", "data.drop=age", "--json").stdout
    )
    assert found["warnings"] == ["twice alone predicts income (correlation 1.000): is it known before the answer?"]


def test_inspect_needs_data_and_only_it_takes_settings(dlcli: Dlcli) -> None:
    assert dlcli("datasets", "inspect", check=2).stderr == (
        "error: inspect needs data: dlcli datasets inspect table:FILE --target COLUMN\n"
    )
    assert dlcli("datasets", "iris", "--target", "x", check=2).stderr == (
        "error: options of data can only follow inspect: dlcli datasets inspect DATA\n"
    )
    found = json.loads(dlcli("datasets", "inspect", "iris", "--json").stdout)
    assert found["splits"] == {"train": 108, "val": 12, "test": 30} and found["columns"] == []
    assert {name: sum(parts.values()) for name, parts in found["classes"].items()} == {
        "setosa": 50, "versicolor": 50, "virginica": 50,
    }  # fmt: skip


@pytest.mark.parametrize("names", [NAMES[:6], NAMES[6:]])
def test_names_and_values_of_a_file_never_command_a_terminal(names: Any, dlcli: Dlcli, tmp_path: Path) -> None:
    names = [name.replace("\x00", "") for name in names]
    frame = pd.DataFrame({name: [str(i) + names[i % 3] for i in range(60)] for name in names})
    frame = frame.assign(size=np.random.default_rng(0).normal(size=60), y=[names[i % 3] for i in range(60)])
    frame[names[0]] = [names[i % 2] for i in range(60)]
    written(tmp_path, frame, quoting=1)
    done = [dlcli("datasets", "inspect", "table:a.csv", "--target", "y")]
    done += [dlcli("train", "logistic", "--data", "table:a.csv", "--target", "y", "--epochs", "1", "--device", "cpu")]
    done += [dlcli("train", "mlp", "--data", "table:a.csv", "--target", "z", check=2)]
    done += [dlcli("eval", "1"), dlcli("predict", "1", "a.csv", "--probabilities")]
    written(tmp_path, frame.drop(columns=names[0]), "b.csv", quoting=1)
    done += [dlcli("predict", "1", "b.csv", check=3)]
    for each in done:
        assert not COMMANDS_A_TERMINAL.search(each.stdout + each.stderr)


# Files as people have them

ADULT = (
    "age,workclass,fnlwgt,education,education-num,marital-status,occupation,relationship,race,sex,capital-gain,"
    "capital-loss,hours-per-week,native-country,income"
).split(",")
OWN = Path(DATA_DIR) / "own"


@needs_data("own", "adult.train.csv")
def test_adult_against_pandas() -> None:
    path, test = OWN / "adult.train.csv", OWN / "adult.test.csv"
    data = loaded(path, "income", header="none", columns=tuple(ADULT), test=str(test))
    how: dict[str, Any] = {"names": ADULT, "skipinitialspace": True, "na_values": "?"}
    frame, later = pd.read_csv(path, **how), pd.read_csv(test, **how)
    assert (len(data.train) + len(data.val), len(data.test)) == (len(frame), len(later)) == (32561, 16281)
    about = data.preprocessing
    assert about.class_names == ("<=50K", ">50K")
    assert data.notes == (
        "the values of income in adult.test.csv end in a dot, which is left out",
        "27 validation and test rows are copies of training rows",
    )
    train = frame.iloc[data.train.index.numpy()]
    for name in ("age", "fnlwgt", "capital-gain"):
        place = about.feature_names.index(name)
        assert about.mean[place] == pytest.approx(train[name].mean(), rel=1e-6)
    x, y = rows_of(data, "test")
    assert y.tolist() == (later["income"] == ">50K.").astype(int).tolist()
    for level in ("Private", "Never-worked"):
        ours = x[:, about.feature_names.index(f"workclass={level}")]
        assert ours.tolist() == (later["workclass"] == level).astype(float).tolist()
    missing = x[:, about.feature_names.index("occupation=missing")]
    assert missing.tolist() == later["occupation"].isna().astype(float).tolist()


@needs_data("own", "housing.csv")
def test_housing_and_titanic(dlcli: Dlcli) -> None:
    data = loaded(OWN / "housing.csv", "median_house_value", model="linear")
    frame = pd.read_csv(OWN / "housing.csv")
    train = frame.iloc[data.train.index.numpy()]
    encoding = data.preprocessing.encoding
    assert encoding is not None and data.spec.task == "regression"
    (bedrooms,) = [column for column in encoding.columns if column.name == "total_bedrooms"]
    assert bedrooms.fills == (train["total_bedrooms"].median(),) and bedrooms.missing
    assert data.preprocessing.target_mean == pytest.approx(train["median_house_value"].mean(), rel=1e-9)
    found = kinds(loaded(OWN / "titanic.csv", "Survived"))
    assert {name for name, (kind, _) in found.items() if kind == "left out"} == {
        "PassengerId", "Name", "Ticket", "Cabin",
    }  # fmt: skip
    table = read_table(OWN / "spam.csv")
    assert list(table.columns) == ["v1", "v2", "c2", "c3", "c4"] and len(table) == 5572
    expected = pd.read_csv(OWN / "spam.csv", encoding="latin-1")
    assert [table.columns["v2"].text(row) for row in range(5572)] == [text.strip() for text in expected["v2"]]
