"""How a table is split: by time, by group, from separate files; dates; and options that name a column."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dlcli.core.errors import ConfigError, DataError
from dlcli.data.readers.tables import read_table
from tests.conftest import Dlcli
from tests.test_tables import kinds, loaded, people, rows_of, said, written


def index_of(data: Any) -> dict[str, list[int]]:
    return {name: data.split(name).index.tolist() for name in ("train", "val", "test")}


def test_the_last_rows_by_time_are_for_testing(tmp_path: Path) -> None:
    frame = people(200).sample(frac=1, random_state=3)
    order = np.argsort(pd.to_datetime(frame["since"]).to_numpy(), kind="stable").tolist()
    expected = {"train": sorted(order[:144]), "val": sorted(order[144:160]), "test": sorted(order[160:])}
    data = loaded(written(tmp_path, frame), split_time="since")
    assert index_of(data) == expected
    assert index_of(loaded(written(tmp_path, frame), split_time="since", settings={"seed": 7})) == expected
    assert "since.days" in data.preprocessing.feature_names
    assert index_of(loaded(written(tmp_path, frame), split_time="income"))["test"] == sorted(
        np.argsort(frame["income"].to_numpy(), kind="stable")[160:].tolist()
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_group_is_in_two_splits(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    frame = people(600).assign(patient=[f"p{int(x)}" for x in rng.exponential(12, 600)])
    frame.loc[[1, 2], "patient"] = None
    settings = {"seed": seed}
    data = loaded(written(tmp_path, frame), split_group="patient", settings=settings)
    found = index_of(data)
    parts = {name: set(frame["patient"].iloc[index].dropna()) for name, index in found.items()}
    assert not parts["train"] & parts["val"] and not parts["train"] & parts["test"] and not parts["val"] & parts["test"]
    assert sorted(sum(found.values(), [])) == list(range(600))
    assert abs(len(found["test"]) - 120) < 20 and abs(len(found["val"]) - 48) < 20
    assert kinds(data)["patient"] == ("left out", "it says the group")
    again = index_of(loaded(tmp_path / "a.csv", split_group="patient", settings=settings))
    other = index_of(loaded(tmp_path / "a.csv", split_group="patient", settings={"seed": seed + 9}))
    assert again == found and other["test"] == found["test"] and other["val"] != found["val"]


def test_files_for_validation_and_testing(tmp_path: Path) -> None:
    frame = people(300)
    path = written(tmp_path, frame.iloc[:200])
    val = written(tmp_path, frame[list(frame.columns[::-1])].iloc[200:240], "val.csv")
    frame.iloc[240:].to_parquet(test := tmp_path / "test.parquet", index=False)
    data = loaded(path, val=str(val), test=str(test))
    assert (len(data.train), len(data.val), len(data.test)) == (200, 40, 60)
    names = np.array(data.preprocessing.class_names)
    assert names[rows_of(data, "val")[1].numpy()].tolist() == frame["plan"][200:240].tolist()
    assert names[rows_of(data, "test")[1].numpy()].tolist() == frame["plan"][240:].tolist()
    whole = loaded(path, settings={"val_fraction": 0.0, "test_fraction": 0.0})
    assert whole.preprocessing == data.preprocessing and whole.fingerprint != data.fingerprint
    assert said(ConfigError, path, val=str(val), settings={"val_fraction": 0.3}) == (
        "val_fraction = 0.3 cannot be used with data that has a validation set of its own"
    )
    written(tmp_path, frame.iloc[200:240].drop(columns="income"), "val.csv")
    assert said(DataError, path, val=str(val)) == f"{val} has no column 'income'"


def test_copies_of_training_rows_are_counted_and_told(tmp_path: Path) -> None:
    frame = people(200)[["age", "city", "income", "plan"]]
    assert not any("copies" in note for note in loaded(written(tmp_path, frame)).notes)
    path, test = written(tmp_path, frame), written(tmp_path, frame.iloc[5:25], "test.csv")
    data = loaded(path, test=str(test), settings={"val_fraction": 0.0})
    assert data.notes == ("20 validation and test rows are copies of training rows",)
    other = frame.iloc[5:25].assign(plan=lambda f: np.where(f["plan"] == "gold", "basic", "gold"))
    written(tmp_path, other, "test.csv")
    assert loaded(path, test=str(test), settings={"val_fraction": 0.0}).notes == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split_time": "sinc"}, "data.split_time = sinc is no column of PATH: did you mean since or income?"),
        ({"split_group": "citi"}, "data.split_group = citi is no column of PATH: did you mean city?"),
        ({"dates": ("sinc",)}, "data.dates = sinc is no column of PATH: did you mean since or income?"),
        ({"split_time": "city"}, "data.split_time = city is a column without dates or numbers: name another one"),
        ({"split_time": "plan"}, "data.target = plan is named in another option as well: leave it out there"),
        (
            {"split_time": "since", "split_group": "city"},
            "data.split_time = since and data.split_group = city exclude each other: keep one of them",
        ),
        ({"dates": ("since",), "drop": ("since",)}, "data.dates and data.drop both name since: keep one of them"),
    ],
)
def test_options_that_do_not_fit_the_table(options: Any, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, people(60))
    assert said(ConfigError, path, **options) == message.replace("PATH", str(path))


def test_tables_that_cannot_be_split_so(tmp_path: Path) -> None:
    frame = people(60)
    frame.loc[[4, 9], "since"] = None
    path = written(tmp_path, frame.assign(half=["a", "b"] * 30))
    assert said(DataError, path, split_time="since") == (
        f"{path}:6: since is missing in 2 rows, which cannot be split by time: fill it in, or leave such rows out of "
        "the file"
    )
    assert said(DataError, path, split_group="half") == (
        "2 groups are too few for a training, a validation and a test split: split by a column with more different "
        "values"
    )
    frame.loc[4, "since"] = "yesterday"
    assert said(DataError, written(tmp_path, frame), dates=("since",)) == (
        f"{path}:6: since is 'yesterday', which is no date: correct it, or take such cells as missing with "
        "data.invalid=missing"
    )


def test_a_column_is_a_date_if_the_user_says_so(tmp_path: Path) -> None:
    frame = people(60)
    frame.loc[range(30), "since"] = "unknown"
    path = written(tmp_path, frame)
    assert kinds(loaded(path))["since"][0] == "left out"
    data = loaded(path, dates=("since",), invalid="missing")
    assert kinds(data)["since"] == ("date", "") and "since=missing" in data.preprocessing.feature_names


def test_hours_are_a_cycle(tmp_path: Path) -> None:
    frame = people(48).assign(at=[f"2026-01-{1 + i // 24:02}T{i % 24:02}:30" for i in range(48)])
    data = loaded(written(tmp_path, frame), settings={"normalize": False})
    names = data.preprocessing.feature_names
    x, _ = data.train.rows.take(slice(None))
    hour = torch.arange(48) % 24 + 0.5
    assert torch.allclose(x[:, names.index("at.hour-sin")], torch.sin(hour / 24 * 2 * torch.pi), atol=1e-6)
    assert torch.allclose(x[:, names.index("at.hour-cos")], torch.cos(hour / 24 * 2 * torch.pi), atol=1e-6)


@pytest.mark.slow
def test_flags_stand_for_the_options(dlcli: Dlcli, tmp_path: Path) -> None:
    frame = people(100).assign(part=["train", "train", "val", "test"] * 25)
    written(tmp_path, frame)
    written(tmp_path, frame, "b.csv")
    for words, options in (
        (("--split-column", "part"), {"split_column": "part"}),
        (("--split-time", "since"), {"split_time": "since"}),
        (("--split-group", "city"), {"split_group": "city"}),
        (("--val-data", "b.csv", "--test-data", "b.csv"), {"val": f"{tmp_path}/b.csv", "test": f"{tmp_path}/b.csv"}),
    ):
        shown = dlcli("train", "mlp", "--data", "table:a.csv", "--target", "plan", *words, "--print-config").stdout
        for name, value in options.items():
            assert f'{name} = "{value}"' in shown
    done = dlcli("train", "mlp", "--data", "iris", "--split-time", "since", check=2)
    assert done.stderr.startswith("error: ") and "split_time" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_inspect_warns_of_training_rows_from_the_future(dlcli: Dlcli, tmp_path: Path) -> None:
    written(tmp_path, people(200))
    words = ("datasets", "inspect", "table:a.csv", "--target", "plan", "--json")
    (warning,) = [text for text in json.loads(dlcli(*words).stdout)["warnings"] if "later" in text]
    assert warning.endswith(
        " training rows are later than the first held-out row by since: if the future is to be predicted, split with "
        "--split-time since"
    )
    by_time = json.loads(dlcli(*words, "--set", "data.split_time=since").stdout)
    assert not [text for text in by_time["warnings"] if "later" in text]
    assert by_time["splits"] == {"train": 144, "val": 16, "test": 40}
    assert len(read_table(tmp_path / "a.csv")) == 200


def test_a_column_of_one_date_is_a_time_and_few_groups_are_told(tmp_path: Path) -> None:
    path = written(tmp_path, people().assign(when="2024-01-01", who="a"))
    assert loaded(path, split_time="when").test.index.tolist() == list(range(160, 200))
    assert said(DataError, path, split_group="who") == (
        "1 groups are too few for a training, a validation and a test split: split by a column with more different "
        "values"
    )
