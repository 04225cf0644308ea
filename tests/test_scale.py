"""data.scale: what becomes of the numbers of a table, compared with scikit-learn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm, rankdata
from sklearn.preprocessing import QuantileTransformer

from dlcli import predict, train
from dlcli.config.settings import TrainConfig
from dlcli.core.spec import DataSpec
from dlcli.data.preprocessing import Preprocessing
from dlcli.experiment.restore import restore
from dlcli.runs.run import Run
from tests.test_tables import loaded, people, rows_of, written


def numbers(count: int = 5000) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "wide": rng.lognormal(0, 2, count),
            "ties": np.where(rng.random(count) < 0.4, 0, rng.normal(0, 1, count)),
            "zeros": np.where(rng.random(count) < 0.9, 0, rng.exponential(1, count)),
            "city": rng.choice(["Bern", "Paris"], count),
            "y": rng.normal(0, 1, count),
        }
    )


def test_quantiles_are_those_of_scikit_learn_and_of_the_training_rows(tmp_path: Path) -> None:
    frame = numbers()
    data = loaded(written(tmp_path, frame), "y", scale="quantile")
    train = frame.iloc[data.train.index.numpy()]
    peer = QuantileTransformer(n_quantiles=1000, output_distribution="normal", subsample=None)
    peer.fit(train[["wide", "ties"]].to_numpy())
    assert data.spec.flags == (3,) and data.preprocessing.feature_names[3].startswith("city=")
    for split in ("train", "val", "test"):
        x = rows_of(data, split)[0].numpy()
        rows = frame.iloc[data.split(split).index.numpy()]
        expected = peer.transform(rows[["wide", "ties"]].to_numpy())
        np.testing.assert_allclose(x[:, :2], expected, atol=2e-5)
        assert set(x[:, 3]) == {0.0, 1.0}
    assert data.preprocessing.mean == (0.0,) * 4 and data.preprocessing.std == (1.0,) * 4


def test_a_value_that_many_rows_share_is_in_the_middle_of_them(tmp_path: Path) -> None:
    """Even if it is the least, which scikit-learn sends to the far end."""
    frame = numbers()
    data = loaded(written(tmp_path, frame), "y", scale="quantile")
    x, values = rows_of(data, "train")[0][:, 2], frame["zeros"].iloc[data.train.index.numpy()].to_numpy()
    expected = norm.ppf((rankdata(values) - 0.5) / len(values))
    assert x[values == 0].unique().tolist() == pytest.approx([expected[values == 0][0]], abs=0.01)
    np.testing.assert_allclose(np.sort(x[values > 0])[5:-5], np.sort(expected[values > 0])[5:-5], atol=0.1)


def test_few_rows_a_constant_and_a_column_without_a_value(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2, 4, 8, 9, 7], "same": 3.5, "none": np.nan, "y": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]})
    how: dict[str, Any] = {"numbers": ("a", "same", "none"), "scale": "quantile"}
    data = loaded(written(tmp_path, frame), "y", **how)
    x = rows_of(data, "train")[0]
    names = data.preprocessing.feature_names
    assert x.isfinite().all() and x[:, 0].abs().max() == pytest.approx(5.2, abs=0.001)
    assert not x[:, names.index("same")].any() and not x[:, names.index("none")].any()


def test_none_leaves_numbers_as_they_are_and_scales_the_target(tmp_path: Path) -> None:
    frame = numbers(100)
    data = loaded(written(tmp_path, frame), "y", scale="none")
    x, y = rows_of(data, "val")
    rows = frame.iloc[data.split("val").index.numpy()]
    np.testing.assert_allclose(x[:, 0], rows["wide"], rtol=1e-6)
    np.testing.assert_allclose(y * data.preprocessing.target_std + data.preprocessing.target_mean, rows["y"], rtol=1e-5)


def test_a_held_out_row_has_no_influence(tmp_path: Path) -> None:
    frame = people()
    before = loaded(written(tmp_path, frame), scale="quantile")
    changed = frame.copy()
    changed.loc[int(before.split("test").index[0]), ["age", "income"]] = [1e6, -1e6]
    changed.loc[int(before.split("val").index[0]), "since"] = "1950-12-24"
    assert loaded(written(tmp_path, changed), scale="quantile").preprocessing == before.preprocessing


def test_it_survives_json_and_damage_is_told(tmp_path: Path) -> None:
    about = loaded(written(tmp_path, people()), scale="quantile").preprocessing
    document = json.loads(json.dumps(about.as_dict()))
    assert Preprocessing.from_dict(document) == about
    knots = "knots = {} is not a list, each of it 2 to 1,000 numbers"
    for path, value, message in (
        (("scale",), "log", "scale = 'log' is not one of standard, quantile, none"),
        (("scale",), "standard", "its numbers have knots that do not go with scale = standard"),
        (("columns", 1, "knots"), [], "its numbers have knots that do not go with scale = quantile"),
        (("columns", 1, "knots"), [[1]], knots.format([[1]])),
        (("columns", 1, "knots"), [[1, "2"]], knots.format([[1, "2"]])),
        (("columns", 1, "knots"), [[2, 1]], "column 'age' has knots that do not rise"),
    ):
        damaged = json.loads(json.dumps(document))
        place = damaged["encoding"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(ValueError) as caught:
            Preprocessing.from_dict(damaged)
        assert str(caught.value) == message


@pytest.mark.parametrize("flags", [[3], [1, 0], [0, 0], [-1], ["0"], 0])
def test_flags_that_no_features_can_have_are_told(flags: Any) -> None:
    spec = DataSpec("binary", "features", (3,), 1, flags=(0, 2))
    assert DataSpec.from_dict(spec.as_dict()) == spec
    assert "flags" not in DataSpec("binary", "features", (3,), 1).as_dict()  # as in older runs
    with pytest.raises(ValueError, match="^flags = "):
        DataSpec.from_dict(spec.as_dict() | {"flags": flags})


def test_tabular_takes_quantiles_of_a_table_unless_told_otherwise() -> None:
    assert TrainConfig("tabular", data="table:a.csv").data_options == {"scale": "quantile"}
    given = TrainConfig("tabular", data="table:a.csv", data_options={"scale": "none", "target": "y"})
    assert given.data_options == {"scale": "none", "target": "y"}
    assert TrainConfig("tabular", data="iris").data_options == {}
    assert TrainConfig("mlp", data="table:a.csv").data_options == {}
    again = TrainConfig.from_dict(given.as_dict(), given=given.given)
    assert again == given


def test_predict_scales_as_the_training_did(tmp_path: Path) -> None:
    """Through the door of the library: a run of `tabular`, and rows of a new file."""
    frame = people(300)
    path = written(tmp_path, frame)
    config = TrainConfig(
        "tabular", data=f"table:{path}", data_options={"target": "income"}, epochs=1, device="cpu",
        model_options={"width": 8, "blocks": 1},
    )  # fmt: skip
    list(train(config, runs_dir=tmp_path / "runs"))
    new = frame.iloc[:20].drop(columns="income")
    answers = predict(tmp_path / "runs" / "1", written(tmp_path, new, "new.csv"))
    restored = restore(Run(tmp_path / "runs", 1))
    data = loaded(path, "income", scale="quantile")
    assert restored.preprocessing == data.preprocessing
    x = data.train.rows.take(torch.arange(20))[0]
    expected = restored.model(x)[:, 0] * data.preprocessing.target_std + data.preprocessing.target_mean
    assert [answer.values["value"] for answer in answers] == pytest.approx(expected.tolist(), rel=1e-5)
